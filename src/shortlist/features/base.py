"""What a feature is: columns it adds, state it keeps, and where that state is read from.

R requests, N rows (candidates or examples), K keys, E events. A feature is defined once. Offline its state is replayed
from the log, online it is read from a store that follows the log; both give the same columns.

Time moves in ticks of a minute: counters know the whole minutes before a moment, so that what happens at a moment is
never part of what is known at it, in whatever order a log was written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Requests
from shortlist.config import frozen
from shortlist.schema import Catalogue, Field

__all__ = ["Column", "Counter", "Feature", "Known", "Rows", "TICK_MS", "WINDOWS"]

TICK_MS = 60_000
# name -> (length, step): a window reaches from `floor(at, step) - length` up to `floor(at, TICK_MS)`.
WINDOWS: dict[str, tuple[int, int]] = {
    "1h": (3_600_000, TICK_MS),
    "1d": (86_400_000, 3_600_000),
    "7d": (7 * 86_400_000, 86_400_000),
    "30d": (30 * 86_400_000, 86_400_000),
}


@frozen
class Column:
    """A column that a feature adds to the requests or to the rows of a batch, encoded as the field says."""

    side: Literal["request", "row"]
    field: Field


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
    """State of counters at a moment: replayed from a log, or read from a store. `catalogue` is what it has of profiles."""

    catalogue: Catalogue

    def counts(self, counter: Counter, rows: Rows) -> NDArray[np.float64]:
        """Of each row's key: a column for each window of the counter, or one for its decayed sum: [N, W].

        An unknown user, item or value counts 0; of several values of a field the counts are added up.
        """
        ...

    def columns(self, rows: Rows) -> Mapping[str, NDArray[Any]]:
        """Every column of the project's features for the side that is asked about, raw, by name: [N] each."""
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
