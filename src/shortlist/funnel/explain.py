"""Why an item is, or is not, on a user's page: the same funnel run again, followed for one item."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import ALIVE, Candidates, Mask, Requests
from shortlist.funnel.pipeline import BACKFILL, NOT_SELECTED, OVER_BUDGET, Channel, Funnel, Keep, sound
from shortlist.funnel.trace import SELECTED, reasons

__all__ = ["explain", "alone"]

_ALL = 1 << 30


def explain(funnel: Funnel, requests: Requests, item: int) -> dict[str, Any]:
    """For one request and one item key: its fate, and for each part what it did with the item.

    Where a channel did not bring the item, its would-be rank is found by asking that channel for everything.
    """
    if len(requests) != 1:
        raise ValueError(f"one request at a time, got {len(requests)}")
    slates = funnel.run(requests, strict=False)
    candidates = slates.candidates
    keep = _eligible(funnel, requests)
    one = (np.zeros(1, dtype=np.int64), np.array([item], dtype=np.int64))
    filters = {name: bool(part.keep(requests, *one)[0]) for name, part in funnel.filters.items()}
    allow = [f"the filter {name!r} letting it through" for name, ok in filters.items() if not ok]
    channels = [_channel(c, requests, keep, item) for c in funnel.channels]
    out: dict[str, Any] = {"filters": filters, "channels": channels, "position": None, "scores": {}, "brought_by": []}
    at = np.flatnonzero(candidates.items == item)
    if not len(at):
        fate, stage = (
            (next(n for n, ok in filters.items() if not ok), "filter") if allow else ("not_recalled", "recall")
        )
        return out | {"fate": fate, "stage": stage, "would_move": [*allow, _recall(channels)]}
    row = int(at[0])
    out["scores"] = {n: float(column[row]) for n, column in candidates.scores.items() if np.isfinite(column[row])}
    out["brought_by"] = reasons(slates, row)
    shown = slates.picks.tolist()
    if row in shown:
        stage = BACKFILL if candidates.rank[row, :-1].max(initial=0) == 0 else "select"
        return out | {"fate": SELECTED, "stage": stage, "position": shown.index(row) + 1, "would_move": []}
    fate = candidates.reasons[int(candidates.fate[row]) - 1]
    if allow:
        return out | {"fate": fate, "stage": "filter", "would_move": allow}
    over = fate == OVER_BUDGET
    name = "merge" if over or "boost" not in candidates.scores else "boost"
    column = candidates.scores[name]
    passed = column[np.isin(candidates.fate, (ALIVE, fate_of(candidates, NOT_SELECTED))) if over else candidates.alive]
    needed, mine = float(np.nanmin(passed, initial=np.inf)), float(column[row])
    move = f"a {name} score above {needed:.6g} (now {mine:.6g})"
    if mine >= needed:
        move = "a place that rules and diversity leave free: its score alone would do"
    return out | {"fate": fate, "stage": "merge" if over else "select", "would_move": [move]}


def fate_of(candidates: Candidates, reason: str) -> int:
    """Code of a reason in `candidates.fate`, -1 where nobody ended so."""
    return candidates.reasons.index(reason) + 1 if reason in candidates.reasons else -1


def _eligible(funnel: Funnel, requests: Requests) -> Keep:
    def keep(owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        mask = np.ones(len(items), dtype=bool)
        for part in funnel.filters.values():
            mask &= part.keep(requests, owners, items)
        return mask

    return keep


def _recall(channels: list[dict[str, Any]]) -> str:
    near = [c for c in channels if c["rank"] is not None]
    if not near:
        return "a channel that knows it"
    best = min(near, key=lambda c: c["rank"] / c["quota"])
    return f"rank {best['quota']} or better in {best['channel']} (now {best['rank']})"


def _channel(channel: Channel, requests: Requests, keep: Keep, item: int) -> dict[str, Any]:
    """Where the item stands in one channel's whole list."""
    _, items, scores = sound(channel.source.recall(requests, _ALL, keep), 1)
    at = np.flatnonzero(items == item)
    out = {"channel": channel.name, "quota": channel.quota, "rank": None, "score": None, "brought": False}
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
