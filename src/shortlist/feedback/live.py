"""A project's engine, put together: releases, log, the configured store, and its follower."""

import sys
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
from numpy.typing import NDArray

from shortlist import now
from shortlist.artifact import Release, Releases
from shortlist.config import Project
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.events import workspace
from shortlist.events.base import Log
from shortlist.events.opening import open_log
from shortlist.features.featureset import FeatureSet
from shortlist.features.state import Service
from shortlist.features.stored import Moment, Stored
from shortlist.feedback.backfill import backfill
from shortlist.feedback.follow import Follower, state
from shortlist.schema import Schema
from shortlist.serving.engine import Engine
from shortlist.store.base import State
from shortlist.store.opening import open_store, shared
from shortlist.store.states import States

__all__ = ["open_engine", "Following", "states"]


class Following:
    """State of users as of the end of the log, and of counters as of the store, for one release.

    The store is the one that `[serve] store` names, for the features of the release. One that is empty is filled here,
    from the log, or from the release where the log begins behind it; where another process is its writer, it is only
    read. With `follow`, a thread keeps it near the log, and takes over when that other process has gone.
    """

    def __init__(self, release: Release, log: Log, project: Project, follow: bool) -> None:
        self.log = log
        self.schema = Schema.parse(release.document["schema"], "release.schema")
        features, service = _meaning(release, self.schema)
        blobs = open_store(project.config.serve.store, project.home, service.fingerprint, write=False)
        # requests under way may read on after `close`: the store is closed when the last of them has gone
        weakref.finalize(self, blobs.close)
        self.store = States(blobs, service, release.catalogue)
        self._stored = Stored(blobs, service, release.catalogue, features) if len(features) else None
        if not blobs.offset:
            self._fill(release)
        self.follower = Follower(log, self.store).start() if follow else None

    def _fill(self, release: Release) -> None:
        try:
            self.store.blobs.claim()
        except DataError:  # another process is at it; until then the log itself is read
            return
        offset = int(release.document["offset"])
        first = self.log.read(0, 1)["offset"].to_list()
        if first and first[0] <= offset:
            backfill(self.log, self.store)
        else:
            self.store.load(release.table("histories"), offset)
        self.store.blobs.leave()

    def __call__(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        return state(self.log, self.store, self.schema, users, now)

    def known(self) -> Moment | None:
        """What one request may ask of counters, for `Requests.known`; its `offset` is the one to log as `as_of`.

        None where there are no features. Raises DataError while the store cannot be had.
        """
        return None if self._stored is None else self._stored.moment()

    def close(self) -> None:
        if self.follower is not None:
            self.follower.stop()
        self.store.blobs.leave()


def states(project: Project, release: Release | None, *, write: bool) -> States:
    """The configured store as a release means it, or as the project's configuration does where there is none yet.

    Raises ConfigError for a store that no other process can have.
    """
    words = project.config.serve.store
    if not shared(words):
        hint = 'write store = "lmdb:" under [serve]'
        raise ConfigError("the state lives in the server itself", where="serve.store", hint=hint)
    if release is None:
        own = workspace.schema(project)
        service = Service(FeatureSet.of(project.config.feature, own, project.folder).counters, own)
        known = workspace.catalogue(project)
    else:
        service, known = (
            _meaning(release, Schema.parse(release.document["schema"], "release.schema"))[1],
            release.catalogue,
        )
    return States(open_store(words, project.home, service.fingerprint, write=write), service, known)


def _meaning(release: Release, schema: Schema) -> tuple[FeatureSet, Service]:
    features = FeatureSet.restored(release.document.get("features", []), schema)
    return features, Service(features.counters, schema)


@contextmanager
def open_engine(project: Project, *, follow: bool = False) -> Iterator[Engine]:
    """An engine that serves the project's current release. Raises ArtifactError when there is none that works."""
    home = project.home
    releases = Releases(home / "releases")
    if releases.current() is None:
        releases.load()  # raises, and says what to do
    with closing(open_log(project)) as log:
        engine = Engine(
            releases, log, lambda release: Following(release, log, project, follow), project.config.serve,
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
