"""Engines by name: a name opens Parquet files as a lazy frame, and everything after that is the same code.

`polars` streams and is the default; `duckdb` spills to disk and is installed with `shortlist[duckdb]`.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from shortlist.config import nearest
from shortlist.errors import ConfigError

__all__ = ["open_frame", "gather", "Frame", "ENGINES"]

Frame = nw.LazyFrame[Any]


def _polars(files: Sequence[Path]) -> Frame:
    return nw.from_native(pl.scan_parquet(list(files)))


def _duckdb(files: Sequence[Path]) -> Frame:
    if importlib.util.find_spec("duckdb") is None:
        hint = "pip install 'shortlist[duckdb]', or leave the engine at polars"
        raise ConfigError("duckdb is not installed", where="data.engine", hint=hint)
    import duckdb

    relation = duckdb.connect().read_parquet([str(file) for file in files])
    return nw.from_native(relation)


ENGINES = {"polars": _polars, "duckdb": _duckdb}


def open_frame(engine: str, files: Sequence[Path]) -> Frame:
    """Parquet files of one schema as a lazy frame. Raises ConfigError for an engine unknown or not installed."""
    if engine not in ENGINES:
        raise ConfigError(f"no engine is called {engine!r}", where="data.engine", hint=nearest(engine, list(ENGINES)))
    return ENGINES[engine](files)


def gather(frame: Frame) -> pl.DataFrame:
    """The rows of a lazy frame, in memory; Polars computes them in its streaming engine."""
    native = frame.to_native()
    if isinstance(native, pl.LazyFrame):
        return native.collect(engine="streaming")
    gathered: pl.DataFrame = frame.collect("polars").to_native()
    return gathered
