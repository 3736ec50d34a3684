"""A count that fades: the sum over events of 2^(-age / half-life), as log(1 + x). N rows.

One column, `NAME`, of the request where only the user is counted by, else of the candidate.
"""

__all__ = ["Decayed"]

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, Positive, frozen
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.kinds._words import DAY_MS, Edges, Names, Side, actions_of, keys_of, side_of
from shortlist.schema import Field, Schema


class Decayed:
    @frozen
    class Config:
        """`actions` that count, `by` a key or two; after `half_life_days` an event counts half. `sum` adds up the
        events' values instead. Of the second key the latest `cap` values are kept for each of the first. `edges` as
        for counts."""

        actions: Names
        by: Names
        half_life_days: Positive = 7.0
        sum: bool = False
        cap: Count = 64
        edges: Edges = dataclasses.field(default_factory=dict)

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for an action or a key that is not there."""
        where = f"feature.{name}"
        by = keys_of(config.by, schema, f"{where}.by", config.edges)
        actions = actions_of(config.actions, schema, f"{where}.actions")
        half_life = max(1, round(config.half_life_days * DAY_MS))
        self.name = name
        self.counter = Counter(by, actions, (), half_life, config.sum, config.cap)
        self.counters = (self.counter,)

    def columns(self) -> Mapping[str, Column]:
        return {self.name: Column(side_of(self.counter.by), Field("dense", scale="log1p"))}

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        return {self.name: np.ascontiguousarray(known.counts(self.counter, rows)[:, 0])}
