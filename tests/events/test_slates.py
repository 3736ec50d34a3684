"""Rows of served slates on disk: appended, torn, doubled, erased."""

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shortlist.errors import DataError
from shortlist.events import slates
from shortlist.events.slates import Writer, digest, erase, read

T = 1_767_225_600_000  # 2026-01-01 00:00:00 UTC
HOUR_MS = 3_600_000


def rows(request: str, user: str = "ann", n: int = 3, **more: Any) -> pl.DataFrame:
    """One request with items 0..n-1 at places 1..n."""
    return pl.DataFrame(
        {
            "request_id": [request] * n,
            "user_id": [user] * n,
            "time_ms": [T] * n,
            "item": range(n),
            "position": pl.Series(range(1, n + 1), dtype=pl.Int32),
            **{name: [value] * n for name, value in more.items()},
        }
    )


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "rows")
    writer.append(rows("b", score=0.5), T)
    writer.append(rows("a", score=None), T)
    found = read(tmp_path / "rows")
    assert found.rows["request_id"].to_list() == ["a"] * 3 + ["b"] * 3
    assert found.rows["score"].to_list() == [None] * 3 + [0.5] * 3
    assert (found.doubled, found.torn) == (0, 0)
    assert len(files(tmp_path / "rows")) == 1
    assert files(tmp_path / "rows")[0].name.startswith(f"20260101T00-{os.getpid()}-")


def test_a_file_is_an_arrow_stream_for_others(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for request in ("a", "b"):
        writer.append(rows(request), T)
    assert pl.read_ipc_stream(files(tmp_path)[0]).equals(pl.concat([rows("a"), rows("b")]))


def test_nothing_is_no_file(tmp_path: Path) -> None:
    Writer(tmp_path / "rows").append(rows("a").clear(), T)
    assert not (tmp_path / "rows").exists()
    assert len(read(tmp_path / "rows").rows) == 0


def test_an_hour_and_new_columns_begin_a_file(tmp_path: Path) -> None:
    """A frame with fewer columns fits the file that has more; missing ones are null."""
    writer = Writer(tmp_path)
    writer.append(rows("a"), T)
    writer.append(rows("b", score=0.5), T)
    writer.append(rows("c"), T)
    assert len(files(tmp_path)) == 2
    writer.append(rows("d"), T + HOUR_MS)
    assert len(files(tmp_path)) == 3
    by_request = dict(read(tmp_path).rows.group_by("request_id").agg(pl.col("score").first()).iter_rows())
    assert by_request == {"a": None, "b": 0.5, "c": None, "d": None}


def test_a_column_that_changed_its_type_is_read_as_the_newest(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append(rows("a", feature=2.5), T)
    writer.append(rows("b", feature=["x"]), T + HOUR_MS)
    found = read(tmp_path).rows
    assert found.schema["feature"] == pl.List(pl.String)
    assert found.filter(request_id="b")["feature"].to_list() == [["x"]] * 3


def test_what_was_written_twice_counts_once(tmp_path: Path) -> None:
    for _ in range(2):  # two processes
        writer = Writer(tmp_path)
        writer.append(rows("a"), T)
        writer.append(rows("a"), T)
    found = read(tmp_path)
    assert (len(found.rows), found.doubled) == (3, 9)


def test_a_torn_end_is_left_out_wherever_it_is_torn(tmp_path: Path) -> None:
    """What a kill leaves is the beginning of what was written: every beginning of the file."""
    writer = Writer(tmp_path)
    writer.append(rows("a"), T)
    one = files(tmp_path)[0].stat().st_size
    writer.append(rows("b"), T)
    writer.close()
    whole = files(tmp_path)[0].read_bytes()
    for size in range(len(whole) + 1):
        files(tmp_path)[0].write_bytes(whole[:size])
        found = read(tmp_path)
        told = found.rows["request_id"].unique().sort().to_list() if len(found.rows) else []
        assert told == (["a", "b"] if size == len(whole) else ["a"] if size >= one else [])
        head = found.torn == 0 and not told  # no byte, or the schema alone
        assert head or found.torn == (size not in (one, len(whole)))


def test_a_full_disk_leaves_nothing_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path)
    writer.append(rows("a"), T)
    real = slates._all

    def full(file: Any, data: bytes) -> None:
        file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slates, "_all", full)
    with pytest.raises(DataError) as error:
        writer.append(rows("b"), T)
    what = "served rows cannot be written: No space left on device (check the disk and permissions)"
    assert str(error.value) == f"{tmp_path}: {what}"
    assert read(tmp_path).torn == 0
    monkeypatch.setattr(slates, "_all", real)
    writer.append(rows("c"), T)
    assert read(tmp_path).rows["request_id"].unique().sort().to_list() == ["a", "c"]


def test_an_erased_user_is_gone_and_the_writer_goes_on(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append(rows("a", "ann"), T)
    writer.append(rows("b", "bob"), T)
    assert erase(tmp_path, ["ann", "nobody"]) == 3
    writer.append(rows("c", "ann"), T)  # into a file of its own: its own one was replaced
    assert read(tmp_path).rows["request_id"].unique().sort().to_list() == ["b", "c"]
    assert erase(tmp_path, ["nobody"]) == 0
    assert erase(tmp_path, ["ann", "bob"]) == 6
    assert len(read(tmp_path).rows) == 0


def test_the_digest_is_of_what_is_there(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    none = digest(tmp_path)
    writer.append(rows("a"), T)
    one = digest(tmp_path)
    assert digest(tmp_path) == one != none
    writer.append(rows("b"), T)
    assert digest(tmp_path) != one
