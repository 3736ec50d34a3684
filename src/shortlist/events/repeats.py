"""Events told more than once: rows that repeat an earlier row, or one that was imported before.

With an event id the id alone counts, without one every column does. Rows are dealt out in one pass to slices on disk
that keep equal ones together, so that memory holds a slice and not the log, and the log is read once.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shortlist.schema import Schema
from shortlist.tables.engine import gather, open_frame
from shortlist.tables.log import first_of

__all__ = ["Repeats", "repeats"]


@dataclass(frozen=True)
class Repeats:
    """Places (`row`) of rows that repeat an earlier row, and of first ones that were imported before; ascending."""

    again: pl.Series
    known: pl.Series


def repeats(
    staged: Path,
    there: Sequence[Path],
    schema: Schema,
    engine: str,
    rows_per_slice: int,
    told: Callable[[pl.Series], pl.Series] | None = None,
) -> Repeats:
    """Repeats in a staged log (`row` and canonical columns); `there` are parts with the same columns.

    `told` says of event ids which are known from elsewhere: from live events.
    """
    frame = pl.scan_parquet(staged)
    total = int(frame.select(pl.len()).collect().item())
    slices = total // rows_per_slice + 1
    identity = _identity(frame, schema)
    names = [expression.meta.output_name() for expression in identity]
    owner = pl.col("event_id" if schema.event_id else "user").hash(seed=0)
    again, known = [], []
    with tempfile.TemporaryDirectory(dir=staged.parent, prefix="slices-") as folder:
        dealt, old = Path(folder) / "rows", Path(folder) / "old"
        for low in range(0, total, rows_per_slice):
            some = frame.filter(pl.col("row").is_between(low, low + rows_per_slice - 1))
            _deal(some.select("row", *identity, bucket=owner % slices), dealt, low)
        for place, part in enumerate(there):
            _deal(pl.scan_parquet(part).select(*identity, bucket=owner % slices), old, place)
        for n in range(slices):
            files = _dealt(dealt, n)
            if not files:
                continue
            rows = pl.read_parquet(files)
            first = gather(first_of(open_frame(engine, files), names, "row").select("row"))
            again.append(rows.join(first, on="row", how="anti")["row"])
            left = rows.join(first, on="row", how="semi")
            if seen := _dealt(old, n):
                before = pl.scan_parquet(seen)
                both = left.lazy().join(before, on=names, how="semi", nulls_equal=True)
                known.append(both.select("row").collect(engine="streaming")["row"])
                left = left.join(known[-1].to_frame(), on="row", how="anti")
            if told is not None:
                known.append(left.filter(told(left["event_id"]))["row"])
    empty = pl.Series("row", [], dtype=pl.Int64)
    return Repeats(pl.concat([empty, *again]).sort(), pl.concat([empty, *known]).sort())


def _deal(frame: pl.LazyFrame, folder: Path, place: int) -> None:
    """Rows to files by their `bucket`."""
    rows = frame.collect(engine="streaming")
    for (bucket,), some in rows.partition_by("bucket", as_dict=True, include_key=False).items():
        slot = folder / str(bucket)
        slot.mkdir(parents=True, exist_ok=True)
        some.write_parquet(slot / f"{place:015d}.parquet", compression="lz4", statistics=False)


def _dealt(folder: Path, bucket: int) -> list[Path]:
    return sorted((folder / str(bucket)).glob("*.parquet"))


def _identity(frame: pl.LazyFrame, schema: Schema) -> list[pl.Expr]:
    if schema.event_id:
        return [pl.col("event_id")]
    columns = []
    for name, kind in frame.collect_schema().items():
        if name not in ("row", "bucket"):
            listed = pl.col(name).cast(pl.List(pl.String)).list.join("\x1f", ignore_nulls=False)
            columns.append(listed if isinstance(kind, pl.List) else pl.col(name))
    return columns
