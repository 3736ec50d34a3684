"""Where in a session a request is: a session goes on while its events are at most a gap apart. R requests, H events.

Columns `NAME_position` (from 1: what an event now would be), `NAME_events` (known of the user), `NAME_minutes` (since
the last event), `NAME_categories` (distinct ones in the session).
"""

__all__ = ["Session"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, Positive, frozen
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.kinds._words import VALUED, Side, coded, item_field, past
from shortlist.schema import Field, Schema

MINUTE_MS = 60_000


class Session:
    @frozen
    class Config:
        """After `gap_minutes` without an event a session is over. `last` events of a user are looked at; `category` is
        the item field whose values are counted, the schema's own by default, and none where that has none. Of the
        minutes training makes `buckets` of about equal size."""

        gap_minutes: Positive = 30.0
        last: Count = 100
        category: str = ""
        buckets: Count = 8

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for a field that is not there or has no values."""
        self.config, self.name, self.last = config, name, config.last
        self.counters: tuple[Counter, ...] = ()
        field = config.category or schema.category or ""
        self.field = item_field(field, schema, f"feature.{name}.category", VALUED) if field else ""
        self.values = coded(self.field)

    def columns(self) -> Mapping[str, Column]:
        counted = Column("request", Field("dense", scale="log1p"))
        out = {f"{self.name}_position": counted, f"{self.name}_events": counted}
        out[f"{self.name}_minutes"] = Column("request", Field("dense", buckets=self.config.buckets))
        return out | ({f"{self.name}_categories": counted} if self.field else {})

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        history, now = past(rows, self.last), rows.requests.now
        gap, counts = self.config.gap_minutes * MINUTE_MS, np.diff(history.offsets)
        some = counts > 0
        ends = history.offsets[1:][some] - 1
        since = np.full(len(now), np.nan)
        since[some] = now[some] - history.times[ends]
        place = np.arange(len(history.items))
        breaks = np.ones(len(place), dtype=bool)
        breaks[1:] = (np.diff(history.times) > gap) | (np.diff(history.owners) > 0)
        start = np.maximum.accumulate(np.where(breaks, place, 0))
        begun = np.full(len(now), len(place))  # where the session of each request began, beyond all where it is over
        begun[some] = np.where(since[some] <= gap, start[ends], len(place))
        inside = place >= begun[history.owners]
        length = np.bincount(history.owners[inside], minlength=len(now))
        found = {"position": length + 1.0, "events": counts.astype(np.float64), "minutes": since / MINUTE_MS}
        if self.field:
            values = self.values(known.catalogue)
            step, codes = values.take(history.items[inside])
            pairs = np.unique(history.owners[inside][step] * max(len(values.words), 1) + codes)
            owner = pairs // max(len(values.words), 1)
            found["categories"] = np.bincount(owner, minlength=len(now)).astype(np.float64)
        return {f"{self.name}_{key}": column[rows.owners] for key, column in found.items()}
