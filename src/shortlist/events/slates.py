"""Served slates as rows, one a request and an item: Arrow IPC streams under `var/rows/`, a file a process and hour.

A file is a schema and whole record batches behind it, appended as they come; its end may be torn by a kill and is then
left out. What was written may come again: rows are told apart by (request_id, item). Nothing is synced batch by batch.
"""

import contextlib
import fcntl
import hashlib
import io
import logging
import os
import secrets
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from shortlist.errors import DataError

__all__ = ["Writer", "Found", "read", "erase", "drop", "digest", "FOLDER"]

LOG = logging.getLogger("shortlist.events")
FOLDER = "rows"  # under `var/`
HOUR = "%Y%m%dT%H"  # what the name of a file begins with, UTC
HOUR_MS = 3_600_000
BATCH = 3  # header type of a record batch in an Arrow message


class Writer:
    """Appends frames. One thread at a time. A frame with other columns than the file's begins another file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: io.FileIO | None = None
        self._path = folder
        self._hour = -1
        self._schema: dict[str, pl.DataType] = {}

    def append(self, rows: pl.DataFrame, time_ms: int) -> None:
        """Write rows of this moment (UTC ms). Raises DataError when they cannot be written: then none of them is."""
        if not len(rows):
            return
        try:
            with self._open(rows, time_ms // HOUR_MS) as file:
                aligned = rows.select(_column(rows, name, kind) for name, kind in self._schema.items())
                _, body = _stream(aligned)
                _all(file, body)
        except OSError as error:
            self.close()
            what = f"served rows cannot be written: {error.strerror or error}"
            raise DataError(what, where=str(self.folder), hint="check the disk and permissions") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, rows: pl.DataFrame, hour: int) -> "_Held":
        """The file to append to, held: the one that is open where the rows fit it, and nobody has replaced it."""
        if self._file is not None and hour == self._hour and self._fits(rows):
            held = _Held(self._file)
            if _same(self._file, self._path):
                return held
            held.free()
        before = self._schema if hour == self._hour else {}
        self.close()
        mine = {name: rows.schema[name] for name in rows.columns}
        self._schema = mine | {name: kind for name, kind in before.items() if name not in mine}
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = time.strftime(HOUR, time.gmtime(hour * 3600))
        self._path = self.folder / f"{begun}-{os.getpid()}-{secrets.token_hex(4)}.arrow"
        file = self._file = io.FileIO(self._path, "a+b")
        self._hour = hour
        head, _ = _stream(pl.DataFrame(schema=self._schema))
        held = _Held(file)
        try:
            _all(file, head)
        except OSError:
            held.free()
            raise
        return held

    def _fits(self, rows: pl.DataFrame) -> bool:
        return all(
            name in self._schema and (self._schema[name] == kind or rows[name].null_count() == len(rows))
            for name, kind in rows.schema.items()
        )


@dataclass(frozen=True)
class Found:
    """Rows as they were written, the first of each (request_id, item); `doubled` counts the others, `torn` files whose
    end was cut off."""

    rows: pl.DataFrame
    doubled: int
    torn: int


def read(folder: Path) -> Found:
    """All rows of a folder, by (time_ms, request_id, position): a column that some file does not have is null there."""
    frames, torn = [], 0
    for file in _files(folder):
        batches, whole = _read(file)
        torn += not whole
        frames += batches
    if not frames:
        return Found(pl.DataFrame(), 0, torn)
    kinds = {name: kind for frame in frames for name, kind in frame.schema.items() if not _empty(frame[name])}
    alike = [frame.select(_cast(frame[name], kinds) for name in frame.columns) for frame in frames]
    rows = pl.concat(alike, how="diagonal")
    once = rows.unique(["request_id", "item"], keep="first", maintain_order=True)
    found = once.sort("time_ms", "request_id", pl.col("position") == 0, "position", "item")
    return Found(found, len(rows) - len(once), torn)


def erase(folder: Path, users: Sequence[str]) -> int:
    """Take out every row of users (raw ids); returns how many there were. Safe beside a server that is writing."""
    gone = 0
    for file in _files(folder):
        with io.FileIO(file, "r+b") as held, _Held(held):
            batches, _ = _read(file)
            left = [batch.filter(~pl.col("user_id").is_in(list(users))) for batch in batches]
            lost = sum(map(len, batches)) - sum(map(len, left))
            if not lost:
                continue
            gone += lost
            with file.with_suffix(".tmp").open("wb") as out:
                head, _ = _stream(left[0].clear())
                out.write(head)
                for batch in left:
                    if len(batch):
                        out.write(_stream(batch)[1])
                out.flush()
                os.fsync(out.fileno())
            os.replace(file.with_suffix(".tmp"), file)
    return gone


def drop(folder: Path, before: int) -> int:
    """Remove the files of hours that were over by a moment (UTC ms). Returns how many. A file of another name stays."""
    dropped = 0
    for file in _files(folder):
        with contextlib.suppress(ValueError):
            hour = datetime.strptime(file.name.partition("-")[0], HOUR).replace(tzinfo=UTC)
            if hour.timestamp() * 1000 + HOUR_MS <= before:
                file.unlink(missing_ok=True)
                dropped += 1
    return dropped


def digest(folder: Path) -> str:
    """Identity of what is there now: names and sizes, as files only grow."""
    parts = [f"{file.name} {file.stat().st_size}" for file in _files(folder)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Held:
    """A file under an exclusive lock. What was appended while an error came up is cut off again."""

    def __init__(self, file: io.FileIO) -> None:
        self.file = file
        fcntl.flock(file, fcntl.LOCK_EX)
        self.end = file.seek(0, os.SEEK_END)

    def free(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_UN)

    def __enter__(self) -> io.FileIO:
        return self.file

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is not None:
                self.file.truncate(self.end)
        finally:
            self.free()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))


def _same(file: io.FileIO, path: Path) -> bool:
    """Whether the name still leads to the open file."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(file.fileno())
    return (there.st_ino, there.st_dev) == (mine.st_ino, mine.st_dev)


