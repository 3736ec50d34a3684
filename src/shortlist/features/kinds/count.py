"""How often something happened of late, by user, item, a value of a field, or one within another: log(1 + n).

N rows, W windows. Columns `NAME_<window>`, of the request where only the user is counted by, else of the candidate.
"""

__all__ = ["Counted"]

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, frozen
from shortlist.features.base import WINDOWS, Column, Counter, Known, Rows
from shortlist.features.kinds._words import Edges, Names, Side, actions_of, keys_of, side_of, windows_of
from shortlist.schema import Field, Schema


class Counted:
    @frozen
    class Config:
        """`actions` that count, and `by` what: "item", ["item", "user.gender"], ["user", "item.category"].

        One column for each of `windows`; `sum` adds up the events' values instead of counting them. Of the second key
        the latest `cap` values are kept for each of the first. `edges` cut numbers into slices, which are counted by.
        """

        actions: Names
        by: Names
        windows: tuple[str, ...] = tuple(WINDOWS)
        sum: bool = False
        cap: Count = 64
        edges: Edges = dataclasses.field(default_factory=dict)

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for an action, a key or a window that is not there."""
        where = f"feature.{name}"
        by = keys_of(config.by, schema, f"{where}.by", config.edges)
        actions = actions_of(config.actions, schema, f"{where}.actions")
        windows = windows_of(config.windows, f"{where}.windows")
        self.counter = Counter(by, actions, windows, sum=config.sum, cap=config.cap)
        self.counters = (self.counter,)
        self.names = tuple(f"{name}_{window}" for window in windows)

    def columns(self) -> Mapping[str, Column]:
        side = side_of(self.counter.by)
        return {name: Column(side, Field("dense", scale="log1p")) for name in self.names}

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        counts = known.counts(self.counter, rows)
        return {name: np.ascontiguousarray(counts[:, n]) for n, name in enumerate(self.names)}
