"""Promise 1: an acknowledged event is never lost and never applied twice. Killed writers, torn files, replay.

Writers are killed on the log in its own file, and on a topic of mock brokers that live in this process.
"""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.events.kafka_cluster import SETTINGS, Cluster, cluster

from shortlist.errors import DataError
from shortlist.events.base import Log
from shortlist.events.kafka_log import KafkaLog
from shortlist.events.log import Event, EventLog

NOW = 1_767_225_600_000
ACTIONS = ("click",)


def batch(writer: str, n: int) -> list[Event]:
    """Three events; users and items repeat over batches, so that some keys are new and some are not."""
    return [
        Event(f"user {writer} {n // 2}", f"item {(n * 7 + k) % 50}", "click", NOW + n, event_id=f"{writer}-{n}-{k}")
        for k in range(3)
    ]


@dataclass(frozen=True)
class Place:
    """One log: files of its two writers, one of which both may have, and the brokers of its topic if it has one."""

    paths: tuple[Path, Path]
    servers: str = ""

    def open(self, path: Path) -> Log:
        if not self.servers:
            return EventLog(path)
        return KafkaLog(self.servers, "events", path, settings=SETTINGS, deadline_s=120.0)


def write_for_ever(place: Place, path: Path, writer: str, acknowledged: Connection) -> None:
    log = place.open(path)
    n = 0
    while True:
        outcomes = log.append(batch(writer, n), ACTIONS, NOW)
        acknowledged.send([(outcome.event_id, outcome.offset) for outcome in outcomes])
        n += 1


@pytest.fixture
def brokers() -> Iterator[Cluster]:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    with cluster() as made:  # in this process: the writers may die, the topic lives
        yield made


@pytest.fixture(params=["sqlite", "kafka, one file", "kafka, own files"])
def places(request: pytest.FixtureRequest) -> Callable[[Path], Place]:
    """Makes a new log in a folder."""
    on: Cluster | None = None if request.param == "sqlite" else request.getfixturevalue("brokers")

    def make(folder: Path) -> Place:
        names = ("one", "two") if request.param == "kafka, own files" else ("both", "both")
        if on is not None:
            on.topic("events")
        return Place((folder / names[0] / "log.db", folder / names[1] / "log.db"), "" if on is None else on.servers)

    return make


def told(pipe: Connection) -> list[tuple[str, int]]:
    """Everything a writer managed to acknowledge before it died."""
    found: list[tuple[str, int]] = []
    while True:
        try:
            if not pipe.poll(0):
                return found
            found += pipe.recv()
        except (EOFError, OSError):
            return found


def check(log: Log, acknowledged: dict[str, int]) -> pl.DataFrame:
    """What must hold of a log whenever it is opened. Closes it."""
    with closing(log):
        rows = log.read(0, 1_000_000)
        users, items = log.keys("user"), log.keys("item")
        assert log.database.writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    there = dict(zip(rows["event_id"], rows["offset"], strict=True))
    assert len(there) == len(rows)
    lost = {event: offset for event, offset in acknowledged.items() if there.get(event) != offset}
    assert not lost
    # a batch is there whole or not at all
    batches = rows.group_by(pl.col("event_id").str.replace(r"-\d$", "")).len()
    assert batches["len"].unique().to_list() in ([3], [])
    assert users.ids.n_unique() == len(users)
    assert items.ids.n_unique() == len(items)
    # every key that was given is used: keys and events move together
    assert sorted(rows["user"].unique()) == list(range(len(users)))
    assert sorted(rows["item"].unique()) == list(range(len(items)))
    return rows


def test_killed_at_random_points_nothing_acknowledged_is_lost(
    tmp_path: Path, forks: ForkServerContext, places: Callable[[Path], Place]
) -> None:
    place = places(tmp_path)
    kill(place, forks, 8 if place.servers else 12)


@pytest.mark.slow
def test_killed_hundreds_of_times_nothing_acknowledged_is_lost(tmp_path: Path, forks: ForkServerContext) -> None:
    for n in range(15):
        path = tmp_path / str(n) / "log.db"
        kill(Place((path, path)), forks, 30)


def kill(place: Place, forks: ForkServerContext, rounds: int) -> None:
    rng = np.random.default_rng(20)
    acknowledged: dict[str, int] = {}
    for round_number in range(rounds):
        pipes, writers = [], []
        for w, path in enumerate(place.paths):  # two processes write at once, as two servers would
            mine, theirs = forks.Pipe(duplex=False)
            writer = forks.Process(target=write_for_ever, args=(place, path, f"{round_number}.{w}", theirs))
            writer.start()
            theirs.close()
            pipes.append(mine)
            writers.append(writer)
        assert pipes[round_number % 2].poll(120)  # it has begun
        time.sleep(float(rng.uniform(0, 0.1)))
        for writer in writers:
            writer.kill()
        for writer in writers:
            writer.join()
            assert writer.exitcode == -9
        for pipe in pipes:
            acknowledged.update(told(pipe))
        check(place.open(place.paths[round_number % 2]), acknowledged)
    assert len(acknowledged) >= rounds * 3
    others = [place.paths[1], place.paths[0].with_name("new.db")] if place.servers else []  # made again by replay
    rows = check(place.open(place.paths[0]), acknowledged)
    for path in others:
        assert check(place.open(path), acknowledged).equals(rows)

    # Replay: clients send everything again, acknowledged or not, and each event is there once, where it was.
    names = rows["event_id"].str.replace(r"-\d$", "").unique(maintain_order=True)
    with closing(place.open(place.paths[0])) as log:
        for name in names:
            writer_name, _, n = name.rpartition("-")
            outcomes = log.append(batch(writer_name, int(n)), ACTIONS, NOW)
            assert {outcome.status for outcome in outcomes} == {"duplicate"}
        assert log.read(0, 1_000_000).equals(rows)


