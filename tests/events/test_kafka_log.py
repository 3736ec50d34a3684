"""The log on the Kafka protocol, where it is more than a log: rebuilding, brokers that fail, files that do not fit."""

import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.events.kafka_cluster import INIT_PRODUCER, PRODUCE, SETTINGS, Cluster, cluster

from shortlist.config import LogConfig, Project, ProjectConfig
from shortlist.errors import ConfigError, DataError
from shortlist.events.event import Event, Outcome, Served, digest
from shortlist.events.kafka_fold import tell, tell_events
from shortlist.events.kafka_log import KafkaLog, _create
from shortlist.events.log import EventLog
from shortlist.events.opening import open_log
from shortlist.events.segments import Segment

pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

NOW = 1_767_225_600_000  # 2026-01-01 UTC
ACTIONS = ("click", "like")
# names of the protocol's errors
REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS, CLUSTER_AUTHORIZATION_FAILED, MSG_SIZE_TOO_LARGE = 7, 19, 31, 10


def click(user: str | int = "u", item: str | int = "i", **changes: Any) -> Event:
    return Event(**{"user": user, "item": item, "action": "click", "time_ms": NOW, **changes})


@pytest.fixture
def brokers() -> Iterator[Cluster]:
    with cluster() as made:
        made.topic("events")
        yield made


@pytest.fixture
def opened(brokers: Cluster, tmp_path: Path) -> Iterator[Callable[..., KafkaLog]]:
    """Opens the log of a machine, by the machine's name."""
    with ExitStack() as stack:

        def begin(machine: str = "one", topic: str = "events", **options: Any) -> KafkaLog:
            path = tmp_path / machine / "log.db"
            log = KafkaLog(brokers.servers, topic, path, **{"settings": SETTINGS, "deadline_s": 120.0, **options})
            stack.callback(log.close)
            return log

        yield begin


def append(log: KafkaLog, *events: Event) -> list[Outcome]:
    return log.append(events, ACTIONS, NOW)


