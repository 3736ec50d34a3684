"""Pairs of a file, scored block by block into a Parquet file that is there whole or not at all. N rows."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

from shortlist.config import nearest
from shortlist.errors import DataError
from shortlist.events.readers import Table, guard
from shortlist.funnel.scoring import CONTEXT, FEATURE, ITEM, MERGE, RANK, SCORE, TIME, USER, Scoring

__all__ = ["BLOCK", "score_file"]

BLOCK = 16_384  # rows in memory at a time
KEPT = (USER, ITEM, TIME)


def score_file(
    scoring: Scoring,
    table: Table,
    out: Path,
    user: str = USER,
    item: str = ITEM,
    *,
    block: int = BLOCK,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write `user`, `item`, `time_ms` where it is there, and the scores of each row (`Scoring.frame`) to `out`, in the
    order of the table. Returns how many rows. Rows of one user that stand together are one request.

    Memory is that of `block` rows. Raises DataError for a column that is not there or not what its name says, naming
    the row, and where `out` cannot be written; then what was there before is still there.
    """
    names = table.read(lambda: table.frame.collect_schema()).names()
    for column, hint in ((user, "--user"), (item, "--item")):
        if column not in names:
            what, say = f"no column is called {column!r}", f"{nearest(column, names)} (name it with {hint})"
            raise DataError(what, where=str(table.files[0]), hint=say)
    if any(out.resolve() == file.resolve() for file in table.files):
        raise DataError("the answers would take the place of the questions", where=str(out), hint="write elsewhere")
    if not out.parent.is_dir():
        raise DataError("no such folder", where=str(out.parent), hint="make it, or write elsewhere")
    wanted = [name for name in names if name not in (user, item) and of_row(name, scoring)]
    renamed = table.frame.select(pl.col(user).alias(USER), pl.col(item).alias(ITEM), *wanted)
    scratch = guard(lambda: Path(tempfile.mkdtemp(prefix=f".{out.name[:100]}-", dir=out.parent)), out)
    try:
        rows = scratch / "rows.parquet"
        table.read(lambda: renamed.sink_parquet(rows))
        total = int(pl.scan_parquet(rows).select(pl.len()).collect().item())
        parts: list[Path] = []
        for start in range(0, max(total, 1), block):
            part = pl.scan_parquet(rows).slice(start, block).collect()
            try:
                scored = scoring.frame(part)
            except DataError as error:
                raise DataError(error.what, where=placed(error.where, table, start), hint=error.hint) from None
            made = pl.concat([part.select(name for name in KEPT if name in part.columns), scored], how="horizontal")
            parts.append(scratch / f"{len(parts):06d}.parquet")
            guard(lambda made=made: made.write_parquet(parts[-1]), out)  # type: ignore[misc]
            if progress:
                progress(min(start + block, total), total)
        whole = scratch / "whole.parquet"
        guard(lambda: pl.scan_parquet(parts).sink_parquet(whole), out)
        guard(lambda: whole.replace(out), out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return total


def of_row(name: str, scoring: Scoring) -> bool:
    """Whether a column of the file is one that `Scoring.frame` reads."""
    if name in (TIME, MERGE) or name.startswith((RANK, SCORE, FEATURE)):
        return True
    return name.removeprefix(CONTEXT) in scoring.context


def placed(where: str, table: Table, start: int) -> str:
    """`column, row n` of a block as the place in its file."""
    name, _, row = where.rpartition(", row ")
    return f"{table.place(start + int(row))}, column {name}" if row.isdigit() and name else f"{table.files[0]}, {where}"
