"""A store filled at once from the whole log equals one that followed it from the beginning."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from tests.store.servers import Server
from tests.store.world import NOW, SCHEMA, events, fill, same, service, states

from shortlist.errors import DataError
from shortlist.events.log import EventLog
from shortlist.feedback.backfill import backfill
from shortlist.feedback.follow import follow
from shortlist.store import Blobs, States
from shortlist.store.blobs import Change
from shortlist.store.lmdb import Lmdb
from shortlist.store.memory import Memory
from shortlist.store.redis import Redis

EVENTS = 3000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventLog]:
    with closing(fill(tmp_path_factory.mktemp("log") / "log.db", EVENTS)) as made:
        yield made


@pytest.fixture(scope="module")
def followed(log: EventLog) -> States:
    store = states(Memory())
    while follow(log, store, limit=211):
        pass
    return store


@pytest.mark.parametrize("name", ["memory", "lmdb", "redis"])
@pytest.mark.parametrize("chunk", [170, 100_000])  # 18 piles of users and of items, or one
def test_a_backfill_equals_following(
    name: str, chunk: int, log: EventLog, followed: States, tmp_path: Path, server: Server
) -> None:
    fingerprint = service().fingerprint
    with ExitStack() as stack:
        blobs: Blobs
        if name == "memory":
            blobs = Memory()
        elif name == "lmdb":
            blobs = stack.enter_context(closing(Lmdb(tmp_path / "store", fingerprint)))
        else:
            blobs = stack.enter_context(closing(Redis(server.url, secrets.token_hex(32))))
        store = states(blobs)
        told: list[tuple[int, int, str]] = []
        stood = backfill(log, store, chunk=chunk, progress=lambda *step: told.append(step))
        assert stood == store.offset == followed.offset == EVENTS
        same(store, followed)
        assert {what for _, _, what in told} == {"events", "users", "items"}
        assert all(done < total for done, total, _ in told)


def test_it_follows_on_from_there(tmp_path: Path) -> None:
    with closing(fill(tmp_path / "log.db", 1000)) as log:
        whole, store = states(Memory()), states(Memory())
        backfill(log, store, chunk=300)
        log.append(events(77, 200), SCHEMA.action_names, NOW)
        for one in (whole, store):
            while follow(log, one, limit=1200):
                pass
        assert store.offset == 1200
        same(store, whole)


def test_it_replaces_what_was_there(log: EventLog, followed: States) -> None:
    store = states(Memory())
    wrong = np.array([7, 10_000])
    store.blobs.put({"user": (wrong, [b"x", b"y"]), "old": (wrong, [b"x", b"y"])}, 5)
    backfill(log, store, chunk=800)
    same(store, followed)


def test_an_empty_log_makes_an_empty_state(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "log.db")) as log:
        store = states(Memory())
        assert (backfill(log, store), store.offset) == (0, 0)
        assert store.read(np.array([0]), NOW).history.items.tolist() == []


class Breaking(Memory):
    """It breaks off after some transactions."""

    left = 5

    def stage(self, changes: Mapping[str, Change], *, first: bool = False) -> None:
        self.left -= 1
        if not self.left:
            raise DataError("the disk is full", where="store", hint="free some space")
        super().stage(changes, first=first)


def test_one_that_broke_off_changes_nothing_and_is_begun_anew(log: EventLog, followed: States) -> None:
    store = states(Breaking())
    with pytest.raises(DataError, match="the disk is full"):
        backfill(log, store, chunk=300)
    assert (store.offset, store.blobs.sizes()) == (0, {})
    assert not list(log.path.parent.glob(".backfill-*"))
    backfill(log, store, chunk=300)
    same(store, followed)


def test_erased_users_leave_no_state(tmp_path: Path) -> None:
    with closing(fill(tmp_path / "log.db", 2000)) as log:
        store, late = states(Memory()), states(Memory())
        while follow(log, store, limit=500):
            pass
        assert len(store.read(np.array([3, 4]), NOW).history.items) > 10
        log.erase("u3", NOW + 1)
        assert (store.erased, follow(log, store), store.erased) == (0, 0, 1)
        assert store.blobs.get("user", np.array([3])) == [None]
        assert np.diff(store.read(np.array([3, 4]), NOW).history.offsets).tolist()[0] == 0
        backfill(log, late)
        assert (late.erased, late.blobs.get("user", np.array([3]))) == (1, [None])
        assert late.blobs.keys("user").tolist() == store.blobs.keys("user").tolist()
        for user in ("u4", "u5"):
            log.erase(user, NOW + 2)
        follow(log, late)
        assert late.erased == 3
        assert not {3, 4, 5} & set(late.blobs.keys("user").tolist())
        assert follow(log, late) == 0