def crashed(tmp_path: Path) -> tuple[Path, list[int]]:
    """A log as a crash leaves it: nothing moved out of the WAL yet. Also the size of the WAL after each commit."""
    path = tmp_path / "live" / "log.db"
    log = EventLog(path)
    log.database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    log.database.writer.execute("PRAGMA wal_autocheckpoint = 0")
    wal = path.with_name("log.db-wal")
    sizes = []
    for n in range(30):
        log.append(batch("w", n), ACTIONS, NOW)
        sizes.append(wal.stat().st_size)
    (tmp_path / "crash").mkdir()
    for name in ("log.db", "log.db-wal"):  # copied while it is open: closing would tidy up
        shutil.copy(path.with_name(name), tmp_path / "crash" / name)
    log.close()
    return tmp_path / "crash", sizes


def test_a_torn_wal_keeps_every_commit_before_the_tear(tmp_path: Path) -> None:
    folder, sizes = crashed(tmp_path)
    whole = (folder / "log.db-wal").read_bytes()
    assert sizes[-1] == len(whole)
    assert sizes == sorted(sizes)
    rng = np.random.default_rng(3)
    cuts = sorted({0, 10, 32, len(whole) - 1, len(whole), *sizes[::10], *map(int, rng.integers(0, len(whole), 10))})
    for cut in cuts:
        copy = tmp_path / f"cut{cut}"
        shutil.copytree(folder, copy)
        (copy / "log.db-wal").write_bytes(whole[:cut])
        rows = check(EventLog(copy / "log.db"), {})
        # a commit ends where the WAL was long when it was acknowledged
        kept = sum(size <= cut for size in sizes)
        assert rows["event_id"].to_list() == [f"w-{n}-{k}" for n in range(kept) for k in range(3)]
        # and the log goes on: what was lost is sent again and taken once
        log = EventLog(copy / "log.db")
        outcomes = [outcome.status for n in range(30) for outcome in log.append(batch("w", n), ACTIONS, NOW)]
        assert outcomes == ["duplicate"] * 3 * kept + ["accepted"] * 3 * (30 - kept)
        log.close()


def test_a_last_page_of_garbage_is_not_read(tmp_path: Path) -> None:
    folder, sizes = crashed(tmp_path)
    wal = folder / "log.db-wal"
    content = bytearray(wal.read_bytes())
    # a sector of the last commit never reached the disk
    at = sizes[-2] + (sizes[-1] - sizes[-2]) // 2
    content[at : at + 512] = b"\0" * 512
    assert bytes(content) != wal.read_bytes()
    wal.write_bytes(bytes(content))
    rows = check(EventLog(folder / "log.db"), {})
    assert len(rows) == 29 * 3


def test_a_missing_wal_leaves_a_log_that_opens(tmp_path: Path) -> None:
    folder, _ = crashed(tmp_path)
    (folder / "log.db-wal").unlink()
    assert check(EventLog(folder / "log.db"), {}).is_empty()


def test_a_full_disk_in_the_middle_then_a_kill(tmp_path: Path, forks: ForkServerContext) -> None:
    path = tmp_path / "log.db"
    mine, theirs = forks.Pipe(duplex=False)
    writer = forks.Process(target=write_on_a_small_disk, args=(str(path), theirs))
    writer.start()
    theirs.close()
    acknowledged: dict[str, int] = {}
    for _ in range(2):  # two batches at least; how many fit, and when it is killed, is left open
        assert mine.poll(120)
        acknowledged.update(mine.recv())
    time.sleep(0.1)
    writer.kill()
    writer.join()
    acknowledged.update(told(mine))
    rows = check(EventLog(path), acknowledged)
    there = rows["event_id"].to_list()
    assert there[: len(acknowledged)] == list(acknowledged)
    assert len(there) - len(acknowledged) in (0, 3)  # at most the batch whose answer was under way


def write_on_a_small_disk(path: str, acknowledged: Connection) -> None:
    log = EventLog(path)
    used = log.database.writer.execute("PRAGMA page_count").fetchone()[0]
    log.database.writer.execute(f"PRAGMA max_page_count = {used + 12}")
    for n in range(10_000):
        try:
            outcomes = log.append(batch("w", n), ACTIONS, NOW)
        except DataError:
            break
        acknowledged.send([(outcome.event_id, outcome.offset) for outcome in outcomes])
    acknowledged.close()
    time.sleep(600)  # until it is killed


def test_readers_of_other_processes_see_whole_commits(tmp_path: Path, forks: ForkServerContext) -> None:
    path = tmp_path / "log.db"
    log = EventLog(path)
    mine, theirs = forks.Pipe(duplex=False)
    writer = forks.Process(target=write_for_ever, args=(Place((path, path)), path, "w", theirs))
    writer.start()
    theirs.close()
    assert mine.poll(120)
    seen = 0
    for _ in range(50):
        rows = log.read(0, 1_000_000)
        assert len(rows) % 3 == 0
        assert len(rows) >= seen
        assert rows["offset"].to_list() == list(range(1, len(rows) + 1))
        seen = len(rows)
    writer.kill()
    writer.join()
    assert seen > 0
    log.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] >= seen
