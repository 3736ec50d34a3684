"""Users' lists from a log, what a user or an item did, and the best of each row: what co-occurrence is made of.

A log is a frame with the columns `user`, `item` (int64 keys), `time_ms`, `offset` (int64; of equal times the smaller
came first), `weight` (of the action) and `value` (float64, null where none). Lazy frames in, lazy frames out, the same
on every engine.
"""

__all__ = ["liked", "entries", "latest", "activity", "mirrored", "best", "unsettled", "Settle"]

from collections.abc import Callable

import narwhals as nw

from shortlist.tables.engine import Frame

NOISE = 1e-12  # a correlation below is what sums leave of a zero
Settle = Callable[[Frame], Frame]  # the same rows, written down: what is read more than once is computed once


def unsettled(frame: Frame) -> Frame:
    """As it is: computed wherever it is read."""
    return frame


def real(column: str) -> nw.Expr:
    return nw.col(column).cast(nw.Float64)


def long(column: str) -> nw.Expr:
    """Engines count in types of their own; differences need a signed one."""
    return nw.col(column).cast(nw.Int64)


def over_root(sums: nw.Expr, product: nw.Expr) -> nw.Expr:
    """sums / sqrt(product), 0 where the product is: engines differ in what a division by zero is."""
    return nw.when(product > 0).then(sums / product.sqrt()).otherwise(0.0)


def liked(log: Frame) -> Frame:
    """Only events whose action has a weight above zero."""
    return log.filter(nw.col("weight") > 0)


def activity(log: Frame, by: str) -> Frame:
    """Statistics of each value of a column: `events`, `first_ms`, `last_ms`, `weight` (their sum), and of those events
    that have a value `valued` and `mean` (null where none has)."""
    grouped = log.group_by(by).agg(
        events=nw.len(),
        first_ms=nw.col("time_ms").min(),
        last_ms=nw.col("time_ms").max(),
        weight=nw.col("weight").sum(),
        valued=nw.col("value").count(),
        mean=nw.col("value").mean(),
    )
    return grouped.with_columns(long("events"), long("valued"), real("weight"), real("mean"))


def recent(log: Frame, by: list[str], n: int | None) -> Frame:
    """The latest `n` events of each group; None: all. Adds `back`, from 1 for the latest."""
    back = nw.col("user").cum_count(reverse=True).over(*by, order_by=["time_ms", "offset"])
    placed = log.with_columns(back=back.cast(nw.Int64))
    return placed if n is None else placed.filter(nw.col("back") <= n)


def entries(log: Frame) -> Frame:
    """Of a user's events on an item the latest: each user's list. `length` is |I_u|."""
    return recent(log, ["user", "item"], 1).drop("back").with_columns(length=nw.len().over("user").cast(nw.Int64))


def latest(lists: Frame, cap: int | None) -> Frame:
    """The latest `cap` entries of each user (None: all), with their place `back`, 1 the latest."""
    return recent(lists, ["user"], cap)


def mirrored(pairs: Frame, by: str, forward: str, backward: str, to: str) -> Frame:
    """Both directions of pairs (`by`, other), which were in one: their worth is `forward`, and `backward` the other way
    round."""
    one = pairs.select(by, "other", nw.col(forward).alias(to))
    two = pairs.select(nw.col("other").alias(by), nw.col(by).alias("other"), nw.col(backward).alias(to))
    return nw.concat([one, two], how="vertical")


def best(pairs: Frame, by: str, other: str, keep: int) -> Frame:
    """Of each `by` the `keep` best by `score`, ties by smaller `other`: columns by, other, `score` (float64).

    Scores that are one number in float32 are tied, as in the lists that are made of them: engines add in orders of
    their own, and the last bit of a sum should not say who comes first."""
    single = pairs.with_columns(behind=-nw.col("score").cast(nw.Float32))
    place = nw.col(other).cum_count().over(by, order_by=["behind", other])
    return single.with_columns(place=place.cast(nw.Int64)).filter(nw.col("place") <= keep).select(by, other, "score")


def above_zero(pairs: Frame) -> Frame:
    """Pairs whose score is more than nothing, in float32 too."""
    return pairs.filter(nw.col("score").cast(nw.Float32) > 0)
