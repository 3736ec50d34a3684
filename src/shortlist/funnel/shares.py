"""From several lists to each request, every one with a share and a limit of its own. R requests, P pairs of a request
and a list, N items found."""

__all__ = ["Found", "found", "summed", "in_turn"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Mask, located, spans
from shortlist.forms import Lists
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.cut import cut
from shortlist.index.lists import Kept

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Items by pair, best first: `pairs`, `items`, their scores in the list, and their `places` among what was found of
    it, from 0, all [N]."""

    pairs: Ints
    items: Ints
    scores: NDArray[np.float32]
    places: Ints


def found(
    form: Lists | Kept, owners: Ints, keys: Ints, limits: Ints | None, keep: Keep, allowed: Keep | None = None
) -> Found:
    """Of list `keys[p]` for request `owners[p]` [P], the items down to the one that makes `limits[p]` that `keep`
    counts; all of them where there are no limits. Items not `allowed` are passed over, and so are keys without a
    list."""
    lists = form if isinstance(form, Lists) else form.take(np.unique(keys))
    at, there = located(lists.keys, keys)
    pairs = np.flatnonzero(there)
    starts = lists.offsets[at[pairs]]
    counts = lists.offsets[at[pairs] + 1] - starts
    rows = spans(starts, counts)
    pair = np.repeat(pairs, counts)
    if allowed is not None:
        mask = allowed(owners[pair], lists.items[rows])
        pair, rows = pair[mask], rows[mask]
    items, scores = lists.items[rows], lists.scores[rows]
    if limits is not None and len(pair):

        def counted(pair: Ints, items: Ints) -> Mask:
            return keep(owners[pair], items)

        pair, items, scores = cut(pair, items, scores, int(limits.max()), counted)
        counts = counted(pair, items).astype(np.int64)
        before = np.cumsum(counts) - counts
        before -= before[np.searchsorted(pair, pair)]
        short = before < limits[pair]
        pair, items, scores = pair[short], items[short], scores[short]
    return Found(pair, items, scores, np.arange(len(pair)) - np.searchsorted(pair, pair))


def summed(
    owners: Ints, items: Ints, values: NDArray[np.float64], n: int, keep: Keep, *, most: bool = False
) -> Recalled:
    """Each item of a request once, with the sum of its values, or with the `most` of them; cut at n that count."""
    width = int(items.max(initial=0)) + 1
    pair, back = np.unique(owners * width + items, return_inverse=True)
    if most:
        score = np.full(len(pair), -np.inf)
        np.maximum.at(score, back, values)
    else:
        score = np.bincount(back, weights=values, minlength=len(pair)).astype(np.float64)
    return cut(pair // width, pair % width, score.astype(np.float32), n, keep)


def in_turn(found: Found, owners: Ints, shares: NDArray[np.float64], n: int, keep: Keep) -> Recalled:
    """Lists in turn, as often as their shares [P] say: an item at place p of one scores share / (p + 1), and its best
    score where it is in several."""
    values = shares[found.pairs] / (found.places + 1.0)
    return summed(owners[found.pairs], found.items, values, n, keep, most=True)
