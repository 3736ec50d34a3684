"""A log file of format 1, made here by its own SQL, is taken over whole: nothing that was acknowledged is lost."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from shortlist.cli import main
from shortlist.config import load
from shortlist.errors import DataError
from shortlist.events.event import Event, Outcome, Served
from shortlist.events.log import EventLog
from shortlist.events.upgrade import steps
from shortlist.events.workspace import events

NOW = 1_767_225_600_000  # 2026-01-01 UTC
FORMAT_1 = """
CREATE TABLE user_keys (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE item_keys (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE events (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    user INTEGER NOT NULL,
    item INTEGER NOT NULL,
    action TEXT NOT NULL,
    value REAL,
    time_ms INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    request_id TEXT,
    position INTEGER,
    context TEXT
);
CREATE INDEX events_of_user ON events (user, offset);
CREATE TABLE served (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    user TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    release TEXT NOT NULL,
    body TEXT NOT NULL
);
INSERT INTO user_keys VALUES (0, 'ann'), (1, 'bob');
INSERT INTO item_keys VALUES (0, 'a'), (1, 'b');
PRAGMA user_version = 1;
"""
LIVE = f"""
INSERT INTO sqlite_sequence VALUES ('events', 2);
INSERT INTO events (event_id, user, item, action, value, time_ms, received_ms, request_id, position, context) VALUES
    ('e1', 0, 1, 'click', 2.5, {NOW - 9}, {NOW}, 'r', 3, '{{"device":"phone"}}'),
    ('e2', 1, 0, 'like', NULL, {NOW}, {NOW}, NULL, NULL, NULL);
INSERT INTO served (request_id, user, time_ms, release, body) VALUES ('r', 'ann', {NOW}, 'rel', '{{}}');
"""


def old(folder: Path, more: str = LIVE) -> Path:
    """Three imported events have the offsets 0 to 2, as format 1 counted; two live ones follow."""
    (folder / "var").mkdir()
    with closing(sqlite3.connect(folder / "var" / "log.db")) as connection:
        connection.executescript(FORMAT_1 + more)
    return folder / "var" / "log.db"


def test_live_events_keys_and_slates_are_taken_over(tmp_path: Path) -> None:
    path = old(tmp_path)
    with closing(EventLog(path)) as log:
        assert log.read(0, 10).rows() == [
            (3, "e1", 0, 1, "click", 2.5, NOW - 9, NOW, "r", 3, '{"device":"phone"}'),
            (4, "e2", 1, 0, "like", None, NOW, NOW, None, None, None),
        ]
        assert log.keys("user").ids.to_list() == ["ann", "bob"]
        assert log.keys("item").ids.to_list() == ["a", "b"]
        assert log.served("r") == Served("r", "ann", NOW, "rel", "{}")
        assert log.tail(0, 0)["offset"].to_list() == [3]
        assert log.last_offset == 4
        # sent again they are known, and new ones go on behind them
        sent = [Event("bob", "a", "like", NOW, event_id="e2"), Event("cid", "a", "like", NOW, event_id="e3")]
        assert log.append(sent, ("like",), NOW) == [Outcome("duplicate", "e2", 4), Outcome("accepted", "e3", 5)]
        assert log.keys("user").ids.to_list() == ["ann", "bob", "cid"]
        made = log.database.select("SELECT name, sql FROM sqlite_master ORDER BY name")
        assert log.database.select("PRAGMA integrity_check") == [("ok",)]
    with closing(EventLog(tmp_path / "new.db")) as new:
        assert made == new.database.select("SELECT name, sql FROM sqlite_master ORDER BY name")
    with closing(EventLog(path)) as again:
        assert again.last_offset == 5


def test_one_without_events_begins_behind_what_was_imported(tmp_path: Path) -> None:
    with closing(EventLog(old(tmp_path, "INSERT INTO sqlite_sequence VALUES ('events', 41);"))) as log:
        assert log.last_offset == 41
        assert log.append([Event("ann", "a", "like", NOW)], ("like",), NOW)[0].offset == 42
    (tmp_path / "empty").mkdir()
    with closing(EventLog(old(tmp_path / "empty", ""))) as log:
        assert log.last_offset == 0


def test_many_events_keep_their_ids(tmp_path: Path) -> None:
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) INSERT INTO events"
    more = f"{rows} SELECT i, 'e' || i, 0, 0, 'like', NULL, {NOW}, {NOW}, NULL, NULL, NULL FROM n;"
    with closing(EventLog(old(tmp_path, more))) as log:
        sent = [Event("ann", "a", "like", NOW, event_id=f"e{n}") for n in (1, 10_000, 10_001, 25_000)]
        assert [one.offset for one in log.append(sent, ("like",), NOW)] == [1, 10_000, 10_001, 25_000]
        assert log.database.select("SELECT count(*) FROM event_ids") == [(25_000,)]


def test_what_was_imported_is_laid_aside_and_imported_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = old(tmp_path)
    columns = {"user": ["ann", "ann", "bob"], "item": ["a", "b", "b"], "time_ms": [NOW - 30, NOW - 20, NOW - 10]}
    pl.DataFrame(columns).write_csv(tmp_path / "log.csv")
    (tmp_path / "shortlist.toml").write_text(
        '[data]\nevents = "log.csv"\n[schema.actions]\nclick = {}\n', encoding="utf-8"
    )
    part = tmp_path / "var" / "events" / "part-000000000000000.parquet"
    part.parent.mkdir()
    part.write_bytes(b"as it was")
    (tmp_path / "var" / "import.json").write_text('{"mapping": {"user": "user"}, "parts": []}', encoding="utf-8")
    with caplog.at_level(logging.WARNING, "shortlist"):
        assert main(["train", "--project", str(tmp_path)]) == 2
    said = f"error: nothing has been imported\n  where: {tmp_path}/var\n  next: run `shortlist import`\n"
    assert capsys.readouterr().err.endswith(said)
    aside = tmp_path / "var" / "events-format-1"
    assert caplog.messages == [
        f"{path} was of format 1; what was imported lies in {aside} and counts no more: "
        "run `shortlist import`; live events are all there"
    ]
    assert (aside / part.name).read_bytes() == b"as it was"
    assert main(["import", "--project", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "3 rows: 3 added, 0 known, 0 duplicates dropped"
    # live events stay where they are, the import follows them under offsets of its own
    kept = events(load(tmp_path)).select("offset", "user", "item", "action").collect().rows()
    assert kept == [(3, 0, 1, "click"), (4, 1, 0, "like"), (5, 0, 0, "click"), (6, 0, 1, "click"), (7, 1, 1, "click")]
    assert (aside / "import.json").is_file()
    assert (aside / part.name).is_file()


def test_one_that_breaks_off_leaves_format_1_and_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old(tmp_path)

    def broken(home: Path) -> dict[int, Callable[[sqlite3.Connection], None]]:
        def first(connection: sqlite3.Connection) -> None:
            steps(home)[1](connection)
            raise sqlite3.OperationalError("disk I/O error")

        return {1: first}

    monkeypatch.setattr("shortlist.events.log.steps", broken)
    with pytest.raises(DataError) as caught:
        EventLog(path)
    said = f"{path}: the log cannot be used: disk I/O error (check the disk and permissions)"
    assert str(caught.value) == said
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT offset, event_id FROM events").fetchall() == [(3, "e1"), (4, "e2")]
    monkeypatch.undo()
    with closing(EventLog(path)) as log:
        assert log.read(0, 10)["event_id"].to_list() == ["e1", "e2"]
