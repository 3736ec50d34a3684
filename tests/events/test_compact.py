"""Sealed days, retention: readers see every event once, in order, wherever it lies by now."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shortlist.config import Project, load
from shortlist.errors import DataError
from shortlist.events import compact as compacting
from shortlist.events import filing, segments, slates
from shortlist.events.compact import compact
from shortlist.events.log import Event, EventLog, Outcome, Served
from shortlist.events.workspace import events, import_log, snapshot

DAY = 86_400_000
D0 = 1_767_225_600_000  # 2026-01-01 00:00 UTC
ACTIONS = ("click",)


def quiet(text: str) -> None:
    """Nobody listens."""


def project(folder: Path, log: str = "", rows: Sequence[tuple[str, str, int]] = (("old", "a", D0 - DAY),)) -> Project:
    """A project with a small table of events to import; `log` is its [log]."""
    table = pl.DataFrame(rows, schema=["user", "item", "time_ms"], orient="row")
    table.write_parquet(folder / "events.parquet")
    (folder / "shortlist.toml").write_text(f'[data]\nevents = "events.parquet"\n[log]\n{log}\n', encoding="utf-8")
    return load(folder)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    made = EventLog(tmp_path / "var" / "log.db")
    yield made
    made.close()


def tell(log: EventLog, day: int, *names: str, hour: int = 0) -> list[Outcome]:
    """Events `user:item` received at an hour of a day, with ids `user:item@day`."""
    now = D0 + day * DAY + hour * 3_600_000
    told = []
    for n, name in enumerate(names):
        user, item = name.split(":")
        told.append(Event(user, item, "click", now - 5, float(day), f"{name}@{day}", context={"n": n}))
    return log.append(told, ACTIONS, now)


def held(log: EventLog) -> int:
    """Rows of the table, whoever speaks for them."""
    return int(log.database.select("SELECT count(*) FROM events")[0][0])


def test_days_over_for_long_enough_become_files_that_say_the_same(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path)
    tell(log, 0, "ann:a", "bob:b")
    tell(log, 1, "ann:c", hour=23)
    tell(log, 2, "bob:a")
    tell(log, 3, "cid:d")
    before = log.read(0, 100)
    tails = [log.tail(0, after) for after in range(6)]
    frames = pl.concat(log.frames(tuple(segments.COLUMNS))).collect()
    # Two days: at noon of day 4, day 1 has been over for two and a half, day 2 for one and a half.
    report = compact(opened, D0 + 4 * DAY + DAY // 2)
    assert (report.sealed, report.files, report.dropped) == (3, 2, 0)
    assert sorted(file.name for file in (tmp_path / "var" / "events").iterdir()) == [
        "live-000000000000001.parquet",
        "live-000000000000003.parquet",
    ]
    sealed = filing.segments(log.database)
    assert [(s.first, s.last, s.rows, s.kind, s.received_ms) for s in sealed] == [
        (1, 2, 2, "sealed", D0),
        (3, 3, 1, "sealed", D0 + DAY + 23 * 3_600_000),
    ]
    assert held(log) == 2
    assert log.read(0, 100).equals(before)
    assert [log.read(after, 2)["offset"].to_list() for after in range(5)] == [[1, 2], [2, 3], [3, 4], [4, 5], [5]]
    assert all(log.tail(0, after).equals(tail) for after, tail in enumerate(tails))
    assert pl.concat(log.frames(tuple(segments.COLUMNS))).collect().equals(frames)
    assert compact(opened, D0 + 4 * DAY + DAY // 2).sealed == 0
    # a day later one more day is sealed, and the counter of offsets goes on
    assert compact(opened, D0 + 5 * DAY).sealed == 1
    assert tell(log, 5, "ann:z")[0].offset == 6
    assert log.read(0, 100)["offset"].to_list() == [1, 2, 3, 4, 5, 6]


def test_ids_stay_unique_after_their_day_was_sealed(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path)
    tell(log, 0, "ann:a", "bob:b")
    compact(opened, D0 + 9 * DAY)
    assert held(log) == 0
    assert tell(log, 0, "ann:a", "ann:b", "bob:b") == [
        Outcome("duplicate", "ann:a@0", 1),
        Outcome("accepted", "ann:b@0", 3),
        Outcome("duplicate", "bob:b@0", 2),
    ]


def test_a_part_imported_between_live_events_stays_in_order(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path)
    tell(log, 0, "ann:a")
    import_log(opened, quiet, D0 + 1)
    tell(log, 0, "ann:b", hour=1)
    before = events(opened).collect()
    assert before["offset"].to_list() == [1, 2, 3]
    same = snapshot(opened)
    assert compact(opened, D0 + 9 * DAY).files == 2  # one day, cut where the part lies
    assert events(opened).collect().equals(before)
    assert snapshot(opened) == same
    assert log.read(1, 9)["offset"].to_list() == [2, 3]
    assert log.tail([0, 1], 0)["offset"].to_list() == [1, 2, 3]


def test_a_clock_that_steps_back_does_not_break_the_order(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path)
    tell(log, 0, "ann:a")
    tell(log, 4, "bob:a")
    tell(log, 1, "cid:a")  # received, by its clock, before the one in front of it
    # what is sealed is what lies before the first event that is too young
    assert compact(opened, D0 + 4 * DAY).sealed == 1
    assert log.read(0, 9)["offset"].to_list() == [1, 2, 3]
    report = compact(opened, D0 + 9 * DAY)
    assert (report.sealed, report.files) == (2, 1)  # days never go back inside a file
    assert [s.received_ms for s in filing.segments(log.database)] == [D0, D0 + 4 * DAY]


def test_long_days_become_several_files(tmp_path: Path, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacting, "BLOCK", 3)
    monkeypatch.setattr(compacting, "ROWS_PER_SEGMENT", 6)
    for hour in range(4):
        tell(log, 0, *(f"u{n}:i{hour}" for n in range(5)), hour=hour)
    before = log.read(0, 100)
    assert compact(project(tmp_path), D0 + 9 * DAY).files == 4  # 20 events of at most 6 each
    assert log.read(0, 100).equals(before)
    assert [len(log.read(after, 7)) for after in (0, 7, 14)] == [7, 7, 6]


def test_a_reader_never_sees_an_event_twice_or_not_at_all_while_it_is_sealed(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path)
    for day in range(3):
        tell(log, day, *(f"u{n % 3}:i{n}" for n in range(20)))
    seen: list[tuple[list[int], list[int]]] = []

    class Looking:
        """The log's own database, with a look after every commit of the compaction."""

        def __init__(self) -> None:
            self.commit = log.database.commit

        def __call__(self, work: Any) -> Any:
            done = self.commit(work)
            seen.append((log.read(0, 100)["offset"].to_list(), log.tail([0, 1, 2], 0)["offset"].to_list()))
            return done

    made = compacting.seal
    looking = Looking()

    def sealing(other: Any, before: int) -> list[segments.Segment]:
        other.database.commit = looking
        return made(other, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compacting, "seal", sealing)
        patch.setattr(filing.shed, "__defaults__", (7,))
        compact(opened, D0 + 9 * DAY)
    # 3 files; 60 rows, 7 at a time, and one look at nothing
    assert len(seen) >= 3 + 60 // 7 + 1
    every = list(range(1, 61))
    assert all(read == every and tail == every for read, tail in seen)


