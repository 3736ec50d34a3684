"""From the log to the store: every event once, and at once for those who ask."""

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.waiting import until

from shortlist.errors import DataError
from shortlist.events.log import Event, EventLog
from shortlist.features.state import Service
from shortlist.feedback.follow import Follower, follow, state
from shortlist.schema import Catalogue, Schema
from shortlist.store import States
from shortlist.store.blobs import Change
from shortlist.store.lmdb import Lmdb
from shortlist.store.memory import Memory
from shortlist.store.states import ABOUT, ERASED

NOW = 1_767_225_600_000
SCHEMA = Schema.parse({"action": "a", "actions": {"seen": {"weight": 0.0}, "click": {}}})


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "log.db")


@pytest.fixture
def store() -> States:
    return States(Memory(), Service((), SCHEMA), Catalogue.empty())


def send(log: EventLog, *rows: tuple[str, str, str, int]) -> None:
    """Rows of (user, item, action, ms before now)."""
    events = [Event(user, item, action, NOW - ago) for user, item, action, ago in rows]
    assert {outcome.status for outcome in log.append(events, SCHEMA.action_names, NOW)} == {"accepted"}


def test_a_store_follows_the_log_in_steps(log: EventLog, store: States) -> None:
    send(log, *(("u", f"i{n}", "click", 100 - n) for n in range(5)))
    assert [follow(log, store, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert store.offset == 5
    assert store.read(np.array([0]), NOW).history.items.tolist() == [0, 1, 2, 3, 4]


def test_a_click_counts_in_the_next_request(log: EventLog, store: States) -> None:
    send(log, ("ann", "a", "click", 30), ("bob", "b", "click", 30), ("ann", "c", "seen", 30))
    follow(log, store)
    send(log, ("ann", "d", "click", 0), ("bob", "a", "seen", 20), ("ann", "late", "click", 40))
    made = state(log, store, SCHEMA, np.array([0, -1, 1, 0]), NOW)
    # items by first appearance: a 0, b 1, c 2, d 3, late 4
    assert made.history.items.tolist() == [4, 0, 3, 1, 4, 0, 3]
    assert made.history.offsets.tolist() == [0, 3, 3, 4, 7]
    assert made.shown.items.tolist() == [2, 0, 2]
    assert made.shown.offsets.tolist() == [0, 1, 1, 2, 3]
    assert made.offset == 6
    assert store.offset == 3  # nobody has applied it

    follow(log, store)
    held = store.read(np.array([0, -1, 1, 0]), NOW)
    assert held.history.items.tolist() == made.history.items.tolist()
    assert held.shown.items.tolist() == made.shown.items.tolist()


def test_the_overlay_minds_the_time_and_the_last(log: EventLog, store: States) -> None:
    send(log, ("u", "a", "click", 30), ("u", "b", "click", 20))
    follow(log, store)
    send(log, ("u", "c", "click", 10), ("u", "d", "click", 0))
    users = np.array([0])
    assert state(log, store, SCHEMA, users, NOW - 1).history.items.tolist() == [0, 1, 2]
    assert state(log, store, SCHEMA, users, NOW, last=3).history.items.tolist() == [1, 2, 3]


def test_equal_times_stand_in_the_order_of_the_log(log: EventLog, store: States) -> None:
    send(log, ("u", "b", "click", 5), ("u", "a", "click", 5))
    follow(log, store)
    send(log, ("u", "d", "click", 5), ("u", "c", "click", 5))
    assert state(log, store, SCHEMA, np.array([0]), NOW).history.items.tolist() == [0, 1, 2, 3]


def test_state_is_the_same_whatever_the_follower_has_done(log: EventLog, store: States) -> None:
    rng = np.random.default_rng(9)
    for _ in range(20):
        rows = rng.integers(0, 50, (10, 3))
        send(log, *((f"u{u % 6}", f"i{i}", "click" if a % 2 else "seen", int(a)) for u, i, a in rows))
    users = np.arange(6)
    want = state(log, store, SCHEMA, users, NOW)
    while follow(log, store, limit=7):
        made = state(log, store, SCHEMA, users, NOW)
        for a, b in ((want.history, made.history), (want.shown, made.shown)):
            assert a.items.tolist() == b.items.tolist()
            assert a.times.tolist() == b.times.tolist()
            assert a.offsets.tolist() == b.offsets.tolist()
    assert len(want.history.items) + len(want.shown.items) == 200


def test_imported_events_come_before_live_ones(log: EventLog, store: States) -> None:
    log.register("user", pl.Series(["u"]))
    log.register("item", pl.Series(["a", "b"]))
    log.reserve(2)
    imported = {"offset": [1, 2], "user": [0, 0], "item": [0, 1], "action": ["click", "click"], "time_ms": [5, 6]}
    store.load(pl.DataFrame(imported))
    send(log, ("u", "c", "click", 0))
    assert state(log, store, SCHEMA, np.array([0]), NOW).history.items.tolist() == [0, 1, 2]
    assert follow(log, store) == 1
    assert store.read(np.array([0]), NOW).history.items.tolist() == [0, 1, 2]


def wait_for(follower: Follower, *, lag: int = 0) -> None:
    assert until(lambda: follower.lag <= lag)


def test_a_follower_catches_up_while_others_write(log: EventLog, store: States) -> None:
    follower = Follower(log, store, every_ms=5, limit=7).start()

    def write(writer: int) -> None:
        for n in range(50):
            send(log, (f"u{writer}", f"i{n}", "click", n))

    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    users = np.arange(3)
    for writer in writers:
        writer.start()
    sizes = []
    while any(writer.is_alive() for writer in writers):
        # what a request sees only grows, wherever the follower is
        made = state(log, store, SCHEMA, users, NOW)
        assert len(made.history.items) <= made.offset or made.offset == 0
        sizes.append(len(made.history.items))
    for writer in writers:
        writer.join()
    assert sizes == sorted(sizes)
    wait_for(follower)
    follower.stop()
    made = store.read(users, NOW)
    assert np.diff(made.history.offsets).tolist() == [50, 50, 50]
    assert (follower.lag, follower.error) == (0, None)


class Failing(Memory):
    """A store whose disk comes and goes."""

    broken = True

    def put(self, changes: Mapping[str, Change], offset: int, *, replace: bool = False) -> None:
        if self.broken:
            raise DataError("the disk is full", where="store", hint="free some space")
        super().put(changes, offset, replace=replace)


def test_a_follower_outlives_a_failing_store(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    blobs = Failing()
    store = States(blobs, Service((), SCHEMA), Catalogue.empty())
    send(log, ("u", "a", "click", 0))
    follower = Follower(log, store, every_ms=2).start()
    assert until(lambda: follower.error is not None)
    assert str(follower.error) == "store: the disk is full (free some space)"
    assert follower.lag == 1
    time.sleep(0.05)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the store does not follow the log: store: the disk is full (free some space)"
    ]  # once, not every time
    blobs.broken = False
    wait_for(follower)
    follower.stop()
    assert follower.error is None
    assert store.read(np.array([0]), NOW).history.items.tolist() == [0]


def test_an_erased_user_is_a_stranger_at_once(log: EventLog, store: States) -> None:
    send(log, ("ann", "a", "click", 30), ("bob", "b", "click", 30))
    follow(log, store)
    send(log, ("ann", "c", "click", 20))
    log.erase("ann", NOW)
    made = state(log, store, SCHEMA, np.array([0, 1, -1]), NOW)  # nobody has followed yet
    assert made.history.offsets.tolist() == [0, 0, 1, 1]
    assert made.history.items.tolist() == [1]


def test_of_two_followers_one_writes_and_the_other_takes_over(tmp_path: Path, log: EventLog) -> None:
    def opened() -> States:
        return States(Lmdb(tmp_path / "store", "f" * 64), Service((), SCHEMA), Catalogue.empty())

    send(log, ("u", "a", "click", 30))
    with closing(opened().blobs), ExitStack() as stack:
        followers = [Follower(log, opened(), every_ms=5).start() for _ in range(2)]
        for one in followers:
            stack.callback(one.store.blobs.close)
        wait_for(followers[0])
        time.sleep(0.05)
        assert sorted(one.writes for one in followers) == [False, True]
        assert [one.error for one in followers] == [None, None]
        first = next(one for one in followers if one.writes)
        other = next(one for one in followers if not one.writes)
        first.stop()
        first.store.blobs.leave()
        send(log, ("u", "b", "click", 20))
        wait_for(other)
        assert other.writes
        assert other.store.read(np.array([0]), NOW).history.items.tolist() == [0, 1]
        other.stop()


def test_a_follower_fills_an_empty_store_first(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    send(log, *(("u", f"i{n}", "click", 1000 - n) for n in range(100)))
    blobs = Memory()
    follower = Follower(log, States(blobs, Service((), SCHEMA), Catalogue.empty()), every_ms=5, limit=10).start()
    wait_for(follower)
    follower.stop()
    assert follower.store.read(np.array([0]), NOW).history.items.tolist() == list(range(100))
    assert blobs.get(ABOUT, ERASED) == [b"0"]  # what only a backfill notes where nobody was erased
