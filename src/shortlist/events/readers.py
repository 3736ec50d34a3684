"""Files as lazy frames: CSV, TSV, JSON Lines, Parquet; one file or a folder of one kind, in order of name.

CSV and JSON Lines arrive as text, every column, so that a bad value can be shown with its file and row;
Parquet keeps its types.
"""

import mmap
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import polars as pl
from polars.exceptions import ComputeError, NoDataError, PolarsError

from shortlist.config import nearest
from shortlist.errors import DataError

__all__ = ["Table", "scan"]

T = TypeVar("T")

NONE: Mapping[str, str] = {}
SEEN = 1000  # rows of JSON Lines that say what a column is, unless they say nothing of one
_KINDS = {
    ".parquet": "Parquet", ".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON Lines", ".ndjson": "JSON Lines",
}  # fmt: skip
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# the first half of a surrogate pair without the second, as JSON writes it: it would be read as a NUL
_HALF = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


class Table:
    """A lazy frame and the files it comes from, so that a row can be named as file and row."""

    def __init__(
        self, frame: pl.LazyFrame, files: tuple[Path, ...], kind: str, fields: Mapping[str, str] = NONE
    ) -> None:
        self.frame, self.files, self.kind, self.fields = frame, files, kind, fields

    def place(self, row: int) -> str:
        """`file, row n` (rows from 0, not counting a header) of a row of the frame."""
        for file in self.files:
            height = int(guard(lambda file=file: self._of(file).select(pl.len()).collect().item(), file))  # type: ignore[misc]
            if row < height:
                return f"{file}, row {row}"
            row -= height
        return f"row {row}"

    def read(self, work: Callable[[], T]) -> T:
        """What some work over the frame returns; a file that cannot be read becomes a DataError that names it."""
        try:
            return work()
        except PolarsError as error:
            for file in self.files:
                guard(lambda file=file: self._of(file).select(pl.all().n_unique()).collect(), file)  # type: ignore[misc]
            raise error

    def _of(self, file: Path) -> pl.LazyFrame:
        return _lazy(file, self.kind, self.fields)


def scan(path: Path, fields: Mapping[str, str] = NONE) -> Table:
    """A file or a folder as a lazy frame. `fields` are columns whose kind is declared: JSON Lines do not say it in rows
    that leave a field out. Raises DataError when there is nothing, or nothing readable, or a mixture."""
    files = _files(path)
    kind = _KINDS[files[0].suffix.lower()]
    for file in files:
        _readable(file, kind)
    names = guard(lambda: _lazy(files[0], kind, fields).collect_schema(), files[0])
    for file in files[1:]:
        other = guard(lambda file=file: _lazy(file, kind, fields).collect_schema(), file)  # type: ignore[misc]
        if dict(other) != dict(names):
            odd = sorted(set(other.items()) ^ set(names.items()), key=lambda pair: pair[0])[0][0]
            what = f"its columns differ from those of {files[0].name}, first at {odd!r}"
            raise DataError(what, where=str(file), hint="files of a folder have the same columns and types")
    frame = pl.concat([_lazy(file, kind, fields).select(names.names()) for file in files], how="vertical")
    return Table(frame, files, kind, fields)


