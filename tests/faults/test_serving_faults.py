"""What the user sees when a part of the server is hanging, failing, lying or gone: an answer in time, and a note.

Each row of FAULTS injects one fault into a running engine; the answer must come within the deadline, whole.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient
from tests.serving.world import USERS, World, neighbours, serving
from tests.waiting import until

from shortlist.candidates import Candidates, Mask, Requests
from shortlist.config import ServeConfig
from shortlist.errors import DataError
from shortlist.events.log import EventLog
from shortlist.forms import Lists
from shortlist.funnel.pipeline import Channel, Keep, Recalled
from shortlist.serving.engine import Engine
from shortlist.serving.guard import Guard
from shortlist.serving.http import application
from shortlist.serving.live import Live, Users
from shortlist.store.base import State

PATIENCE_MS = 60_000.0  # of a loaded machine: what does not hang is never late
DEADLINES_MS = (1000.0, 5000.0, PATIENCE_MS)  # where something hangs: the first that all other parts keep
OVER = threading.Event()  # what hangs goes on when a test is over
HOT = ["war0", "war1", "war2", "war3", "war4"]
BOTH = ["war3", "war4", "war5", "war6", "war7"]


class Hanging:
    def __init__(self) -> None:
        self.calls: list[Requests] = []

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        self.calls.append(requests)
        OVER.wait(600)
        return np.zeros(1, dtype=np.int64), np.array([19]), np.ones(1, dtype=np.float32)


class Failing:
    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        raise RuntimeError("the index is gone")


class Lying:
    """Returns what it is told to."""

    def __init__(self, owners: Any, items: Any, scores: Any) -> None:
        self.rows = np.asarray(owners), np.asarray(items), np.asarray(scores)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        return self.rows


class HangingFilter:
    def keep(self, requests: Requests, owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        OVER.wait(600)
        return np.ones(len(items), dtype=bool)


class FailingFilter:
    def keep(self, requests: Requests, owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        raise RuntimeError("no rules today")


class FailingSelector:
    def select(self, requests: Requests, candidates: Candidates, scores: NDArray[np.float32]) -> Any:
        raise RuntimeError("undecided")


class BrokenUsers:
    def __init__(self, *, hangs: bool = False) -> None:
        self.hangs = hangs

    def __call__(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        if self.hangs:
            OVER.wait(600)
        raise DataError("the store is down", where="store", hint="start it")

    def known(self) -> None:
        return None

    def past(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        raise DataError("the log is down", where="log", hint="mend it")

    def close(self) -> None:
        pass


class LostStore(BrokenUsers):
    """The store is down, the release and the log are there."""

    def __init__(self, users: Users) -> None:
        super().__init__()
        self.users = users

    def past(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        return self.users.past(users, now)


def source(live: Live, name: str, part: Any) -> Live:
    """The release with one channel's source replaced."""
    guard = Guard(name, part, 4, len(live.release.items))
    funnels = {
        scene: replace(f, channels=tuple(Channel(c.name, guard, c.quota) if c.name == name else c for c in f.channels))
        for scene, f in live.funnels.items()
    }
    return replace(live, funnels=funnels)


def every(live: Live, **changes: Any) -> Live:
    """The release with parts of every funnel replaced."""
    return replace(live, funnels={scene: replace(f, **changes) for scene, f in live.funnels.items()})


class Fault(NamedTuple):
    name: str
    inject: Callable[[Live], Live]
    items: list[str]
    degraded: list[str]


def lie(owners: Any, items: Any, scores: Any) -> Callable[[Live], Live]:
    return lambda live: source(live, "similar", Lying(owners, items, scores))


