"""A project's own copy of its log: imported once, again, on either engine, with live events behind it."""

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shortlist.config import Project, load
from shortlist.dataset.log import interactions
from shortlist.errors import DataError
from shortlist.events import segments, workspace
from shortlist.events.log import Event, EventLog
from shortlist.events.raw import schema_of
from shortlist.events.workspace import (
    COLUMNS,
    Report,
    catalogue,
    events,
    import_log,
    keys,
    last_offset,
    published,
    snapshot,
)

T = 1_700_000_000_000  # 14 November 2023, in ms
HOUR = 3_600_000
SCHEMA = """
action = "what"
value = "stars"
actions.rate = {}
actions.view = { weight = 0.0 }
items.title = "text"
items.genres = { kind = "varlen", split = "|" }
items.price = "dense"
users.region = "sparse"
"""


def quiet(text: str) -> None:
    """Nobody listens."""


def log(rows: Sequence[tuple[str, str, int, str, float | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user", "item", "time_ms", "what", "stars"], orient="row")


ROWS = [
    ("ann", "m2", T + 2, "rate", 4.0),
    ("bob", "m1", T + 1, "view", None),
    ("ann", "m1", T + 1, "rate", 5.0),
    ("cid", "m9", T + 3, "rate", 1.0),
]


def project(folder: Path, table: pl.DataFrame | None = None, engine: str = "polars", schema: str = SCHEMA) -> Project:
    folder.mkdir(exist_ok=True)
    (log(ROWS) if table is None else table).write_parquet(folder / "events.parquet")
    items = pl.DataFrame(
        {"item": ["m1", "m2", "m3"], "title": ["One", "Two", None], "genres": ["a|b", "", None], "price": [1, 2, 3]}
    )
    items.write_parquet(folder / "items.parquet")
    pl.DataFrame({"user": ["bob", "ann"], "region": ["n", "s"]}).write_parquet(folder / "users.parquet")
    data = f'events = "events.parquet"\nitems = "items.parquet"\nusers = "users.parquet"\nengine = "{engine}"'
    (folder / "shortlist.toml").write_text(f"[data]\n{data}\n[schema]\n{schema}", encoding="utf-8")
    return load(folder)


def done(report: Report) -> tuple[int, int, int, int]:
    return report.rows, report.duplicates, report.known, report.added


def test_events_are_in_order_of_time_then_row_with_keys_by_first_appearance(tmp_path: Path) -> None:
    opened = project(tmp_path)
    report = import_log(opened, quiet, T)
    # Keys by first row: ann 0, bob 1, cid 2; m2 0, m1 1, m9 2, then m3 3 from the catalogue.
    assert keys(opened, "user").ids.to_list() == ["ann", "bob", "cid"]
    assert keys(opened, "item").ids.to_list() == ["m2", "m1", "m9", "m3"]
    assert events(opened).select(COLUMNS).collect().rows() == [
        (1, 1, 1, "view", None, T + 1),
        (2, 0, 1, "rate", 5.0, T + 1),
        (3, 0, 0, "rate", 4.0, T + 2),
        (4, 2, 2, "rate", 1.0, T + 3),
    ]
    assert done(report) == (4, 0, 0, 4)
    assert (report.users, report.items, report.low_ms, report.high_ms) == (3, 4, T + 1, T + 3)
    written = json.loads((tmp_path / "var" / "import.json").read_text(encoding="utf-8"))
    assert written["snapshot"] == report.snapshot == snapshot(opened)
    assert written["imported_at"] == T
    assert last_offset(opened) == 4


def test_catalogue_holds_declared_fields_by_key(tmp_path: Path) -> None:
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    known = catalogue(opened)
    assert known.items.keys.tolist() == [0, 1, 3]
    assert known.items.columns["id"].tolist() == ["m2", "m1", "m3"]
    assert known.items.columns["title"].tolist() == ["Two", "One", None]
    assert known.items.columns["genres"].tolist() == [[], ["a", "b"], None]
    assert known.items.columns["price"].tolist() == [2.0, 1.0, 3.0]
    assert known.users.columns["region"].tolist() == ["s", "n"]


def test_interactions_carry_codes_and_values(tmp_path: Path) -> None:
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    found = interactions(opened)
    assert found.users.tolist() == [0, 0, 1, 2]
    assert found.items.tolist() == [1, 0, 1, 2]
    assert found.actions.tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(found.values, np.array([5, 4, np.nan, 1], dtype=np.float32))


def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    opened = project(tmp_path)
    first = import_log(opened, quiet, T)
    before = {p: p.read_bytes() for p in sorted((tmp_path / "var").rglob("*.parquet"))}
    again = import_log(opened, quiet, T + 5)
    assert done(again) == (4, 0, 4, 0)
    assert again.snapshot == first.snapshot
    assert {p: p.read_bytes() for p in sorted((tmp_path / "var").rglob("*.parquet"))} == before


def test_importing_a_grown_log_adds_what_is_new(tmp_path: Path) -> None:
    opened = project(tmp_path)
    first = import_log(opened, quiet, T)
    project(tmp_path, log([("dan", "m1", T, "rate", 3.0), *ROWS, ROWS[0], ("ann", "m4", T + 9, "rate", None)]))
    again = import_log(opened, quiet, T)
    # 7 rows: one repeats, 4 are there, 2 are new; old offsets and keys stay.
    assert done(again) == (7, 1, 4, 2)
    assert again.snapshot != first.snapshot
    assert events(opened).select(COLUMNS).collect().rows()[4:] == [
        (5, 3, 1, "rate", 3.0, T),
        (6, 0, 4, "rate", None, T + 9),
    ]
    assert keys(opened, "item").ids.to_list() == ["m2", "m1", "m9", "m3", "m4"]


def test_the_snapshot_is_of_the_content(tmp_path: Path) -> None:
    one = import_log(project(tmp_path / "a"), quiet, T)
    same = import_log(project(tmp_path / "b"), quiet, T + 99)
    changed = [*ROWS[:3], ("cid", "m9", T + 3, "rate", 2.0)]
    other = import_log(project(tmp_path / "c", log(changed)), quiet, T)
    assert one.snapshot == same.snapshot != other.snapshot


def test_both_engines_import_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "user": rng.integers(0, 50, 3000).astype(str),
            "item": rng.integers(0, 80, 3000).astype(str),
            "time_ms": T + rng.integers(0, 40, 3000) * HOUR,
            "what": ["rate"] * 3000,
            "stars": rng.integers(1, 4, 3000).astype(float),
        }
    )
    one = import_log(project(tmp_path / "polars", table), quiet, T)
    other = import_log(project(tmp_path / "duckdb", table, engine="duckdb"), quiet, T)
    assert one == other
    assert one.duplicates > 0


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_small_parts_hold_the_same_events(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    table = log(
        [
            (f"u{u}", f"i{i}", T + int(t) * HOUR, "rate", 1.0)
            for u, i, t in zip(*rng.integers(0, 30, (3, 500)), strict=True)
        ]
    )
    whole = project(tmp_path / "whole", table, engine)
    import_log(whole, quiet, T)
    monkeypatch.setattr(workspace, "ROWS_PER_PART", 50)
    cut = project(tmp_path / "cut", table, engine)
    import_log(cut, quiet, T)
    assert len(list((tmp_path / "cut" / "var" / "events").iterdir())) > 5
    assert events(cut).collect().equals(events(whole).collect())
    assert events(cut).collect()["time_ms"].is_sorted()


@pytest.mark.parametrize("rows_per_part", [2, 1000])
def test_event_ids_repeat_across_parts_and_imports(
    tmp_path: Path, rows_per_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "ROWS_PER_PART", rows_per_part)
    ids = ["e1", "e2", "e3", "e1"]
    table = log(ROWS).with_columns(time_ms=pl.col("time_ms") + pl.int_range(4) * HOUR, id=pl.Series(ids))
    opened = project(tmp_path, table, schema=f'event_id = "id"{SCHEMA}')
    assert done(import_log(opened, quiet, T)) == (4, 1, 0, 3)
    grown = pl.concat([table, log(ROWS[:2]).with_columns(id=pl.Series(["e9", "e2"]))])
    grown.write_parquet(tmp_path / "events.parquet")
    # 6 rows: e1 and e2 repeat once each, e1 e2 e3 are there, e9 is new.
    assert done(import_log(opened, quiet, T)) == (6, 2, 3, 1)
    assert len(events(opened).collect()) == 4


def test_live_events_come_behind_imported_ones(tmp_path: Path) -> None:
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    live = EventLog(tmp_path / "var" / "log.db")
    outcome = live.append([Event("eve", "m1", "rate", T + 50, 2.0)], ["rate"], T + 60)[0]
    live.close()
    assert outcome.offset == 5
    assert events(opened).select(COLUMNS).collect().rows()[-1] == (5, 3, 1, "rate", 2.0, T + 50)
    assert interactions(opened).user_keys.tolist() == [0, 1, 2, 3]
    assert last_offset(opened) == 5
    assert done(import_log(opened, quiet, T)) == (4, 0, 4, 0)


def test_new_rows_are_imported_behind_live_events(tmp_path: Path) -> None:
    opened = project(tmp_path)
    first = import_log(opened, quiet, T)
    live = EventLog(tmp_path / "var" / "log.db")
    live.append([Event("eve", "m1", "rate", T + 50, 2.0)], ["rate"], T + 60)
    project(tmp_path, log([*ROWS, ("dan", "m1", T, "rate", 3.0)]))
    again = import_log(opened, quiet, T + 70)
    assert done(again) == (5, 0, 4, 1)
    assert again.snapshot != first.snapshot
    live.append([Event("eve", "m2", "rate", T + 80, 1.0)], ["rate"], T + 80)
    # the order is that in which the log came to know: 4 imported, eve's, the new row of an earlier time, eve's again
    rows = events(opened).select("offset", "user", "time_ms").collect().rows()
    assert rows[4:] == [(5, 3, T + 50), (6, 4, T), (7, 3, T + 80)]
    read = live.read(4, 10)
    assert read.select("offset", "user", "time_ms").rows() == rows[4:]
    # an import is known from the moment it came
    assert read["received_ms"].to_list() == [T + 60, T + 70, T + 80]
    assert live.read(4, 2)["offset"].to_list() == [5, 6]
    assert live.tail([3, 4], 4)["offset"].to_list() == [5, 6, 7]
    assert done(import_log(opened, quiet, T + 90)) == (5, 0, 5, 0)
    assert last_offset(opened) == 7
    live.close()


def test_event_ids_are_known_across_imported_and_live_events(tmp_path: Path) -> None:
    table = log(ROWS).with_columns(id=pl.Series(["e1", "e2", "e3", "e4"]))
    opened = project(tmp_path, table, schema=f'event_id = "id"{SCHEMA}')
    import_log(opened, quiet, T)
    live = EventLog(tmp_path / "var" / "log.db")
    told = [Event("eve", "m1", "rate", T + 50, event_id=name) for name in ("e2", "e9")]
    made = live.append(told, ["rate"], T + 60)
    # by time the imported ones are e2 (1), e3 (2), e1 (3), e4 (4)
    assert [(one.status, one.offset) for one in made] == [("duplicate", 1), ("accepted", 5)]
    grown = pl.concat([table, log(ROWS[:2]).with_columns(id=pl.Series(["e9", "e10"]))])
    grown.write_parquet(tmp_path / "events.parquet")
    # e9 was told live, e10 is new
    assert done(import_log(opened, quiet, T + 70)) == (6, 0, 5, 1)
    assert live.append([Event("eve", "m1", "rate", T, event_id="e10")], ["rate"], T + 80)[0].offset == 6
    # what is imported afresh is not in its own way; what was told live is
    assert done(import_log(opened, quiet, T + 90, fresh=True)) == (6, 0, 1, 5)
    assert events(opened).collect()["event_id"].to_list() == ["e9", "e2", "e3", "e10", "e1", "e4"]
    assert live.append([Event("eve", "m1", "rate", T, event_id="e1")], ["rate"], T + 99)[0].offset == 10
    live.close()


def test_a_live_event_that_forestalls_an_import_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = log(ROWS).with_columns(id=pl.Series(["e1", "e2", "e3", "e4"]))
    opened = project(tmp_path, table, schema=f'event_id = "id"{SCHEMA}')
    (tmp_path / "var").mkdir()
    live = EventLog(tmp_path / "var" / "log.db")
    publish = workspace._publish

    def late(*arguments: Any, **more: Any) -> int:
        """Between the look at what is known and the publication."""
        live.append([Event("eve", "m1", "rate", T, event_id="e3")], ["rate"], T + 80)
        return publish(*arguments, **more)

    monkeypatch.setattr(workspace, "_publish", late)
    assert done(import_log(opened, quiet, T + 90)) == (4, 0, 1, 3)
    assert events(opened).collect()["event_id"].to_list() == ["e3", "e2", "e1", "e4"]
    assert sorted(file.name for file in (tmp_path / "var" / "events").iterdir()) == ["part-000000000000001.1.parquet"]
    assert done(import_log(opened, quiet, T + 99)) == (4, 0, 4, 0)
    live.close()


def test_another_mapping_needs_a_fresh_import(tmp_path: Path) -> None:
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    opened = project(tmp_path, schema=SCHEMA.replace('value = "stars"\n', ""))
    with pytest.raises(DataError) as caught:
        import_log(opened, quiet, T)
    assert str(caught.value) == (
        f"{tmp_path}/var/import.json: the log was imported under another [schema]: "
        'value was "stars", now nothing (undo the change, or `shortlist import --fresh`)'
    )
    assert done(import_log(opened, quiet, T, fresh=True)) == (4, 0, 0, 4)
    assert events(opened).collect()["value"].null_count() == 4


def test_a_catalogue_no_longer_named_is_taken_away(tmp_path: Path) -> None:
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    file = tmp_path / "shortlist.toml"
    file.write_text(file.read_text(encoding="utf-8").replace('users = "users.parquet"\n', ""), encoding="utf-8")
    import_log(load(tmp_path), quiet, T)
    assert catalogue(opened).users.columns == {}  # every user of the log, and nothing else of them
    assert len(catalogue(opened).users) == 3
    assert len(catalogue(opened).items) == 3


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "folder"])
def test_every_kind_of_file_gives_the_same_log(tmp_path: Path, kind: str) -> None:
    opened = project(tmp_path)
    expected = import_log(opened, quiet, T)
    other = project(tmp_path / "other")
    table = log(ROWS)
    name = f"events.{kind}" if kind != "folder" else "log"
    target = tmp_path / "other" / name
    if kind == "folder":
        target.mkdir()
        table[:1].write_parquet(target / "part-0.parquet")
        table[1:].write_parquet(target / "part-1.parquet")
        (target / "_SUCCESS").write_text("", encoding="utf-8")
    elif kind == "jsonl":
        table.write_ndjson(target)
    else:
        table.write_csv(target, separator="," if kind == "csv" else "\t")
    text = other.file.read_text(encoding="utf-8").replace('"events.parquet"', f'"{name}"')
    other.file.write_text(text, encoding="utf-8")
    assert import_log(load(other.file), quiet, T).snapshot == expected.snapshot


