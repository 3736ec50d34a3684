"""UserCF as lazy frames: the likeness of `models/recall/user_cf.py`, on every engine.

Frames of pairs have `user`, `other` (int64 keys) and what they are worth, both directions in rows of their own.
"""

__all__ = ["similar_users", "alike", "correlated", "by_region"]

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

FLAT = 1e-10  # ratings whose variance is a smaller part of their mean square are all the same


def similar_users(
    log: Frame,
    measure: Literal["jaccard", "cosine", "iuf", "pearson"],
    *,
    keep: int,
    cap: int | None = None,
    common_means: bool = True,
    lam: float = 0.0,
    regions: Frame | None = None,
    beta: float = 0.0,
    hard: bool = False,
    valued: bool = False,
    settle: Settle = unsettled,
) -> Frame:
    """The `keep` users alike of each: `user`, `other`, `score`. What the options mean: `UserCF`; with `valued`, and for
    `pearson`, events with a value count alone."""
    counted = liked(log)
    valued = valued or measure == "pearson"
    lists = settle(latest(entries(counted.filter(~nw.col("value").is_null()) if valued else counted), cap))
    if measure == "pearson":
        pairs = correlated(lists, common_means, lam, settle)
    else:
        pairs = alike(lists, measure, lam, settle)
    if regions is not None:
        pairs = by_region(above_zero(pairs), regions, beta, keep if hard else None)
    return best(above_zero(pairs), "user", "other", keep)


def alike(lists: Frame, measure: Literal["jaccard", "cosine", "iuf"], lam: float, settle: Settle = unsettled) -> Frame:
    """`score`: Jaccard, cosine, or the cosine of items weighed 1/log(1+|U_i|), times n/(n+lam) for n common items. The
    lists are taken as they are, cut or whole."""
    weighed = lists.select("user", "item")
    if measure == "iuf":
        taken = activity(lists, "item").select("item", share=1 / (1 + real("events")).log())
        weighed = weighed.join(taken, on="item", how="inner")
    else:
        weighed = weighed.with_columns(share=nw.lit(1.0))
    pairs = _pairs(weighed, "share")
    met = pairs.group_by("user", "other").agg(common=nw.len(), shared=nw.col("share").sum())
    met = met.with_columns(real("common"))
    length = activity(lists, "user").select("user", own=real("events"))
    theirs = length.select(other=nw.col("user"), theirs=nw.col("own"))
    met = met.join(length, on="user", how="inner").join(theirs, on="other", how="inner")
    own, other, common = nw.col("own"), nw.col("theirs"), nw.col("common")
    score = common / (own + other - common) if measure == "jaccard" else nw.col("shared") / (own * other).sqrt()
    return _both(met.with_columns(score=score * (common / (common + lam))), settle)


def correlated(lists: Frame, common_means: bool, lam: float, settle: Settle = unsettled) -> Frame:
    """`score`: Pearson's correlation of `value` over the common items, times n/(n+lam); only what is above zero. Means
    are those of the common items, or each user's own over the list."""
    value = real("value")
    moved = lists.select("user", "item", deviation=value - value.mean().over("user"))
    x, y = nw.col("deviation"), nw.col("deviation_other")
    sides = _pairs(moved, "deviation").with_columns(x=x, y=y, xy=x * y, xx=x * x, yy=y * y)
    met = sides.group_by("user", "other").agg(nw.col("x", "y", "xy", "xx", "yy").sum(), common=nw.len())
    met = met.with_columns(real("common"))
    if not common_means:
        met = met.with_columns(x=nw.lit(0.0), y=nw.lit(0.0))
    x, y, n = nw.col("x"), nw.col("y"), nw.col("common")
    met = met.with_columns(own=n * nw.col("xx") - x * x, theirs=n * nw.col("yy") - y * y, both=n * nw.col("xy") - x * y)
    sound = met.filter(nw.col("own") > FLAT * n * nw.col("xx"), nw.col("theirs") > FLAT * n * nw.col("yy"))
    rated = sound.with_columns(score=over_root(nw.col("both"), nw.col("own") * nw.col("theirs")))
    return _both(rated.filter(nw.col("score") > NOISE).with_columns(score=nw.col("score") * (n / (n + lam))), settle)


def by_region(pairs: Frame, regions: Frame, beta: float, hard: int | None) -> Frame:
    """`score` times 1 + beta for users of one region. With `hard`, of a user who has that many alike in the region only
    those. `regions`: `user`, `region`, null where unknown."""
    mine = regions.select("user", mine=nw.col("region"))
    theirs = regions.select(other=nw.col("user"), theirs=nw.col("region"))
    joined = pairs.join(mine, on="user", how="left").join(theirs, on="other", how="left")
    same = (nw.col("mine") == nw.col("theirs")).fill_null(False)
    placed = joined.with_columns(same=nw.when(same).then(1).otherwise(0).cast(nw.Int64))
    if hard is not None:
        near = nw.col("same").sum().over("user")
        placed = placed.with_columns(near=near).filter((nw.col("same") == 1) | (nw.col("near") < hard))
    return placed.select("user", "other", score=nw.col("score") * (1.0 + beta * nw.col("same").cast(nw.Float64)))


def _pairs(lists: Frame, column: str) -> Frame:
    """Pairs of users who have an item in common, the first with the smaller key; a row for each such item."""
    theirs = lists.select("item", nw.col(column).alias(f"{column}_other"), other=nw.col("user"))
    return lists.join(theirs, on="item", how="inner").filter(nw.col("user") < nw.col("other"))


def _both(pairs: Frame, settle: Settle) -> Frame:
    return mirrored(settle(pairs.select("user", "other", "score")), "user", "score", "score", "score")
