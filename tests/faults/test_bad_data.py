"""What a user can get wrong about data, and the exact words that come back."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shortlist.config import Project, load
from shortlist.errors import DataError, ShortlistError
from shortlist.events.check import check
from shortlist.events.workspace import catalogue, events, import_log, keys

T = 1_700_000_000_000  # 14 November 2023, in ms
GOOD: dict[str, list[Any]] = {
    "user": ["u1", "u2", "u1"],
    "item": ["a", "b", "b"],
    "time_ms": [T, T + 1, T + 2],
}


def quiet(text: str) -> None:
    """Nobody listens."""


def project(folder: Path, schema: str = "", data: str = 'events = "events.parquet"') -> Project:
    (folder / "shortlist.toml").write_text(f"[data]\n{data}\n[schema]\n{schema}\n", encoding="utf-8")
    return load(folder)


def message(folder: Path, schema: str = "", data: str = 'events = "events.parquet"') -> str:
    """What an import says, without the folder's own name; and that it left no events behind."""
    opened = project(folder, schema, data)
    with pytest.raises(ShortlistError) as caught:
        import_log(opened, quiet, T)
    assert not list((folder / "var").glob("events/*"))
    return str(caught.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER")


def log(folder: Path, **columns: Any) -> None:
    pl.DataFrame({**GOOD, **columns}).write_parquet(folder / "events.parquet")


def test_good_data_are_imported(tmp_path: Path) -> None:
    log(tmp_path)
    report = import_log(project(tmp_path), quiet, T)
    assert (report.rows, report.added, report.duplicates, report.users, report.items) == (3, 3, 0, 2, 2)


def test_no_log_is_named(tmp_path: Path) -> None:
    assert message(tmp_path, data="") == (
        'project.data: no log is named (set data.events = "events.parquet", or data.adapter = "ml_100k")'
    )


def test_no_such_file(tmp_path: Path) -> None:
    log(tmp_path)
    said = message(tmp_path, data='events = "event.parquet"')
    assert said == "event.parquet: no such file or folder (did you mean events.parquet?)"


def test_no_such_adapter(tmp_path: Path) -> None:
    said = message(tmp_path, data='adapter = "ml_100"')
    assert said == "project.data.adapter: nothing is called 'ml_100' (did you mean ml_100k?)"


def test_missing_column(tmp_path: Path) -> None:
    log(tmp_path)
    said = message(tmp_path, 'user = "usr"')
    assert said == "events.parquet: no column is called 'usr', which schema.user names (did you mean user?)"


def test_missing_context_column(tmp_path: Path) -> None:
    log(tmp_path, device=["x", "y", "z"])
    said = message(tmp_path, 'context.devise = "sparse"')
    assert (
        said == "events.parquet: no column is called 'devise', which schema.context.devise names (did you mean device?)"
    )


def test_missing_item_column(tmp_path: Path) -> None:
    log(tmp_path)
    pl.DataFrame({"item": ["a"], "titel": ["x"]}).write_parquet(tmp_path / "items.parquet")
    said = message(tmp_path, 'items.title = "text"', 'events = "events.parquet"\nitems = "items.parquet"')
    assert said == "items.parquet: no column is called 'title', which schema.items.title names (did you mean titel?)"


def test_wrong_type_of_an_id(tmp_path: Path) -> None:
    log(tmp_path, user=[[1], [2], [1]])
    assert message(tmp_path) == "events.parquet: column 'user' has type List(Int64) (ids are text or whole numbers)"


def test_wrong_type_of_a_time(tmp_path: Path) -> None:
    log(tmp_path, time_ms=[True, False, True])
    assert message(tmp_path) == "events.parquet: column 'time_ms' has type Boolean (a time is a number)"


def test_wrong_type_of_a_field(tmp_path: Path) -> None:
    log(tmp_path)
    pl.DataFrame({"item": ["a"], "genres": ["x|y"]}).write_parquet(tmp_path / "items.parquet")
    said = message(tmp_path, 'items.genres = "varlen"', 'events = "events.parquet"\nitems = "items.parquet"')
    assert said == (
        "items.parquet: column 'genres' has type String but is declared as varlen (name the separator, split = \"|\")"
    )


def test_fractions_are_no_ids(tmp_path: Path) -> None:
    log(tmp_path, item=[1.0, 2.5, 3.0])
    assert message(tmp_path) == "events.parquet, row 1: 1 item ids are fractions: 2.5 (ids are text or whole numbers)"


@pytest.mark.parametrize(("users", "count"), [(["u", "", None], 2), ([1, None, 2], 1)])
def test_missing_ids(tmp_path: Path, users: list[Any], count: int) -> None:
    log(tmp_path, user=users)
    said = message(tmp_path)
    assert said == f"events.parquet, row 1: {count} user ids are missing or empty (drop or fill these rows)"


def test_ids_too_long(tmp_path: Path) -> None:
    log(tmp_path, item=["a", "b", "é" * 129])  # 258 bytes
    assert message(tmp_path) == "events.parquet, row 2: 1 item ids are longer than 256 bytes (shorten or hash them)"


def test_seconds_where_milliseconds_are_declared(tmp_path: Path) -> None:
    log(tmp_path, time_ms=[1_700_000_000, 1_700_000_001, 1_700_000_002])
    assert message(tmp_path) == (
        "events.parquet, row 0: times look like seconds, but milliseconds are declared: 1700000000 "
        '(set schema.time_unit = "s")'
    )


def test_milliseconds_where_seconds_are_declared(tmp_path: Path) -> None:
    log(tmp_path)
    assert message(tmp_path, 'time_unit = "s"') == (
        f"events.parquet, row 0: times look like milliseconds, but seconds are declared: {T} "
        '(set schema.time_unit = "ms")'
    )


def test_nanoseconds(tmp_path: Path) -> None:
    log(tmp_path, time_ms=[T * 10**6] * 3)
    assert message(tmp_path, 'time_unit = "s"') == (
        f"events.parquet, row 0: times look like nanoseconds, but seconds are declared: {T * 10**6} "
        "(divide them down to milliseconds)"
    )


def test_one_impossible_time(tmp_path: Path) -> None:
    log(tmp_path, time_ms=[T, T, 7])
    said = message(tmp_path)
    assert said == "events.parquet, row 2: 1 times are before 1990 or after 2100: 7 (correct or drop these rows)"


def test_missing_times(tmp_path: Path) -> None:
    log(tmp_path, time_ms=[T, None, T])
    assert message(tmp_path) == "events.parquet, row 1: 1 times are missing (drop or fill these rows)"


def test_times_that_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(f"user,item,time_ms\nu,a,{T}\nu,b,2023-11-14\n", encoding="utf-8")
    said = message(tmp_path, data='events = "events.csv"')
    assert said == (
        "events.csv, row 1: 1 times are not numbers: '2023-11-14' (for written dates set schema.time_unit = \"iso\")"
    )


def test_dates_that_are_no_dates(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,time_ms\nu,a,2023-11-14\nu,b,14.11.23\n", encoding="utf-8")
    said = message(tmp_path, 'time_unit = "iso"', 'events = "events.csv"')
    assert said == (
        "events.csv, row 1: 1 times are not dates: '14.11.23' (write dates as 2024-05-31 or 2024-05-31T12:00:00Z)"
    )


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(f"user,item,time_ms,rating\nu,a,{T},4\nu,b,{T},many\n", encoding="utf-8")
    said = message(tmp_path, 'value = "rating"', 'events = "events.csv"')
    assert said == "events.csv, row 1: 1 values are not numbers: 'many' (leave a value empty where there is none)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1.0, 0.0, 1.5], "row 1: 2 propensities are not above 0 and at most 1: 0.0 (a propensity is the probability "),
        ([None, -0.1, 0.1], "row 1: 1 propensities are not above 0 and at most 1: -0.1 (a propensity is the "),
        (["1", "often", None], "row 1: 1 propensities are not numbers: 'often' (leave a value empty where there is "),
        ([0.5, float("nan"), 0.1], "row 1: 1 propensities are not numbers: nan (leave a value empty where there is "),
    ],
)
def test_propensities_that_are_no_probabilities(tmp_path: Path, given: list[Any], said: str) -> None:
    pl.DataFrame({**GOOD, "chance": given}).write_parquet(tmp_path / "events.parquet")
    assert message(tmp_path, 'propensity = "chance"').startswith(f"events.parquet, {said}")
    finding = next(one for one in check(load(tmp_path), quiet, T) if one.name == "propensities")
    assert finding.status == "FAIL"


def test_a_propensity_is_no_context(tmp_path: Path) -> None:
    text = 'propensity = "propensity"\ncontext.propensity = "dense"'
    assert message(tmp_path, text) == (
        "schema.context.propensity: propensity is a column of its own: models must not read it (take it out of context)"
    )


def test_undeclared_action(tmp_path: Path) -> None:
    log(tmp_path, what=["click", "clik", "clik"])
    said = message(tmp_path, 'action = "what"\nactions.click = {}\nactions.like = {}')
    assert said == (
        "events.parquet, row 1: 2 events have an undeclared action: 'clik' "
        "(did you mean click? or declare schema.actions.clik)"
    )


def test_empty_log(tmp_path: Path) -> None:
    pl.DataFrame(GOOD).clear().write_parquet(tmp_path / "events.parquet")
    assert message(tmp_path) == "events.parquet: the log is empty (a log has at least one event)"


@pytest.mark.parametrize("name", ["events.csv", "events.jsonl"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("", encoding="utf-8")
    said = message(tmp_path, data=f'events = "{name}"')
    assert said == f"{name}: the file is empty (a log has at least one event)"


def test_garbled_parquet(tmp_path: Path) -> None:
    (tmp_path / "events.parquet").write_bytes(b"not a table" * 50)
    said = message(tmp_path)
    assert said.startswith("events.parquet: cannot be read: parquet: File out of specification")
    assert said.endswith("(is it damaged, or of another kind than its name says?)")


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"user": [str(n) for n in range(5000)]}).write_parquet(tmp_path / "events.parquet")
    whole = (tmp_path / "events.parquet").read_bytes()
    (tmp_path / "events.parquet").write_bytes(whole[: len(whole) // 2])
    assert message(tmp_path).startswith("events.parquet: cannot be read: ")


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_bytes(f"user,item,time_ms\nu,caf\xe9,{T}\n".encode("latin-1"))
    said = message(tmp_path, data='events = "events.csv"')
    assert said == (
        "events.csv: cannot be read: invalid utf-8 sequence (is it damaged, or of another kind than its name says?)"
    )


def test_a_row_with_too_many_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(f"user,item,time_ms\nu,a,{T}\nu,a,{T},5,6\n", encoding="utf-8")
    said = message(tmp_path, data='events = "events.csv"')
    assert said.startswith("events.csv: cannot be read: found more fields than defined in 'Schema'")


def test_mixed_folder(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    log(tmp_path / "log")
    (tmp_path / "log" / "more.csv").write_text("user,item,time_ms\n", encoding="utf-8")
    said = message(tmp_path, data='events = "log"')
    assert said == "log: the folder mixes CSV and Parquet (keep one kind in a folder)"


def test_folder_of_different_columns(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    log(tmp_path / "log")
    pl.DataFrame(GOOD).rename({"item": "thing"}).write_parquet(tmp_path / "log" / "more.parquet")
    assert message(tmp_path, data='events = "log"') == (
        "log/more.parquet: its columns differ from those of events.parquet, first at 'item' "
        "(files of a folder have the same columns and types)"
    )


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    said = message(tmp_path, data='events = "log"')
    assert said == "log: the folder holds no data file (known: .parquet, .csv, .tsv, .jsonl, .ndjson)"


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "events.xlsx").write_text("", encoding="utf-8")
    said = message(tmp_path, data='events = "events.xlsx"')
    assert said == "events.xlsx: cannot tell what a .xlsx file is (known: .parquet, .csv, .tsv, .jsonl, .ndjson)"


def test_the_row_is_counted_inside_its_file(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    log(tmp_path / "log")
    pl.DataFrame({**GOOD, "item": ["a", "", "c"]}).write_parquet(tmp_path / "log" / "more.parquet")
    said = message(tmp_path, data='events = "log"')
    assert said == "log/more.parquet, row 1: 1 item ids are missing or empty (drop or fill these rows)"


def test_an_item_described_twice(tmp_path: Path) -> None:
    log(tmp_path)
    items = pl.DataFrame({"item": ["a", "b", "a"], "title": ["x", "y", "z"]})
    items.write_parquet(tmp_path / "items.parquet")
    said = message(tmp_path, 'items.title = "text"', 'events = "events.parquet"\nitems = "items.parquet"')
    assert said == "items.parquet, row 2: 1 items are described twice, differently: 'a' (keep one row for each id)"


ITEMS = 'events = "events.parquet"\nitems = "items.parquet"'


def test_an_item_without_an_id(tmp_path: Path) -> None:
    log(tmp_path)
    pl.DataFrame({"item": ["a", None]}).write_parquet(tmp_path / "items.parquet")
    said = message(tmp_path, data=ITEMS)
    assert said == "items.parquet, row 1: 1 item ids are missing or empty (drop or fill these rows)"


def test_a_field_that_is_no_number(tmp_path: Path) -> None:
    log(tmp_path)
    pl.DataFrame({"item": ["a", "b"], "price": ["1.5", "2 EUR"]}).write_parquet(tmp_path / "items.parquet")
    assert message(tmp_path, 'items.price = "dense"', ITEMS) == (
        "items.parquet, row 1: 1 values of price are not numbers: '2 EUR' (leave a value empty where there is none)"
    )


def test_a_field_that_is_no_time(tmp_path: Path) -> None:
    log(tmp_path)
    pl.DataFrame({"item": ["a", "b"], "born": [None, 1_700_000_000]}).write_parquet(tmp_path / "items.parquet")
    assert message(tmp_path, 'items.born = "time"', ITEMS) == (
        "items.parquet, row 1: times look like seconds, but milliseconds are declared: 1700000000 "
        "(write them in the unit of the log's times)"
    )


def test_a_field_with_a_name_of_our_own(tmp_path: Path) -> None:
    log(tmp_path)
    pl.DataFrame({"item": ["a", "b"], "key": ["x", "y"]}).write_parquet(tmp_path / "items.parquet")
    said = message(tmp_path, 'items.key = "sparse"', ITEMS)
    assert said == "schema.items.key: no field can be called 'key' (rename the column)"


def test_one_user_is_imported_and_fails_the_check(tmp_path: Path) -> None:
    log(tmp_path, user=["u", "u", "u"])
    opened = project(tmp_path)
    assert import_log(opened, quiet, T).users == 1
    found = {f.name: (f.status, f.what) for f in check(opened, quiet, T + 10)}
    assert found["users"] == ("FAIL", "the log has one user, 'u': there is nothing to learn")


def test_one_item_is_imported_and_fails_the_check(tmp_path: Path) -> None:
    log(tmp_path, item=[5, 5, 5])
    opened = project(tmp_path)
    assert import_log(opened, quiet, T).items == 1
    found = {f.name: (f.status, f.what) for f in check(opened, quiet, T + 10)}
    assert found["items"] == ("FAIL", "the log has one item, '5': there is nothing to learn")


ODD = ["naïve 🎬", 'say "hi"', "two\nlines", "comma, and 'quote'", "  spaced  ", "\u202eright to left", "-1", "007"]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_odd_ids_come_back_as_they_were(tmp_path: Path, kind: str) -> None:
    table = pl.DataFrame({"user": ODD, "item": ODD[::-1], "time_ms": [T + n for n in range(len(ODD))]})
    file = tmp_path / f"events.{kind}"
    if kind == "parquet":
        table.write_parquet(file)
    elif kind == "csv":
        table.write_csv(file)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in table.to_dicts()]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    opened = project(tmp_path, data=f'events = "{file.name}"')
    import_log(opened, quiet, T)
    kept = events(opened).collect()
    assert keys(opened, "user").decode(kept["user"].to_numpy()) == ODD
    assert keys(opened, "item").decode(kept["item"].to_numpy()) == ODD[::-1]


def test_a_number_and_its_text_are_the_same_id(tmp_path: Path) -> None:
    log(tmp_path, item=[5, 6, 6])
    items = pl.DataFrame({"item": ["6", "5"], "title": ["six", "five"]})
    items.write_parquet(tmp_path / "items.parquet")
    opened = project(tmp_path, 'items.title = "text"', 'events = "events.parquet"\nitems = "items.parquet"')
    assert import_log(opened, quiet, T).items == 2
    profiles = catalogue(opened).items
    assert dict(zip(profiles.columns["id"], profiles.columns["title"], strict=True)) == {"5": "five", "6": "six"}


def test_duplicated_events_are_dropped_and_counted(tmp_path: Path) -> None:
    table = pl.DataFrame(GOOD)
    pl.concat([table, table[:2], table[:1]]).write_parquet(tmp_path / "events.parquet")
    report = import_log(project(tmp_path), quiet, T)
    assert (report.rows, report.added, report.duplicates) == (6, 3, 3)


def test_repeated_event_ids_are_dropped_whatever_else_they_say(tmp_path: Path) -> None:
    log(tmp_path, id=["e1", "e2", "e1"])
    opened = project(tmp_path, 'event_id = "id"')
    report = import_log(opened, quiet, T)
    assert (report.added, report.duplicates) == (2, 1)
    assert events(opened).collect()["time_ms"].to_list() == [T, T + 1]


def test_nothing_was_imported(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        events(project(tmp_path))
    assert str(caught.value) == f"{tmp_path}/var: nothing has been imported (run `shortlist import`)"