def times(folder: Path, schema: str, column: Any) -> list[int]:
    folder.mkdir(exist_ok=True)
    frame = pl.DataFrame({"user": ["u"] * len(column), "item": ["i"] * len(column), "at": column})
    frame.write_parquet(folder / "events.parquet")
    text = f'[data]\nevents = "events.parquet"\n[schema]\ntime = "at"\n{schema}\n'
    (folder / "shortlist.toml").write_text(text, encoding="utf-8")
    opened = load(folder)
    import_log(opened, quiet, T)
    return events(opened).collect()["time_ms"].to_list()


def test_times_become_milliseconds(tmp_path: Path) -> None:
    seconds = T // 1000
    assert times(tmp_path / "s", 'time_unit = "s"', [seconds]) == [T]
    assert times(tmp_path / "f", 'time_unit = "s"', [seconds + 0.25]) == [T + 250]
    assert times(tmp_path / "t", 'time_unit = "s"', [f" {seconds} "]) == [T]
    assert times(tmp_path / "d", "", pl.Series([T * 1000]).cast(pl.Datetime("us"))) == [T]
    # 1,700,000,000 s is 2023-11-14T22:13:20Z
    iso = ["2023-11-14T22:13:20Z", "2023-11-14 22:13:20", "2023-11-14T23:13:20+01:00"]
    assert times(tmp_path / "i", 'time_unit = "iso"', iso) == [T]
    assert times(tmp_path / "y", 'time_unit = "iso"', ["1970-01-01", "2023-11-14"][1:]) == [T - 80_000_000]


