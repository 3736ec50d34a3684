"""init, check and import at the command line: a log becomes a project."""

import json
from pathlib import Path

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
