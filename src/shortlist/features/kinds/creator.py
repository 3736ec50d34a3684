"""Who made an item: how much they have published before the request, and how many follow them. N rows, I items.

Columns `NAME_posts` where the schema says when items are published, and `NAME_followers` where following is an action:
both log(1 + n).
"""

__all__ = ["Creator"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Positive, frozen
from shortlist.errors import ConfigError
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.encoders import numbers
from shortlist.features.kinds._words import DAY_MS, Names, Once, Side, Values, actions_of, item_field
from shortlist.schema import Catalogue, Field, Schema

FOR_GOOD_DAYS = 10_000_000.0  # a half-life that takes a 40,000th part a year: as good as none


class Creator:
    @frozen
    class Config:
        """`field` is the sparse item field that names the creator, `published` the time field, the schema's own by
        default. `follow` names the actions on an item that mean its creator is followed; one that was long ago counts
        half after `half_life_days` (None: for good)."""

        field: str = "creator"
        published: str = ""
        follow: Names = ()
        half_life_days: Positive | None = None

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for a field or an action that is not there, and where there is nothing to count."""
        where = f"feature.{name}"
        self.name = name
        self.field = item_field(config.field, schema, f"{where}.field", ("sparse",))
        published = config.published or schema.published or ""
        self.published = item_field(published, schema, f"{where}.published", ("time",)) if published else ""
        days = config.half_life_days or FOR_GOOD_DAYS
        self.counters: tuple[Counter, ...] = ()
        if config.follow:
            actions = actions_of(config.follow, schema, f"{where}.follow")
            half_life = max(1, round(days * DAY_MS))
            self.counters = (Counter((f"item.{self.field}",), actions, (), half_life),)
        if not self.published and not self.counters:
            hint = "set schema.published, or name the actions that follow"
            raise ConfigError("neither posts nor followers can be counted", where=where, hint=hint)
        self.posts = Once(self._posts)

    def columns(self) -> Mapping[str, Column]:
        counted = Column("row", Field("dense", scale="log1p"))
        names = ["posts"] * bool(self.published) + ["followers"] * bool(self.counters)
        return {f"{self.name}_{what}": counted for what in names}

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        out = {}
        if self.published:
            assert rows.items is not None
            values, moments, starts, order = self.posts(known.catalogue)
            place, codes = values.take(rows.items)
            count = np.full(len(rows.items), np.nan)
            at = np.searchsorted(moments, rows.at[place], side="left")  # a rank: how many moments lie before
            count[place] = np.searchsorted(order, codes * (len(moments) + 1) + at, side="left") - starts[codes]
            out[f"{self.name}_posts"] = count
        if self.counters:
            out[f"{self.name}_followers"] = np.ascontiguousarray(known.counts(self.counters[0], rows)[:, 0])
        return out

    def _posts(self, catalogue: Catalogue) -> tuple[Values, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Creators, distinct moments, where each creator's posts start in what is sorted by (creator, moment), and that
        order as codes."""
        values = Values.of(catalogue.items, self.field)
        times = numbers(catalogue.items.columns.get(self.published, np.full(len(catalogue.items), np.nan)))
        place, codes = values.take(catalogue.items.keys)
        dated = np.isfinite(times[place])
        codes, when = codes[dated], times[place][dated].astype(np.int64)
        moments, rank = np.unique(when, return_inverse=True)
        order = np.sort(codes * (len(moments) + 1) + rank)
        starts = np.searchsorted(order, np.arange(len(values.words)) * (len(moments) + 1), side="left")
        return values, moments, starts, order