FAULTS = (
    Fault("a hanging channel", lambda live: source(live, "similar", Hanging()), BOTH, ["late:similar"]),
    Fault("a failing channel", lambda live: source(live, "similar", Failing()), BOTH, ["failed:similar"]),
    Fault("every channel failing", lambda live: source(source(live, "similar", Failing()), "popular", Failing()),
          BOTH, ["failed:similar", "failed:popular", "backfill"]),
    Fault("columns of different lengths", lie([0, 0], [1], [1.0]), BOTH, ["failed:similar"]),
    Fault("scores that are no numbers", lie([0], [5], ["x"]), BOTH, ["failed:similar"]),
    Fault("items of -1", lie([0, 0], [-1, -1], [1.0, 1.0]), BOTH, ["unsound:similar"]),
    Fault("items nobody knows", lie([0, 0], [10**6, 28], [1.0, 1.0]), BOTH, ["unsound:similar"]),
    Fault("rows of other requests", lie([7, -1], [5, 5], [1.0, 1.0]), BOTH, ["failed:similar"]),
    Fault("the same item again and again", lie([0] * 50, [9] * 50, [1.0] * 50), ["war9", "war3"], ["unsound:similar"]),
    Fault("scores of NaN", lie([0, 0], [9, 8], [np.nan, np.nan]), BOTH, ["unsound:similar"]),
    Fault("items that were seen", lie([0, 0], [0, 1], [9.0, 8.0]), BOTH, []),
    Fault("nothing at all", lie(np.zeros(0, int), np.zeros(0, int), np.zeros(0)), BOTH, []),
    Fault("a failing filter", lambda live: every(live, filters={"x": FailingFilter()}), HOT, ["failed:funnel"]),
    Fault("a hanging filter", lambda live: every(live, filters={"x": HangingFilter()}), HOT, ["late:funnel"]),
    Fault("a failing selector", lambda live: every(live, selector=FailingSelector()), BOTH, ["failed:selector"]),
    Fault("a store that is down", lambda live: replace(live, users=LostStore(live.users)), BOTH, ["failed:store"]),
    Fault("no store and no log", lambda live: replace(live, users=BrokenUsers()), HOT, ["failed:state"]),
    Fault("a hanging store", lambda live: replace(live, users=BrokenUsers(hangs=True)), HOT, ["late:state"]),
)  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[World, Engine]]:
    OVER.clear()
    with serving(tmp_path, deadline_ms=PATIENCE_MS) as found:
        found[1].recommend("ann")  # threads and caches are there
        yield found
        OVER.set()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_an_answer_in_time_with_a_note(made: tuple[World, Engine], fault: Fault) -> None:
    _, engine = made
    engine._live = fault.inject(engine.live)
    for deadline_ms in DEADLINES_MS if "hanging" in fault.name else [PATIENCE_MS]:
        answer = engine.recommend("ann", deadline_ms=deadline_ms)  # what hangs is hanging still
        if answer.degraded == fault.degraded:
            break
    assert [shown.item for shown in answer.items][: len(fault.items)] == fault.items
    assert len(answer.items) == 5
    assert answer.degraded == fault.degraded
    assert engine.trace(answer.request_id).served == [shown.item for shown in answer.items]


def test_a_hanging_channel_does_not_take_every_thread(made: tuple[World, Engine]) -> None:
    # the guard lets 4 calls hang; from the fifth request on the channel is skipped at once
    _, engine = made
    hanging = Hanging()
    engine._live = source(engine.live, "similar", hanging)

    def all_hang() -> bool:
        assert len(engine.recommend("ann", deadline_ms=300.0).items) == 5
        return len(hanging.calls) == 4

    assert until(all_hang)
    for _ in range(2):
        assert engine.recommend("ann").degraded == ["failed:similar"]
    assert len(hanging.calls) == 4


def test_a_filter_of_the_request_holds_in_the_last_resort(made: tuple[World, Engine]) -> None:
    _, engine = made
    engine._live = every(engine.live, filters={"x": FailingFilter()})
    answer = engine.recommend("ann", exclude=["war0"], filter="year > 1991")
    assert [shown.item for shown in answer.items] == ["war2", "war3", "war4", "war5", "war6"]


