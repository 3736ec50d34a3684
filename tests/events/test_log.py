"""The event log: durable before it answers, each id once, keys in order of appearance."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shortlist.errors import DataError
from shortlist.events.log import Event, EventLog, Outcome, Served

NOW = 1_767_225_600_000  # 2026-01-01 UTC
ACTIONS = ("click", "like")


def click(user: str | int = "u", item: str | int = "i", **changes: Any) -> Event:
    return Event(**{"user": user, "item": item, "action": "click", "time_ms": NOW, **changes})


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "var" / "log.db")


def append(log: EventLog, *events: Event) -> list[Outcome]:
    return log.append(events, ACTIONS, NOW)


def test_events_come_back_in_order_with_keys_by_first_appearance(log: EventLog) -> None:
    made = append(
        log,
        click("ann", "b", event_id="e1", value=2.5, request_id="r", position=3, context={"device": "phone"}),
        click("bob", "a", event_id="e2", action="like"),
        click("ann", "a", event_id="e3", time_ms=NOW - 9),
    )
    assert made == [Outcome("accepted", f"e{n}", n) for n in (1, 2, 3)]
    rows = log.read(0, 10)
    assert rows.drop("received_ms").rows() == [
        (1, "e1", 0, 0, "click", 2.5, NOW, "r", 3, '{"device":"phone"}'),
        (2, "e2", 1, 1, "like", None, NOW, None, None, None),
        (3, "e3", 0, 1, "click", None, NOW - 9, None, None, None),
    ]
    assert rows["received_ms"].to_list() == [NOW] * 3
    assert log.keys("user").ids.to_list() == ["ann", "bob"]
    assert log.keys("item").ids.to_list() == ["b", "a"]
    assert (log.key("user", "bob"), log.key("item", "b"), log.key("item", "z"), log.key("item", "\ud800")) == (
        1,
        0,
        -1,
        -1,
    )
    assert log.last_offset == 3
    assert log.read(1, 1)["offset"].to_list() == [2]
    assert log.read(3, 10).schema == rows.schema


def test_an_event_sent_again_changes_nothing(log: EventLog) -> None:
    append(log, click(event_id="e1"))
    again = append(
        log, click("new user", "new item", event_id="e1", action="like"), click(event_id="e2"), click(event_id="e2")
    )
    assert again == [Outcome("duplicate", "e1", 1), Outcome("accepted", "e2", 2), Outcome("duplicate", "e2", 2)]
    assert log.read(0, 10)["action"].to_list() == ["click", "click"]
    assert log.keys("user").ids.to_list() == ["u"]


def test_an_event_without_an_id_gets_one(log: EventLog) -> None:
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
    ],
)
def test_what_is_refused_says_why_and_the_rest_is_kept(log: EventLog, event: Event, reason: str) -> None:
    made = append(log, click(event_id="good"), event, click(event_id="fine", time_ms=NOW + 300_000))
    assert [one.status for one in made] == ["accepted", "refused", "accepted"]
    assert made[1].reason == reason
    assert made[1].offset is None
    assert log.read(0, 10)["event_id"].to_list() == ["good", "fine"]
    assert log.keys("user").ids.to_list() == ["u"]


def test_a_clock_that_runs_ahead_is_set_back_to_ours(log: EventLog) -> None:
    append(log, click(time_ms=NOW + 300_000), click(time_ms=NOW), click(time_ms=NOW - 1))
    assert log.read(0, 9)["time_ms"].to_list() == [NOW, NOW, NOW - 1]


def test_a_context_that_is_not_json_is_refused(log: EventLog) -> None:
    (made,) = append(log, click(context={"f": object()}))
    assert made.reason == "context is not plain JSON: Encoding objects of type object is unsupported"
    assert log.last_offset == 0


def test_a_refused_event_never_echoes_an_id_that_is_not_text(log: EventLog) -> None:
    assert append(log, click(event_id="\ud800")) == [Outcome("refused", None, None, "event_id is not valid Unicode")]
    assert append(log, click("", event_id="mine")) == [Outcome("refused", "mine", None, "user id is empty")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8))
def test_any_id_comes_back_as_it_was(log: EventLog, ids: list[str]) -> None:
    made = append(log, *(click(text, text) for text in ids))
    assert all(one.status == "accepted" for one in made)
    keys = log.keys("user")
    assert len(set(keys.ids)) == len(keys)
    offsets = [one.offset for one in made]
    rows = log.read(0, 100_000).filter(pl.col("offset").is_in(offsets))
    assert keys.decode(rows["user"].to_numpy()) == ids
    assert [log.key("user", text) for text in ids] == rows["user"].to_list()


@pytest.mark.parametrize(
    "raw", ["it's", 'a"b', "a\nb", "a\0b", "; DROP TABLE events", "%", "日本", " ", "e\u0301", "é", "5"]
)
def test_awkward_ids_are_ids_of_their_own(log: EventLog, raw: str) -> None:
    log.register("item", pl.Series(["it", "ab", "a", "e", "x"]))
    append(log, click("u", raw))
    assert log.keys("item").ids.to_list() == ["it", "ab", "a", "e", "x", raw]


def test_a_number_and_its_text_are_one_id(log: EventLog) -> None:
    append(log, click(5, "5"), click("5", 5))
    assert log.keys("user").ids.to_list() == ["5"]
    assert log.register("item", pl.Series([5, 7])).ids.to_list() == ["5", "7"]


def test_keys_are_registered_in_bulk_and_stay(log: EventLog) -> None:
    assert log.register("item", pl.Series(["b", "a", "b"])).ids.to_list() == ["b", "a"]
    append(log, click(item="c"))
    assert log.register("item", pl.Series(["d", "c", "a"])).ids.to_list() == ["b", "a", "c", "d"]
    assert log.register("item", pl.Series([], dtype=pl.String)).ids.to_list() == ["b", "a", "c", "d"]
    assert log.keys("user").ids.to_list() == ["u"]
    with pytest.raises(DataError, match="2 ids are empty or longer than 256 bytes, the first in row 1"):
        log.register("user", pl.Series(["a", "", "x" * 300]))
    log.close()
    again = EventLog(log.path)
    assert again.keys("item").ids.to_list() == ["b", "a", "c", "d"]


def test_live_offsets_follow_reserved_ones(log: EventLog) -> None:
    log.reserve(1000)
    log.reserve(900)  # never goes back
    assert log.last_offset == 1000
    assert append(log, click(event_id="e"))[0].offset == 1001
    log.reserve(1000)
    assert append(log, click())[0].offset == 1002
    # imported events take theirs from the same counter
    assert log.take(10) == 1003
    assert append(log, click())[0].offset == 1013


def test_a_tail_holds_only_its_users_events(log: EventLog) -> None:
    append(log, click("a", "x"), click("b", "y", value=2.0), click("a", "z", action="like"), click("c", "x"))
    assert log.tail(0, 0).rows() == [(1, 0, 0, "click", None, NOW), (3, 0, 2, "like", None, NOW)]
    assert log.tail(0, 1)["offset"].to_list() == [3]
    assert log.tail([2, 1, 1, -1], 0)["offset"].to_list() == [2, 4]
    assert log.tail(9, 0).is_empty()
    assert log.tail([], 0).columns == ["offset", "user", "item", "action", "value", "time_ms"]


def test_threads_share_commits_and_lose_nothing(log: EventLog) -> None:
    commits = 0
    log.database.writer.set_trace_callback(lambda sql: _count(sql))

    def _count(sql: str) -> None:
        nonlocal commits
        commits += sql == "COMMIT"

    def one(n: int) -> list[Outcome]:
        # every event is sent twice, by two threads
        return append(log, *(click(f"u{n // 2}", f"i{k}", event_id=f"{n // 2}-{k}") for k in range(5)))

    with ThreadPoolExecutor(16) as pool:
        outcomes = [outcome for made in pool.map(one, range(200)) for outcome in made]
    accepted = [o for o in outcomes if o.status == "accepted"]
    # 100 users of 5 events each, each sent twice
    assert len(accepted) == 500
    assert len([o for o in outcomes if o.status == "duplicate"]) == 500
    assert sorted(o.offset for o in accepted if o.offset) == list(range(1, 501))
    rows = log.read(0, 1000)
    assert rows["event_id"].n_unique() == 500
    assert rows.group_by("user").len()["len"].to_list() == [5] * 100
    assert sorted(log.keys("user").ids) == sorted(f"u{n}" for n in range(100))
    assert commits <= 200


def test_writers_that_wait_together_share_one_commit(log: EventLog) -> None:
    commits = []
    log.database.writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    log.database.turn.acquire()  # somebody is writing
    threads = [threading.Thread(target=append, args=(log, click(event_id=f"e{n}"))) for n in range(8)]
    for thread in threads:
        thread.start()
    while len(log.database.waiting) < 8:
        threading.Event().wait(0.001)
    log.database.turn.release()
    for thread in threads:
        thread.join()
    assert len(commits) == 1
    assert len(log.read(0, 100)) == 8


def test_two_logs_on_one_file_agree(log: EventLog) -> None:
    other = EventLog(log.path)
    append(log, click("a", event_id="e1"))
    assert append(other, click("b", event_id="e2"), click("a", event_id="e1")) == [
        Outcome("accepted", "e2", 2),
        Outcome("duplicate", "e1", 1),
    ]
    append(log, click("c"))
    assert log.keys("user").ids.to_list() == other.keys("user").ids.to_list() == ["a", "b", "c"]
    assert other.register("user", pl.Series(["d", "c"])).ids.to_list() == ["a", "b", "c", "d"]
    assert log.keys("user").ids.to_list() == ["a", "b", "c", "d"]


def test_many_open_a_new_log_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        logs = list(pool.map(lambda _: EventLog(tmp_path / "log.db"), range(16)))
    append(logs[0], click())
    assert {one.last_offset for one in logs} == {1}


def fill(log: EventLog, pages: int) -> None:
    """From now on the file may grow by so many pages only, as on a full disk."""
    used = log.database.writer.execute("PRAGMA page_count").fetchone()[0]
    log.database.writer.execute(f"PRAGMA max_page_count = {used + pages}")


def test_a_full_disk_is_said_and_the_log_stays_usable(log: EventLog) -> None:
    append(log, click("first", event_id="first"))
    fill(log, 16)
    kept = ["first"]

    def batch(n: int) -> list[Event]:
        return [click(f"user {n} {k}", event_id=f"{n}-{k}", context={"pad": "x" * 200}) for k in range(3)]

    def write_until_full() -> None:
        for n in range(1000):
            append(log, *batch(n))
            kept.extend(f"{n}-{k}" for k in range(3))

    with pytest.raises(DataError) as caught:
        write_until_full()
    what = "the disk is full; nothing of this batch was kept (free some space, then send it again)"
    assert str(caught.value) == f"{log.path}: {what}"
    # all or nothing: neither events nor keys of the batch that failed are there
    rows = log.read(0, 10_000)
    assert rows["event_id"].to_list() == kept
    assert len(log.keys("user")) == len(kept)
    assert log.database.writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with pytest.raises(DataError, match="the disk is full"):
        log.register("item", pl.Series([f"item {n}" * 20 for n in range(2000)]))
    assert len(log.keys("item")) == 1

    fill(log, 40_000)
    made = append(log, *batch((len(kept) - 1) // 3))  # the one that failed, sent again
    assert [one.status for one in made] == ["accepted"] * 3
    assert [one.offset for one in made] == [len(kept) + 1, len(kept) + 2, len(kept) + 3]
    assert len(log.keys("user")) == len(kept) + 3


def test_a_full_disk_reaches_every_caller_of_a_shared_commit(log: EventLog) -> None:
    append(log, click())
    fill(log, 0)
    errors: list[DataError] = []

    def send(n: int) -> None:
        try:
            append(log, *(click(f"{n} {k}", context={"pad": "x" * 400}) for k in range(50)))
        except DataError as error:
            errors.append(error)

    log.database.turn.acquire()
    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while len(log.database.waiting) < 4:
        threading.Event().wait(0.001)
    log.database.turn.release()
    for thread in threads:
        thread.join()
    assert len(errors) == len({id(error) for error in errors}) == 4
    assert log.last_offset == 1


def test_a_log_that_another_process_holds_says_so(log: EventLog) -> None:
    log.database.writer.execute("PRAGMA busy_timeout = 10")
    holder = sqlite3.connect(log.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DataError) as caught:
        append(log, click(event_id="e"))
    assert str(caught.value) == f"{log.path}: another process holds the log (end it, or wait and try again)"
    holder.execute("ROLLBACK")
    assert append(log, click(event_id="e"))[0].status == "accepted"


def test_a_file_that_is_no_log_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"user,item\n" * 1000)
    with pytest.raises(DataError) as caught:
        EventLog(tmp_path / "log.db")
    hint = "(restore it from a copy; do not delete it)"
    assert str(caught.value) == f"{tmp_path}/log.db: not a log, or a damaged one: file is not a database {hint}"
    newer = EventLog(tmp_path / "newer.db")
    newer.database.writer.execute("PRAGMA user_version = 9")
    with pytest.raises(DataError) as caught:
        EventLog(tmp_path / "newer.db")
    hint = "(this version reads format 2; use the version that wrote it)"
    assert str(caught.value) == f"{tmp_path}/newer.db: unknown format 9 {hint}"


def test_readers_cannot_write(log: EventLog) -> None:
    log.read(0, 1)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        log.database._local.connection.execute("DELETE FROM events")


def slate(n: int) -> Served:
    return Served(f"r{n}", "ann", NOW + n, "rel", f'{{"items":["i{n}"]}}')


def test_slates_are_kept_once_and_only_the_newest(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.db", keep_served=3)
    assert log.append_served([slate(1), slate(2)]) == 2
    assert log.append_served([slate(2), slate(3)]) == 1
    assert log.served("r2") == slate(2)
    assert log.append_served([slate(4), slate(5)]) == 2
    assert log.append_served([]) == 0
    assert log.read_served(0, 10)["request_id"].to_list() == ["r3", "r4", "r5"]
    assert log.read_served(log.read_served(0, 1)["number"][0], 1)["request_id"].to_list() == ["r4"]
    assert log.served("r1") is None
    assert log.last_offset == 0  # a slate is no event
