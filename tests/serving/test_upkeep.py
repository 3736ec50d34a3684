"""A server compacts by itself: a deleted user is gone in time, without anybody's doing, whatever fails meanwhile."""

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient
from tests.serving.process import serve
from tests.serving.world import NOW, World

from shortlist.artifact import Releases
from shortlist.cli import main
from shortlist.config import Project, load
from shortlist.errors import DataError
from shortlist.events import filing
from shortlist.events.compact import DAY_MS, HOUR_MS, Report, compact
from shortlist.feedback import upkeep as module
from shortlist.feedback.live import Following, states
from shortlist.feedback.upkeep import Upkeep
from shortlist.schema import MISSING
from shortlist.serving.engine import Engine
from shortlist.serving.http import application
from shortlist.serving.watch import watch
from shortlist.serving.wire import Event
from shortlist.store.lmdb import Lmdb

GONE = "marla-4711"  # the id that is looked for in files
SOON_S = 0.005


def until(ask: Callable[[], object]) -> None:
    """Wait for what must come to be."""
    end = time.monotonic() + 120
    while not ask():
        assert time.monotonic() < end
        time.sleep(0.005)


def holding(folder: Path) -> list[str]:
    """Files that hold the id."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
    return [str(file.relative_to(folder)) for file in files if GONE.encode() in file.read_bytes()]


@contextmanager
def served(folder: Path, words: str = "") -> Any:
    """A project whose release knows `GONE`, who has done things since, and a warm engine over it."""
    (folder / "shortlist.toml").write_text(words, encoding="utf-8")
    project, world = load(folder), World(folder / "var")
    world.log.register("user", pl.Series([GONE]))
    world.publish()
    engine = world.engine(lambda release: Following(release, world.log, project, follow=True))
    with closing(world.log), closing(engine):
        assert engine.reload(), engine.refused
        engine.events([Event(GONE, "war5", "click", time_ms=NOW - 9), Event("ann", "war9", "click", time_ms=NOW - 9)])
        engine.recommend(GONE)
        engine.flush()
        yield project, world, engine


class Clock:
    """A time that is set."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def told(engine: Engine, line: str) -> bool:
    """Whether a line is on the page of metrics."""
    return line in engine.meters.text().decode()


def shown(engine: Engine, what: str) -> bool:
    """Whether this is what keeps the log from being compacted."""
    return engine.trouble is not None and engine.trouble.what == what


def test_a_deleted_user_is_gone_when_half_the_time_is_over(tmp_path: Path) -> None:
    clock, words = Clock(NOW), '[serve]\nstore = "lmdb:"\n[log]\nerase_within_hours = 24\n'
    with served(tmp_path, words) as (project, world, engine), ExitStack() as running:
        running.enter_context(watch(engine, every_s=SOON_S))
        own = Upkeep(project, engine, clock, every_s=SOON_S).start()
        running.callback(own.stop)
        until(lambda: told(engine, 'shortlist_compactions_total{outcome="done"} 1.0'))
        request = engine.recommend(GONE).request_id
        before, key = engine.live, engine.live.release.users.key(GONE)
        assert key == 8
        world.log.erase(GONE, NOW)
        until(lambda: engine.record(request) is None)  # a trace of theirs is no longer kept
        clock.now = NOW + 12 * HOUR_MS - 1
        until(lambda: told(engine, 'shortlist_erasures{state="waiting"} 1.0'))
        assert engine.live is before
        assert [one.user for one in filing.waiting(world.log.database)] == [key]
        assert any("releases" in file for file in holding(tmp_path / "var"))

        clock.now += 1
        until(lambda: told(engine, 'shortlist_erasures{state="waiting"} 0.0'))
        assert filing.waiting(world.log.database) == []
        until(lambda: engine.live is not before)
        assert (engine.live.id, engine.live.release.users.key(GONE)) == (before.id, MISSING)
        assert (engine.trouble, engine.refused) == (None, None)
        users = engine.live.users
        assert isinstance(users, Following)
        until(lambda: users.store.blobs.get("user", np.array([key])) == [None])
        assert users.store.blobs.get("user", np.array([0])) != [None]
        assert engine.recommend(GONE).degraded == ["unknown_user"]
        assert engine.recommend("ann").degraded == []