def test_a_full_disk_is_a_typed_error_and_nothing_is_acknowledged(
    made: tuple[World, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, engine = made

    def full(*_: Any) -> Any:
        raise DataError("the disk is full; nothing of this batch was kept", where="log.db", hint="free some space")

    monkeypatch.setattr(world.log, "append", full)
    with TestClient(application(engine), "http://127.0.0.1") as client:
        answer = client.post("/v1/events", json={"events": [{"user": "ann", "item": "war9", "action": "click"}]})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "data"
    assert len(world.log.read(0, 10)) == 0
    assert engine.meters.events["failed"] == 1


def test_served_slates_that_cannot_be_logged_are_counted(
    made: tuple[World, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, engine = made
    engine.flush()
    monkeypatch.setattr("shortlist.serving.exposures.WAIT_S", 0.0)

    def down(*_: Any) -> int:
        raise DataError("another process holds the log", where="log.db", hint="wait")

    monkeypatch.setattr(world.log, "append_served", down)
    assert len(engine.recommend("ann").items) == 5
    engine.flush()
    assert engine.meters.dropped == 1


def test_a_damaged_release_is_refused_and_the_old_one_stays(made: tuple[World, Engine]) -> None:
    world, engine = made
    good = engine.live.id
    world.now += 1000
    bad = world.publish("bad")
    file = next((world.folder / "releases" / bad / "artifacts" / "000").glob("form.items.npy"))
    file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    assert not engine.reload()
    assert engine.refused is not None
    assert (engine.refused.release, engine.live.id) == (bad, good)
    assert "the content has changed since it was written" in engine.refused.what
    with TestClient(application(engine), "http://127.0.0.1") as client:
        health = client.get("/health/ready")
        assert (health.status_code, health.json()["release"]) == (200, good)
        assert health.json()["refused"]["release"] == bad
        assert client.get("/v1/releases").json()["problem"] == engine.refused.what
    assert engine.recommend("ann").release == good


def test_a_release_that_does_not_work_is_refused(made: tuple[World, Engine]) -> None:
    world, engine = made
    good = engine.live.id
    world.now += 1000
    beyond = Lists(np.array([0]), np.array([0, 1]), np.array([99]), np.ones(1, dtype=np.float32), ("global",))
    world.publish("beyond", {"filters": []}, popular=beyond, similar=neighbours())
    assert not engine.reload()
    assert engine.refused is not None
    assert engine.refused.what.startswith("ValueError: channel 'popular' returned rows")
    world.now += 1000
    bad = world.publish("unknown part", {"merge": "no_such_merger"})
    assert not engine.reload()
    assert engine.refused.release == bad
    assert engine.live.id == good
    assert engine.refused.what.startswith("scene.home.merge: nothing is called 'no_such_merger'")


def test_a_release_of_another_project_is_refused(made: tuple[World, Engine], tmp_path: Path) -> None:
    world, _ = made
    log = EventLog(tmp_path / "other.db")
    log.register("user", pl.Series(["zoe", *USERS]))  # every key is another one's
    engine = Engine(world.releases, log, lambda release: BrokenUsers(), ServeConfig(), lambda: world.now)
    try:
        assert not engine.reload()
        assert engine.refused is not None
        assert engine.refused.what.endswith(
            "user 'ann' has another key in this project's log (publish it from this project)"
        )
    finally:
        engine.close()
        log.close()


def test_a_swap_under_load_loses_no_request(made: tuple[World, Engine]) -> None:
    world, engine = made
    stop, answers, errors = threading.Event(), [], []

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(engine.recommend("ann"))
            except Exception as error:  # noqa: BLE001  (the test fails on any)
                errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    names = {engine.live.id}
    for n in range(4):
        world.now += 1000
        names.add(world.publish(f"r{n}"))
        assert engine.reload(), engine.refused
        assert until(lambda: bool(errors) or (answers[-1:] != [] and answers[-1].release == engine.live.id))
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {answer.release for answer in answers} <= names
    assert len({answer.release for answer in answers}) >= 4
    assert all([shown.item for shown in answer.items] == BOTH for answer in answers)
