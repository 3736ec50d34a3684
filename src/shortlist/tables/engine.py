"""Engines by name: a name opens Parquet files as a lazy frame, and everything after that is the same code.

`polars` streams and is the default; `duckdb` spills to disk, into a temporary folder for each thread that goes with its
connection, and is installed with `shortlist[duckdb]`; `spark` is as many machines as its session has, and is installed
with `shortlist[spark]`. See docs/decisions/spark.md.
"""

import importlib.util
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
from polars import selectors as cs

from shortlist.config import nearest
from shortlist.errors import ConfigError

__all__ = ["open_frame", "gather", "missing", "opened", "Tables", "Frame", "ENGINES"]

Frame = nw.LazyFrame[Any]
ELSE = "or leave the engine at polars"

_of_thread = threading.local()


def _polars(files: Sequence[Path]) -> Frame:
    return nw.from_native(pl.scan_parquet(list(files)))


def _duckdb(files: Sequence[Path]) -> Frame:
    import duckdb

    if not hasattr(_of_thread, "duckdb"):  # frames of two connections cannot be joined
        spill = tempfile.mkdtemp(prefix="shortlist-duckdb-")
        _of_thread.duckdb = duckdb.connect(config={"temp_directory": spill})
        weakref.finalize(_of_thread.duckdb, shutil.rmtree, spill, ignore_errors=True)
    frame: Frame = nw.from_native(_of_thread.duckdb.read_parquet([str(file) for file in files]))
    return frame


def _spark(files: Sequence[Path]) -> Frame:
    from pyspark.sql import SparkSession

    session = SparkSession.builder.appName("shortlist").getOrCreate()
    frame: Frame = nw.from_native(session.read.parquet(*(file.resolve().as_uri() for file in files)))
    return frame


ENGINES = {"polars": _polars, "duckdb": _duckdb, "spark": _spark}


def missing(engine: str) -> str | None:
    """What an engine needs and this machine lacks, None if it can run."""
    if engine == "duckdb" and importlib.util.find_spec("duckdb") is None:
        return "duckdb is not installed"
    if engine == "spark" and importlib.util.find_spec("pyspark") is None:
        return "pyspark is not installed"
    if engine == "spark" and shutil.which("java") is None:
        return "spark needs Java, and no java is on the path"
    return None


def open_frame(engine: str, files: Sequence[Path], where: str = "data.engine") -> Frame:
    """Parquet files of one schema as a lazy frame. Raises ConfigError for an engine unknown or not installed.

    Frames opened by one thread on one engine can be joined with each other.
    """
    if engine not in ENGINES:
        raise ConfigError(f"no engine is called {engine!r}", where=where, hint=nearest(engine, list(ENGINES)))
    if lacks := missing(engine):
        what = "install a Java runtime, 17 or later" if "java" in lacks else f"pip install 'shortlist[{engine}]'"
        raise ConfigError(lacks, where=where, hint=f"{what}, {ELSE}")
    return ENGINES[engine](files)


def gather(frame: Frame) -> pl.DataFrame:
    """The rows of a lazy frame, in memory; Polars computes them in its streaming engine."""
    native = frame.to_native()
    if isinstance(native, pl.LazyFrame):
        return native.collect(engine="streaming")
    gathered: pl.DataFrame = frame.collect("polars").to_native()
    return gathered


@dataclass(frozen=True)
class Tables:
    """Work of several steps on one engine; what passes between the steps lies in Parquet files of a folder, so no step
    is computed twice and none is held in memory.

    Make it with `opened`. On a cluster the folder is one that all machines see.
    """

    engine: str
    folder: Path
    where: str = "data.engine"
    _next: Iterator[int] = field(default_factory=count)

    def table(self, columns: Mapping[str, Any]) -> Frame:
        """Arrays of one length [N] by name, NaN as null."""
        path = self.folder / f"{next(self._next)}.parquet"
        pl.DataFrame(dict(columns)).with_columns(cs.float().fill_nan(None)).write_parquet(path)
        return open_frame(self.engine, [path], self.where)

    def settled(self, frame: Frame) -> Frame:
        """The same rows, computed now: for what is read more than once."""
        return open_frame(self.engine, [self._written(frame)], self.where)

    def result(self, frame: Frame) -> pl.LazyFrame:
        """The same rows, computed now, to be read from the folder: not through the memory of the engine."""
        path = self._written(frame)
        return pl.scan_parquet(sorted(path.glob("*.parquet")) if path.is_dir() else path)

    def _written(self, frame: Frame) -> Path:
        path = self.folder / f"{next(self._next)}.parquet"
        frame.sink_parquet(path if self.engine != "spark" else path.resolve().as_uri())
        return path


@contextmanager
def opened(engine: str, where: str = "data.engine") -> Iterator[Tables]:
    """Tables in a new folder under that of temporary files (TMPDIR names it), which goes when they are done with."""
    with tempfile.TemporaryDirectory(prefix="shortlist-tables-") as folder:
        yield Tables(engine, Path(folder), where)
