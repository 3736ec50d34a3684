"""Findings about data: names, statuses, words, rows."""

from pathlib import Path

import polars as pl
import pytest

from shortlist.config import load
from shortlist.events.check import Finding, check

T = 1_700_000_000_000  # 14 November 2023, in ms
DAY = 86_400_000


def found(folder: Path, schema: str = "", now: int = T + DAY, data: str = "") -> dict[str, Finding]:
    text = f'[data]\nevents = "events.parquet"\n{data}\n[schema]\n{schema}\n'
    (folder / "shortlist.toml").write_text(text, encoding="utf-8")
    findings = check(load(folder), lambda text: None, now)
    assert len({f.name for f in findings}) == len(findings)
    return {f.name: f for f in findings}


def log(folder: Path) -> pl.DataFrame:
    table = pl.DataFrame(
        {"user": ["u", "v", "u", "w"], "item": ["a", "b", "b", "c"], "time_ms": [T, T, T + 1, T + DAY]}
    )
    table.write_parquet(folder / "events.parquet")
    return table


def test_good_data_pass(tmp_path: Path) -> None:
    log(tmp_path)
    said = {name: (f.status, f.what) for name, f in found(tmp_path).items()}
    assert said == {
        "read": ("PASS", "the log can be read, its columns are there"),
        "user ids": ("PASS", "every event has a user"),
        "item ids": ("PASS", "every event has an item"),
        "times": ("PASS", "every event has a time"),
        "time range": ("PASS", "all times lie between 1990 and 2100"),
        "order": ("PASS", "rows are in order of time"),
        "span": ("PASS", "events span 1.0 days"),
        "duplicates": ("PASS", "no row repeats another"),
        "users": ("PASS", "3 users, 1.3 events each"),
        "items": ("PASS", "3 items, 1.3 events each"),
    }


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_odd_data_warn_with_rows(tmp_path: Path, engine: str) -> None:
    table = log(tmp_path)
    # Rows: 3 is a day late, so row 4 falls; row 5 repeats row 1 and does not fall behind row 4.
    odd = pl.concat([table, table[:2]])
    odd.write_parquet(tmp_path / "events.parquet")
    said = found(tmp_path, now=T - DAY, data=f'engine = "{engine}"')
    assert said["order"].what == "1 of 6 rows are earlier than the row before; the import sorts them"
    assert said["order"].examples == ({"(row)": 4, "user": "u", "item": "a", "time_ms": T},)
    assert said["duplicates"].what == "2 of 6 rows repeat an earlier one; the import drops them"
    assert [e["(row)"] for e in said["duplicates"].examples] == [4, 5]
    assert said["span"].what == "the last event lies 2.0 days in the future"
    assert {said[name].status for name in ("order", "duplicates", "span")} == {"WARN"}


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6])
def test_odd_rows_are_found_over_the_bounds_of_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    # Times by row: 0 0 1 1d 0 0 2d 1. Rows 4 and 7 fall behind the row before; 4 and 5 repeat 0 and 1.
    table = log(tmp_path)
    more = pl.DataFrame({"user": ["x", "x"], "item": ["a", "b"], "time_ms": [T + 2 * DAY, T + 1]})
    pl.concat([table, table[:2], more]).write_parquet(tmp_path / "events.parquet")
    monkeypatch.setattr("shortlist.events.check.ROWS_PER_SLICE", rows)
    said = found(tmp_path)
    assert said["order"].what == "2 of 8 rows are earlier than the row before; the import sorts them"
    assert [e["(row)"] for e in said["order"].examples] == [4, 7]
    assert said["duplicates"].what == "2 of 8 rows repeat an earlier one; the import drops them"
    assert [e["(row)"] for e in said["duplicates"].examples] == [4, 5]


def test_joins_and_coverage(tmp_path: Path) -> None:
    log(tmp_path)
    items = pl.DataFrame({"item": ["a", "b", "z"], "title": ["A", None, None], "tags": [["x"], [], None]})
    items.write_parquet(tmp_path / "items.parquet")
    schema = 'items.title = "text"\nitems.tags = "varlen"'
    said = found(tmp_path, schema, data='items = "items.parquet"')
    assert said["item join"].status == "WARN"
    assert said["item join"].what == "1 of 4 events are on 1 items that are not described"
    assert said["item join"].examples == ({"(row)": 3, "user": "w", "item": "c", "time_ms": T + DAY},)
    assert said["items.title"].what == "title is known of 33.3% of 3 items"
    assert (said["items.title"].status, said["items.tags"].status) == ("WARN", "WARN")


def test_values_and_actions(tmp_path: Path) -> None:
    table = log(tmp_path).with_columns(stars=pl.Series([1.5, None, 5.0, 2.0]), what=pl.lit("rate"))
    table.write_parquet(tmp_path / "events.parquet")
    said = found(tmp_path, 'value = "stars"\naction = "what"\nactions.rate = {}\nactions.like = {}')
    assert said["value range"].what == "values lie from 1.5 to 5"
    assert said["unused actions"].what == "no event has the declared action like"


def test_unusable_rows_fail_with_examples(tmp_path: Path) -> None:
    table = log(tmp_path).with_columns(user=pl.Series(["u", "", None, "w"]), what=pl.Series(["a", "b", "c", "c"]))
    table.write_parquet(tmp_path / "events.parquet")
    said = found(tmp_path, 'action = "what"\nactions.a = {}\nactions.b = {}')
    assert said["user ids"].status == said["actions"].status == "FAIL"
    assert said["item ids"].status == "PASS"
    where = tmp_path / "events.parquet"
    assert said["user ids"].what == f"{where}, row 1: 2 user ids are missing or empty (drop or fill these rows)"
    assert [e["(row)"] for e in said["user ids"].examples] == [1, 2]
    assert [e["what"] for e in said["actions"].examples] == ["c", "c"]
    assert "duplicates" not in said


def test_data_that_cannot_be_read_fail(tmp_path: Path) -> None:
    said = found(tmp_path)
    assert list(said) == ["read"]
    assert said["read"].status == "FAIL"
    assert said["read"].what.startswith(f"{tmp_path}/events.parquet: no such file or folder")


def test_one_user_who_does_everything_is_worth_a_look(tmp_path: Path) -> None:
    table = log(tmp_path).with_columns(user=pl.Series(["u", "u", "u", "w"]))
    table.write_parquet(tmp_path / "events.parquet")
    assert found(tmp_path)["users"].what == "user 'u' has 75% of all events"


def test_a_log_without_times_warns(tmp_path: Path) -> None:
    log(tmp_path)
    said = found(tmp_path, 'time_unit = "none"')
    assert said["order"].what == "the log has no times: protocols and features in time do not apply"
    assert "time range" not in said
    assert "times" not in said


def test_all_at_the_same_time_warns(tmp_path: Path) -> None:
    log(tmp_path).with_columns(time_ms=T).write_parquet(tmp_path / "events.parquet")
    assert found(tmp_path)["span"] == Finding("span", "WARN", "all events have the same time")
