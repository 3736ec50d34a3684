"""Events that lie in Parquet beside the log: imported parts and sealed days, each a range of offsets in order.

A file is written beside its place, synced and renamed. It counts from the moment the log lists it: what is not listed
was left by something that broke off. A file never changes; one that must say something else gets another name.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import polars as pl

from shortlist.errors import DataError

__all__ = ["COLUMNS", "Kind", "Segment", "alone", "clear", "scan", "scan_all", "write"]

Kind = Literal["imported", "sealed"]
COLUMNS: dict[str, pl.DataType] = {
    "offset": pl.Int64(),
    "event_id": pl.String(),
    "user": pl.Int64(),
    "item": pl.Int64(),
    "action": pl.String(),
    "value": pl.Float32(),
    "time_ms": pl.Int64(),
    "received_ms": pl.Int64(),
    "request_id": pl.String(),
    "position": pl.Int32(),
    "context": pl.String(),
}
ROWS_PER_GROUP = 65_536  # a reader that wants a few rows decodes this many
LOCK_S = 10.0  # how long an import or a compaction waits for another one


@dataclass(frozen=True)
class Segment:
    """One file: offsets from `first` to `last`, `rows` of them there. `received_ms` is when the log came to know an
    imported part, or the latest moment of a sealed one; `digest` is of an imported part as it was imported. Offsets
    are those in the file plus `shift`."""

    first: int
    last: int
    rows: int
    kind: Kind
    file: str
    received_ms: int
    low_ms: int
    high_ms: int
    digest: str = ""
    shift: int = 0

    def renamed(self) -> str:
        """The name of this file's next version."""
        stem, _, version = self.file.removesuffix(".parquet").partition(".")
        return f"{stem}.{int(version or 0) + 1}.parquet"


def write(frame: pl.DataFrame, file: Path) -> None:
    """A table, on disk when this returns. Raises DataError when it cannot be written."""
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(temporary, row_group_size=ROWS_PER_GROUP)
        sync(temporary)
        os.replace(temporary, file)
        sync(file.parent)
    except (OSError, pl.exceptions.PolarsError) as error:
        temporary.unlink(missing_ok=True)
        what = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        raise DataError(what, where=str(file), hint="check free space and permissions") from error


def sync(path: Path) -> None:
    """What was written to a file, or renamed in a folder, reaches the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def scan(
    folder: Path,
    segments: Sequence[Segment],
    names: Sequence[str],
    hidden: Sequence[int] = (),
    after: int = 0,
    own: Sequence[str] = (),
) -> pl.LazyFrame:
    """Rows behind an offset of neighbouring segments that are alike, without the users (keys) that are hidden.

    What an import has no column for is null; its context is one JSON object a row, as of live events. Columns of its
    `own` follow as they are.
    """
    frame = pl.scan_parquet([folder / segment.file for segment in segments])
    there = list(frame.collect_schema())
    lacking = {name: pl.lit(None, COLUMNS[name]) for name in names if name not in there}
    if "received_ms" in lacking:
        lacking["received_ms"] = pl.lit(segments[0].received_ms, pl.Int64)
    told = [name for name in there if name not in COLUMNS]
    if "context" in lacking and told:
        lacking["context"] = pl.struct(told).struct.json_encode()
    shift = segments[0].shift
    if segments[0].first <= after:
        frame = frame.filter(pl.col("offset") > after - shift)
    if shift:
        frame = frame.with_columns(pl.col("offset") + shift)
    if hidden:
        frame = frame.filter(~pl.col("user").is_in(list(hidden)))
    return frame.with_columns(**lacking).select(*names, *(name for name in own if name in told))


def scan_all(
    folder: Path,
    segments: Sequence[Segment],
    names: Sequence[str],
    hidden: Sequence[int] = (),
    after: int = 0,
    own: Sequence[str] = (),
) -> list[pl.LazyFrame]:
    """Rows of any segments in order, neighbours that can be scanned together in one frame."""

    def alike(segment: Segment) -> tuple[str, int, int]:
        return segment.kind, segment.received_ms if segment.kind == "imported" else 0, segment.shift

    return [scan(folder, list(group), names, hidden, after, own) for _, group in groupby(segments, alike)]


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """One import or compaction at a time; what a killed import left is cleared away. Raises DataError when another
    one does not end."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        opened = (home / "import.lock").open("w")
    except OSError as error:
        what = f"cannot be written to: {error.strerror}"
        raise DataError(
            what, where=str(home), hint="it is the project's own folder: check it and its permissions"
        ) from error
    with opened as lock:
        until = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    what = "another import or compaction is running"
                    raise DataError(what, where=str(home), hint="wait for it to end") from None
                time.sleep(0.05)
        for left in home.glob(".import-*"):
            shutil.rmtree(left)
        yield


def clear(folder: Path, listed: Sequence[Segment]) -> None:
    """Take away files that are not listed. Only for who is `alone`."""
    names = {segment.file for segment in listed}
    for file in folder.glob("*.parquet*") if folder.is_dir() else ():
        if file.name not in names:
            file.unlink()
