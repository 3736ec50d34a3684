"""What a feature is: columns it adds, state it keeps, and where that state is read from.

R requests, N rows (candidates or examples), K keys, E events. A feature is defined once. Offline its state is replayed
from the log, online it is read from a store that follows the log; both give the same columns.

Time moves in ticks of a minute: counters know the whole minutes before a moment, so that what happens at a moment is
never part of what is known at it, in whatever order a log was written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.candidates import Requests
from shortlist.config import frozen, nearest
from shortlist.errors import DataError
from shortlist.schema import Catalogue, Field, Schema

__all__ = ["Column", "Counter", "Events", "Feature", "Features", "Known", "Rows", "SLACK_MS", "TICK_MS", "WINDOWS"]

TICK_MS = 60_000
MAX_MS = ((1 << 29) - 1) * TICK_MS  # state holds minutes in 29 bits
SLACK_MS = 5 * TICK_MS  # so far before the newest event of a key its state still answers exactly
# name -> (length, step): a window reaches from `floor(at, step) - length` up to `floor(at, TICK_MS)`.
WINDOWS: dict[str, tuple[int, int]] = {
    "1h": (3_600_000, TICK_MS),
    "1d": (86_400_000, 3_600_000),
    "7d": (7 * 86_400_000, 86_400_000),
    "30d": (30 * 86_400_000, 86_400_000),
}


@frozen
class Column:
    """A column that a feature adds to the requests or to the rows of a batch, encoded as the field says.

    One that names a column of `trials` counts hits: what a model reads is their smoothed rate, whose prior is worth
    `strength` trials (None: as many as training's rates differ by).
    """

    side: Literal["request", "row"]
    field: Field
    trials: str | None = None
    strength: float | None = None


@frozen
class Counter:
    """Events counted by key: `by` names the key, `actions` what counts.

    `by` is one or two of `user`, `item`, `user.FIELD`, `item.FIELD`: ("item",), ("item.creator",), ("item",
    "user.gender"), ("user", "item.category"). The first names the entity whose blob holds the counts; of the second at
    most `cap` values are kept for each, the latest. A field with several values counts for each of them. `half_life_ms`
    makes it one decayed sum instead of windows; `sum` adds up the events' values instead of counting them.
    """

    by: tuple[str, ...]
    actions: tuple[str, ...]
    windows: tuple[str, ...] = ("1h", "1d", "7d", "30d")
    half_life_ms: int | None = None
    sum: bool = False
    cap: int = 64


@dataclass(frozen=True)
class Events:
    """Events of the log as columns [E], in order of `offsets`: `times` ms, `actions` codes of the schema, `values` NaN
    where there is none. One offset is one event."""

    offsets: NDArray[np.int64]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    actions: NDArray[np.int16]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, frame: pl.DataFrame, schema: Schema, where: str = "events") -> Self:
        """From columns `offset`, `user`, `item`, `action`, `time_ms` and perhaps `value`, in any order.

        Undeclared actions are left out; of several rows with one offset, or one `event_id` where there is that column,
        the first by offset stays. Raises DataError when a column is missing.
        """
        for name in ("offset", "user", "item", "action", "time_ms"):
            if name not in frame.columns:
                raise DataError(f"no column is called {name!r}", where=where, hint=nearest(name, frame.columns))
        codes = {name: code for code, name in enumerate(schema.action_names)}
        action = pl.col("action").cast(pl.String)
        columns = [
            pl.col("offset", "user", "item", "time_ms").cast(pl.Int64),
            action.replace_strict(codes, default=None, return_dtype=pl.Int16).alias("code"),
            (pl.col("value") if "value" in frame.columns else pl.lit(None))
            .cast(pl.Float32)
            .fill_null(np.nan)
            .alias("value"),
            *([pl.col("event_id")] if "event_id" in frame.columns else []),
        ]
        made = frame.select(columns).sort("offset").filter(pl.col("code").is_not_null())
        odd = made.filter(~pl.col("time_ms").is_between(0, MAX_MS))
        if len(odd):
            what = f"the time_ms of offset {odd['offset'][0]} is {odd['time_ms'][0]}"
            raise DataError(what, where=where, hint="times are UTC milliseconds, from 1970 to 2990")
        made = made.filter(pl.col("offset").is_first_distinct())
        if "event_id" in made.columns:
            made = made.filter(pl.col("event_id").is_null() | pl.col("event_id").is_first_distinct())
        return cls(*(made[name].to_numpy() for name in ("offset", "user", "item", "time_ms", "code", "value")))

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, at: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "Events":
        return Events(
            self.offsets[at], self.users[at], self.items[at], self.times[at], self.actions[at], self.values[at]
        )  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """What is asked about: `owners` [N] into the requests, `items` [N] keys; None where the requests themselves are
    asked about, one row each."""

    requests: Requests
    owners: NDArray[np.int64]
    items: NDArray[np.int64] | None

    @property
    def users(self) -> NDArray[np.int64]:
        return self.requests.users[self.owners]

    @property
    def at(self) -> NDArray[np.int64]:
        """Moments [N], ms."""
        return self.requests.now[self.owners]

    @property
    def as_of(self) -> NDArray[np.int64] | None:
        """Log offsets [N] known by then, where they are recorded: later ones were not known, whatever their time."""
        return None if self.requests.as_of is None else self.requests.as_of[self.owners]


class Known(Protocol):
    """State of counters at a moment: replayed from a log, or read from a store. `catalogue` are the profiles it has."""

    catalogue: Catalogue

    def counts(self, counter: Counter, rows: Rows) -> NDArray[np.float64]:
        """Of each row's key: a column for each window of the counter, or one for its decayed sum: [N, W].

        An unknown user, item or value counts 0; of several values of a field the counts are added up.
        """
        ...

    def columns(self, rows: Rows) -> Mapping[str, NDArray[Any]]:
        """Every column of the project's features for the side that is asked about, raw, by name: [N] each."""
        ...


class Features(Protocol):
    """All features of a project, as those who answer for them see it (`features/featureset.py`)."""

    @property
    def counters(self) -> Sequence[Counter]:
        """What must be counted, each once."""
        ...

    def read(self, side: Literal["request", "row"], rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        """Raw values [N] of every column of this side, by name."""
        ...


class Feature(Protocol):
    """A kind of feature (`features/kinds/`), with its `Config`, built as `Kind(config, name, schema)`."""

    counters: Sequence[Counter]

    def columns(self) -> Mapping[str, Column]:
        """What it adds, by name. Names begin with the feature's own: `clicks`, or `clicks_1h`."""
        ...

    def read(self, side: Literal["request", "row"], rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        """Raw values [N] of its columns of this side: numbers with NaN where missing, object arrays of text or of
        lists of text. A function of its arguments alone; profiles are those of `known.catalogue`."""
        ...
