"""An import beside a live server: whoever follows the log misses nothing of what is published behind their back."""

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.events.kafka_cluster import SETTINGS, cluster
from tests.store.world import NOW, SCHEMA, same, states

from shortlist.config import Project, load
from shortlist.errors import ArtifactError
from shortlist.events import compact, erase, filing, workspace
from shortlist.events.base import Log
from shortlist.events.event import Event, Outcome, digest
from shortlist.events.log import EventLog
from shortlist.events.segments import Segment, write
from shortlist.events.workspace import import_log
from shortlist.feedback.backfill import backfill
from shortlist.feedback.follow import follow
from shortlist.store.memory import Memory
from shortlist.store.states import States

HOUR_MS = 3_600_000
ACTIONS = SCHEMA.action_names
TOML = """
[data]
events = "events.parquet"

[schema]
action = "what"
value = "v"
event_id = "id"
actions.seen = { weight = 0.0 }
actions.click = {}
users.region = "sparse"
items.genre = "varlen"
"""
ROWS = 60


def project(folder: Path) -> Project:
    """Sixty events in sixty hours, of six users and five items, so that parts of twenty are three."""
    frame = pl.DataFrame({
        "id": [f"old {n}" for n in range(ROWS)],
        "user": [f"u{n % 6}" for n in range(ROWS)],
        "item": [f"i{n % 5}" for n in range(ROWS)],
        "what": ["seen" if n % 4 == 0 else "click" for n in range(ROWS)],
        "v": [n / 4 for n in range(ROWS)],
        "time_ms": [NOW - (ROWS + 1 - n) * HOUR_MS for n in range(ROWS)],
    })  # fmt: skip
    frame.write_parquet(folder / "events.parquet")
    (folder / "shortlist.toml").write_text(TOML, encoding="utf-8")
    return load(folder)


def click(n: int) -> Event:
    return Event(f"u{n % 6}", f"i{n % 5}", "click", NOW - HOUR_MS // 2 + n, value=1.0, event_id=f"live {n}")


def followed(log: Log, store: States) -> None:
    while follow(log, store, 7):
        pass


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[EventLog, States]]:
    """Import, with a live event and a follower's turn before each part is listed."""

    def run(**options: Any) -> tuple[EventLog, States]:
        opened = project(tmp_path)
        (tmp_path / "var").mkdir(exist_ok=True)
        live, store = EventLog(tmp_path / "var" / "log.db"), states(Memory())
        publish, count = workspace._publish, 0

        def late(*arguments: Any, **more: Any) -> int:
            nonlocal count
            assert live.append([click(count)], ACTIONS, NOW)[0].status == "accepted"
            count += 1
            followed(live, store)
            made = publish(*arguments, **more)
            if not more["fresh"]:
                followed(live, store)
            return made

        monkeypatch.setattr(workspace, "_publish", late)
        monkeypatch.setattr(workspace, "ROWS_PER_PART", 20)
        report = import_log(opened, lambda text: None, NOW, **options)
        assert (report.added, report.events) == (ROWS, ROWS)
        monkeypatch.setattr(workspace, "_publish", publish)
        return live, store

    return run


def ids(log: Log, after: int = 0, limit: int = 1000) -> list[str]:
    return [str(each) for each in log.read(after, limit)["event_id"].to_list()]


def test_a_follower_misses_nothing_of_an_import(beside: Callable[..., tuple[EventLog, States]], tmp_path: Path) -> None:
    live, store = beside()
    with closing(live):
        rows = live.read(0, 1000)
        offsets = rows["offset"].to_list()
        assert offsets == sorted(set(offsets))
        # three parts of twenty, each behind the live event that was visible before it
        want = []
        for part in range(3):
            want += [f"live {part}", *(f"old {20 * part + n}" for n in range(20))]
        assert ids(live) == want
        assert store.offset == offsets[-1] == live.last_offset
        whole = states(Memory())
        backfill(live, whole)
        same(store, whole)
        assert live.append([click(3)], ACTIONS, NOW)[0].offset == offsets[-1] + 1


def test_parts_that_were_moved_are_like_others(beside: Callable[..., tuple[EventLog, States]], tmp_path: Path) -> None:
    live, _ = beside()
    with closing(live):
        rows = live.read(0, 1000)
        every = rows.select("offset", "event_id").rows()
        place = {name: offset for offset, name in every}
        # from anywhere, in pieces of any size
        for after, _ in every[::7]:
            assert live.read(after, 9).rows() == rows.filter(pl.col("offset") > after).head(9).rows()
        user = live.key("user", "u2")
        for after in (0, place["old 10"], place["live 2"]):
            mine = rows.filter((pl.col("user") == user) & (pl.col("offset") > after))["offset"].to_list()
            assert live.tail(user, after)["offset"].to_list() == mine
        # an id leads to where its event is now
        again = live.append([Event("u1", "i1", "click", NOW, event_id="old 33")], ACTIONS, NOW)
        assert again == [Outcome("duplicate", "old 33", place["old 33"])]
        report = import_log(load(tmp_path), lambda text: None, NOW)
        assert (report.known, report.added) == (ROWS, 0)
        assert live.read(0, 1000).rows() == rows.rows()
        # erased users leave the files, and nothing else moves
        live.erase("u2", NOW)
        left = rows.filter(pl.col("user") != user)
        assert live.read(0, 1000).rows() == left.rows()
        users = filing.waiting(live.database)
        gone, missed = erase.erase(tmp_path / "var", live, users)
        assert not missed
        assert gone["log.db"] + sum(n for file, n in gone.items() if file.startswith("events/")) == len(rows) - len(
            left
        )
        assert filing.scrub(live.database, users, NOW)
        assert live.read(0, 1000).rows() == left.rows()
        # and what is dropped for its age is forgotten
        assert compact.drop(live, NOW + 1) == ROWS - 10
        assert ids(live) == ["live 0", "live 1"]  # the third was of u2
        assert live.append([Event("u1", "i1", "click", NOW, event_id="old 33")], ACTIONS, NOW)[0].status == "accepted"


