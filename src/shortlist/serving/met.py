"""What is known of a user when a request is answered, read within a bound, and what is told where it cannot be had."""

import logging
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Ragged, Requests
from shortlist.errors import ArtifactError, DataError
from shortlist.events.base import Log
from shortlist.funnel.requests import make
from shortlist.schema import MISSING
from shortlist.serving.ask import Ask
from shortlist.serving.live import Live, together
from shortlist.serving.refusals import OverloadedError
from shortlist.store.base import State

__all__ = ["Met", "Reader", "FAILED", "LATE", "STORE", "requests_of"]

LOG = logging.getLogger("shortlist.serving")
LATE, FAILED = "late:state", "failed:state"  # nothing is known of the user
STORE = "failed:store"  # their history is, from the release and the log; what counts is not
QUIET_S = 60.0  # once a minute says enough
NOTHING = State(Ragged.empty(1), Ragged.empty(1), 0)


@dataclass(frozen=True)
class Met:
    """The user's key (it may be younger than the release), what they did, and what answers for features that count."""

    key: int
    state: State = NOTHING
    known: Any = None


class Reader:
    """Reads of users in threads of a pool, `slots` at once: more are abandoned ones, of a store or a log that hangs."""

    def __init__(self, log: Log, pool: ThreadPoolExecutor, slots: int) -> None:
        self.log = log
        self._pool = pool
        self._slots = threading.Semaphore(slots)
        self._said = -QUIET_S

    def read(self, live: Live, ask: Ask, until: float) -> tuple[Met, list[str]]:
        """What is known by the moment `until` (monotonic), with a note where it is less than all: nothing where that is
        late or fails, no counts where the store is down."""
        call = self._pool.submit(self._met, live, ask)
        try:
            return call.result(timeout=max(0.0, until - time.monotonic()))
        except (TooLate, CancelledError):
            call.cancel()
            return Met(ask.key), [LATE]
        except Exception:
            if self._loud():
                LOG.exception("the state of a user cannot be had")
            return Met(ask.key), [FAILED]

    def _met(self, live: Live, ask: Ask) -> tuple[Met, list[str]]:
        if not self._slots.acquire(blocking=False):
            what = "the state of users has too many calls under way"
            raise OverloadedError(what, where="state", hint="the store or the log is hanging")
        try:
            stale = ask.key == MISSING or self.log.gone(ask.key)  # younger than the release, or erased since
            key = self.log.key("user", ask.user) if stale else ask.key
            users, now = np.array([key]), np.array([ask.now])
            try:
                state = live.users(users, now) if key != MISSING else NOTHING
                return Met(key, state, live.users.known()), []
            except (DataError, ArtifactError) as error:
                if self._loud():
                    LOG.warning("histories come from the release and the log: %s", error)
                return Met(key, live.users.past(users, now) if key != MISSING else NOTHING), [STORE]
        finally:
            self._slots.release()

    def _loud(self) -> bool:
        """Whether it is time to say it again."""
        if time.monotonic() - self._said < QUIET_S:
            return False
        self._said = time.monotonic()
        return True


def requests_of(live: Live, ask: Ask, met: Met) -> Requests:
    """The funnel's request: a batch of one, made as it is made offline."""
    return make(
        np.array([met.key]),
        np.array([ask.now]),
        ask.n,
        together(met.state, ask.session),
        live.schema,
        live.release.catalogue,
        exclude=ask.exclude,
        context={name: _column(value) for name, value in ask.context.items()},
        where=ask.where,
        ids=(ask.user,),
        known=met.known,
    )


def _column(value: Any) -> NDArray[Any]:
    """One request's value as a column, whatever it is."""
    column = np.empty(1, dtype=object)
    column[0] = value
    return column