def test_old_days_are_dropped_with_their_ids(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path, "keep_days = 3")
    import_log(opened, quiet, D0)
    first = snapshot(opened)
    tell(log, 0, "ann:a")
    tell(log, 4, "ann:b")
    tell(log, 6, "ann:c")
    log.append_served([Served(f"r{day}", "ann", D0 + day * DAY, "rel", "{}") for day in (0, 6)])
    assert snapshot(opened) != first
    # Days that have been over for three: at day 7, those before day 4. The import came on day 0.
    report = compact(opened, D0 + 7 * DAY + 1)
    assert (report.sealed, report.dropped) == (2, 2)
    assert events(opened).collect()["offset"].to_list() == [3, 4]
    assert log.read(0, 9)["offset"].to_list() == [3, 4]
    assert [file.name for file in (tmp_path / "var" / "events").iterdir()] == ["live-000000000000003.parquet"]
    assert (log.served("r0"), log.served("r6") is None) == (None, False)
    assert log.database.select("SELECT count(*) FROM event_ids")[0][0] == 2
    # offsets are never given again
    assert tell(log, 7, "ann:d")[0].offset == 5
    assert import_log(opened, quiet, D0 + 8 * DAY).added == 1


def test_old_hours_of_served_rows_are_dropped(tmp_path: Path) -> None:
    """At day 7, with three days kept, what was served before day 4 goes: the hour from 23 to 24 of day 3 still does."""
    opened = project(tmp_path, "keep_days = 3")
    folder = tmp_path / "var" / slates.FOLDER
    writer = slates.Writer(folder)
    for n, hour in enumerate((0, 4 * 24 - 1, 4 * 24, 7 * 24)):
        row = {"request_id": [f"r{n}"], "user_id": ["ann"], "item": [1], "time_ms": [D0 + hour * 3_600_000]}
        writer.append(pl.DataFrame({**row, "position": 1}), D0 + hour * 3_600_000)
    writer.close()
    (folder / "mine.arrow").write_bytes(b"")  # of a name that says no hour
    assert compact(opened, D0 + 7 * DAY + 1).row_files == 2
    assert slates.read(folder).rows["request_id"].to_list() == ["r2", "r3"]
    assert (folder / "mine.arrow").exists()
    assert compact(opened, D0 + 7 * DAY + 2).row_files == 0


