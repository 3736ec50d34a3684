"""From the log to the store; and what a worker does meanwhile: it lays the user's log tail over the store's state."""

import logging
import threading
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ArtifactError, DataError
from shortlist.events.base import Log
from shortlist.feedback.backfill import backfill
from shortlist.feedback.past import stranger
from shortlist.schema import Schema
from shortlist.store.base import State, entries, overlay
from shortlist.store.states import States, same_log

__all__ = ["follow", "state", "Follower"]

LIMIT = 10_000  # events of one transaction

logger = logging.getLogger(__name__)


def follow(log: Log, store: States, limit: int = LIMIT) -> int:
    """Apply at most `limit` events that the store has not seen, and erasures. Returns how many; 0 when it is level.

    Events and the offset behind them are written together, so that a process killed at any point applies each event
    once: what was written is not read again, and what was not is. Raises DataError while another process writes, and
    ArtifactError for a store of another log.
    """
    identity = log.identity  # before anything is read: where it changes meanwhile, the next turn sees it
    store.check(identity)
    rows = log.read(store.offset, limit)
    if len(rows):
        store.apply(rows, int(rows["offset"][-1]), identity)
    number, users = log.erased(store.erased)
    if len(users):
        store.erase(users, number)
    return len(rows)


def state(
    log: Log,
    store: States,
    schema: Schema,
    users: NDArray[np.int64],
    now: NDArray[np.int64] | int,
    last: int | None = None,
) -> State:
    """State of users [R] as of the end of the log: an acknowledged event counts at once, whoever applies it later.

    A user who was erased has none, whether or not the store has followed. Raises ArtifactError for a store of another
    log.
    """
    users = stranger(log, users)
    held = store.read(users, now, last)
    same_log(held.log, log.identity)
    tail = log.tail(np.unique(users), held.offset)
    if tail.is_empty():
        return held
    laid = overlay(held, entries(tail, schema, "log")[0], users, now, schema)
    return laid if last is None else State(laid.history.last(last), laid.shown.last(last), laid.offset)


class Follower:
    """A thread that keeps a store up to date. What fails is tried again; `error` says what is wrong at present.

    Of several followers of one store one writes; another takes over when that one has gone. A store that has nothing
    yet, or has lost what it had, is filled from the whole log first; so is one of another log that is its `own`, as
    nobody else could.
    """

    def __init__(
        self, log: Log, store: States, every_ms: float = 200.0, limit: int = LIMIT, *, own: bool = False
    ) -> None:
        self.log = log
        self.store = store
        self.own = own
        self.every_ms = every_ms
        self.limit = limit
        self.error: DataError | ArtifactError | None = None
        self.writes = False  # whether it is the one that writes
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
                behind = self._turn() and self._step()
                self.error = None
            except (DataError, ArtifactError) as error:
                if self.error is None or self.error.what != error.what:
                    logger.warning("the store does not follow the log: %s", error)
                self.error, behind = error, False
                if isinstance(error, ArtifactError):
                    self._leave()
            if not behind:
                self._stop.wait(self.every_ms / 1000)

    def _turn(self) -> bool:
        """Whether it is this one that writes. Raises ArtifactError for a store of another log, and leaves it to be
        filled."""
        if not self.own:
            with suppress(DataError):  # one that has lost its state is nobody's: who claims it fills it
                self.store.check(self.log.identity)
        try:
            self.store.blobs.claim()
        except DataError:
            self.writes = False
            _ = self.store.offset  # raises where the store cannot be had at all
            return False
        self.writes = True
        return True

    def _leave(self) -> None:
        """Let another one write: a state that cannot be followed is put right by `shortlist backfill`."""
        self.store.blobs.leave()
        self.writes = False

    def _step(self) -> bool:
        """Whether there may be more."""
        void = self.own and self.store.log not in ("", self.log.identity)
        if void or (not self.store.offset and self.log.last_offset > self.limit):
            return backfill(self.log, self.store) > 0
        return follow(self.log, self.store, self.limit) == self.limit
