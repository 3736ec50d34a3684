"""The log in its own file: shared commits, a full disk, a lock, a newer format. Elsewhere: what every log promises."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.waiting import until

from shortlist.errors import DataError
from shortlist.events.log import Event, EventLog, Outcome

NOW = 1_767_225_600_000  # 2026-01-01 UTC
ACTIONS = ("click", "like")


def click(user: str | int = "u", item: str | int = "i", **changes: Any) -> Event:
    return Event(**{"user": user, "item": item, "action": "click", "time_ms": NOW, **changes})


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "var" / "log.db")


def append(log: EventLog, *events: Event) -> list[Outcome]:
    return log.append(events, ACTIONS, NOW)


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


def test_a_file_of_a_newer_format_says_so(log: EventLog) -> None:
    log.database.writer.execute("PRAGMA user_version = 9")
    log.close()
    with pytest.raises(DataError) as caught:
        EventLog(log.path)
    hint = "(this version reads format 3; use the version that wrote it)"
    assert str(caught.value) == f"{log.path}: unknown format 9 {hint}"


def test_readers_cannot_write(log: EventLog) -> None:
    log.read(0, 1)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        log.database._local.connection.execute("DELETE FROM events")


def test_closing_waits_for_those_who_read(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is closed under a query takes the whole process with it."""
    from shortlist.events import database

    monkeypatch.setattr(database, "BUSY_S", 120.0)
    append(log, click())
    inside, go = threading.Event(), threading.Event()
    told: list[object] = []

    def read() -> None:
        with log.database.view() as connection:
            inside.set()
            go.wait(120)
            told.append(connection.execute("SELECT count(*) FROM events").fetchone())

    def close() -> None:
        log.close()
        told.append("closed")

    threads = [threading.Thread(target=target) for target in (read, close)]
    threads[0].start()
    assert inside.wait(120)
    threads[1].start()
    assert until(lambda: log.database._closed)
    with pytest.raises(DataError) as caught:  # nobody else comes in
        log.read(0, 9)
    assert str(caught.value) == f"{log.path}: the log is closed (open it again)"
    assert told == []
    go.set()
    for thread in threads:
        thread.join()
    assert told == [(1,), "closed"]


def test_threads_that_read_outlive_the_log(tmp_path: Path) -> None:
    for n in range(20):
        log = EventLog(tmp_path / f"{n}.db")
        append(log, *(click(item=f"i{k}", event_id=f"{k}") for k in range(100)))
        errors: list[str] = []
        begun = threading.Semaphore(0)

        def read(log: EventLog = log, begun: threading.Semaphore = begun, errors: list[str] = errors) -> None:
            try:
                while True:
                    log.tail(0, 0)
                    begun.release()
            except DataError as error:
                errors.append(error.what)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun.acquire()
        log.close()
        for thread in threads:
            thread.join()
        assert errors == ["the log is closed"] * 3
