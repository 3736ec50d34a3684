"""init, check and import at the command line: a log becomes a project."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import polars as pl
import pytest

from shortlist.cli import main

T = 1_700_000_000  # 14 November 2023, in seconds


def log(folder: Path) -> None:
    table = pl.DataFrame({"user": ["u", "v", "u"], "item": ["a", "b", "b"], "timestamp": [T, T + 1, T + 2]})
    table.write_csv(folder / "log.csv")


def test_init_check_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log(tmp_path)
    project = str(tmp_path / "shortlist.toml")
    assert main(["init", str(tmp_path / "log.csv"), "--project", project, "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["project"] == project
    assert "guessed user: user, by its name" in out.err
    assert main(["check", "--project", project, "--json"]) == 0
    assert {finding["status"] for finding in json.loads(capsys.readouterr().out)} == {"PASS", "WARN"}
    assert main(["import", "--project", project, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["added"], report["users"], report["items"]) == (3, 2, 2)
    assert main(["import", "--project", project]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "3 rows: 0 added, 3 known, 0 duplicates dropped",
        f"3 events of 2 users on 2 items, snapshot {report['snapshot'][:12]}",
    ]


def test_init_does_not_replace_a_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log(tmp_path)
    arguments = ["init", str(tmp_path / "log.csv"), "--project", str(tmp_path)]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 2
    file = tmp_path / "shortlist.toml"
    said = f"error: there is a project file already\n  where: {file}\n  next: --force replaces it\n"
    assert capsys.readouterr().err == said
    assert main([*arguments, "--force"]) == 0


def test_init_makes_the_folder_it_is_told_and_says_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log(tmp_path)
    place = str(tmp_path / "my project")
    assert main(["init", str(tmp_path / "log.csv"), "--project", place]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"wrote {place}/shortlist.toml; correct it where a guess is wrong, "
        f"then: shortlist check --project '{place}' && shortlist import --project '{place}'"
    )
    assert main(["import", "--project", place]) == 0


def test_check_prints_findings_and_ends_with_1_when_one_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log(tmp_path)
    text = '[data]\nevents = "log.csv"\n[schema]\ntime = "timestamp"\n'
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    assert main(["check", "--project", str(tmp_path)]) == 1
    out = capsys.readouterr()
    assert "FAIL" in out.out
    assert "times look like seconds" in " ".join(out.out.split())
    assert f"time range: {{'(row)': 0, 'user': 'u', 'item': 'a', 'timestamp': '{T}'}}" in out.err


def test_a_bad_log_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log(tmp_path)
    text = '[data]\nevents = "log.csv"\n[schema]\ntime = "timestamp"\n'
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    assert main(["import", "--project", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-3:] == [
        f"error: times look like seconds, but milliseconds are declared: {T}",
        f"  where: {tmp_path}/log.csv, row 0",
        '  next: set schema.time_unit = "s"',
    ]


MS = T * 1000
NAN, INF = float("nan"), float("inf")
GOOD: dict[str, list[Any]] = {
    "user": ["u", "v", "u", "w"],
    "item": ["a", "b", "b", "c"],
    "time_ms": [MS, MS + 1, MS + 2, MS + 3],
}
VECTORS = 'items.emb = "vec"\n'


def lay(folder: Path, events: Mapping[str, Any], items: dict[str, Any] | None = None, schema: str = "") -> None:
    """A project of these columns."""
    pl.DataFrame({**GOOD, **events}, strict=False).write_parquet(folder / "events.parquet")
    data = 'events = "events.parquet"\n'
    if items is not None:
        pl.DataFrame(items).write_parquet(folder / "items.parquet")
        data += 'items = "items.parquet"\n'
    (folder / "shortlist.toml").write_text(f"[data]\n{data}[schema]\n{schema}", encoding="utf-8")


class Bad(NamedTuple):
    """What is wrong, and the three lines that say so."""

    name: str
    what: str
    where: str
    next: str
    events: Mapping[str, Any] = MappingProxyType({})
    items: dict[str, Any] | None = None
    schema: str = ""


BAD = (
    Bad("an id of 300 bytes", "1 item ids are longer than 256 bytes", "events.parquet, row 2", "shorten or hash them",
        {"item": ["a", "b", "x" * 300, "c"]}),
    Bad("a key that is null", "2 user ids are missing or empty", "events.parquet, row 1", "drop or fill these rows",
        {"user": ["u", None, "u", ""]}),
    Bad("mixed units", f"2 of 4 times are no milliseconds, the first looks like seconds: {T}", "events.parquet, row 1",
        "write all of them in one unit", {"time_ms": [MS, T, MS, T + 1]}),
    Bad("microseconds among seconds", f"1 of 4 times are no seconds, the first looks like microseconds: {T * 10**6}",
        "events.parquet, row 3", "write all of them in one unit", {"time_ms": [T, T, T, T * 10**6]}, None,
        'time_unit = "s"\n'),
    Bad("a time that is NaN", "1 times are not numbers: nan", "events.parquet, row 0",
        'for written dates set schema.time_unit = "iso"', {"time_ms": [NAN, MS, MS, MS]}),
    Bad("a time that is infinite", "1 times are before 1990 or after 2100: inf", "events.parquet, row 0",
        "correct or drop these rows", {"time_ms": [INF, MS, MS, MS]}),
    Bad("a value that is NaN", "1 values are not numbers: nan", "events.parquet, row 1",
        "leave a value empty where there is none", {"stars": [1.0, NAN, None, 2.0]}, None, 'value = "stars"\n'),
    Bad("a value that is infinite", "2 values are not numbers: -inf", "events.parquet, row 0",
        "leave a value empty where there is none", {"stars": [-INF, INF, None, 2.0]}, None, 'value = "stars"\n'),
    Bad("a field that is infinite", "1 values of price are not numbers: inf", "items.parquet, row 1",
        "leave a value empty where there is none", {}, {"item": ["a", "b"], "price": [1.0, INF]},
        'items.price = "dense"\n'),
    Bad("vectors of two lengths", "1 vectors of emb are not as long as the first one: 3 numbers",
        "items.parquet, row 2", "a vec field has one length; leave out what has none", {},
        {"item": ["a", "b", "c"], "emb": [[1.0, 2.0], None, [1.0, 2.0, 3.0]]}, VECTORS),
    Bad("a vector with NaN", "2 vectors of emb hold what is no number", "items.parquet, row 0",
        "leave the vector out where one of its numbers is missing", {},
        {"item": ["a", "b", "c"], "emb": [[NAN, 2.0], [1.0, None], [1.0, 2.0]]}, VECTORS),
    Bad("a vector of text", "column 'emb' has type List(String) but is declared as vec", "items.parquet",
        "change its kind", {}, {"item": ["a"], "emb": [["x"]]}, VECTORS),
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_data_that_cannot_be_used_are_named(tmp_path: Path, bad: Bad, capsys: pytest.CaptureFixture[str]) -> None:
    lay(tmp_path, bad.events, bad.items, bad.schema)
    assert main(["import", "--project", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()[-3:]
    assert said == [f"error: {bad.what}", f"  where: {tmp_path}/{bad.where}", f"  next: {bad.next}"]
    assert main(["check", "--project", str(tmp_path), "--json"]) == 1
    found = [f for f in json.loads(capsys.readouterr().out) if f["status"] == "FAIL"]
    assert len(found) == 1
    assert bad.what in found[0]["what"]


def test_vectors_of_one_length_are_imported(tmp_path: Path) -> None:
    items = {"item": ["a", "b", "c"], "emb": pl.Series([[1, 2], [3, 4], [5, 6]], dtype=pl.Array(pl.Int32, 2))}
    lay(tmp_path, {}, items, VECTORS)
    assert main(["import", "--project", str(tmp_path)]) == 0


def test_vectors_in_json_lines_are_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay(tmp_path, {}, None, "")
    lines = ('{"item": "a", "emb": [1.5, 2]}', '{"item": "b", "emb": null}', '{"item": "c", "emb": [3, 4]}')
    (tmp_path / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["init", str(tmp_path), "--project", str(tmp_path), "--force"]) == 0
    assert 'guessed items.emb: "vec", lists of fractions' in capsys.readouterr().err.splitlines()
    assert main(["import", "--project", str(tmp_path)]) == 0
    items = pl.read_parquet(tmp_path / "var" / "items.parquet").sort("id")
    assert items["emb"].to_list() == [[1.5, 2.0], None, [3.0, 4.0]]


@pytest.mark.parametrize("first", ["null", "absent", "empty", "whole numbers"])
def test_vectors_in_json_lines_are_numbers_whatever_the_first_rows_say(tmp_path: Path, first: str) -> None:
    """1,200 rows come before the first fraction; a thousand of them say what a column is."""
    lay(tmp_path, {}, None, VECTORS + 'items.tags = "varlen"\n')
    file = tmp_path / "shortlist.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("[schema]", 'items = "items.jsonl"\n[schema]'))
    said: dict[str, dict[str, Any]] = {
        "null": {"emb": None, "tags": None}, "absent": {}, "empty": {"emb": None, "tags": []},
        "whole numbers": {"emb": [1, 2], "tags": [3]},
    }  # fmt: skip
    rows: list[dict[str, Any]] = [{"item": f"i{n}", **said[first]} for n in range(1200)]
    rows += [{"item": "a", "emb": [3, 4], "tags": ["x", "y"]}, {"item": "b", "emb": [0.5, -1], "tags": None}]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["import", "--project", str(tmp_path)]) == 0
    items = pl.read_parquet(tmp_path / "var" / "items.parquet")
    late = items.filter(pl.col("id").is_in(["a", "b"])).sort("id")
    assert late["emb"].to_list() == [[3.0, 4.0], [0.5, -1.0]]
    assert late["tags"].to_list() == [["x", "y"], None]
    early = items.filter(pl.col("id") == "i0").row(0, named=True)
    assert early["emb"] == ([1.0, 2.0] if first == "whole numbers" else None)
    assert early["tags"] == (["3"] if first == "whole numbers" else [] if first == "empty" else None)


def test_vectors_of_whole_numbers_in_json_lines_are_numbers(tmp_path: Path) -> None:
    lay(tmp_path, {}, None, VECTORS)
    file = tmp_path / "shortlist.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("[schema]", 'items = "items.jsonl"\n[schema]'))
    (tmp_path / "items.jsonl").write_text('{"item": "a", "emb": [1, 2]}\n{"item": "b", "emb": [3, 4]}\n')
    assert main(["import", "--project", str(tmp_path)]) == 0
    assert pl.read_parquet(tmp_path / "var" / "items.parquet").sort("id")["emb"].to_list() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"item": "a", "emb": null}', "column 'emb' has no value in any row"),
        ('{"item": "a"}', "no column is called 'emb', which schema.items.emb names"),
        ('{"item": "a", "emb": "1 2"}', "column 'emb' has type String but is declared as vec"),
    ],
)
def test_json_lines_without_a_vector_are_told(
    tmp_path: Path, rows: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(tmp_path, {}, None, VECTORS)
    file = tmp_path / "shortlist.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("[schema]", 'items = "items.jsonl"\n[schema]'))
    (tmp_path / "items.jsonl").write_text(rows + "\n", encoding="utf-8")
    assert main(["import", "--project", str(tmp_path)]) == 2
    assert f"error: {message}" in capsys.readouterr().err.splitlines()


def test_another_schema_is_told_key_by_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"stars": [1.0, 2.0, 3.0, 4.0], "device": ["x", "y", "x", "y"]}
    lay(tmp_path, columns, None, 'value = "stars"\ncontext.device = "sparse"\n')
    assert main(["import", "--project", str(tmp_path)]) == 0
    capsys.readouterr()
    changed = 'context.device = { kind = "sparse", hash = 100 }\nrequest_id = "user"\nitem = "user"\n'
    lay(tmp_path, columns, None, changed)
    assert main(["import", "--project", str(tmp_path)]) == 2
    what = (
        'item was "item", now "user"; value was "stars", now nothing; request_id was nothing, now "user"; '
        "context.device.hash was nothing, now 100"
    )
    assert capsys.readouterr().err.splitlines()[-3:] == [
        f"error: the log was imported under another [schema]: {what}",
        f"  where: {tmp_path}/var/import.json",
        "  next: undo the change, or `shortlist import --fresh`",
    ]


@pytest.mark.parametrize(
    ("born", "status", "days"),
    [([MS, MS, MS], "PASS", ""), ([MS, MS + 5, MS], "WARN", "0.0"), ([MS, MS + 86_400_003, MS], "FAIL", "1.0")],
)
def test_an_item_seen_before_it_was_published_is_told(
    tmp_path: Path, born: list[int], status: str, days: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Item b is seen at MS + 1 and MS + 2; in the second case among 26 more events, on a."""
    more = 26 if status == "WARN" else 0
    events = {name: [*column, *[column[0]] * more] for name, column in GOOD.items()}
    events["time_ms"] = [*GOOD["time_ms"], *(MS + 10 + n for n in range(more))]
    lay(tmp_path, {}, {"item": ["a", "b", "c"], "born": born}, 'items.born = "time"\npublished = "born"\n')
    pl.DataFrame(events).write_parquet(tmp_path / "events.parquet")
    assert main(["check", "--project", str(tmp_path), "--json"]) == (status == "FAIL")
    (found,) = (f for f in json.loads(capsys.readouterr().out) if f["name"] == "time travel")
    assert found["status"] == status
    if status != "PASS":
        assert found["what"] == (
            f"2 of {4 + more} events lie before their item was published (born), by up to {days} days: "
            "features of the item would know the future"
        )
        assert [example["(row)"] for example in found["examples"]] == [1, 2]


def test_times_without_a_zone_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(times: Any, schema: str) -> tuple[str, str]:
        lay(tmp_path, {"time_ms": times}, None, schema)
        assert main(["check", "--project", str(tmp_path), "--json"]) == 0
        found = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
        return found["time zone"]["status"], found["time zone"]["what"]

    iso = 'time_unit = "iso"\n'
    zoned = ["2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00", "2024-01-01 02:00:00+0000", "2024-01-02T00:00:00Z"]
    assert said(zoned, iso) == ("PASS", "every time says its zone")
    mixed = [*zoned[:2], "2024-01-01 02:00:00", "2024-01-02"]
    assert said(mixed, iso) == ("WARN", "2 of 4 times say no time zone: they are taken as UTC")
    naive = pl.Series(GOOD["time_ms"]).cast(pl.Datetime("ms"))
    assert said(naive, "") == ("WARN", "4 of 4 times say no time zone: they are taken as UTC")
    assert said(naive.dt.replace_time_zone("Europe/Berlin"), "") == ("PASS", "every time says its zone")
