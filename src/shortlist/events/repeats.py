"""Events told more than once: rows that repeat an earlier row, or one that was imported before.

With an event id the id alone counts, without one every column does. Rows are taken in slices that keep equal ones
together, so that memory holds a slice and not the log.
"""

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
    old = pl.scan_parquet(list(there)) if there else None
    total = int(frame.select(pl.len()).collect().item())
    slices = total // rows_per_slice + 1
    identity = _identity(frame, schema)
    names = [expression.meta.output_name() for expression in identity]
    owner = pl.col("event_id").hash(seed=0) if schema.event_id else pl.col("user").hash(seed=0)
    again, known = [], []
    for n in range(slices):
        mine = owner % slices == n
        rows = frame.filter(mine).select("row", *identity).collect(engine="streaming")
        part = staged.with_name("slice.parquet")
        rows.write_parquet(part)
        first = gather(first_of(open_frame(engine, [part]), names, "row").select("row"))
        again.append(rows.join(first, on="row", how="anti")["row"])
        left = rows.join(first, on="row", how="semi")
        if old is not None:
            seen = old.filter(mine).select(identity)
            both = left.lazy().join(seen, on=names, how="semi", nulls_equal=True)
            known.append(both.select("row").collect(engine="streaming")["row"])
            left = left.join(known[-1].to_frame(), on="row", how="anti")
        if told is not None:
            known.append(left.filter(told(left["event_id"]))["row"])
        part.unlink()
    empty = pl.Series("row", [], dtype=pl.Int64)
    return Repeats(pl.concat([empty, *again]).sort(), pl.concat([empty, *known]).sort())


def _identity(frame: pl.LazyFrame, schema: Schema) -> list[pl.Expr]:
    if schema.event_id:
        return [pl.col("event_id")]
    columns = []
    for name, kind in frame.collect_schema().items():
        if name not in ("row", "bucket"):
            listed = pl.col(name).cast(pl.List(pl.String)).list.join("\x1f", ignore_nulls=False)
            columns.append(listed if isinstance(kind, pl.List) else pl.col(name))
    return columns