def raw(servers: str, *messages: tuple[str, bytes]) -> None:
    """Messages (token, value) as any client of the broker writes them."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
    for token, value in messages:
        producer.produce("events", value=value, key=token.encode(), partition=0)
    assert producer.flush(120) == 0


def until(true: Callable[[], bool], within_s: float = 120.0) -> float:
    """Seconds until something holds."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < within_s, "it never came"
        time.sleep(0.005)
    return time.monotonic() - begun


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of a file, but for what a file makes up for itself: the salt, and hashes with it."""
    with closing(sqlite3.connect(path)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    tables["facts"] = [row for row in tables["facts"] if row[0] != "salt"]
    tables["erased"] = [(row[0], row[1], *row[3:]) for row in tables["erased"]]
    return tables


def slate(n: int) -> Served:
    return Served(f"r{n}", "ann", NOW + n, "rel", f'{{"items":["i{n}"]}}')


def test_a_file_that_is_lost_is_made_again_from_the_topic(opened: Callable[..., KafkaLog], tmp_path: Path) -> None:
    log = opened(keep_served=3)
    log.register("item", pl.Series(["b", "a"]))
    first = log.take(1000)
    parts = [Segment(first, first + 999, 1000, "imported", "part-1.parquet", NOW, NOW - 9, NOW - 1, "abc")]
    assert log.publish(parts, [[(digest("old 1"), first), (digest("old 2"), first + 1)]]) == set()
    for n in range(40):
        append(log, *(click(f"u{n % 7}", f"i{k}", event_id=f"{n}-{k}", value=n / 7) for k in range(5)))
        append(log, click("again", event_id=f"{n}-0"), click(event_id="old 1", context={"n": n}))
        log.append_served([slate(n), slate(n - 1)])
    assert log.erase("u3", NOW + 1).number == 1
    assert append(log, click("u3"))[0].reason == "the user has been erased since"
    log.reserve(5000)
    append(log, click("late", event_id="late"))
    log.close()
    old = content(log.path)
    # 7 users and `late`; the 200 events of 40 batches less those of u3, n = 3, 10, .. 38: 6 batches of 5
    assert [row[1][:6] for row in old["user_keys"]] == ["u0", "u1", "u2", "erased", "u4", "u5", "u6", "late"]
    assert len(old["events"]) == 200 - 6 * 5 + 1

    again = opened("two", keep_served=3)  # another machine, or this one after its disk
    again.close()
    assert content(again.path) == old
    assert opened("two", keep_served=3).last_offset == 5001


def test_a_part_of_a_file_is_folded_on(opened: Callable[..., KafkaLog], tmp_path: Path) -> None:
    log = opened()
    append(log, click("a", event_id="e1"))
    log.close()
    shutil.copytree(log.path.parent, tmp_path / "copy")
    log = opened()
    append(log, click("b", event_id="e2"))
    log.close()
    copy = opened("copy")
    assert copy.keys("user").ids.to_list() == ["a", "b"]
    copy.close()
    assert content(copy.path) == content(log.path)


def test_two_machines_that_write_in_turns_agree(opened: Callable[..., KafkaLog]) -> None:
    logs = [opened("one"), opened("two")]
    made: dict[str, int] = {}
    for n in range(60):
        outcomes = append(logs[n % 2], click(f"u{n % 11}", f"i{n}", event_id=f"e{n}"), click(event_id=f"e{n - 1}"))
        assert [one.status for one in outcomes] == ["accepted", "duplicate" if n else "accepted"]
        made[f"e{n}"] = outcomes[0].offset or 0
        logs[n % 2].register("user", pl.Series([f"new {n}"]))
    until(lambda: logs[0].read(0, 99).equals(logs[1].read(0, 99)) and len(logs[0].keys("user")) == 11 + 1 + 60)
    rows = logs[0].read(0, 99)
    assert dict(zip(rows["event_id"], rows["offset"], strict=True)) == made | {"e-1": 2}
    for entity in ("user", "item"):
        until(lambda: logs[0].keys(entity).ids.to_list() == logs[1].keys(entity).ids.to_list())  # noqa: B023


def test_two_machines_that_write_at_once_agree(opened: Callable[..., KafkaLog]) -> None:
    logs = [opened("one"), opened("two")]

    def write(w: int) -> list[Outcome]:
        made = []
        for n in range(40) if w else reversed(range(40)):  # each event is sent by both, from both ends
            made += append(logs[w], *(click(f"u{w} {n}", f"i{k}", event_id=f"{n}-{k}") for k in range(3)))
        return made

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(write, range(2))
    assert {one.event_id: one.offset for one in first} == {one.event_id: one.offset for one in second}
    statuses = [one.status for one in (*first, *second)]
    assert statuses.count("accepted") == statuses.count("duplicate") == 120
    until(lambda: logs[0]._fold.position == logs[1]._fold.position)
    for log in logs:
        log.close()
    assert content(logs[0].path) == content(logs[1].path)


def test_what_another_machine_accepted_shows_within_a_second(opened: Callable[..., KafkaLog]) -> None:
    writer = opened("one")
    reader = opened("two", settings={})  # as it is without the mock's setting

    def shown(n: int) -> float:
        (made,) = append(writer, click("ann", event_id=f"e{n}"))
        assert made.offset
        before = made.offset - 1
        return until(lambda: not reader.tail(reader.key("user", "ann"), before).is_empty())

    # every time on a machine that has time; on one that has not it must come to pass once in a hundred times
    assert any(shown(n) < 1.0 for n in range(100))
    assert append(reader, click("ann", event_id="e0")) == [Outcome("duplicate", "e0", 1)]


def test_a_log_that_is_opened_holds_everything_there_was(opened: Callable[..., KafkaLog]) -> None:
    log = opened()
    for n in range(30):
        append(log, *(click(f"u{k}", event_id=f"{n}-{k}", context={"pad": "x" * 1000}) for k in range(100)))
    assert opened("two").last_offset == 3000  # at once


def test_a_message_that_stands_in_the_topic_twice_counts_once(
    opened: Callable[..., KafkaLog], brokers: Cluster
) -> None:
    log = opened()
    segment = Segment(50, 59, 10, "imported", "part.parquet", NOW, NOW, NOW)
    ((events, _),) = tell_events([click("a"), click("b")], ["e1", "e2"], NOW)
    published = tell("published", of="x", hashes=0, parts=[segment], fresh=False)
    taken = tell("taken", count=10)
    raw(brokers.servers, *[("t1", events), ("t2", published), ("t3", taken)] * 2, ("t4", events))
    until(lambda: log._fold.position == 7)
    assert log.database.select("SELECT event_id FROM events ORDER BY offset") == [("e1",), ("e2",)]
    assert log.last_offset == 12  # 2 events, 10 taken once
    assert log._fold.answers(["t1", "t3", "t4"]) == {"t1": "[1,2]", "t3": "3", "t4": "[-1,-2]"}


def test_an_import_lists_its_parts_with_their_ids(opened: Callable[..., KafkaLog]) -> None:
    log, other = opened(), opened("two")
    append(log, click(event_id="live"))
    first = log.take(25_000)
    assert first == 2
    part = Segment(first, first + 24_999, 25_000, "imported", "part.parquet", NOW, NOW, NOW)
    ids = [(digest(f"e{n}"), first + n) for n in range(25_000)]  # three messages of ids
    assert log.publish([part], [ids[:12_000], [*ids[12_000:], (digest("live"), first + 30)]]) == {first + 30}
    assert append(log, click(event_id="e7"))[0].status == "accepted"  # nothing was listed
    assert log.publish([part], [ids[8:20_000], ids[20_000:]]) == set()
    for n in (8, 19_999, 20_000, 24_999):
        assert append(other, click(event_id=f"e{n}")) == [Outcome("duplicate", f"e{n}", first + n)]
    log.forget_ids([part], digest("e8")[0])
    assert append(log, click(event_id="e8"))[0].status == "accepted"
    log.close()
    other.close()
    tables = content(log.path)
    assert tables["staged"] == []
    assert [row[:5] for row in tables["segments"]] == [(2, 25_001, 25_000, "imported", "part.parquet")]


def test_of_two_imports_at_once_the_first_begins_again(opened: Callable[..., KafkaLog]) -> None:
    log, other = opened(), opened("two")
    part = Segment(1, 9, 9, "imported", "part.parquet", NOW, NOW, NOW)

    def ids(n: int) -> Iterator[tuple[bytes, int]]:
        if n:
            other.publish([], [[(digest("other"), 5)]])
        yield digest(f"mine {n}"), n

    # the ids of the first import fill windows: some are there when the other one begins
    many = [[(digest(f"{n} {k}"), 100 + n) for k in range(10_000)] for n in range(16)]
    with pytest.raises(DataError) as caught:
        log.publish([part], [*many, ids(1)])
    assert str(caught.value) == f"{log.where}: another import began meanwhile (import again when it has ended)"
    assert log.publish([part], [ids(0)]) == set()


def test_an_erased_user_is_erased_on_every_machine(opened: Callable[..., KafkaLog]) -> None:
    log, other = opened(), opened("two")
    append(log, click("ann", event_id="e1"), click("bob", event_id="e2"))
    erasure = log.erase("ann", NOW)
    assert (erasure.number, erasure.user) == (1, 0)
    until(lambda: other.gone(0))
    assert other.read(0, 9)["event_id"].to_list() == ["e2"]
    assert append(other, click("ann", event_id="e3", time_ms=NOW - 1), click("ann", event_id="e1"), click("ann")) == [
        Outcome("refused", "e3", None, "the user has been erased since"),
        Outcome("duplicate", "e1", 1),
        Outcome("accepted", other.read(2, 1)["event_id"][0], 3),
    ]
    assert other.key("user", "ann") == 2
    assert log.erase("nobody", NOW) == log.erase("", NOW) == (0, -1)
    assert log.erased()[1].tolist() == [0]


def test_no_broker_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        KafkaLog("127.0.0.1:9", "events", tmp_path / "log.db", deadline_s=2.0)
    what = "no broker answers: Failed to get metadata: Local: Broker transport failure"
    hint = "start the broker, or check the address in `[log] use`"
    assert str(caught.value) == f"kafka://127.0.0.1:9/events: {what} ({hint})"


def test_without_a_broker_what_was_folded_is_read(opened: Callable[..., KafkaLog], brokers: Cluster) -> None:
    log = opened()
    append(log, click("ann", event_id="e1"))
    log.close()
    brokers.down()
    log = opened(deadline_s=1.5)
    assert log.tail(log.key("user", "ann"), 0)["offset"].to_list() == [1]
    with pytest.raises(DataError, match="no broker answers") as caught:
        append(log, click(event_id="e2"))
    assert caught.value.hint == "start the broker, or check the address in `[log] use`"
    brokers.up()
    log.deadline_s = 120.0
    until(lambda: log._error is None)
    assert append(log, click(event_id="e2"))[0].offset == 2


def test_a_broker_that_goes_and_comes_back(opened: Callable[..., KafkaLog], brokers: Cluster) -> None:
    log = opened()
    assert append(log, click(event_id="e1"))[0].offset == 1
    brokers.down()
    log.deadline_s = 1.5
    for n in range(2):
        with pytest.raises(DataError) as caught:
            append(log, click(event_id=f"lost {n}"))
        assert caught.value.where == log.where
        assert caught.value.what.startswith(("no broker", "the broker did not take it"))
    assert log.tail(0, 0)["offset"].to_list() == [1]  # reading goes on
    brokers.up()
    log.deadline_s = 120.0
    until(lambda: log._error is None)
    assert append(log, click(event_id="e2"))[0].status == "accepted"
    # what was not acknowledged may have come, once
    rows = log.read(0, 9)["event_id"].to_list()
    assert rows[0] == "e1"
    assert rows.count("e2") == 1
    assert len(rows) == len(set(rows))


def test_an_answer_that_comes_late_is_no_acknowledgement(opened: Callable[..., KafkaLog], brokers: Cluster) -> None:
    log = opened()
    append(log, click(event_id="e1"))
    log.deadline_s = 0.4
    brokers.slow(900)
    with pytest.raises(DataError) as caught:
        append(log, click("late", event_id="e2"))
    what = "no broker took it within 0.4 s"
    hint = "nothing was acknowledged; check the broker, then send it again"
    assert str(caught.value) == f"{log.where}: {what} ({hint})"
    brokers.slow(0)
    log.deadline_s = 120.0
    until(lambda: append_or_none(log, click("late", event_id="e2")) is not None)
    (again,) = append(log, click("late", event_id="e2"))
    assert again == Outcome("duplicate", "e2", 2)
    assert log.keys("user").ids.to_list() == ["u", "late"]


def append_or_none(log: KafkaLog, event: Event) -> list[Outcome] | None:
    try:
        return append(log, event)
    except DataError:
        return None


@pytest.mark.parametrize("code", [REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS])
def test_an_error_that_passes_is_tried_again(opened: Callable[..., KafkaLog], brokers: Cluster, code: int) -> None:
    log = opened()
    append(log, click(event_id="e1"))
    brokers.fail(PRODUCE, code, code)
    assert append(log, click(event_id="e2"), click(event_id="e3")) == [
        Outcome("accepted", "e2", 2),
        Outcome("accepted", "e3", 3),
    ]
    assert log.last_offset == 3


def test_an_error_that_stays_is_said(opened: Callable[..., KafkaLog], brokers: Cluster) -> None:
    log = opened()
    append(log, click(event_id="e1"))
    brokers.fail(PRODUCE, MSG_SIZE_TOO_LARGE)
    with pytest.raises(DataError) as caught:
        append(log, click(event_id="e2"))
    what = "the broker did not take it: Broker: Message size too large"
    assert caught.value.what == what
    assert append(log, click(event_id="e2"))[0] == Outcome("accepted", "e2", 2)


def test_a_slate_too_large_for_a_message(opened: Callable[..., KafkaLog]) -> None:
    log = opened()
    with pytest.raises(DataError) as caught:
        log.append_served([Served("r", "u", NOW, "rel", "x" * 1_100_000)])
    assert caught.value.what == "it cannot be sent: Unable to produce message: Broker: Message size too large"
    assert log.append_served([slate(1)]) == 1


def test_a_producer_that_is_done_for_is_replaced(
    opened: Callable[..., KafkaLog], brokers: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    brokers.fail(INIT_PRODUCER, CLUSTER_AUTHORIZATION_FAILED)
    log = opened()
    with pytest.raises(DataError) as caught:
        append(log, click(event_id="e1"))
    assert caught.value.what == "the broker did not take it: Local: Purged in queue"
    assert "another producer takes over: Failed to acquire idempotence PID" in caplog.text
    until(lambda: append_or_none(log, click(event_id="e1")) is not None)
    assert append(log, click(event_id="e2"))[0].status == "accepted"


def test_a_leader_may_move(opened: Callable[..., KafkaLog], brokers: Cluster) -> None:
    log = opened()
    for n in range(9):
        brokers.leader("events", n % 3 + 1)
        assert append(log, click(event_id=f"e{n}"))[0].offset == n + 1


def test_many_threads_share_one_producer(opened: Callable[..., KafkaLog]) -> None:
    log = opened()
    with ThreadPoolExecutor(16) as pool:
        made: list[Future[list[Outcome]]] = [
            pool.submit(append, log, click(f"u{n % 5}", event_id=f"e{n // 2}")) for n in range(200)
        ]
        outcomes = [one.result()[0] for one in made]
    assert sum(one.status == "accepted" for one in outcomes) == 100
    assert sorted({one.offset for one in outcomes if one.offset}) == list(range(1, 101))


def test_only_one_partition_has_an_order(opened: Callable[..., KafkaLog], brokers: Cluster) -> None:
    brokers.topic("four", partitions=4)
    with pytest.raises(DataError) as caught:
        opened(topic="four")
    what = "the topic has 4 partitions; only one has an order"
    hint = "name a topic of one partition, or one to be made"
    assert str(caught.value) == f"kafka://{brokers.servers}/four: {what} ({hint})"


def test_a_hole_in_what_is_left_of_the_topic_is_said(opened: Callable[..., KafkaLog], brokers: Cluster) -> None:
    log = opened()
    for n in range(10):
        append(log, click(event_id=f"e{n}"))
    brokers.forget("events", 6)
    log.close()
    assert opened().last_offset == 10  # a file that has them all needs them no more
    with pytest.raises(DataError) as caught:
        opened("two")
    what = "the topic begins at message 6, the file ends before 0: what lies between is gone"
    assert caught.value.what == what
    brokers.forget("events", 10)  # all of it
    log = opened()
    assert append(log, click(event_id="e10"))[0].offset == 11


def test_another_topic_of_the_same_name_is_not_folded(opened: Callable[..., KafkaLog], brokers: Cluster) -> None:
    log = opened()
    for n in range(4):
        append(log, click(event_id=f"e{n}"))
    log.close()
    brokers.topic("other")
    with pytest.raises(DataError) as caught:
        opened(topic="other")
    assert caught.value.what == "the file was not made from this topic: it ends at message 4, the topic at 0"
    other = opened("two", topic="other")
    for n in range(6):
        append(other, click(event_id=f"o{n}"))
    with pytest.raises(DataError) as caught:
        opened(topic="other")
    where = f"kafka://{brokers.servers}/other"
    what = "the file was not made from this topic: message 3 is another one"
    hint = f"name the topic it was made from, or take away {log.path}"
    assert str(caught.value) == f"{where}: {what} ({hint})"


def test_a_file_of_events_that_no_topic_told(opened: Callable[..., KafkaLog], tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "one" / "log.db")) as plain:
        plain.register("user", pl.Series(["a"]))
    with pytest.raises(DataError) as caught:
        opened()
    hint = 'begin in a new folder, or leave `[log] use` at "sqlite:"'
    assert str(caught.value) == f"{tmp_path}/one/log.db: the file holds what no topic has told ({hint})"


def test_a_file_that_somebody_else_writes_to(opened: Callable[..., KafkaLog]) -> None:
    log = opened()
    append(log, click("a", event_id="e1"))
    with closing(EventLog(log.path)) as plain:
        plain.append([click("b", event_id="mine")], ACTIONS, NOW)
    with pytest.raises(DataError) as caught:
        append(log, click("c", event_id="e2"))
    what = f"somebody else has written to the file of {log.where}"
    assert str(caught.value) == f"{log.path}: {what} (take it away, and it is made again from the topic)"
    assert opened("two").keys("user").ids.to_list() == ["a", "c"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"hello", "JSON is malformed: invalid character (byte 0)"),
        (b'{"kind":"party"}', "Invalid value 'party' - at `$.kind`"),
        (b'{"kind":"taken","count":1,"more":2}', "Object contains unknown field `more`"),
        (b'{"kind":"ids","entity":"user","ids":["\xff"]}', "'utf-8' codec can't decode byte 0xff in position 0"),
    ],
)
def test_a_message_that_is_none_of_ours(
    opened: Callable[..., KafkaLog], brokers: Cluster, value: bytes, why: str
) -> None:
    log = opened()
    append(log, click(event_id="e1"))
    raw(brokers.servers, ("t", value))
    until(lambda: log._error is not None)
    with pytest.raises(DataError) as caught:
        append(log, click(event_id="e2"))
    assert caught.value.what.startswith(f"message 1 is none of ours: {why}")
    assert caught.value.hint == "the topic is the log's alone; or a newer version wrote this, then use that version"
    assert log.read(0, 9)["event_id"].to_list() == ["e1"]  # what was read before stays readable


def test_a_topic_is_made_with_one_partition_on_up_to_three_brokers() -> None:
    from confluent_kafka import KafkaError, KafkaException

    class Admin:
        """Of a broker; the mock one cannot make topics."""

        def __init__(self, error: int | None = None) -> None:
            self.error = error
            self.wanted: list[Any] = []

        def create_topics(self, topics: list[Any], **_: float) -> dict[str, Future[None]]:
            self.wanted += topics
            made: Future[None] = Future()
            if self.error is None:
                made.set_result(None)
            else:
                made.set_exception(KafkaException(KafkaError(self.error, "no")))
            return {topics[0].topic: made}

    for brokers, replicas in ((1, 1), (2, 2), (5, 3)):
        admin: Any = Admin()
        _create(admin, "events", brokers, 1.0, "kafka://b:1/events")
        (made,) = admin.wanted
        assert (made.topic, made.num_partitions, made.replication_factor, made.config) == ("events", 1, replicas, None)
    first: Any = Admin(KafkaError.TOPIC_ALREADY_EXISTS)
    _create(first, "events", 1, 1.0, "kafka://b:1/events")  # another process was first
    barred: Any = Admin(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(DataError) as caught:
        _create(barred, "events", 1, 1.0, "kafka://b:1/events")
    hint = "make it by hand, with one partition"
    assert str(caught.value) == f"kafka://b:1/events: the topic cannot be made: no ({hint})"


def test_a_topic_that_cannot_be_made_is_said(opened: Callable[..., KafkaLog]) -> None:
    with pytest.raises(DataError) as caught:  # no mock broker can
        opened(topic="missing", deadline_s=3.0)
    assert caught.value.what.startswith("the topic cannot be made: ")
    assert caught.value.hint == "make it by hand, with one partition"


def test_a_full_disk_stops_the_fold_and_nothing_is_skipped(opened: Callable[..., KafkaLog]) -> None:
    log = opened()
    append(log, click(event_id="e0"))
    writer = log.database.writer
    used = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {used + 2}")
    many = [click(f"u{n}", event_id=f"e{n}", context={"pad": "x" * 2000}) for n in range(1, 50)]
    with pytest.raises(DataError, match="the disk is full"):
        append(log, *many)
    writer.execute(f"PRAGMA max_page_count = {used + 10_000}")
    until(lambda: log.last_offset == 50)  # it stood in the topic, and is folded when there is room
    assert {one.status for one in append(log, *many)} == {"duplicate"}


def project(folder: Path, use: str) -> Project:
    return Project(folder / "shortlist.toml", ProjectConfig(log=LogConfig(use=use)))


def test_a_project_names_its_log(brokers: Cluster, tmp_path: Path) -> None:
    log = open_log(project(tmp_path / "a", "sqlite:"))
    assert type(log) is EventLog
    log.close()
    log = open_log(project(tmp_path / "b", f"kafka://{brokers.servers}/events"))
    assert type(log) is KafkaLog
    assert log.path == tmp_path / "b" / "var" / "log.db"
    log.close()


@pytest.mark.parametrize(
    "use",
    [
        "", "sqlite", "kafka", "kafka://broker/events", "kafka://broker:9092", "kafka://broker:9092/", "sqlite:x.db",
        "kafka://broker:9092/a/b", "kafka://broker:9092/a b", "kafka://:9092/a", "kafka://a:1,/t", "kafka://a:1/é",
    ],
)  # fmt: skip
def test_a_wrong_word_names_the_two_forms(tmp_path: Path, use: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_log(project(tmp_path, use))
    assert str(caught.value) == f'log.use: no log is opened by {use!r} ("sqlite:", or "kafka://HOST:PORT/TOPIC")'


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ConfigError) as caught:
        KafkaLog("127.0.0.1:9", "events", tmp_path / "log.db")
    hint = "pip install 'shortlist[kafka]', or leave it at \"sqlite:\""
    assert str(caught.value) == f"log.use: confluent-kafka is not installed ({hint})"
    assert not list(tmp_path.iterdir())


def test_a_closed_log_has_no_threads_left(opened: Callable[..., KafkaLog]) -> None:
    log = opened()
    append(log, click())
    threads = list(log._threads)
    assert all(thread.is_alive() for thread in threads)
    log.close()
    log.close()
    assert not any(thread.is_alive() for thread in threads)