def test_sealing_goes_between_parts_that_were_moved(beside: Callable[..., tuple[EventLog, States]]) -> None:
    live, _ = beside()
    with closing(live):
        rows = live.read(0, 1000).rows()
        assert sum(segment.rows for segment in compact.seal(live, NOW + 1)) == 3
        assert live.read(0, 1000).rows() == rows


def test_a_fresh_import_is_behind_what_came_meanwhile(
    beside: Callable[..., tuple[EventLog, States]], tmp_path: Path
) -> None:
    import_log(project(tmp_path), lambda text: None, NOW)
    live, store = beside(fresh=True)
    with closing(live):
        assert ids(live) == ["live 0", *(f"old {n}" for n in range(ROWS))]
        # what had been followed until then was of another log
        with pytest.raises(ArtifactError, match="a store of another log"):
            follow(live, store)


def test_without_anything_between_parts_stay_where_they_are(tmp_path: Path) -> None:
    import_log(project(tmp_path), lambda text: None, NOW)
    with closing(EventLog(tmp_path / "var" / "log.db")) as log:
        assert log.read(0, 1000)["offset"].to_list() == list(range(1, ROWS + 1))
        assert log.last_offset == ROWS


def part(folder: Path, first: int, count: int) -> Segment:
    frame = pl.DataFrame({
        "offset": pl.Series(range(first, first + count), dtype=pl.Int64),
        "event_id": [f"old {n}" for n in range(count)],
        "user": [0] * count, "item": [0] * count, "action": ["click"] * count, "time_ms": [NOW - 9] * count,
    })  # fmt: skip
    write(frame, folder / f"part-{first:015d}.parquet")
    return Segment(first, first + count - 1, count, "imported", f"part-{first:015d}.parquet", NOW, NOW - 9, NOW - 9)


def test_folds_of_a_topic_move_parts_alike(tmp_path: Path) -> None:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    from shortlist.events.kafka_log import KafkaLog

    with cluster() as brokers, ExitStack() as stack:
        brokers.topic("moved")

        def opened(name: str) -> KafkaLog:
            log = KafkaLog(brokers.servers, "moved", tmp_path / name / "log.db", settings=SETTINGS)
            stack.callback(log.close)
            return log

        log = opened("a")
        first = log.take(4)
        log.append([click(0)], ACTIONS, NOW)
        assert log.read(0, 9)["offset"].to_list() == [5]
        made = part(log.folder, first, 4)
        marks = [(digest(f"old {n}"), first + n) for n in range(4)]
        taken = [(digest("live 0"), first)]
        # one of them was told live meanwhile: said in the file's own offsets, and nothing was done
        assert log.publish([made], [[*taken, *marks[1:]]], end=first + 4) == {first}
        assert log.publish([made], [marks], end=first + 4) == set()
        assert log.read(0, 9)["offset"].to_list() == [5, 6, 7, 8, 9]
        assert log.append([Event("u", "i", "click", NOW, event_id="old 2")], ACTIONS, NOW)[0].offset == 8
        part(tmp_path / "b" / "events", first, 4)  # whoever runs it brings the files
        other = opened("b")
        assert other.read(0, 9).rows() == log.read(0, 9).rows()
        assert other.last_offset == log.last_offset == 9


FORMAT_2 = """
CREATE TABLE segments_2 AS SELECT first, last, rows, kind, file, received_ms, low_ms, high_ms, digest FROM segments;
DROP TABLE segments;
CREATE TABLE segments (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, rows INTEGER NOT NULL, kind TEXT NOT NULL, file TEXT NOT NULL,
    received_ms INTEGER NOT NULL, low_ms INTEGER NOT NULL, high_ms INTEGER NOT NULL, digest TEXT NOT NULL
);
INSERT INTO segments SELECT * FROM segments_2;
DROP TABLE segments_2;
PRAGMA user_version = 2;
"""


def test_a_file_of_format_2_keeps_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "var" / "log.db"
    import_log(project(tmp_path), lambda text: None, NOW)
    with closing(EventLog(path)) as log:
        rows, name = log.read(0, 1000).rows(), log.identity
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FORMAT_2)
    with closing(EventLog(path)) as log:
        assert log.database.select("PRAGMA user_version") == [(3,)]
        assert (log.read(0, 1000).rows(), log.identity) == (rows, name)
