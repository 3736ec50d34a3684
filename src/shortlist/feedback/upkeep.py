"""What a server does beside answering: it compacts the log, so that days that are over are sealed, and a deleted user
has left every file within `log.erase_within_hours` without anybody's doing."""

import fcntl
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from shortlist import now
from shortlist.config import Project
from shortlist.errors import ShortlistError
from shortlist.events import filing
from shortlist.events.compact import DAY_MS, HOUR_MS, Report, compact
from shortlist.feedback.stores import tidy
from shortlist.serving.engine import Engine
from shortlist.serving.wire import Trouble

__all__ = ["Upkeep", "upkeep"]

LOG = logging.getLogger(__name__)
EVERY_S = 60.0  # between two looks at what is due
SHARE = (
    0.5  # of the time for an erasure that may pass before it is done: together with others, and some left for trouble
)
AGAIN = 16  # so many tries, of what was left unfinished, in the time for an erasure
AGAIN_MS = 600_000  # until what broke off, an import that was running or a full disk, is tried again
GRACE_S = 10.0  # at the end: a compaction may be broken off anywhere


class Upkeep:
    """A thread that compacts at the start, when a day is over, and when an erasure is due: the file is rewritten once
    for all erasures of half the time they have.

    Of several servers of one project one does it; another takes over when that one has gone. What fails is said,
    counted, shown by /health/ready, and tried again.
    """

    def __init__(
        self, project: Project, engine: Engine, clock: Callable[[], int] = now, every_s: float = EVERY_S
    ) -> None:
        self.project = project
        self.engine = engine
        self.clock = clock
        self.within_ms = project.config.log.erase_within_hours * HOUR_MS
        self.every_s = min(every_s, self.within_ms / 1000.0 / AGAIN)
        self._day: int | None = None  # of the last compaction that went well
        self._again = 0.0  # nothing is tried before this moment (ms)
        self._lock: IO[str] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> "Upkeep":
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; what is under way is waited for a little, and is safe to be broken off."""
        self._stop.set()
        self._thread.join(GRACE_S)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    if self._due() and self._turn():
                        self._compact()
                except ShortlistError as error:
                    self._failed(str(error), AGAIN_MS)
                except Exception as error:  # whatever it is, the server lives on, and so does this
                    LOG.exception("the log is not compacted")
                    self._failed(f"{type(error).__name__}: {error}", AGAIN_MS)
                self._stop.wait(self.every_s)
        finally:
            if self._lock is not None:
                self._lock.close()

    def _turn(self) -> bool:
        """Whether it is this process that does it: one claims it when it is due, and keeps it."""
        if self._lock is None:
            file = (self.project.home / "upkeep.lock").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = file
            except BlockingIOError:
                file.close()
        return self._lock is not None

    def _due(self) -> bool:
        moment = self.clock()
        waiting = filing.waiting(self.engine.log.database)
        late = sum(user.erased_ms < moment - self.within_ms for user in waiting)
        self.engine.meters.erasures(len(waiting), late)
        if moment < self._again:
            return False
        ripe = any(user.erased_ms <= moment - SHARE * self.within_ms for user in waiting)
        return ripe or moment // DAY_MS != self._day

    def _compact(self) -> None:
        moment = self.clock()
        report = compact(self.project, moment)
        tidy(self.project, self.engine.log)
        self.engine.meters.erasures(report.waiting, report.overdue)
        if report.waiting:
            self._failed(_unfinished(report), self.within_ms)
            return
        self._day, self._again = moment // DAY_MS, 0.0
        self.engine.meters.compaction("done")
        self.engine.trouble = None
        if report.sealed or report.dropped or report.erased:
            LOG.info("%s events sealed, %s dropped, %s users erased", report.sealed, report.dropped, report.erased)
        if report.learned:
            LOG.warning("learned with an erased user, publish anew and remove: %s", ", ".join(report.learned))

    def _failed(self, what: str, again_ms: float) -> None:
        moment = self.clock()
        self._again = moment + min(again_ms, self.within_ms / AGAIN)
        self.engine.meters.compaction("failed")
        if self.engine.trouble is None or self.engine.trouble.what != what:
            LOG.warning("the log is not compacted: %s", what)
        self.engine.trouble = Trouble(what, moment)


def _unfinished(report: Report) -> str:
    places = "; ".join(f"{place}: {why}" for place, why in report.left.items()) or "a reader holds on to the log"
    return f"{report.waiting} erased users are still in files: {places}"


@contextmanager
def upkeep(project: Project, engine: Engine) -> Iterator[None]:
    """A server's own, for as long as the context lasts."""
    own = Upkeep(project, engine).start()
    try:
        yield
    finally:
        own.stop()
