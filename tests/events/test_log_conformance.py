"""What both logs promise, shown of both by the same tests: SQLite's own, and the fold of a topic of mock brokers.

With SHORTLIST_KAFKA=HOST:PORT the topics lie on that broker, one a test, made by the log itself.
"""

import os
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.events.kafka_cluster import SETTINGS, Cluster, cluster

from shortlist.errors import DataError
from shortlist.events.base import Log
from shortlist.events.event import Event, Outcome, Served
from shortlist.events.kafka_log import KafkaLog
from shortlist.events.log import COLUMNS, EventLog

NOW = 1_767_225_600_000  # 2026-01-01 UTC
ACTIONS = ("click", "like")
BROKER = os.environ.get("SHORTLIST_KAFKA", "")


def click(user: str | int = "u", item: str | int = "i", **changes: Any) -> Event:
    return Event(**{"user": user, "item": item, "action": "click", "time_ms": NOW, **changes})


def append(log: Log, *events: Event) -> list[Outcome]:
    return log.append(events, ACTIONS, NOW)


class Place:
    """Where one project's log lies. Whoever opens it again is another process of that project."""

    def __init__(self, folder: Path, brokers: Cluster | None, closing: ExitStack) -> None:
        self.path = folder / "var" / "log.db"
        self.brokers = brokers
        self.topic = f"shortlist-{secrets.token_hex(4)}"
        self.closing = closing
        if brokers is not None and not BROKER:
            brokers.topic(self.topic)

    def open(self, **options: Any) -> Log:
        log: Log
        if self.brokers is None:
            log = EventLog(self.path, **options)
        else:
            servers = BROKER or self.brokers.servers
            log = KafkaLog(servers, self.topic, self.path, settings=SETTINGS, deadline_s=120.0, **options)
        self.closing.callback(log.close)
        return log


@pytest.fixture(scope="module")
def brokers() -> Iterator[Cluster]:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    with cluster() as made:
        yield made