def test_a_log_without_times_stays_in_order(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u", "v", "u"], "item": ["b", "a", "a"]})
    frame.write_parquet(tmp_path / "events.parquet")
    text = '[data]\nevents = "events.parquet"\n[schema]\ntime_unit = "none"\n'
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    opened = load(tmp_path)
    report = import_log(opened, quiet, T)
    assert (report.low_ms, report.high_ms) == (0, 0)
    kept = events(opened).collect()
    assert keys(opened, "item").decode(kept["item"].to_numpy()) == ["b", "a", "a"]


def test_a_crash_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    before = events(opened).collect()
    project(tmp_path, log([*ROWS, ("dan", "m1", T, "rate", 3.0)]))

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workspace, "_publish", broken)
    with pytest.raises(KeyboardInterrupt):
        import_log(opened, quiet, T)
    monkeypatch.undo()
    assert events(opened).collect().equals(before)
    assert not list((tmp_path / "var").glob(".import-*"))
    assert done(import_log(opened, quiet, T)) == (5, 0, 4, 1)


def test_one_import_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LOCK_S", 0.1)
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    left = tmp_path / "var" / ".import-killed"
    left.mkdir()
    with (tmp_path / "var" / "import.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError) as caught:
            import_log(opened, quiet, T)
    assert str(caught.value) == f"{tmp_path}/var: another import or compaction is running (wait for it to end)"
    assert left.exists()
    import_log(opened, quiet, T)
    assert not left.exists()


def test_a_part_without_a_record_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the parts and `import.json`."""
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    project(tmp_path, log([*ROWS, ("dan", "m1", T, "rate", 3.0)]))

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workspace, "_write_json", broken)
    with pytest.raises(KeyboardInterrupt):
        import_log(opened, quiet, T)
    monkeypatch.undo()
    healed = import_log(opened, quiet, T)
    assert done(healed) == (5, 0, 5, 0)
    assert (healed.events, healed.low_ms) == (5, T)
    (tmp_path / "other").mkdir()
    straight = project(tmp_path / "other")
    import_log(straight, quiet, T)
    project(tmp_path / "other", log([*ROWS, ("dan", "m1", T, "rate", 3.0)]))
    assert import_log(straight, quiet, T).snapshot == healed.snapshot


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_lists_in_the_context_tell_events_apart(tmp_path: Path, engine: str) -> None:
    tags = pl.Series([["a", "b"], ["a"], ["a", "b"], None, None])
    table = log([ROWS[0]] * 5).with_columns(tags=tags)
    opened = project(tmp_path, table, engine, schema=f'context.tags = "varlen"{SCHEMA}')
    # Rows 0 and 2 are equal, and so are 3 and 4.
    assert done(import_log(opened, quiet, T)) == (5, 2, 0, 3)
    assert done(import_log(opened, quiet, T)) == (5, 2, 3, 0)


def test_repeats_of_a_log_without_times_are_found_across_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "ROWS_PER_PART", 2)
    table = pl.DataFrame({"user": ["u", "v", "u", "w", "u"], "item": ["a", "a", "b", "a", "a"]})
    table.write_parquet(tmp_path / "events.parquet")
    text = '[data]\nevents = "events.parquet"\n[schema]\ntime_unit = "none"\n'
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    opened = load(tmp_path)
    # Row 4 repeats row 0.
    assert done(import_log(opened, quiet, T)) == (5, 1, 0, 4)
    assert done(import_log(opened, quiet, T)) == (5, 1, 4, 0)


def test_columns_of_any_name_are_read(tmp_path: Path) -> None:
    table = log(ROWS).with_columns(row=pl.lit("x"), key=pl.lit(1), offset=pl.lit(2), bucket=pl.lit(3))
    assert done(import_log(project(tmp_path, table), quiet, T)) == (4, 0, 0, 4)


def test_an_adapters_schema_is_the_base_and_the_projects_overrides_it(tmp_path: Path) -> None:
    text = '[data]\nadapter = "ml-100k"\n[schema]\nitems.year = "text"\nactions.rate = { weight = 2.0 }\n'
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    schema = schema_of(load(tmp_path))
    assert schema.time_unit == "s"
    assert (schema.items["year"].kind, schema.items["title"].kind) == ("text", "text")
    assert schema.actions["rate"].weight == 2.0


REAL = {
    # From the table of the data sets: rows, users and items of the log.
    "ml_100k": (100_000, 943, 1_682),
    "ml_latest_small": (100_004, 671, 9_066),
    "ml_1m": (999_721, 6_040, 3_696),
    "ml_1m_sample": (100_000, 5_958, 3_312),
}


@pytest.mark.parametrize("adapter", REAL)
def test_real_logs(tmp_path: Path, adapter: str, data_folder: Path | None) -> None:
    if data_folder is None:
        pytest.skip("SHORTLIST_DATA is not set: generated logs above stand in")
    (tmp_path / "shortlist.toml").write_text(f'[data]\nadapter = "{adapter}"\n', encoding="utf-8")
    opened = load(tmp_path)
    import_log(opened, quiet, T)
    found = interactions(opened)
    assert (len(found), len(found.user_keys), len(found.item_keys)) == REAL[adapter]
    profiles = catalogue(opened)
    assert not len(np.setdiff1d(found.item_keys, profiles.items.keys))
    assert set(profiles.items.columns) == {"id", "title", "genres", "year"}
    assert published(opened) is None
    if adapter == "ml_100k":
        regions = set(profiles.users.columns["region"].tolist())
        assert regions == {*"0123456789", "other"}
        toy = profiles.items.rows(np.array([keys(opened, "item").key(1)]))[0]
        assert profiles.items.columns["title"][toy] == "Toy Story"
        assert profiles.items.columns["genres"][toy] == ["Animation", "Children's", "Comedy"]
        assert profiles.items.columns["year"][toy] == "1995"
