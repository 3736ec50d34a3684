"""The same expressions on every engine give the same rows."""

import gc
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import narwhals as nw
import polars as pl
import pytest

from shortlist.errors import ConfigError
from shortlist.tables.engine import Frame, gather, missing, open_frame
from shortlist.tables.log import backwards, between, counts, first_of, first_seen, running, span, unmatched

LOG = pl.DataFrame(
    {
        "row": [0, 1, 2, 3, 4],
        "user": ["b", "a", "b", None, "a"],
        "time_ms": [30, 10, 30, 20, 10],
        "value": [1.0, 2.0, 1.0, None, 5.0],
    }
)


@pytest.fixture
def frame(engine: str, tmp_path: Path) -> Frame:
    # Two files, so that an engine has to read several.
    LOG[:2].write_parquet(tmp_path / "part-0.parquet")
    LOG[2:].write_parquet(tmp_path / "part-1.parquet")
    return open_frame(engine, sorted(tmp_path.glob("*.parquet")))


def test_first_of_keeps_the_first_of_equal_rows(frame: Frame) -> None:
    # Rows 0 and 2 are equal in all three columns; 1 and 4 differ in value.
    kept = gather(first_of(frame, ["user", "time_ms", "value"], "row").sort("row"))
    assert kept["row"].to_list() == [0, 1, 3, 4]


def test_first_of_takes_nulls_as_equal(frame: Frame) -> None:
    twice = nw.concat([frame, frame.with_columns(row=nw.col("row") + 5)], how="vertical")
    kept = gather(first_of(twice, ["user", "time_ms", "value"], "row").sort("row"))
    assert kept["row"].to_list() == [0, 1, 3, 4]


def test_first_seen_is_in_order_of_first_appearance(frame: Frame) -> None:
    assert gather(first_seen(frame, "user", "row"))["user"].to_list() == ["b", "a", None]


def test_counts_most_frequent_first_ties_by_value(frame: Frame) -> None:
    known = frame.filter(~nw.col("user").is_null())
    assert gather(counts(known, "user")).rows() == [("a", 2), ("b", 2)]


def test_span(frame: Frame) -> None:
    assert gather(span(frame, "time_ms")).rows() == [(5, 10, 30)]


def test_unmatched_are_rows_a_join_would_lose(frame: Frame) -> None:
    known = frame.filter(nw.col("user") == "a")
    lost = gather(unmatched(frame.filter(~nw.col("user").is_null()), known, "user").sort("row"))
    assert lost["row"].to_list() == [0, 2]


def test_frames_opened_one_after_the_other_can_be_joined(engine: str, frame: Frame, tmp_path: Path) -> None:
    known = open_frame(engine, [tmp_path / "part-0.parquet"]).filter(nw.col("user") == "b")
    lost = gather(unmatched(frame.filter(~nw.col("user").is_null()), known, "user"))
    assert sorted(lost["row"].to_list()) == [1, 4]


def test_between_takes_both_bounds(frame: Frame) -> None:
    assert gather(between(frame, "row", 1, 3).sort("row"))["row"].to_list() == [1, 2, 3]


def test_backwards_compares_with_the_row_before(frame: Frame) -> None:
    # Times by row: 30 10 30 20 10. Rows 1, 3 and 4 fall.
    late = gather(backwards(frame, "time_ms", "row").sort("row"))
    assert late["row"].to_list() == [1, 3, 4]
    assert late["before"].to_list() == [30, 30, 20]


def test_running_counts_rows_at_or_below(frame: Frame) -> None:
    # 10 twice, 20 once, 30 twice: 2, 2 + 1, 3 + 2.
    assert gather(running(frame, "time_ms")).rows() == [(10, 2, 2), (20, 1, 3), (30, 2, 5)]


def test_an_unknown_engine_names_its_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        open_frame("duckdbb", [])
    assert str(caught.value) == "data.engine: no engine is called 'duckdbb' (did you mean duckdb?)"


@pytest.mark.parametrize(("name", "package"), [("duckdb", "duckdb"), ("spark", "pyspark")])
def test_an_engine_that_is_not_installed(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        open_frame(name, [])
    hint = f"pip install 'shortlist[{name}]', or leave the engine at polars"
    assert str(caught.value) == f"data.engine: {package} is not installed ({hint})"


def test_spark_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        open_frame("spark", [], "item_cf.engine")
    message = (
        "item_cf.engine: spark needs Java, and no java is on the path "
        "(install a Java runtime, 17 or later, or leave the engine at polars)"
    )
    assert str(caught.value) == message


def test_every_connection_of_duckdb_spills_into_a_folder_of_its_own_that_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks := missing("duckdb"):
        pytest.skip(lacks)
    LOG.write_parquet(tmp_path / "log.parquet")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened, done = threading.Barrier(3, timeout=60), threading.Barrier(3, timeout=60)

    def work() -> None:
        for _ in range(2):  # one connection for both
            assert len(gather(open_frame("duckdb", [tmp_path / "log.parquet"]))) == 5
        opened.wait()
        done.wait()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    opened.wait()
    folders = sorted(tmp_path.glob("shortlist-duckdb-*"))
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
    done.wait()
    for thread in threads:
        thread.join(60)
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


def test_a_process_that_ends_takes_its_folder_along(tmp_path: Path) -> None:
    if lacks := missing("duckdb"):
        pytest.skip(lacks)
    LOG.write_parquet(tmp_path / "log.parquet")
    code = (
        "import os, sys, pathlib; from shortlist.tables.engine import gather, open_frame; "
        "folder = pathlib.Path(sys.argv[1]); frame = open_frame('duckdb', [folder / 'log.parquet']); gather(frame); "
        "print(len(list(folder.glob('shortlist-duckdb-*'))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ran = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]
