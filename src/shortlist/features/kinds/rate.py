"""Smoothed rates: (a + hits) / (a + b + trials), the prior Beta(a, b) that of training (clicks over impressions).

N rows, W windows. Columns `NAME_<window>`, hits that become the rate, and `NAME_<window>_trials`: log(1 + trials), how
sure the rate is.
"""

__all__ = ["Smoothed"]

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, Positive, frozen
from shortlist.features.base import WINDOWS, Column, Counter, Known, Rows
from shortlist.features.kinds._words import Edges, Names, Side, actions_of, keys_of, side_of, windows_of
from shortlist.schema import Field, Schema


class Smoothed:
    @frozen
    class Config:
        """Actions that are `hits` and those that are `trials`, counted `by` a key or two in each of `windows`.

        The prior is worth `strength` trials; None fits that to how much training's rates differ. `cap` and `edges` as
        for counts.
        """

        hits: Names
        by: Names
        trials: Names = "impression"
        windows: tuple[str, ...] = tuple(WINDOWS)
        strength: Positive | None = None
        cap: Count = 64
        edges: Edges = dataclasses.field(default_factory=dict)

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for an action, a key or a window that is not there."""
        where = f"feature.{name}"
        by = keys_of(config.by, schema, f"{where}.by", config.edges)
        windows = windows_of(config.windows, f"{where}.windows")
        self.hits, self.trials = (
            Counter(by, actions_of(names, schema, f"{where}.{key}"), windows, cap=config.cap)
            for key, names in (("hits", config.hits), ("trials", config.trials))
        )
        self.counters = (self.hits, self.trials)
        self.strength = config.strength
        self.names = tuple(f"{name}_{window}" for window in windows)

    def columns(self) -> Mapping[str, Column]:
        side = side_of(self.hits.by)
        out = {}
        for name in self.names:
            out[name] = Column(side, Field("dense"), f"{name}_trials", self.strength)
            out[f"{name}_trials"] = Column(side, Field("dense", scale="log1p"))
        return out

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        hits, trials = known.counts(self.hits, rows), known.counts(self.trials, rows)
        out = {}
        for n, name in enumerate(self.names):
            out[name] = np.ascontiguousarray(hits[:, n])
            out[f"{name}_trials"] = np.ascontiguousarray(trials[:, n])
        return out
