"""How an item meets a user's history: the share of the history that has the item's values, and whether they are among
the user's strongest. N rows.

Columns `NAME_share` (0..1, the sum over the item's values) and `NAME_match` (1 or 0).
"""

__all__ = ["Crossed"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, Positive, frozen
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.kinds._words import DAY_MS, VALUED, Side, coded, item_field, past, ranked, weighed
from shortlist.schema import Field, Schema


class Crossed:
    @frozen
    class Config:
        """`of` is an item field. Of the `last` events of a history each weighs what its action does, half as much for
        every `half_life_days` since (None: all alike); a match is one of the `k` strongest values."""

        of: str
        k: Count = 5
        last: Count = 100
        half_life_days: Positive | None = 30.0

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for a field that is not there or has no values."""
        self.config, self.name, self.last, self.weights = config, name, config.last, schema.weights
        self.counters: tuple[Counter, ...] = ()
        self.field = item_field(config.of, schema, f"feature.{name}.of", VALUED)
        self.values = coded(self.field)
        self.half_life_ms = None if config.half_life_days is None else config.half_life_days * DAY_MS

    def columns(self) -> Mapping[str, Column]:
        return {f"{self.name}_{what}": Column("row", Field("dense")) for what in ("share", "match")}

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        assert rows.items is not None
        values, n = self.values(known.catalogue), len(rows.items)
        owner, code, share = weighed(past(rows, self.last), values, self.weights, self.half_life_ms)
        strong = np.zeros(len(owner), dtype=bool)
        order = np.lexsort((code, -share, owner))
        strong[order] = ranked(owner[order]) < self.config.k
        wide = max(len(values.words), 1)
        pairs = owner * wide + code  # ascending
        place, own = values.take(rows.items)
        asked = rows.owners[place] * wide + own
        at = np.minimum(np.searchsorted(pairs, asked), max(len(pairs) - 1, 0))
        met = pairs[at] == asked if len(pairs) else np.zeros(len(asked), dtype=bool)
        place, at = place[met], at[met]
        return {
            f"{self.name}_share": np.bincount(place, weights=share[at], minlength=n).astype(np.float64),
            f"{self.name}_match": (np.bincount(place, weights=strong[at], minlength=n) > 0).astype(np.float64),
        }
