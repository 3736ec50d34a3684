"""Interactions: what a solver learns from. E events as columns of keys, sorted by (user, time, log offset)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from shortlist.candidates import Ragged

__all__ = ["Interactions"]


@dataclass(frozen=True)
class Interactions:
    """`users`, `items` int64 keys, `times` int64 ms, `actions` int16 codes, `values` float32 (NaN where none), all [E].

    `log_offsets` int64 [E] is the order in which the log came to know them, `context` holds columns [E] of raw values
    by name, `propensities` float64 [E] the probability of having been shown (NaN where none is known; None: of no
    event). Build with `Interactions.of`, which sorts. Keys may have gaps; `matrix` compacts them.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    actions: NDArray[np.int16]
    values: NDArray[np.float32]
    log_offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    propensities: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if len(self.log_offsets) != len(self.users):  # columns alone: their own order is all that is known
            object.__setattr__(self, "log_offsets", np.arange(len(self.users)))

    @classmethod
    def of(
        cls,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        times: NDArray[np.int64] | None = None,
        actions: NDArray[np.int16] | None = None,
        values: NDArray[np.float32] | None = None,
        log_offsets: NDArray[np.int64] | None = None,
        context: Mapping[str, NDArray[Any]] | None = None,
        propensities: NDArray[np.float64] | None = None,
    ) -> "Interactions":
        """From columns in log order; sorts by (user, time), equal times staying in log order. Without `log_offsets`
        events count from 0."""
        n = len(users)
        times = np.zeros(n, dtype=np.int64) if times is None else times
        actions = np.zeros(n, dtype=np.int16) if actions is None else actions
        values = np.full(n, np.nan, dtype=np.float32) if values is None else values
        log_offsets = np.arange(n) if log_offsets is None else log_offsets
        order = np.lexsort((times, users))
        there = {name: column[order] for name, column in (context or {}).items()}
        return cls(
            users[order], items[order], times[order], actions[order], values[order], log_offsets[order], there,
            None if propensities is None else propensities[order],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.users)

    def where(self, mask: NDArray[np.bool_]) -> "Interactions":
        return Interactions(
            self.users[mask], self.items[mask], self.times[mask], self.actions[mask], self.values[mask],
            self.log_offsets[mask], {name: column[mask] for name, column in self.context.items()},
            None if self.propensities is None else self.propensities[mask],
        )  # fmt: skip

    def liked(self, weights: NDArray[np.float32]) -> "Interactions":
        """Only events whose action has a weight above zero; `weights` by action code, as `Schema.weights`."""
        mask = weights[self.actions] > 0
        return self if bool(mask.all()) else self.where(mask)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """User n of `user_keys` owns events `offsets[n]:offsets[n+1]`: [U+1]."""
        starts = np.flatnonzero(self.users[1:] != self.users[:-1]) + 1
        return np.concatenate([[0], starts, [len(self)]]).astype(np.int64) if len(self) else np.zeros(1, dtype=np.int64)

    @cached_property
    def user_keys(self) -> NDArray[np.int64]:
        """Distinct users, ascending [U]."""
        return self.users[self.offsets[:-1]]

    @cached_property
    def item_keys(self) -> NDArray[np.int64]:
        """Distinct items, ascending [I]."""
        if not self._compact:
            return np.unique(self.items)
        present = np.zeros(int(self.items.max(initial=-1)) + 1, dtype=bool)
        present[self.items] = True
        return np.flatnonzero(present)

    @cached_property
    def _compact(self) -> bool:
        """Whether a table over all item keys up to the largest is cheap beside the log itself."""
        return bool(self.items.min(initial=0) >= 0 and self.items.max(initial=0) <= 4 * len(self) + 1024)

    @property
    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Codes [E] and a table, such that `table[codes]` is the place of each event's item in `item_keys`.

        The codes are the item keys themselves unless these are far apart. Made anew at each call."""
        places = np.arange(len(self.item_keys), dtype=np.int32)
        if not self._compact:
            return np.searchsorted(self.item_keys, self.items), places
        table = np.zeros(int(self.items.max(initial=-1)) + 1, dtype=np.int32)
        table[self.item_keys] = places
        return self.items, table

    @property
    def columns(self) -> NDArray[np.int32]:
        """Place of each event's item in `item_keys` [E]. Made anew at each call: hold it while you need it."""
        codes, table = self.places
        return table[codes]

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """Binary user-item matrix float32 [U, I], rows and columns in the order of `user_keys` and
        `item_keys`; repeats count once."""
        shape = (len(self.user_keys), len(self.item_keys))
        ones = np.ones(len(self), dtype=np.float32)
        x_UI = sparse.csr_array((ones, self.columns, self.offsets.copy()), shape=shape)
        x_UI.sum_duplicates()
        x_UI.data[:] = 1
        return cast(sparse.csr_array, x_UI)

    def histories(
        self,
        users: NDArray[np.int64],
        until: NDArray[np.int64] | None = None,
        as_of: NDArray[np.int64] | None = None,
    ) -> Ragged:
        """Events of each asked user [R], oldest first; an unknown user has none. Only those of times up to `until` [R]
        and of log offsets up to `as_of` [R], where these are given."""
        low, high = np.searchsorted(self.users, users, "left"), np.searchsorted(self.users, users, "right")
        counts = high - low
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        at = np.arange(offsets[-1]) + np.repeat(low - offsets[:-1], counts)
        events = Ragged(offsets, self.items[at], self.times[at], self.actions[at])
        known = np.ones(len(at), dtype=bool)
        if until is not None:
            known &= events.times <= until[events.owners]
        if as_of is not None:
            known &= self.log_offsets[at] <= as_of[events.owners]
        return events if until is None and as_of is None else events.where(known)
