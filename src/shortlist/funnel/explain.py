"""Why an item is, or is not, on a user's page: the same funnel run again, followed for one item."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from shortlist.candidates import Candidates, Requests, Slates
from shortlist.funnel.pipeline import BACKFILL, BELOW, NOT_SELECTED, OVER_BUDGET, Channel, Funnel, Keep, mend, sound
from shortlist.funnel.trace import SELECTED, depth, last_score, reasons

__all__ = ["explain", "alone"]

LOG = logging.getLogger("shortlist.funnel")
_ALL = 1 << 30


def explain(funnel: Funnel, requests: Requests, item: int) -> dict[str, Any]:
    """For one request and one item key: what became of it, where, and what would change that.

    `fate` is what `run` says: `selected`, a filter's name, `over_budget`, `not_selected`; `not_recalled` for what is no
    candidate. `filters` name -> whether it lets the item through, candidate or not. Where a channel did not bring the
    item, its would-be rank is found by asking that channel for everything; None where it does not know the item, or
    failed. `features`: what the last stage that scored it would say without each feature that it reads (`score`; what
    the feature adds is `change`), those that change most first; none where no stage did.
    """
    if len(requests) != 1:
        raise ValueError(f"one request at a time, got {len(requests)}")
    slates = funnel.run(requests, strict=False)
    candidates = slates.candidates
    pair = (np.zeros(1, dtype=np.int64), np.array([item], dtype=np.int64))
    filters = {name: bool(part.keep(requests, *pair)[0]) for name, part in funnel.filters.items()}
    allow = [f"the filter {name!r} letting it through" for name, ok in filters.items() if not ok]
    channels = [_channel(channel, requests, funnel.keep(requests), item) for channel in funnel.channels]
    out: dict[str, Any] = {"filters": filters, "channels": channels, "position": None, "scores": {}, "brought_by": []}
    out["features"] = []
    at = np.flatnonzero(candidates.items == item)
    if not len(at):
        return out | {"fate": "not_recalled", "stage": "recall", "would_move": [*allow, _recall(channels)]}
    row = int(at[0])
    out["scores"] = {n: float(column[row]) for n, column in candidates.scores.items() if np.isfinite(column[row])}
    out["brought_by"] = reasons(slates, row)
    out["features"] = _features(funnel, slates, row)
    shown = slates.picks.tolist()
    if row in shown:
        stage = BACKFILL if candidates.rank[row, -1] > 0 else "select"
        return out | {"fate": SELECTED, "stage": stage, "position": shown.index(row) + 1, "would_move": []}
    fate = candidates.reasons[int(candidates.fate[row]) - 1]
    if fate in filters:
        return out | {"fate": fate, "stage": "filter", "would_move": allow}
    stage = "merge" if fate == OVER_BUDGET else "select" if fate == NOT_SELECTED else fate.removeprefix(BELOW)
    return out | {"fate": fate, "stage": stage, "would_move": [_score(candidates, row, fate)]}


def _features(funnel: Funnel, slates: Slates, row: int) -> list[dict[str, Any]]:
    """What each feature adds to the score of the last stage that had the candidate, and the score without it."""
    candidates = slates.candidates
    for stage in reversed(funnel.stages):
        column, ablated = candidates.scores.get(stage.name), getattr(stage.scorer, "ablated", None)
        if column is None or not np.isfinite(column[row]) or ablated is None:
            continue
        one = candidates.only(np.array([row]))
        try:
            names, tasks, many = ablated(slates.requests, one)
            fused = stage.fused(tasks, many)
        except Exception:
            LOG.exception("%s cannot explain", stage.name)
            return []
        changes = fused[0] - fused[1:]
        order = np.lexsort((np.arange(len(names)), -np.abs(changes)))
        return [
            {"feature": names[n], "score": float(fused[1 + n]), "change": float(changes[n])} for n in order.tolist()
        ]
    return []


def _score(candidates: Candidates, row: int, fate: str) -> str:
    """What score would have passed the stage that the candidate did not."""
    name = "merge" if fate == OVER_BUDGET else fate.removeprefix(BELOW)
    if fate == NOT_SELECTED:
        name = last_score(candidates)
    column = candidates.scores[name]
    mine_depth = depth(candidates, fate)
    deeper = [0, *(n for n, r in enumerate(candidates.reasons, start=1) if depth(candidates, r) < mine_depth)]
    passed = np.isin(candidates.fate, deeper)
    needed, mine = float(np.nanmin(column[passed], initial=np.inf)), float(column[row])
    if mine >= needed:
        return "a place that rules and diversity leave free: its score alone would do"
    return f"a {name} score above {needed:.6g} (now {mine:.6g})"


def _recall(channels: list[dict[str, Any]]) -> str:
    near = [c for c in channels if c["rank"] is not None]
    if not near:
        return "a channel that knows it"
    best = min(near, key=lambda c: c["rank"] / c["quota"])
    return f"rank {best['quota']} or better in {best['channel']} (now {best['rank']})"


def _channel(channel: Channel, requests: Requests, keep: Keep, item: int) -> dict[str, Any]:
    """Where the item stands in one channel's whole list."""
    out = {"channel": channel.name, "quota": channel.quota, "rank": None, "score": None, "brought": False}
    try:
        (_, items, scores), _ = mend(sound(channel.source.recall(requests, _ALL, keep), 1), 1)
    except Exception:
        LOG.exception("%s cannot explain", channel.name)
        return out
    at = np.flatnonzero(items == item)
    if not len(at):
        return out
    above = items[: int(at[0])]
    rank = int(keep(np.zeros(len(above), dtype=np.int64), above).sum()) + 1
    return out | {"rank": rank, "score": float(scores[at[0]]), "brought": rank <= channel.quota}


def alone(funnel: Funnel, name: str) -> Funnel:
    """The funnel with one channel only, for running that channel by itself. Raises KeyError."""
    channels = tuple(c for c in funnel.channels if c.name == name)
    if not channels:
        raise KeyError(name)
    return replace(funnel, channels=channels, fallback=None)