@pytest.fixture(params=["sqlite", "kafka"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as closing:
        on = request.getfixturevalue("brokers") if request.param == "kafka" else None
        yield Place(tmp_path, on, closing)


@pytest.fixture
def log(place: Place) -> Log:
    return place.open()


def test_events_come_back_in_order_with_keys_by_first_appearance(log: Log) -> None:
    made = append(
        log,
        click("ann", "b", event_id="e1", value=2.5, request_id="r", position=3, context={"device": "phone"}),
        click("bob", "a", event_id="e2", action="like"),
        click("ann", "a", event_id="e3", time_ms=NOW - 9),
    )
    assert made == [Outcome("accepted", f"e{n}", n) for n in (1, 2, 3)]
    rows = log.read(0, 10)
    assert rows.rows() == [
        (1, "e1", 0, 0, "click", 2.5, NOW, NOW, "r", 3, '{"device":"phone"}'),
        (2, "e2", 1, 1, "like", None, NOW, NOW, None, None, None),
        (3, "e3", 0, 1, "click", None, NOW - 9, NOW, None, None, None),
    ]
    assert dict(rows.schema) == COLUMNS
    assert log.keys("user").ids.to_list() == ["ann", "bob"]
    assert log.keys("item").ids.to_list() == ["b", "a"]
    asked = (("user", "bob"), ("item", "b"), ("item", "z"), ("item", "\ud800"))
    assert [log.key(entity, raw) for entity, raw in asked] == [1, 0, -1, -1]  # type: ignore[arg-type]
    assert log.last_offset == 3
    assert log.read(1, 1)["offset"].to_list() == [2]
    assert log.read(3, 10).schema == rows.schema
    assert append(log) == []


def test_an_event_sent_again_changes_nothing(log: Log) -> None:
    append(log, click(event_id="e1"))
    again = append(
        log, click("new user", "new item", event_id="e1", action="like"), click(event_id="e2"), click(event_id="e2")
    )
    assert again == [Outcome("duplicate", "e1", 1), Outcome("accepted", "e2", 2), Outcome("duplicate", "e2", 2)]
    assert log.read(0, 10)["action"].to_list() == ["click", "click"]
    assert log.keys("user").ids.to_list() == ["u"]


def test_an_event_without_an_id_gets_one(log: Log) -> None:
    first, second = append(log, click(), click())
    assert first.event_id
    assert first.event_id != second.event_id
    assert append(log, click(event_id=first.event_id)) == [Outcome("duplicate", first.event_id, 1)]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (click(user=""), "user id is empty"),
        (click(item="é" * 129), "item id is longer than 256 bytes"),  # 2 bytes each
        (click(event_id="x" * 257), "event_id is longer than 256 bytes"),
        (click(request_id=""), "request_id is empty"),
        (click(user="\ud800"), "user id is not valid Unicode"),
        (click(action="clik"), "unknown action 'clik': did you mean click?"),
        (click(action="q" * 999), f"unknown action '{'q' * 64}': known: click, like"),
        (click(value=float("nan")), "value is not a finite number: nan"),
        (click(value=1e39), "value is not a finite number: 1e+39"),
        (click(position=0), "position is out of range: 0, the first is 1"),
        (click(position=2**31), "position is out of range: 2147483648, the first is 1"),
        (click(time_ms=NOW // 1000), "time_ms looks like seconds: 1767225600; milliseconds are expected"),
        (click(time_ms=NOW * 1000), "time_ms looks like microseconds: 1767225600000000; milliseconds are expected"),
        (click(time_ms=0), "time_ms is before 1990 or after 2100: 0"),
        (click(time_ms=2**70), f"time_ms is before 1990 or after 2100: {2**70}"),
        # the tolerance is 300,000 ms
        (click(time_ms=NOW + 300_001), "time_ms is in the future: 1767225900001, at most 1767225900000 is taken"),
        (click(context={"a": "x" * 16_384}), "context is longer than 16384 bytes"),
        (click(context={"f": object()}), "context is not plain JSON: Encoding objects of type object is unsupported"),
    ],
)
def test_what_is_refused_says_why_and_the_rest_is_kept(log: Log, event: Event, reason: str) -> None:
    made = append(log, click(event_id="good"), event, click(event_id="fine", time_ms=NOW + 300_000))
    assert [one.status for one in made] == ["accepted", "refused", "accepted"]
    assert made[1].reason == reason
    assert made[1].offset is None
    assert append(log, event) == [made[1]]
    rows = log.read(0, 10)
    assert rows["event_id"].to_list() == ["good", "fine"]
    assert rows["time_ms"].to_list() == [NOW, NOW]  # a clock that runs ahead is set back to ours
    assert log.keys("user").ids.to_list() == ["u"]


def test_a_refused_event_never_echoes_an_id_that_is_not_text(log: Log) -> None:
    assert append(log, click(event_id="\ud800")) == [Outcome("refused", None, None, "event_id is not valid Unicode")]
    assert append(log, click("", event_id="mine")) == [Outcome("refused", "mine", None, "user id is empty")]


def test_the_tolerance_of_clocks_is_the_openers(place: Place) -> None:
    log = place.open(future_ms=10)
    assert [one.status for one in append(log, click(time_ms=NOW + 10), click(time_ms=NOW + 11))] == [
        "accepted",
        "refused",
    ]


@pytest.mark.parametrize(
    ("changes", "column", "value"),
    [
        ({"value": True}, "value", 1.0),
        ({"value": np.float64(0.5)}, "value", 0.5),
        ({"value": 7}, "value", 7.0),
        ({"value": 0.1}, "value", float(np.float32(0.1))),
        ({"position": True}, "position", 1),
        ({"context": {"n": 2**70, "f": 1.0, "none": float("nan")}}, "context", f'{{"n":{2**70},"f":1.0,"none":null}}'),
        ({"context": {"q": 'a"\\\n\u2028é'}}, "context", '{"q":"a\\"\\\\\\n\u2028é"}'),
        ({"context": {1: [(), {}]}}, "context", '{"1":[[],{}]}'),
        ({"context": {}}, "context", None),
    ],
)
def test_values_are_kept_as_they_are(log: Log, changes: dict[str, Any], column: str, value: Any) -> None:
    assert append(log, click(**changes))[0].status == "accepted"
    assert log.read(0, 1)[column].to_list() == [value]


def test_a_context_may_be_as_deep_as_it_can_be_written(log: Log) -> None:
    deep: list[Any] = []
    for _ in range(700):
        deep = [deep]
    (made,) = append(log, click(context={"deep": deep}))
    assert made.status == "accepted"
    # 701 lists and the object around them
    assert log.read(0, 1)["context"].to_list() == ['{"deep":' + "[" * 701 + "]" * 701 + "}"]
    too_deep: list[Any] = []
    for _ in range(5000):
        too_deep = [too_deep]
    (made,) = append(log, click(context={"deep": too_deep}))
    assert made.status == "refused"
    assert made.reason.startswith("context is not plain JSON: maximum recursion depth exceeded")


@settings(max_examples=40)
@given(ids=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8))
def test_any_id_comes_back_as_it_was(log: Log, ids: list[str]) -> None:
    made = append(log, *(click(text, text) for text in ids))
    assert all(one.status == "accepted" for one in made)
    keys = log.keys("user")
    assert len(set(keys.ids)) == len(keys)
    offsets = [one.offset for one in made]
    rows = log.read(0, 100_000).filter(pl.col("offset").is_in(offsets))
    assert keys.decode(rows["user"].to_numpy()) == ids
    assert [log.key("user", text) for text in ids] == rows["user"].to_list()


def test_awkward_ids_are_ids_of_their_own(log: Log) -> None:
    near = ["it", "ab", "a", "e", "x"]
    awkward = ["it's", 'a"b', "a\nb", "a\0b", "; DROP TABLE events", "%", "日本", " ", "e\u0301", "é", "5"]
    log.register("item", pl.Series(near))
    append(log, *(click("u", raw) for raw in awkward))
    assert log.keys("item").ids.to_list() == near + awkward
    assert [log.key("item", raw) for raw in awkward] == list(range(len(near), len(near) + len(awkward)))


def test_a_number_and_its_text_are_one_id(log: Log) -> None:
    append(log, click(5, "5"), click("5", 5))
    assert log.keys("user").ids.to_list() == ["5"]
    assert log.register("item", pl.Series([5, 7])).ids.to_list() == ["5", "7"]


def test_keys_are_registered_in_bulk_and_stay(place: Place) -> None:
    log = place.open()
    assert log.register("item", pl.Series(["b", "a", "b"])).ids.to_list() == ["b", "a"]
    append(log, click(item="c"))
    assert log.register("item", pl.Series(["d", "c", "a"])).ids.to_list() == ["b", "a", "c", "d"]
    assert log.register("item", pl.Series([], dtype=pl.String)).ids.to_list() == ["b", "a", "c", "d"]
    assert log.keys("user").ids.to_list() == ["u"]
    with pytest.raises(DataError, match="2 ids are empty or longer than 256 bytes, the first in row 1"):
        log.register("user", pl.Series(["a", "", "x" * 300]))
    log.close()
    assert place.open().keys("item").ids.to_list() == ["b", "a", "c", "d"]


def test_more_ids_than_one_message_holds(log: Log) -> None:
    # 30,000 ids of 205 bytes are 6 MB
    ids = pl.Series([f"{n:05d}" + "x" * 200 for n in range(30_000)])
    assert log.register("user", ids).ids.to_list() == ids.to_list()
    assert log.register("user", pl.concat([ids.reverse(), pl.Series(["new"])])).ids.to_list()[-2:] == [ids[-1], "new"]


def test_more_events_than_one_message_holds(log: Log) -> None:
    # 100 contexts of 10,000 bytes
    many = [click(f"u{n}", event_id=f"e{n}", context={"pad": "x" * 10_000}) for n in range(100)]
    assert append(log, *many) == [Outcome("accepted", f"e{n}", n + 1) for n in range(100)]
    assert append(log, many[70], click(user=""), many[3]) == [
        Outcome("duplicate", "e70", 71),
        Outcome("refused", None, None, "user id is empty"),
        Outcome("duplicate", "e3", 4),
    ]


def test_live_offsets_follow_the_imported_ones(log: Log) -> None:
    log.reserve(1000)
    log.reserve(900)  # never goes back
    assert log.last_offset == 1000
    assert append(log, click(event_id="e"))[0].offset == 1001
    assert log.take(10) == 1002  # to 1011
    assert log.take(5) == 1012
    assert append(log, click())[0].offset == 1017


def test_a_tail_holds_only_its_users_events(log: Log) -> None:
    append(log, click("a", "x"), click("b", "y", value=2.0), click("a", "z", action="like"), click("c", "x"))
    assert log.tail(0, 0).rows() == [(1, 0, 0, "click", None, NOW), (3, 0, 2, "like", None, NOW)]
    assert log.tail(0, 1)["offset"].to_list() == [3]
    assert log.tail([2, 1, 1, -1], 0)["offset"].to_list() == [2, 4]
    assert log.tail(9, 0).is_empty()
    assert log.tail([], 0).columns == ["offset", "user", "item", "action", "value", "time_ms"]


def test_threads_lose_nothing_and_double_nothing(log: Log) -> None:
    def one(n: int) -> list[Outcome]:
        # every event is sent twice, by two threads
        return append(log, *(click(f"u{n // 2}", f"i{k}", event_id=f"{n // 2}-{k}") for k in range(5)))

    with ThreadPoolExecutor(8) as pool:
        outcomes = [outcome for made in pool.map(one, range(100)) for outcome in made]
    accepted = [o for o in outcomes if o.status == "accepted"]
    # 50 users of 5 events each, each sent twice
    assert len(accepted) == len([o for o in outcomes if o.status == "duplicate"]) == 250
    assert sorted(o.offset for o in accepted if o.offset) == list(range(1, 251))
    rows = log.read(0, 1000)
    assert rows.group_by("user").len()["len"].to_list() == [5] * 50
    there = dict(zip(rows["event_id"], rows["offset"], strict=True))
    assert {o.event_id: o.offset for o in outcomes} == there


def test_two_logs_on_one_file_agree(place: Place) -> None:
    log, other = place.open(), place.open()
    append(log, click("a", event_id="e1"))
    assert append(other, click("b", event_id="e2"), click("a", event_id="e1")) == [
        Outcome("accepted", "e2", 2),
        Outcome("duplicate", "e1", 1),
    ]
    append(log, click("c"))
    assert log.keys("user").ids.to_list() == other.keys("user").ids.to_list() == ["a", "b", "c"]
    assert other.register("user", pl.Series(["d", "c"])).ids.to_list() == ["a", "b", "c", "d"]
    assert log.keys("user").ids.to_list() == ["a", "b", "c", "d"]


def test_two_logs_on_one_file_are_written_at_once(place: Place) -> None:
    logs = [place.open(), place.open()]
    made: list[dict[str, int]] = [{}, {}]

    def write(w: int) -> None:
        for n in range(30):
            for outcome in append(logs[w], click(f"u{n}", event_id=f"{w}-{n}"), click(f"u{n}", event_id=f"both-{n}")):
                assert outcome.event_id
                assert outcome.offset
                made[w][outcome.event_id] = outcome.offset

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    rows = logs[0].read(0, 1000)
    assert dict(zip(rows["event_id"], rows["offset"], strict=True)) == made[0] | made[1]
    assert len(rows) == 90  # 30 of each writer, 30 that both sent
    assert rows.equals(logs[1].read(0, 1000))


def test_many_open_a_new_log_at_once(place: Place) -> None:
    with ThreadPoolExecutor(8) as pool:
        logs = list(pool.map(lambda _: place.open(), range(8)))
    append(logs[0], click())
    assert {one.last_offset for one in logs} == {1}


def test_a_file_that_is_no_log_says_so(place: Place) -> None:
    place.path.parent.mkdir(parents=True)
    place.path.write_bytes(b"user,item\n" * 1000)
    with pytest.raises(DataError) as caught:
        place.open()
    hint = "(restore it from a copy; do not delete it)"
    assert str(caught.value) == f"{place.path}: not a log, or a damaged one: file is not a database {hint}"


def slate(n: int) -> Served:
    return Served(f"r{n}", "ann", NOW + n, "rel", f'{{"items":["i{n}"]}}')


def test_slates_are_kept_once_and_only_the_newest(place: Place) -> None:
    log = place.open(keep_served=3)
    assert log.append_served([slate(1), slate(2)]) == 2
    assert log.append_served([slate(2), slate(3)]) == 1
    assert log.served("r2") == slate(2)
    assert log.append_served([slate(4), slate(5)]) == 2
    assert log.append_served([]) == 0
    assert log.read_served(0, 10)["request_id"].to_list() == ["r3", "r4", "r5"]
    assert log.read_served(log.read_served(0, 1)["number"][0], 1)["request_id"].to_list() == ["r4"]
    assert log.served("r1") is None
    assert log.last_offset == 0  # a slate is no event


def test_reading_goes_on_while_others_write(log: Log) -> None:
    done = threading.Event()

    def write() -> None:
        for n in range(30):
            append(log, *(click(f"u{n}", event_id=f"{n}-{k}") for k in range(3)))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not done.is_set():
        rows = log.read(0, 1000)
        assert len(rows) % 3 == 0  # a batch is there whole or not at all
        assert rows["offset"].to_list() == list(range(1, len(rows) + 1))
        assert len(rows) >= seen
        seen = len(rows)
    writer.join()
    assert len(log.read(0, 1000)) == 90
