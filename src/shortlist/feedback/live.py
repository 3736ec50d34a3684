"""A project's engine, put together: releases, log, a store loaded from the release, and its follower."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
from numpy.typing import NDArray

from shortlist import now
from shortlist.artifact import Release, Releases
from shortlist.config import Project
from shortlist.errors import ArtifactError
from shortlist.events.log import EventLog
from shortlist.feedback.follow import Follower, state
from shortlist.schema import Schema
from shortlist.serving.engine import Engine
from shortlist.store.base import State
from shortlist.store.memory import Memory

__all__ = ["open_engine", "Following"]


class Following:
    """State of users as of the end of the log. With `follow`, a thread keeps the store near it."""

    def __init__(self, release: Release, log: EventLog, follow: bool) -> None:
        self.schema = Schema.parse(release.document["schema"], "release.schema")
        self.log = log
        self.store = Memory(Memory.Config(), self.schema)
        self.store.load(release.table("histories"), int(release.document["offset"]))
        self.follower = Follower(log, self.store).start() if follow else None

    def __call__(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        return state(self.log, self.store, self.schema, users, now)

    def close(self) -> None:
        if self.follower is not None:
            self.follower.stop()


@contextmanager
def open_engine(project: Project, *, follow: bool = False) -> Iterator[Engine]:
    """An engine that serves the project's current release. Raises ArtifactError when there is none that works."""
    home = project.home
    releases = Releases(home / "releases")
    if releases.current() is None:
        releases.load()  # raises, and says what to do
    with closing(EventLog(home / "log.db")) as log:
        engine = Engine(
            releases, log, lambda release: Following(release, log, follow), project.config.serve,
            now,
        )  # fmt: skip
        with closing(engine):
            engine.reload()
            if "torch" in sys.modules:  # requests run side by side: threads inside one operation only get in the way
                sys.modules["torch"].set_num_threads(1)
            if not engine.ready:
                what = engine.refused.what if engine.refused is not None else "it cannot be loaded"
                raise ArtifactError(what, where=str(releases.folder), hint="publish again, or `shortlist rollback`")
            yield engine
