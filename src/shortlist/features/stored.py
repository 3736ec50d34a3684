"""Counters as they stand in a store of blobs: what serving reads. Q questions, S slots, W windows.

Counters know whole minutes only, so what was decoded for a key stays right until the minute is over. A mirror keeps
these answers by (minute, key, sub), S slots a counter and no more: 500 candidates then cost a gather. Answers of the
first `grace_ms` of a minute are not kept, as events of the minute before may still be on their way. An event that the
store takes in later than that is seen by keys already mirrored from the next minute on, at most 60 s late; without a
mirror (`slots` 0) it is seen at once, and every read is exactly that of the store's offset.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist.features.base import TICK_MS, Counter, Features, Rows
from shortlist.features.counters import Layout, Parts
from shortlist.features.hashing import mix
from shortlist.features.state import Blob, Service, namespace
from shortlist.schema import Catalogue

__all__ = ["Moment", "Stored"]

Ints = NDArray[np.int64]


class Source(Protocol):
    """What is read of a store (`store/blobs.py`)."""

    @property
    def offset(self) -> int: ...

    def get(self, namespace: str, keys: Ints) -> Sequence[Blob]: ...


class Stored:
    """Implements `base.Known` over a store. Threads may share one; a request takes a `moment()` of it."""

    def __init__(
        self,
        blobs: Source,
        service: Service,
        catalogue: Catalogue,
        features: Features,
        slots: int = 65_536,
        grace_ms: int = 1_000,
    ) -> None:
        self.blobs = blobs
        self.service = service
        self.catalogue = catalogue
        self.features = features
        self.grace_ms = grace_ms
        self.parts = Parts(catalogue)
        shared = [counter for counter in service.counters if namespace(counter) != "user"]
        self.mirrors = {counter: Mirror(slots, counter) for counter in shared} if slots else {}

    def moment(self) -> "Moment":
        """What one request reads: each blob once, both sides alike."""
        return Moment(self)

    def counts(self, counter: Counter, rows: Rows) -> NDArray[np.float64]:
        return self.moment().counts(counter, rows)

    def columns(self, rows: Rows) -> Mapping[str, NDArray[Any]]:
        return self.moment().columns(rows)


class Moment:
    """`base.Known` for one request, or a batch of them: blobs are fetched once and kept as long as it lives.

    It answers as of the store, whatever `as_of` the requests carry: `offset` is what to record with them.
    """

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.catalogue = stored.catalogue
        self.offset = stored.blobs.offset  # the log offset that is surely in what it reads
        self._held: dict[str, tuple[Ints, list[Blob]]] = {}

    @property
    def moved(self) -> bool:
        """Whether the store went on meanwhile: then what was read may know more than `offset`."""
        return self.stored.blobs.offset != self.offset

    def columns(self, rows: Rows) -> Mapping[str, NDArray[Any]]:
        return self.stored.features.read("request" if rows.items is None else "row", rows, self)

    def counts(self, counter: Counter, rows: Rows) -> NDArray[np.float64]:
        of, first, second = self.stored.parts.keys(counter.by, rows.users, rows.items)
        at = rows.at if of is None else rows.at[of]
        mirror = self.stored.mirrors.get(counter)
        if mirror is None:
            found = self._read(counter, first, second, at)
        else:
            found, missing = mirror.find(first, second, at // TICK_MS)
            if len(missing):
                fresh = self._read(counter, first[missing], second[missing], at[missing])
                found[missing] = fresh
                settled = at[missing] % TICK_MS >= self.stored.grace_ms
                keep = missing[settled]
                mirror.keep(first[keep], second[keep], at[keep] // TICK_MS, fresh[settled])
        if of is None:
            return found
        columns = [np.bincount(of, column, len(rows.owners)) for column in found.T]
        return np.stack(columns, axis=1) if columns else np.zeros((len(rows.owners), 0))

    def _read(self, counter: Counter, first: Ints, second: Ints, at: Ints) -> NDArray[np.float64]:
        keys, owners = np.unique(first, return_inverse=True)
        blobs = self._blobs(namespace(counter), keys)
        table = self.stored.service.tables([counter], keys, blobs)[0]
        return self.stored.service.read(counter, table, owners, second, at)

    def _blobs(self, name: str, keys: Ints) -> list[Blob]:
        """Blobs of ascending keys; only those not yet held are fetched."""
        held, blobs = self._held.get(name, (np.zeros(0, dtype=np.int64), []))
        new = np.setdiff1d(keys, held, assume_unique=True)
        if len(new):
            held, blobs = np.concatenate([held, new]), [*blobs, *self.stored.blobs.get(name, new)]
            order = np.argsort(held)
            held, blobs = held[order], [blobs[n] for n in order.tolist()]
            self._held[name] = held, blobs
        if len(held) == len(keys):
            return blobs
        return [blobs[n] for n in held.searchsorted(keys).tolist()]


class Mirror:
    """Answers of one counter by (key, sub, minute), in `slots` places by hash: a later one takes the place."""

    def __init__(self, slots: int, counter: Counter) -> None:
        self.keys = np.full(slots, -1, dtype=np.int64)
        self.subs = np.zeros(slots, dtype=np.int64)
        self.minutes = np.full(slots, -1, dtype=np.int64)
        self.values = np.zeros((slots, Layout(counter).width))
        self._lock = threading.Lock()

    def find(self, keys: Ints, subs: Ints, minutes: Ints) -> tuple[NDArray[np.float64], Ints]:
        """Answers [Q, W], and the places of those that are not here."""
        at = self._place(keys, subs)
        with self._lock:
            there = (self.keys[at] == keys) & (self.minutes[at] == minutes) & (self.subs[at] == subs)
            return self.values[at], np.flatnonzero(~there)

    def keep(self, keys: Ints, subs: Ints, minutes: Ints, values: NDArray[np.float64]) -> None:
        at = self._place(keys, subs)
        at, last = np.unique(at, return_index=True)  # of several for one slot one, whole
        with self._lock:
            self.keys[at], self.subs[at], self.minutes[at] = keys[last], subs[last], minutes[last]
            self.values[at] = values[last]

    def _place(self, keys: Ints, subs: Ints) -> Ints:
        spread = mix(keys.astype(np.uint64)) ^ subs.astype(np.uint64)
        return (spread % np.uint64(len(self.keys))).astype(np.int64)
