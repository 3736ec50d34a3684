"""The process that follows the log: it keeps the store of the current release seconds behind it, and changes stores
when a release with other features becomes current."""

import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

from shortlist.artifact import Releases
from shortlist.config import Project
from shortlist.errors import DataError
from shortlist.events.base import Log
from shortlist.feedback.backfill import backfill
from shortlist.feedback.follow import LIMIT, follow
from shortlist.feedback.live import states
from shortlist.store.states import States

__all__ = ["Progress", "nearline"]

IDLE_S = 0.2
TELL_S = 5.0
AGAIN_S = 1.0  # until what failed is tried again


@dataclass(frozen=True)
class Progress:
    """`applied` events in `seconds` of work, the offset the store stands at, and how far the log is ahead (`lag`)."""

    applied: int
    seconds: float
    offset: int
    lag: int

    @property
    def rate(self) -> float:
        """Events a second while there was something to do."""
        return self.applied / self.seconds if self.seconds else 0.0


def nearline(
    project: Project,
    log: Log,
    *,
    once: bool = False,
    stop: threading.Event | None = None,
    limit: int = LIMIT,
    tell: Callable[[Progress], None] = lambda progress: None,
    complain: Callable[[DataError], None] = lambda error: None,
) -> Progress:
    """Follow until `stop` is set, or with `once` until the store is level with the log. Returns how far it came.

    `tell` hears of it every few seconds in which something was applied. What fails later on is told to `complain` and
    tried again; with `once`, and at the start, it is raised: DataError while another process writes the store.
    """
    stop = stop or threading.Event()
    work = _Work(project, log, limit)
    with closing(work):
        work.open()
        told = time.monotonic()
        while not stop.is_set():
            try:
                behind = work.step()
            except DataError as error:
                if once:
                    raise
                complain(error)
                stop.wait(AGAIN_S)
                continue
            if once and not behind:
                break
            if work.news and time.monotonic() - told > TELL_S:
                tell(work.progress())
                told, work.news = time.monotonic(), False
            if not behind:
                stop.wait(IDLE_S)
        return work.progress()


class _Work:
    """The store of the current release, and what has been done so far."""

    def __init__(self, project: Project, log: Log, limit: int) -> None:
        self.project = project
        self.log = log
        self.limit = limit
        self.releases = Releases(project.home / "releases")
        self.release: str | None = None
        self.store: States | None = None
        self.applied, self.seconds, self.news = 0, 0.0, False

    def open(self) -> States:
        """The store of the release that is current now."""
        current = self.releases.current()
        if self.store is None or current != self.release:
            self.close()
            release = None if current is None else self.releases.load(current)
            self.store, self.release = states(self.project, release, write=True), current
        return self.store

    def step(self) -> bool:
        """Apply what is next. Whether there may be more."""
        store, begun = self.open(), time.perf_counter()
        if not store.offset and self.log.last_offset > self.limit:
            done = backfill(self.log, store)
            behind = True
        else:
            done = follow(self.log, store, self.limit)
            behind = done == self.limit
        if done:
            self.applied, self.news = self.applied + done, True
            self.seconds += time.perf_counter() - begun
        else:
            store.blobs.claim()  # one that says nothing for long is thought dead
        return behind

    def progress(self) -> Progress:
        stands = self.open().offset
        return Progress(self.applied, self.seconds, stands, max(0, self.log.last_offset - stands))

    def close(self) -> None:
        if self.store is not None:
            with suppress(DataError):
                self.store.blobs.close()
            self.store = None
