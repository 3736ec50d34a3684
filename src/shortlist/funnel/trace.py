"""The whole funnel of one request, as plain data: who was brought by whom, scored what, and ended where."""

from collections.abc import Callable
from typing import Any

import numpy as np

from shortlist.candidates import Candidates, Slates
from shortlist.funnel.pipeline import BELOW, NOT_SELECTED, OVER_BUDGET

__all__ = ["trace", "fates", "reasons", "last_score", "depth"]

SELECTED = "selected"


def fates(slates: Slates) -> dict[str, int]:
    """How many candidates of all requests ended as what: `selected`, a filter's name, `over_budget`, `not_selected`."""
    counts = np.bincount(slates.candidates.fate, minlength=len(slates.candidates.reasons) + 1)
    return {name: int(n) for name, n in zip((SELECTED, *slates.candidates.reasons), counts, strict=True) if n}


def trace(slates: Slates, request: int, name: Callable[[int], str]) -> dict[str, Any]:
    """One request's candidates as columns, best first; `name` turns a key into the raw id."""
    candidates = slates.candidates
    low, high = int(candidates.offsets[request]), int(candidates.offsets[request + 1])
    fate = candidates.fate[low:high]
    shown = slates.picks[slates.offsets[request] : slates.offsets[request + 1]] - low
    position = np.zeros(high - low, dtype=np.int64)
    position[shown] = np.arange(1, len(shown) + 1)
    final = candidates.scores[last_score(candidates)][low:high]
    group = np.array([0, *(depth(candidates, reason) for reason in candidates.reasons)])[fate]
    order = np.lexsort((candidates.items[low:high], -final, np.where(position > 0, position, len(shown) + 1), group))
    ends = (SELECTED, *candidates.reasons)
    return {
        "candidates": {
            "item": [name(int(key)) for key in candidates.items[low:high][order]],
            "fate": [ends[int(f)] for f in fate[order]],
            "position": [int(p) or None for p in position[order]],
            "channels": {
                channel: {
                    "rank": [int(r) or None for r in candidates.rank[low:high, c][order]],
                    "score": [_number(s) for s in candidates.score[low:high, c][order]],
                }
                for c, channel in enumerate(candidates.channels)
                if bool((candidates.rank[low:high, c] > 0).any())
            },
            "scores": {n: [_number(s) for s in column[low:high][order]] for n, column in candidates.scores.items()},
        },
        "counts": {
            "recalled": high - low,
            **{end: int(n) for end, n in zip(ends, np.bincount(fate, minlength=len(ends)), strict=True) if n},
        },
        "took_ms": {stage: round(ms, 3) for stage, ms in slates.took_ms.items()},
        "degraded": slates.notes(request),
    }


def last_score(candidates: Candidates) -> str:
    """The score that the page was chosen by: the last column added."""
    return list(candidates.scores)[-1]


def depth(candidates: Candidates, reason: str) -> int:
    """How far from the page a fate is: 1 not selected, then the stages from the last to the first, budget, filters."""
    stages = [f"{BELOW}{name}" for name in reversed(list(candidates.scores))]
    ends = [NOT_SELECTED, *stages, OVER_BUDGET]
    return 1 + ends.index(reason) if reason in ends else 2 + len(ends)


def reasons(slates: Slates, pick: int) -> list[dict[str, Any]]:
    """Why a shown item is there: each channel that brought it, with rank and score, best rank first."""
    candidates = slates.candidates
    ranks = candidates.rank[pick]
    found = [c for c in np.argsort(ranks, kind="stable") if ranks[c] > 0]
    return [
        {"channel": candidates.channels[c], "rank": int(ranks[c]), "score": _number(candidates.score[pick, c])}
        for c in found
    ]


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
