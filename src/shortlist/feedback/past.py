"""What users did, without a store: the histories of a release, and what the log has had since. E events.

For while the store cannot be had. Nothing is read before it is first asked; then it keeps 34 bytes an event of the
release, in place of the store's blobs.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Release
from shortlist.candidates import Ragged
from shortlist.errors import DataError
from shortlist.events.base import Log
from shortlist.schema import MISSING, Schema
from shortlist.store.base import Entries, State, entries, overlay

__all__ = ["Door", "Past", "stranger"]


class Past:
    """Histories as of the end of the log, of one release. Threads may share it."""

    def __init__(self, release: Release, log: Log, schema: Schema) -> None:
        self.log = log
        self.schema = schema
        self.offset = int(release.document["offset"])
        self.named = str(release.document.get("log", ""))
        self._histories: Callable[[], Entries] = lambda: entries(release.table("histories"), schema, "histories")[0]
        self._held: Entries | None = None
        self._lock = threading.Lock()

    def __call__(self, users: NDArray[np.int64], now: NDArray[np.int64] | int) -> State:
        """State of users [R] at `now` (ms, one or [R]); a user who was erased has none."""
        users = stranger(self.log, users)
        asked = np.unique(users)
        state = State(Ragged.empty(len(users)), Ragged.empty(len(users)), 0)
        if self.named in ("", self.log.identity):  # else imported afresh: the log has it all, at other offsets
            with self._lock:  # the first reads, and those who come meanwhile wait for it
                if self._held is None:
                    self._held = self._histories()
            known = self._held.take(self._held.spans(asked)[0])
            state = overlay(state._replace(offset=self.offset), known, users, now, self.schema)
        tail = self.log.tail(asked, state.offset)
        if tail.is_empty():
            return state
        return overlay(state, entries(tail, self.schema, "log")[0], users, now, self.schema)


def stranger(log: Log, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys [R] with MISSING in place of users who were erased."""
    gone = np.fromiter((user != MISSING and log.gone(user) for user in users.tolist()), dtype=bool, count=len(users))
    return np.where(gone, MISSING, users) if bool(gone.any()) else users


class Door:
    """Before something that may be down: once it has failed, one caller in `again_s` tries it, others are told at once.

    So a store that hangs holds up one request now and then, and none for long.
    """

    def __init__(self, again_s: float) -> None:
        self.again_s = again_s
        self._lock = threading.Lock()
        self._error: DataError | None = None
        self._next = 0.0

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Raises the last DataError where it is not time to try again; remembers that of the work inside."""
        with self._lock:
            error = self._error
            if error is not None:
                if time.monotonic() < self._next:
                    raise DataError(error.what, where=error.where, hint=error.hint)
                self._next = float("inf")  # this one tries; others go on without
        try:
            yield
        except BaseException as raised:
            with self._lock:
                self._error = raised if isinstance(raised, DataError) else error
                self._next = time.monotonic() + self.again_s
            raise
        with self._lock:
            self._error = None
