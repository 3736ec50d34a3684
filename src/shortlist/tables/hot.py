"""Hot lists as lazy frames: the scores of `models/recall/hot.py`, on every engine."""

__all__ = ["hot", "worth", "by_list", "totals"]

import narwhals as nw

from shortlist.tables.engine import Frame
from shortlist.tables.lists import Settle, best, liked, real, recent, unsettled


def hot(
    log: Frame,
    *,
    now: int,
    keep: int,
    amount: bool = False,
    per_user: int | None = None,
    half_life_ms: float | None = None,
    lists: Frame | None = None,
    least: int = 0,
    settle: Settle = unsettled,
) -> Frame:
    """The `keep` best items of each list: `list`, `item`, `score`; list 0 is everybody's, `lists` are the others
    (`by_list`). What the options mean: `Hot`."""
    events = settle(worth(liked(log), amount, per_user, now, half_life_ms))
    return best(totals(by_list(events, lists, least)), "list", "item", keep)


def worth(log: Frame, amount: bool, per_user: int | None, now: int, half_life_ms: float | None) -> Frame:
    """What each event adds at `now`, as `worth`: its weight, times the value for an `amount` (none: nothing), decayed.
    Of one user's events on one item the latest `per_user` count."""
    counted = recent(log, ["user", "item"], per_user)
    added = real("weight")
    if amount:
        added = added * real("value").fill_null(0.0)
    if half_life_ms is not None:
        added = added * nw.lit(0.5) ** ((now - real("time_ms")) / half_life_ms)
    return counted.select("user", "item", worth=added)


def by_list(events: Frame, lists: Frame | None, least: int) -> Frame:
    """The events once for everybody, list 0, and once for each list of the user that has at least `least` of them.

    `lists`: `user`, `list` (above 0), a row for each."""
    everybody = events.select("item", "worth", list=nw.lit(0).cast(nw.Int64))
    if lists is None:
        return everybody
    some = events.join(lists, on="user", how="inner").select("item", "worth", nw.col("list").cast(nw.Int64))
    some = some.with_columns(n=nw.len().over("list").cast(nw.Int64)).filter(nw.col("n") >= least)
    return nw.concat([everybody, some.select("item", "worth", "list")], how="vertical")


def totals(events: Frame) -> Frame:
    """`score`: the sum of `worth` of each `item` of each `list`."""
    return events.group_by("list", "item").agg(score=nw.col("worth").sum())