def test_no_file_names_the_deleted_user(tmp_path: Path) -> None:
    clock = Clock(NOW + 25 * HOUR_MS)
    with served(tmp_path) as (project, world, engine):
        assert {"log.db-wal", "rows"} <= {file.split("/")[0] for file in holding(tmp_path / "var")}
        world.log.erase(GONE, NOW)
        own = Upkeep(project, engine, clock, every_s=SOON_S).start()
        until(lambda: not filing.waiting(world.log.database))
        until(lambda: not holding(tmp_path / "var"))
        own.stop()


def test_days_that_are_over_are_sealed_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, days = Clock(NOW), []

    def counted(project: Project, now: int) -> Report:
        days.append((now - NOW) // DAY_MS)
        return compact(project, now)

    monkeypatch.setattr(module, "compact", counted)
    with served(tmp_path, "[log]\nseal_after_days = 2\n") as (project, world, engine):
        own = Upkeep(project, engine, clock, every_s=SOON_S).start()
        for day in range(5):
            clock.now = NOW + day * DAY_MS
            until(lambda: own._day == clock.now // DAY_MS)
        own.stop()
        # what came on day 0 is sealed on day 3: day 0 has been over for two days
        assert days == [0, 1, 2, 3, 4]
        assert [(segment.kind, segment.rows) for segment in filing.segments(world.log.database)] == [("sealed", 2)]
        assert engine.recommend("ann").degraded == []


def test_what_fails_is_said_counted_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, tries = Clock(NOW), []
    failures = [DataError("the disk is full", where="log.db", hint="free some space"), ValueError("odd")]
    unfinished = Report(0, 0, 0, 0, left={"releases/r": "damaged"}, waiting=1)

    def broken(project: Project, now: int) -> Report:
        tries.append(now - NOW)
        if failures:
            raise failures.pop(0)
        return unfinished if len(tries) == 3 else Report(0, 0, 0, 0)

    monkeypatch.setattr(module, "compact", broken)
    with (
        served(tmp_path, "[log]\nerase_within_hours = 16\n") as (project, _, engine),
        TestClient(application(engine), "http://127.0.0.1") as client,
    ):
        own = Upkeep(project, engine, clock, every_s=SOON_S).start()
        says = (
            "log.db: the disk is full (free some space)", "ValueError: odd",
            "1 erased users are still in files: releases/r: damaged",
        )  # fmt: skip
        for n, what in enumerate(says):
            clock.now = NOW + n * HOUR_MS  # a sixteenth of the time for an erasure
            until(partial(shown, engine, what))
            health = client.get("/health/ready")
            assert health.status_code == 200
            assert health.json()["trouble"] == {"what": what, "time_ms": clock.now}
            assert len(engine.recommend("ann").items) == 5
            time.sleep(10 * SOON_S)  # it is not its time yet
        clock.now = NOW + 3 * HOUR_MS
        until(lambda: engine.trouble is None)
        own.stop()
        assert tries == [0, HOUR_MS, 2 * HOUR_MS, 3 * HOUR_MS]
        page = client.get("/metrics").text
        assert 'shortlist_compactions_total{outcome="failed"} 3.0' in page
        assert 'shortlist_compactions_total{outcome="done"} 1.0' in page
        assert client.get("/health/ready").json()["trouble"] is None
    said = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert said == [
        "the log is not compacted: log.db: the disk is full (free some space)", "the log is not compacted",
        "the log is not compacted: ValueError: odd",
        "the log is not compacted: 1 erased users are still in files: releases/r: damaged",
    ]  # fmt: skip


def test_a_log_that_cannot_be_read_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any) -> Any:
        raise DataError("another process holds the log", where="log.db", hint="wait")

    with served(tmp_path) as (project, _, engine):
        waiting = filing.waiting
        monkeypatch.setattr(filing, "waiting", down)
        clock = Clock(NOW)

        def mended() -> bool:
            clock.now += HOUR_MS
            return engine.trouble is None

        own = Upkeep(project, engine, clock, every_s=SOON_S).start()
        until(lambda: engine.trouble is not None)
        monkeypatch.setattr(filing, "waiting", waiting)
        until(mended)
        own.stop()


def test_one_of_several_servers_does_it_and_another_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done = Clock(NOW), []

    def noted(project: Project, now: int) -> Report:
        done.append(project)
        return Report(0, 0, 0, 0)

    monkeypatch.setattr(module, "compact", noted)
    with served(tmp_path) as (project, _, engine):
        again = load(tmp_path)
        first = Upkeep(project, engine, clock, every_s=SOON_S).start()
        until(lambda: len(done) == 1)
        second = Upkeep(again, engine, clock, every_s=SOON_S).start()
        clock.now += DAY_MS
        until(lambda: len(done) == 2)
        assert done[1] is project
        first.stop()
        until(lambda: len(done) == 3)
        second.stop()
        assert done[2] is again


def test_stores_of_releases_that_are_gone_are_removed(tmp_path: Path) -> None:
    with served(tmp_path, '[serve]\nstore = "lmdb:"\n') as (project, _, engine):
        place = tmp_path / "var" / "store"
        live = [folder.name for folder in place.iterdir()]
        assert len(live) == 1
        for name in ("a" * 12, "b" * 12):
            with closing(Lmdb(place / name, name[0] * 64)) as store:
                store.put({"user": (np.array([1]), [b"x"])}, 1)
        with closing(Lmdb(place / ("b" * 12), "b" * 64)) as held:
            held.claim()  # somebody follows it
            own = Upkeep(project, engine, Clock(NOW), every_s=SOON_S).start()
            until(lambda: own._day is not None)
            own.stop()
        assert sorted(folder.name for folder in place.iterdir()) == sorted([*live, "b" * 12])
        assert engine.recommend("ann").degraded == []


def test_the_command_takes_a_deleted_user_out_of_the_store(tmp_path: Path) -> None:
    """Where no server runs and nothing follows, `compact` does."""
    with served(tmp_path, '[serve]\nstore = "lmdb:"\n') as (project, world, engine):
        key = world.log.key("user", GONE)
        until(lambda: engine.live.users.follower.lag == 0)
    words = ["--project", str(tmp_path)]

    def kept() -> bool:
        with closing(states(project, Releases(project.home / "releases").load(), write=False).blobs) as store:
            return key in store.keys("user").tolist()

    assert kept()
    assert main(["erase", GONE, *words]) == 0
    assert kept()
    assert main(["compact", *words]) == 0
    assert not kept()


def metrics(url: str) -> bytes:
    with urlopen(f"{url}/metrics", timeout=120) as page:
        return bytes(page.read())


def test_a_running_server_forgets_a_deleted_user(tmp_path: Path) -> None:
    world = World(tmp_path / "var")
    world.log.register("user", pl.Series([GONE]))
    world.publish()
    words = "[serve]\ndeadline_ms = 60000.0\n[log]\nerase_within_hours = 0.0005\n"  # 1.8 s
    (tmp_path / "shortlist.toml").write_text(words, encoding="utf-8")
    process, url = serve(tmp_path)
    try:
        assert holding(tmp_path / "var")
        world.log.erase(GONE, int(time.time() * 1000))
        until(lambda: not filing.waiting(world.log.database))
        until(lambda: not holding(tmp_path / "var"))
        until(lambda: b'shortlist_erasures{state="overdue"} 0.0' in metrics(url))
        process.send_signal(signal.SIGTERM)
        _, talk = process.communicate(timeout=120)
    finally:
        process.kill()
        world.log.close()
    assert process.returncode == 0
    assert "1 users erased" in talk
    assert "Traceback" not in talk