def guard(read: Callable[[], T], file: Path) -> T:
    """What a read returns; what goes wrong in it as a DataError that names the file."""
    try:
        return read()
    except NoDataError:
        raise DataError("the file is empty", where=str(file), hint="a log has at least one event") from None
    except (PolarsError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        hint = "is it damaged, or of another kind than its name says?"
        raise DataError(f"cannot be read: {lines[0]}", where=str(file), hint=hint) from None


def _readable(file: Path, kind: str) -> None:
    """Raises DataError for what a reader would misread without a word."""
    if not guard(lambda: file.stat().st_size, file):
        raise DataError("the file is empty", where=str(file), hint="a log has at least one event")
    if kind in ("CSV", "TSV"):
        _header(file, kind)
    if kind == "JSON Lines" and (at := guard(lambda: _half(file), file)):
        what = f"line {at} holds half of a surrogate pair, which is no character"
        raise DataError(what, where=str(file), hint="write text as UTF-8, or escape both halves")


def _header(file: Path, kind: str) -> None:
    names = guard(lambda: _lazy(file, kind).collect_schema(), file).names()
    if any("\ufffd" in name or "\0" in name for name in names):
        hint = "is it damaged, or of another kind than its name says?"
        raise DataError("cannot be read: its first line is no text", where=str(file), hint=hint)
    ours = "," if kind == "CSV" else "\t"
    other = next((mark for mark in _SEPARATORS if mark != ours and mark in names[0]), None)
    if len(names) == 1 and other is not None:
        what = f"its first line has no {_SEPARATORS[ours]}, but {_SEPARATORS[other]}: {names[0]!r}"
        hint = "name it .tsv" if other == "\t" else "name it .csv" if other == "," else "write it with commas"
        raise DataError(what, where=str(file), hint=hint)
    twice = next((name for name in names if f"{name}_duplicated_0" in names), None)
    if twice is not None:
        raise DataError(f"two columns are called {twice!r}", where=str(file), hint="rename one")


def _half(file: Path) -> int:
    """The line (from 1) of the first half of a surrogate pair, 0 for none."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if text.find(b"\\ud") < 0 and text.find(b"\\uD") < 0:
            return 0
        found = _HALF.search(text)
        return text[: found.start()].count(b"\n") + 1 if found else 0


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        if path.suffix.lower() not in _KINDS:
            hint = f"known: {', '.join(_KINDS)}"
            raise DataError(f"cannot tell what a {path.suffix or 'nameless'} file is", where=str(path), hint=hint)
        return (path,)
    if not path.is_dir() and path.exists():
        raise DataError("neither a file nor a folder", where=str(path), hint="copy what it gives into a file")
    if not path.is_dir():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError("no such file or folder", where=str(path), hint=nearest(path.name, there))
    files = tuple(p for p in sorted(path.iterdir()) if p.is_file() and p.suffix.lower() in _KINDS)
    if not files:
        raise DataError("the folder holds no data file", where=str(path), hint=f"known: {', '.join(_KINDS)}")
    kinds = sorted({_KINDS[p.suffix.lower()] for p in files})
    if len(kinds) > 1:
        raise DataError(f"the folder mixes {' and '.join(kinds)}", where=str(path), hint="keep one kind in a folder")
    return files


def _lazy(file: Path, kind: str, fields: Mapping[str, str] = NONE) -> pl.LazyFrame:
    if kind == "Parquet":
        return pl.scan_parquet(file)
    if kind in ("CSV", "TSV"):
        return pl.scan_csv(file, separator="," if kind == "CSV" else "\t", infer_schema=False)
    if file.stat().st_size == 0:
        raise NoDataError("empty")
    with file.open("rb") as opened:
        if not opened.read(65_536).strip() and not opened.read().strip():
            raise NoDataError("blank")
    seen = pl.scan_ndjson(file, infer_schema_length=SEEN).collect_schema()
    if not seen.names():
        raise ComputeError("no JSON object in the first lines")
    if any(type_ == pl.Null for type_ in seen.values()) or not set(fields) <= set(seen):
        seen = pl.scan_ndjson(file, infer_schema_length=None).collect_schema()
    return pl.scan_ndjson(file, schema={name: _told(type_, fields.get(name)) for name, type_ in seen.items()})


def _told(type_: pl.DataType, kind: str | None) -> pl.DataType:
    """What a column of JSON Lines is read as: text, as that of a CSV file, or lists of it; lists are vectors where
    they are declared to be, and else those of fractions."""
    if type_ == pl.Null and kind in ("vec", "varlen", "seq"):
        return pl.Null()
    if not isinstance(type_, pl.List):
        return pl.String()
    fractions = type_.inner is not None and pl.Series(dtype=type_.inner).dtype.is_float()
    return pl.List(pl.Float64() if kind == "vec" or (kind is None and fractions) else pl.String())
