"""Promise 1 on the Kafka protocol: writers killed at random points lose nothing acknowledged and double nothing."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.events.kafka_cluster import SETTINGS, Cluster, cluster

from shortlist.events.event import Event
from shortlist.events.kafka_log import KafkaLog

pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

NOW = 1_767_225_600_000
ACTIONS = ("click",)
ROUNDS = 8


def batch(writer: str, n: int) -> list[Event]:
    """Three events; users and items repeat over batches, so that some keys are new and some are not."""
    return [
        Event(f"user {writer} {n // 2}", f"item {(n * 7 + k) % 50}", "click", NOW + n, event_id=f"{writer}-{n}-{k}")
        for k in range(3)
    ]


def write_for_ever(servers: str, path: str, writer: str, acknowledged: Connection) -> None:
    log = KafkaLog(servers, "events", path, settings=SETTINGS)
    n = 0
    while True:
        outcomes = log.append(batch(writer, n), ACTIONS, NOW)
        acknowledged.send([(outcome.event_id, outcome.offset) for outcome in outcomes])
        n += 1


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    """Processes that start in milliseconds: forked from one that has imported the log and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shortlist.events.kafka_log", "confluent_kafka"])
    return context


@pytest.fixture
def brokers() -> Iterator[Cluster]:
    with cluster() as made:  # in this process: the writers may die, the topic lives
        made.topic("events")
        yield made


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


def check(servers: str, path: Path, acknowledged: dict[str, int]) -> pl.DataFrame:
    """What must hold of a file whenever it is opened."""
    with closing(KafkaLog(servers, "events", path, settings=SETTINGS)) as log:
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
    # every key that was given is used: keys and events move together
    assert sorted(rows["user"].unique()) == list(range(len(users)))
    assert sorted(rows["item"].unique()) == list(range(len(items)))
    return rows


@pytest.mark.parametrize("together", [False, True], ids=["own files", "one file"])
def test_killed_at_random_points_nothing_acknowledged_is_lost(
    tmp_path: Path, forks: ForkServerContext, brokers: Cluster, together: bool
) -> None:
    paths = [tmp_path / ("both" if together else f"machine {w}") / "log.db" for w in range(2)]
    rng = np.random.default_rng(20)
    acknowledged: dict[str, int] = {}
    for round_number in range(ROUNDS):
        pipes, writers = [], []
        for w, path in enumerate(paths):
            mine, theirs = forks.Pipe(duplex=False)
            name = f"{round_number}.{w}"
            writer = forks.Process(target=write_for_ever, args=(brokers.servers, str(path), name, theirs))
            writer.start()
            theirs.close()
            pipes.append(mine)
            writers.append(writer)
        assert pipes[round_number % 2].poll(30)  # it has begun
        time.sleep(float(rng.uniform(0, 0.1)))
        for writer in writers:
            writer.kill()
        for writer in writers:
            writer.join()
            assert writer.exitcode == -9
        for pipe in pipes:
            acknowledged.update(told(pipe))
        check(brokers.servers, paths[round_number % 2], acknowledged)
    assert len(acknowledged) >= ROUNDS * 3
    rows = [check(brokers.servers, path, acknowledged) for path in (*paths, tmp_path / "new" / "log.db")]
    assert rows[0].equals(rows[1])
    assert rows[0].equals(rows[2])

    # Replay: clients send everything again, acknowledged or not, and each event is there once, where it was.
    names = rows[0]["event_id"].str.replace(r"-\d$", "").unique(maintain_order=True)
    with closing(KafkaLog(brokers.servers, "events", paths[0], settings=SETTINGS)) as log:
        for name in names:
            writer_name, _, n = name.rpartition("-")
            outcomes = log.append(batch(writer_name, int(n)), ACTIONS, NOW)
            assert {outcome.status for outcome in outcomes} == {"duplicate"}
        assert log.read(0, 1_000_000).equals(rows[0])
