"""The state of a store from the whole log at once: the same as following it from the beginning, and much faster.

Events are dealt out to files by user and by item, then each file becomes the blobs of its keys; values of fields, of
which there are few, are followed in the order of the log. Memory is bounded by `chunk` events and the blobs of values,
disk by 76 bytes an event, however long the log is.

Nobody sees any of it before it is whole. What is broken off leaves the old state, and is begun anew.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shortlist.events.base import Log
from shortlist.features.base import Events
from shortlist.store.states import ABOUT, States, about

__all__ = ["backfill"]

CHUNK = 2_000_000
READ = 500_000  # events of one read of the log
BLOCK = 250_000  # events whose blobs are written in one transaction
COLUMNS = ("offset", "user", "item", "time", "action", "value")
EVENT = np.dtype(list(zip(COLUMNS, ("<i8", "<i8", "<i8", "<i8", "<i2", "<f4"), strict=True)))
Say = Callable[[int, int, str], None]


def _quiet(done: int, total: int, what: str) -> None: ...


def backfill(log: Log, store: States, *, chunk: int = CHUNK, progress: Say = _quiet) -> int:
    """Replace the state of a store by that of the log as it is now. Returns the offset the store then stands at.

    Raises DataError while another process writes the store.
    """
    store.blobs.claim()
    identity = log.identity  # before anything is read: where it changes meanwhile, what was read is not taken for it
    number, _ = log.erased()
    end = log.last_offset
    store.blobs.stage({}, first=True)
    with tempfile.TemporaryDirectory(prefix=".backfill-", dir=log.path.parent) as folder:
        piles = _Piles(Path(folder), max(1, -(-end // chunk)))
        _values(store, _told(log, store, end, min(chunk, READ), piles, progress))
        for n, (name, pile) in enumerate((name, pile) for name in ("user", "item") for pile in range(piles.count)):
            progress(n, 2 * piles.count, f"{name}s")
            if name in store.service.namespaces:
                for changes in store.service.load(piles.events(name, pile), store.catalogue, BLOCK, names=(name,)):
                    store.blobs.stage({name: changes[name]})
    store.blobs.stage({ABOUT: about(erased=number, log=identity)})
    store.blobs.adopt(piles.last)
    return piles.last


def _told(log: Log, store: States, end: int, limit: int, piles: "_Piles", progress: Say) -> Iterator[Events]:
    """Events of the log up to the offset `end` or a little further, in order, each dealt out on its way."""
    while piles.last < end:
        progress(piles.last, end, "events")
        rows = log.read(piles.last, limit)
        if rows.is_empty():
            return
        events = Events.of(rows, store.service.schema)
        piles.add(events)
        piles.last = int(rows["offset"][-1])
        yield events


def _values(store: States, told: Iterator[Events]) -> None:
    """Follow all events for the namespace `value`: its blobs are few, whatever the length of the log."""
    held: dict[int, bytes | None] = {}

    def get(namespace: str, keys: NDArray[np.int64]) -> list[bytes | None]:
        return [held.get(key) for key in keys.tolist()]

    for events in told:
        if "value" in store.service.namespaces:
            made = store.service.update(get, events, store.catalogue, names=("value",))
            if "value" in made:
                keys, blobs = made["value"]
                held.update(zip(keys.tolist(), blobs, strict=True))
    if held:
        store.blobs.stage({"value": (np.array(list(held), dtype=np.int64), list(held.values()))})


class _Piles:
    """Events in files by user and by item, such that those of one key are together and in the order of the log."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        self.last = 0  # offset of the last event read

    def _file(self, name: str, pile: int) -> Path:
        return self.folder / f"{name}-{pile}"

    def add(self, events: Events) -> None:
        rows = np.empty(len(events), dtype=EVENT)
        columns = (events.offsets, events.users, events.items, events.times, events.actions, events.values)
        for name, column in zip(COLUMNS, columns, strict=True):
            rows[name] = column
        for name in ("user", "item"):
            pile = rows[name] % self.count
            order = np.argsort(pile, kind="stable")
            ends = np.cumsum(np.bincount(pile, minlength=self.count))
            for n, some in enumerate(np.split(rows[order], ends[:-1])):
                with self._file(name, n).open("ab") as file:
                    some.tofile(file)

    def events(self, entity: str, pile: int) -> Events:
        file = self._file(entity, pile)
        rows = np.fromfile(file, dtype=EVENT) if file.exists() else np.zeros(0, dtype=EVENT)
        return Events(
            *(np.ascontiguousarray(rows[column]) for column in ("offset", "user", "item", "time", "action", "value"))
        )