def _all(file: io.FileIO, data: bytes) -> None:
    """Write all of it: one call may take less, on a disk that is filling up."""
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def _column(rows: pl.DataFrame, name: str, kind: pl.DataType) -> pl.Series:
    if name in rows.columns:
        return rows[name].cast(kind) if rows.schema[name] != kind else rows[name]
    return pl.Series(name, [None], dtype=kind).new_from_index(0, len(rows))


def _empty(column: pl.Series) -> bool:
    return column.null_count() == len(column)


def _cast(column: pl.Series, kinds: Mapping[str, pl.DataType]) -> pl.Series:
    """A column as the newest file has it; what cannot be read so is null."""
    kind = kinds.get(column.name, column.dtype)
    try:
        return column if column.dtype == kind else column.cast(kind, strict=False)
    except pl.exceptions.PolarsError:
        return pl.Series(column.name, [None], dtype=kind).new_from_index(0, len(column))


def _stream(rows: pl.DataFrame) -> tuple[bytes, bytes]:
    """A frame as an Arrow IPC stream, in two parts: the schema's message, and those of its record batches."""
    buffer = io.BytesIO()
    rows.rechunk().write_ipc_stream(buffer, compression="zstd", compat_level=pl.CompatLevel.oldest())
    whole = buffer.getvalue()
    spans = list(_messages(whole))
    head = spans[0][1]
    return whole[:head], whole[head : spans[-1][1]] if len(spans) > 1 else b""


def _messages(raw: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Type and end of every whole message of a stream, up to its end or to where it is torn."""
    at = 0
    while at + 8 <= len(raw):
        mark, size = struct.unpack_from("<Ii", raw, at)
        if mark != 0xFFFFFFFF or size <= 0 or at + 8 + size > len(raw):
            return
        kind, body = _header(bytes(raw[at + 8 : at + 8 + size]))
        at += 8 + size + body
        if at > len(raw):
            return
        yield kind, at


def _header(meta: bytes) -> tuple[int, int]:
    """Type of a message, and the bytes of its body: fields 1 and 3 of the flatbuffer table `Message`."""
    root: int = struct.unpack_from("<I", meta, 0)[0]
    back: int = struct.unpack_from("<i", meta, root)[0]
    length: int = struct.unpack_from("<H", meta, root - back)[0]

    def place(field: int) -> int:
        at = 4 + 2 * field
        offset: int = struct.unpack_from("<H", meta, root - back + at)[0] if at < length else 0
        return root + offset

    kind, body = place(1), place(3)
    size: int = struct.unpack_from("<q", meta, body)[0] if body != root else 0
    return (meta[kind] if kind != root else 0), size


def _read(file: Path) -> tuple[list[pl.DataFrame], bool]:
    """Whole batches of a file, and whether there is nothing behind them."""
    raw = file.read_bytes()
    try:
        spans = list(_messages(raw))
    except (struct.error, IndexError):
        spans = []
    if not spans:
        return [], not raw
    end = spans[-1][1]
    if len(spans) == 1:
        return [], end == len(raw)
    try:
        return [pl.read_ipc_stream(io.BytesIO(raw[:end] + struct.pack("<Ii", 0xFFFFFFFF, 0)))], end == len(raw)
    except pl.exceptions.PolarsError as error:
        LOG.warning("%s is left out: %s", file, error)
        return [], False
