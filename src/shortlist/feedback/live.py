"""A project's engine, put together: releases, log, the configured store, and its follower."""

import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist import now
from shortlist.artifact import Release, Releases
from shortlist.config import Project, ServeConfig
from shortlist.errors import ArtifactError, ConfigError, DataError, ShortlistError
from shortlist.events import workspace
from shortlist.events.base import Log
from shortlist.events.opening import open_log
from shortlist.features.featureset import FeatureSet
from shortlist.features.state import Caps, Service
from shortlist.features.stored import Moment, Stored
from shortlist.feedback.backfill import backfill
from shortlist.feedback.follow import Follower, state
from shortlist.feedback.past import Door, Past
from shortlist.schema import Schema
from shortlist.serving.engine import Engine
from shortlist.store.base import State
from shortlist.store.opening import open_lists, open_store, own, shared
from shortlist.store.states import States

__all__ = ["open_engine", "Following", "meaning", "states"]

AGAIN_S = 1.0  # until a store that could not be had is asked again


class Following:
    """State of users as of the end of the log, and of counters as of the store, for one release.

    The store is the one that `[serve] store` names, for the features of the release. One that is empty is filled here,
    from the log, or from the release where the log begins behind it, and so is one of another log that lies in the
    project's own folder; elsewhere it may be somebody else's, and is refused with an ArtifactError. Where another
    process is its writer, it is only read. With `follow`, a thread keeps it near the log, and takes over when that
    other process has gone.
    """

    def __init__(self, release: Release, log: Log, project: Project, follow: bool) -> None:
        self.log = log
        self.schema = Schema.parse(release.document["schema"], "release.schema")
        features, service = meaning(release.document, project.config.serve)
        blobs = open_store(project.config.serve.store, project.home, service.fingerprint, write=False)
        # requests under way may read on after `close`: the store is closed when the last of them has gone
        weakref.finalize(self, blobs.close)
        self.store = States(blobs, service, release.catalogue)
        self._stored = Stored(blobs, service, release.catalogue, features) if len(features) else None
        self._past = Past(release, log, self.schema)
        self._door = Door(AGAIN_S)
        mine = own(project.config.serve.store)
        if not blobs.offset or (mine and not self._ours()):
            self._fill(release)
        if not mine:
            self.store.check(log.identity)
        elif self.store.log not in ("", log.identity):
            raise DataError("another process fills the store", where=str(project.home / "store"), hint="wait for it")
        self.follower = Follower(log, self.store, own=mine).start() if follow else None

    def _ours(self) -> bool:
        """Whether the store stands at an offset of this log: not where the log was made anew, imported afresh, or is an
        older copy."""
        return self.store.log in ("", self.log.identity) and self.store.offset <= self.log.last_offset

    def _fill(self, release: Release) -> None:
        try:
            self.store.blobs.claim()
        except DataError:  # another process is at it; until then the log itself is read
            return
        offset, identity = int(release.document["offset"]), self.log.identity
        first = self.log.read(0, 1)["offset"].to_list()
        if first and (first[0] <= offset or release.document.get("log", identity) != identity):
            backfill(self.log, self.store)
        else:
            self.store.load(release.table("histories"), offset, identity)
        self.store.blobs.leave()

    def __call__(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        with self._door.tried():
            return state(self.log, self.store, self.schema, users, now)

    def known(self) -> Moment | None:
        """What one request may ask of counters, for `Requests.known`; its `offset` is the one to log for them.

        None where there are no features. Raises DataError while the store cannot be had.
        """
        if self._stored is None:
            return None
        with self._door.tried():
            return self._stored.moment()

    def past(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        return self._past(users, now)

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
        counters = FeatureSet.of(project.config.feature, own, project.folder).counters
        service = Service(counters, own, _caps(project.config.serve))
        known = workspace.catalogue(project)
    else:
        service, known = meaning(release.document, project.config.serve)[1], release.catalogue
    return States(open_store(words, project.home, service.fingerprint, write=write), service, known)


def meaning(document: Mapping[str, Any], config: ServeConfig) -> tuple[FeatureSet, Service]:
    """The features of a release's document, and the state they need, as much of it as `config` keeps."""
    schema = Schema.parse(document["schema"], "release.schema")
    features = FeatureSet.restored(document.get("features", []), schema)
    return features, Service(features.counters, schema, _caps(config))


def _caps(config: ServeConfig) -> Caps:
    return Caps(config.history, config.shown)


@contextmanager
def open_engine(project: Project, *, follow: bool = False) -> Iterator[Engine]:
    """An engine that serves the project's current release. Raises ArtifactError when there is none that works,
    DataError when its store cannot be had."""
    home = project.home
    releases = Releases(home / "releases")
    if releases.current() is None:
        releases.load()  # raises, and says what to do
    with ExitStack() as stack:
        log = stack.enter_context(closing(open_log(project)))
        lists = open_lists(project.config.serve, home, log.identity, write=False)
        if lists is not None:
            stack.callback(lists.close)
        engine = Engine(
            releases, log, lambda release: Following(release, log, project, follow), project.config.serve,
            now, lists,
        )  # fmt: skip
        with closing(engine):
            engine.reload(tell=False)
            if "torch" in sys.modules:  # requests run side by side: threads inside one operation only get in the way
                sys.modules["torch"].set_num_threads(1)
            why = engine.failed
            if isinstance(why, ShortlistError) and str(releases.folder) not in why.where:  # the release is not at fault
                raise why
            if not engine.ready:
                hint = "publish again, or `shortlist rollback`"
                if isinstance(why, ShortlistError):
                    raise ArtifactError(why.what, where=why.where, hint=hint)
                what = engine.refused.what if engine.refused is not None else "it cannot be loaded"
                raise ArtifactError(what, where=str(releases.folder), hint=hint)
            yield engine
