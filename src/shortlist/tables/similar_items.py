"""ItemCF as lazy frames: the pair weights of `models/recall/item_cf.py`, on every engine.

Frames of pairs have `item`, `other` (int64 keys) and what they are worth, both directions in rows of their own.
"""

__all__ = [
    "similar_items", "common_users", "in_sequence", "co_rated", "by_popularity", "by_publishing", "by_category",
]  # fmt: skip

from typing import Literal

import narwhals as nw

from shortlist.tables.engine import Frame
from shortlist.tables.lists import (
    NOISE,
    Settle,
    above_zero,
    activity,
    best,
    entries,
    latest,
    liked,
    mirrored,
    over_root,
    real,
    unsettled,
)  # fmt: skip

TINY = 1e-37  # a weight below is nothing in a float32 score


def similar_items(
    log: Frame,
    weights: Literal["sequence", "binary", "rating"],
    *,
    keep: int,
    cap: int | None = None,
    alpha: float = 0.5,
    iuf: bool = True,
    back: float = 1.0,
    position_decay: float = 1.0,
    click_half_life_ms: float | None = None,
    published: Frame | None = None,
    publish_half_life_ms: float = 1.0,
    labels: Frame | None = None,
    same_category: float = 0.0,
    normalize: bool = False,
    settle: Settle = unsettled,
) -> Frame:
    """The `keep` neighbours of each item: `item`, `other`, `score`. What the options mean: `ItemCF`; `rating` takes
    events with a value only. Everything after `cap` but `normalize` is for weights that are not `rating`, what follows
    `alpha` for `sequence` alone."""
    counted = liked(log)
    lists = settle(entries(counted.filter(~nw.col("value").is_null()) if weights == "rating" else counted))
    short = latest(lists, cap)
    if weights == "rating":
        pairs = co_rated(short, settle)
    else:
        if weights == "binary":
            pairs = common_users(short, settle)
        else:
            pairs = in_sequence(short, iuf, back, position_decay, click_half_life_ms, settle)
        pairs = by_popularity(pairs, lists, alpha)
    if published is not None:
        pairs = by_publishing(pairs, published, publish_half_life_ms)
    if labels is not None:
        pairs = by_category(pairs, labels, same_category, settle)
    ranked = best(above_zero(pairs), "item", "other", keep)
    return ranked.with_columns(score=nw.col("score") / nw.col("score").max().over("item")) if normalize else ranked


def _pairs(lists: Frame, *columns: str) -> Frame:
    """Pairs of entries of one user, the first with the smaller `order`: `a_` and `b_` before the columns of either."""
    sides = (
        lists.select("user", *(nw.col(name).alias(f"{side}_{name}") for name in ("item", *columns))) for side in "ab"
    )
    first, second = sides
    return first.join(second, on="user", how="inner")


def common_users(lists: Frame, settle: Settle = unsettled) -> Frame:
    """`total`: how many users have both."""
    pairs = _pairs(lists).filter(nw.col("a_item") < nw.col("b_item"))
    counted = pairs.group_by("a_item", "b_item").agg(total=nw.len()).with_columns(real("total"))
    return mirrored(settle(_named(counted)), "item", "total", "total", "total")


def in_sequence(
    lists: Frame,
    iuf: bool,
    back: float,
    position_decay: float,
    half_life_ms: float | None,
    settle: Settle = unsettled,
) -> Frame:
    """`total`: the sum over users of 1/log(1+length) [`iuf`] * position_decay^(places between) * 0.5^(click gap over
    half-life) * 1 if the other comes later, else `back`."""
    pairs = _pairs(lists, "back", "time_ms", "length").filter(nw.col("a_back") > nw.col("b_back"))
    between = (nw.col("a_back") - nw.col("b_back") - 1).cast(nw.Float64)
    weight = nw.lit(float(position_decay)) ** between
    if iuf:
        weight = weight / (1 + real("a_length")).log()
    if half_life_ms is not None:
        weight = weight * nw.lit(0.5) ** ((real("b_time_ms") - real("a_time_ms")) / half_life_ms)
    weighed = pairs.select("a_item", "b_item", forward=weight).filter(nw.col("forward") >= TINY)
    returned = nw.col("forward") * back
    weighed = weighed.with_columns(backward=nw.when(returned >= TINY).then(returned).otherwise(0.0))
    summed = weighed.group_by("a_item", "b_item").agg(nw.col("forward").sum(), nw.col("backward").sum())
    directed = mirrored(settle(_named(summed)), "item", "forward", "backward", "total")
    return directed.group_by("item", "other").agg(nw.col("total").sum())


def co_rated(lists: Frame, settle: Settle = unsettled) -> Frame:
    """`score`: adjusted cosine over the users who rated both, values taken from the mean of a user's list; only what
    is above zero."""
    value = real("value")
    moved = lists.with_columns(deviation=value - value.mean().over("user"))
    pairs = _pairs(moved, "deviation").filter(nw.col("a_item") < nw.col("b_item"))
    a, b = nw.col("a_deviation"), nw.col("b_deviation")
    products = pairs.select("a_item", "b_item", ab=a * b, aa=a * a, bb=b * b)
    summed = products.group_by("a_item", "b_item").agg(nw.col("ab", "aa", "bb").sum())
    rated = summed.filter(nw.col("ab") > 0)
    rated = rated.with_columns(score=over_root(nw.col("ab"), nw.col("aa") * nw.col("bb")))
    rated = rated.filter(nw.col("score") > NOISE)
    return mirrored(settle(_named(rated)), "item", "score", "score", "score")


def by_popularity(pairs: Frame, lists: Frame, alpha: float) -> Frame:
    """`score`: total / (|U_i|^(1-alpha) |U_j|^alpha), U_i the users whose list, uncut, has i."""
    taken = activity(lists, "item").select("item", events=real("events"))
    own = taken.select("item", own=nw.col("events") ** (alpha - 1))
    others = taken.select(other=nw.col("item"), theirs=nw.col("events") ** -alpha)
    joined = pairs.join(own, on="item", how="inner").join(others, on="other", how="inner")
    return joined.select("item", "other", score=nw.col("total") * nw.col("own") * nw.col("theirs"))


def by_publishing(pairs: Frame, published: Frame, half_life_ms: float) -> Frame:
    """`score` times 0.5^(gap of publish times over half-life); a pair of which one is unknown stays as it is.

    `published`: `item`, `published_ms`, null where unknown."""
    own = published.select("item", own=real("published_ms"))
    others = published.select(other=nw.col("item"), theirs=real("published_ms"))
    joined = pairs.join(own, on="item", how="left").join(others, on="other", how="left")
    factor = nw.lit(0.5) ** ((nw.col("own") - nw.col("theirs")).abs() / half_life_ms)
    return joined.select("item", "other", score=nw.col("score") * factor.fill_null(1.0))


def by_category(pairs: Frame, labels: Frame, same: float, settle: Settle = unsettled) -> Frame:
    """`score` times 1 + `same` where the two have a label in common. `labels`: `item`, `label`, a row for each."""
    known = settle(pairs)
    labelled = known.select("item", "other").join(labels, on="item", how="inner")
    theirs = labels.select("label", other=nw.col("item"))
    alike = labelled.join(theirs, on=["other", "label"], how="inner").select("item", "other").unique()
    joined = known.join(alike.with_columns(factor=nw.lit(1.0 + same)), on=["item", "other"], how="left")
    return joined.select("item", "other", score=nw.col("score") * nw.col("factor").fill_null(1.0))


def _named(pairs: Frame) -> Frame:
    return pairs.rename({"a_item": "item", "b_item": "other"})
