"""Histories and counters in a store of blobs: read by serving, written by whoever follows the log. R users asked.

A user takes the blob that `features.state.Service` makes of their history (30 bytes an event, by default 1,000
interactions and 1,000 exposures at most: 60 kB) and of their counters (`features.state.max_bytes`), and
what the home says it adds to an entry. An item, and a value of a field, takes its counters.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.errors import ArtifactError
from shortlist.features.base import Events
from shortlist.features.state import Service
from shortlist.schema import Catalogue
from shortlist.store.base import State
from shortlist.store.blobs import Blobs, Change

__all__ = ["States", "about", "same_log"]

ABOUT = "about"  # the namespace of what a store remembers beside its offset
ERASED = np.array([0], dtype=np.int64)  # its key of the number of the last erasure that was followed
LOG = np.array([1], dtype=np.int64)  # its key of the log it stands at an offset of


class States:
    """State over `blobs`, as `service` means them. One writer, many readers; a batch is seen whole or not at all."""

    def __init__(self, blobs: Blobs, service: Service, catalogue: Catalogue) -> None:
        self.blobs = blobs
        self.service = service
        self.catalogue = catalogue

    @property
    def offset(self) -> int:
        """The last log offset applied, 0 before the first."""
        return self.blobs.offset

    def read(self, users: NDArray[np.int64], now: NDArray[np.int64] | int, last: int | None = None) -> State:
        """State of users [R] at `now` (ms, one or [R]): events up to that time, at most `last` of each kind.

        An unknown user has none.
        """
        offset, log = 0, ""

        def get(namespace: str, keys: NDArray[np.int64]) -> list[bytes | None]:
            nonlocal offset, log
            found, offset = self.blobs.read({namespace: keys, ABOUT: LOG})
            log = _text(found[ABOUT][0])
            return found[namespace]

        history, shown = self.service.histories(get, users, now, last)
        return State(history, shown, offset, log)

    @property
    def log(self) -> str:
        """The log it stands at an offset of (`Log.identity`), empty where that was never said."""
        return _text(self.blobs.get(ABOUT, LOG)[0])

    def check(self, log: str) -> None:
        """Raises ArtifactError where the state is that of another log."""
        same_log(self.log, log)

    def apply(self, events: pl.DataFrame, offset: int, log: str = "") -> None:
        """Take in events (offset, user, item, action, time_ms, value) of the log of this name, and stand at `offset`.

        Events at or below the present offset are ignored: applying again changes nothing. The order in which events
        arrive does not matter: what is kept are the latest of each user by (time, offset). Raises DataError while
        another process writes the store.
        """
        self.blobs.claim()  # before anything is read: what is read must still stand when it is written back
        stands = self.blobs.offset
        if offset > stands:
            told = Events.of(events, self.service.schema)
            changes = self.service.update(self.blobs.get, told, self.catalogue, stands)
            self.blobs.put({**changes, **({ABOUT: about(log=log)} if log else {})}, offset)

    def load(self, history: pl.DataFrame, offset: int | None = None, log: str = "") -> None:
        """Replace all state by these events; stand at `offset` of a log, by default that of the last event."""
        told = Events.of(history, self.service.schema, "history")
        self.blobs.claim()
        self.blobs.stage({}, first=True)
        for changes in self.service.load(told, self.catalogue):
            self.blobs.stage(changes)
        if log:
            self.blobs.stage({ABOUT: about(log=log)})
        self.blobs.adopt(int(told.offsets.max(initial=0)) if offset is None else offset)

    @property
    def erased(self) -> int:
        """The number of the last erasure that was followed, 0 before the first."""
        number = self.blobs.get(ABOUT, ERASED)[0]
        return 0 if number is None else int(number)

    def erase(self, users: NDArray[np.int64], number: int) -> None:
        """Delete the blobs of users who were erased; what they added to counters of items stays."""
        self.blobs.claim()
        gone = np.unique(users[users >= 0])
        self.blobs.put({"user": (gone, [None] * len(gone)), ABOUT: about(erased=number)}, self.blobs.offset)


def about(*, erased: int | None = None, log: str = "") -> Change:
    """The change that remembers the number of an erasure, and the name of a log."""
    told = {int(ERASED[0]): None if erased is None else b"%d" % erased, int(LOG[0]): log.encode() or None}
    kept = {key: blob for key, blob in told.items() if blob is not None}
    return np.array(list(kept), dtype=np.int64), list(kept.values())


def same_log(held: str, log: str) -> None:
    """Raises ArtifactError for state of one log that another is asked about; one that has no name fits any."""
    if held and log and held != log:
        what = f"a store of another log: {held[:12]}{_fresh(held)}, not {log[:12]}{_fresh(log)}"
        raise ArtifactError(what, where="store", hint="run `shortlist backfill`, or name another store")


def _fresh(log: str) -> str:
    """How often a log was imported afresh."""
    return log[log.rfind(".") :] if "." in log else ""


def _text(blob: bytes | None) -> str:
    return "" if blob is None else blob.decode()
