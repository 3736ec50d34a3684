"""Swing as lazy frames: the scores of `models/recall/swing.py`, on every engine."""

__all__ = ["swing", "without_long", "picked", "swung"]

import narwhals as nw

from shortlist.tables.dice import dice
from shortlist.tables.engine import Frame
from shortlist.tables.lists import Settle, above_zero, activity, best, entries, liked, real, unsettled


def swing(
    log: Frame,
    *,
    keep: int,
    alpha: float = 1.0,
    beta: float = 0.5,
    cap: int | None = None,
    longest: int | None = None,
    seed: int = 0,
    settle: Settle = unsettled,
) -> Frame:
    """The `keep` neighbours of each item: `item`, `other`, `score`. What the options mean: `Swing`."""
    lists = settle(without_long(entries(liked(log)), longest))
    asked = settle(picked(lists, cap, seed))
    return best(above_zero(swung(lists, asked, alpha, beta, settle)), "item", "other", keep)


def without_long(lists: Frame, longest: int | None) -> Frame:
    """Lists of at most `longest` entries; the users of others are left out as if they were not there."""
    return lists if longest is None else lists.filter(nw.col("length") <= longest)


def picked(lists: Frame, cap: int | None, seed: int) -> Frame:
    """Users asked about each item, `cap` of them by the dice: `item`, `user`, and `scale`, all its pairs of users over
    those asked."""
    every = lists.select("item", "user")
    if cap is None:
        return every.with_columns(scale=nw.lit(1.0))
    thrown = every.with_columns(dice=dice(nw.col("user"), nw.col("item"), seed))
    place = nw.col("user").cum_count().over("item", order_by=["dice", "user"])
    counted = thrown.with_columns(place=place.cast(nw.Int64), n=nw.len().over("item").cast(nw.Float64))
    scale = nw.when(nw.col("n") > cap).then(nw.col("n") * (nw.col("n") - 1) / (cap * (cap - 1))).otherwise(1.0)
    return counted.filter(nw.col("place") <= cap).select("item", "user", scale=scale)


def swung(lists: Frame, asked: Frame, alpha: float, beta: float, settle: Settle = unsettled) -> Frame:
    """`score` of pairs (`item`, `other`): scale * sum over pairs u < v of users asked about the item, who have the
    other too, of w_u w_v / (alpha + |I_u and I_v|), w_u = 1 / |I_u|^beta."""
    first = asked.select("item", "scale", u=nw.col("user"))
    second = asked.select("item", v=nw.col("user"))
    pairs = settle(first.join(second, on="item", how="inner").filter(nw.col("u") < nw.col("v")))
    mine = lists.select(u=nw.col("user"), other=nw.col("item"))
    theirs = lists.select(v=nw.col("user"), other=nw.col("item"))
    common = (
        pairs.select("u", "v").unique().join(mine, on="u", how="inner").join(theirs, on=["v", "other"], how="inner")
    )
    common = settle(common.select("u", "v", "other"))
    weight = activity(lists, "user").select("user", weight=real("events") ** -beta)
    worth = common.group_by("u", "v").agg(n=nw.len())
    worth = worth.join(weight.select(u=nw.col("user"), w_u=nw.col("weight")), on="u", how="inner")
    worth = worth.join(weight.select(v=nw.col("user"), w_v=nw.col("weight")), on="v", how="inner")
    worth = worth.select("u", "v", worth=nw.col("w_u") * nw.col("w_v") / (alpha + real("n")))
    both = pairs.join(worth, on=["u", "v"], how="inner").join(common, on=["u", "v"], how="inner")
    both = both.filter(nw.col("item") != nw.col("other"))
    summed = both.group_by("item", "other").agg(nw.col("worth").sum(), nw.col("scale").max())
    return summed.select("item", "other", score=nw.col("worth") * nw.col("scale"))
