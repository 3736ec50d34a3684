"""Table work on event logs, written once for every engine: lazy frames in, lazy frames out.

Nothing here relies on the order of rows: where order matters a column says it.
"""

import narwhals as nw

from shortlist.tables.engine import Frame

__all__ = ["first_of", "first_seen", "counts", "span", "unmatched", "between", "backwards", "running"]


def first_of(frame: Frame, by: list[str], order: str) -> Frame:
    """Of rows equal in `by` (nulls equal nulls), the one with the smallest `order`."""
    return frame.filter(nw.col(order) == nw.col(order).min().over(*by))


def first_seen(frame: Frame, by: str, order: str) -> Frame:
    """Each distinct value of a column with the smallest `order` it has, in that order."""
    return frame.group_by(by).agg(nw.col(order).min()).sort(order)


def counts(frame: Frame, by: str) -> Frame:
    """Rows of each value of a column, most frequent first, ties by value: columns `by`, `n`."""
    grouped = frame.group_by(by).agg(n=nw.len().cast(nw.Int64))
    return grouped.sort("n", by, descending=[True, False])


def span(frame: Frame, column: str) -> Frame:
    """One row: `rows`, and `low` and `high` of the column."""
    return frame.select(rows=nw.len().cast(nw.Int64), low=nw.col(column).min(), high=nw.col(column).max())


def unmatched(frame: Frame, known: Frame, column: str) -> Frame:
    """Rows whose value of the column is not in `known`: what a join would lose."""
    return frame.join(known.select(column).unique(), on=column, how="anti")


def between(frame: Frame, column: str, low: int, high: int) -> Frame:
    """Rows whose value of the column lies from `low` to `high`."""
    return frame.filter(nw.col(column) >= low, nw.col(column) <= high)


def backwards(frame: Frame, column: str, order: str) -> Frame:
    """Rows with a smaller value than the row before them, rows taken by `order`; the one before is in `before`."""
    stepped = frame.with_columns(before=nw.col(column).shift(1).over(order_by=order))
    return stepped.filter(nw.col(column) < nw.col("before"))


def running(frame: Frame, column: str) -> Frame:
    """How many rows lie at or below each distinct value: columns `column`, `n`, `below`, ascending."""
    grouped = frame.group_by(column).agg(n=nw.len().cast(nw.Int64))
    totalled = grouped.with_columns(below=nw.col("n").cum_sum().over(order_by=column).cast(nw.Int64))
    return totalled.sort(column)