def test_what_nothing_lists_is_cleared_away(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path)
    tell(log, 0, "ann:a")
    folder = tmp_path / "var" / "events"
    folder.mkdir()
    for name in ("live-000000000000001.parquet", ".live-9.parquet.tmp", "part-000000000000007.2.parquet"):
        (folder / name).write_bytes(b"left by a kill")
    assert log.read(0, 9)["offset"].to_list() == [1]
    assert compact(opened, D0).sealed == 0
    assert not list(folder.iterdir())


def test_files_that_are_gone_or_damaged_are_named(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path)
    tell(log, 0, "ann:a")
    compact(opened, D0 + 9 * DAY)
    file = tmp_path / "var" / "events" / "live-000000000000001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        log.read(0, 9)
    hint = "restore it from a copy; `shortlist import --fresh` makes imported parts anew"
    assert caught.value.what.startswith("a file is damaged: ")
    assert (caught.value.where, caught.value.hint) == (str(file.parent), hint)
    file.unlink()
    with pytest.raises(DataError, match=r"a file is missing: .*live-000000000000001"):
        log.tail(0, 0)
    assert log.tail(0, 1).is_empty()  # what lies in no file is not in its way


def test_a_full_disk_while_sealing_leaves_everything_where_it_was(
    tmp_path: Path, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = project(tmp_path)
    tell(log, 0, "ann:a")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments, "sync", full)
    with pytest.raises(DataError) as caught:
        compact(opened, D0 + 9 * DAY)
    place = tmp_path / "var" / "events" / "live-000000000000001.parquet"
    what = "cannot be written: No space left on device (check free space and permissions)"
    assert str(caught.value) == f"{place}: {what}"
    monkeypatch.undo()
    assert log.read(0, 9)["offset"].to_list() == [1]
    assert compact(opened, D0 + 9 * DAY).sealed == 1


def test_sealed_events_take_few_bytes(tmp_path: Path, log: EventLog) -> None:
    """What the docstring of the log says: 120 bytes an event, 35 once it is sealed."""
    opened = project(tmp_path)
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 1000, 20_000).tolist(), rng.integers(0, 500, 20_000).tolist()
    for at in range(0, 20_000, 1000):
        pairs = list(zip(users[at : at + 1000], items[at : at + 1000], strict=True))
        log.append([Event(f"u{u}", f"i{i}", "click", D0) for u, i in pairs], ACTIONS, D0)

    def used() -> float:
        names = ("page_size", "page_count", "freelist_count")
        size, pages, free = (log.database.select(f"PRAGMA {name}")[0][0] for name in names)
        return float(size * (pages - free) / 20_000)

    assert 100 < used() < 140
    compact(opened, D0 + 9 * DAY)
    assert 25 < used() < 40
    assert len(log.read(0, 100_000)) == 20_000
