"""From the log to the store; and what a worker does meanwhile: it lays the user's log tail over the store's state."""

import logging
import threading

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import DataError
from shortlist.events.log import EventLog
from shortlist.schema import Schema
from shortlist.store.base import State, Store, entries, overlay

__all__ = ["follow", "state", "Follower"]

logger = logging.getLogger(__name__)


def follow(log: EventLog, store: Store, limit: int = 10_000) -> int:
    """Apply at most `limit` events that the store has not seen. Returns how many; 0 when it has caught up."""
    rows = log.read(store.offset, limit)
    if len(rows):
        store.apply(rows, int(rows["offset"][-1]))
    return len(rows)


def state(
    log: EventLog,
    store: Store,
    schema: Schema,
    users: NDArray[np.int64],
    now: NDArray[np.int64] | int,
    last: int | None = None,
) -> State:
    """State of users [R] as of the end of the log: an acknowledged event counts at once, whoever applies it later."""
    held = store.read(users, now, last)
    tail = log.tail(np.unique(users), held.offset)
    if tail.is_empty():
        return held
    laid = overlay(held, entries(tail, schema, "log")[0], users, now, schema)
    return laid if last is None else State(laid.history.last(last), laid.shown.last(last), laid.offset)


class Follower:
    """A thread that keeps a store up to date. What fails is tried again; `error` says what is wrong at present."""

    def __init__(self, log: EventLog, store: Store, every_ms: float = 200.0, limit: int = 10_000) -> None:
        self.log = log
        self.store = store
        self.every_ms = every_ms
        self.limit = limit
        self.error: DataError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def start(self) -> "Follower":
        self._thread.start()
        return self

    def stop(self) -> None:
        """Finish the batch in hand and end."""
        self._stop.set()
        self._thread.join()

    @property
    def lag(self) -> int:
        """Offsets between the end of the log and the store."""
        return max(0, self.log.last_offset - self.store.offset)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                behind = follow(self.log, self.store, self.limit) == self.limit
                self.error = None
            except DataError as error:
                if self.error is None or self.error.what != error.what:
                    logger.warning("the store does not follow the log: %s", error)
                self.error, behind = error, False
            if not behind:
                self._stop.wait(self.every_ms / 1000)
