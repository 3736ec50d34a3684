"""Users who are alike, row by row, over an inverted index: never all pairs. U users, I items, E list entries, R rows.

User u owns entries `offsets[u]:offsets[u+1]` of `items` [E], item i owns `starts[i]:starts[i+1]` of `user` [E], both
ascending. A thread needs memory for U sums and its own result. Import only inside a function: it loads numba.
"""

__all__ = ["alike", "correlated"]

import numpy as np
from numpy.typing import NDArray

from shortlist.models.blocks import likeness
from shortlist.models.blocks.compiled import loop
from shortlist.models.blocks.cooccurrence import offer, rank

Ints = NDArray[np.int64]
Short = NDArray[np.int32]
Real = NDArray[np.float64]
Single = NDArray[np.float32]

_jaccard, _cosine = loop(likeness.jaccard), loop(likeness.cosine)
_pearson, _shrunk = loop(likeness.pearson), loop(likeness.shrunk)


@loop
def _nearest(
    u: int, met: Short, score: Real, region: Short, beta: float, hard: bool, best: Ints, scores: Single
) -> int:
    """Fill a row with the best users above 0, u left out; how many there are. `hard` leaves out those of other regions,
    where enough are left."""
    keep, size, inside = len(best), 0, False
    if hard and region[u] >= 0:
        near = 0
        for t in range(len(met)):
            if met[t] != u and region[met[t]] == region[u] and score[t] > 0.0:
                near += 1
        inside = near >= keep
    for t in range(len(met)):
        v, worth = met[t], score[t]
        same = region[u] >= 0 and region[v] == region[u]
        if v == u or (inside and not same):
            continue
        if same:
            worth *= 1.0 + beta
        single = np.float32(worth)
        if single > 0.0 and (size < keep or single >= scores[0]):
            size = offer(scores, best, size, single, v)
    rank(scores, best, size)
    return size


@loop
def alike(
    low: int,
    high: int,
    sizes: Short,
    best: Ints,
    scores: Single,
    which: Ints,
    offsets: Ints,
    items: Short,
    starts: Ints,
    user: Short,
    weight: Real,
    union: bool,
    lam: float,
    region: Short,
    beta: float,
    hard: bool,
) -> None:
    """Rows low..high, of the users `which` [R]: `union` Jaccard, else cosine, of summed item weights where `weight` [I]
    is not empty. Fills sizes [R], best (places of users) and scores [R, keep]."""
    width = len(offsets) - 1
    common, touched = np.zeros(width, dtype=np.int32), np.empty(width, dtype=np.int32)
    shared = np.zeros(width if len(weight) else 0, dtype=np.float64)
    length = (offsets[1:] - offsets[:-1]).astype(np.float64)
    for row in range(low, high):
        u, n = which[row], 0
        for e in range(offsets[u], offsets[u + 1]):
            i = items[e]
            for a in range(starts[i], starts[i + 1]):
                v = user[a]
                if common[v] == 0:
                    touched[n] = v
                    n += 1
                common[v] += 1
                if len(weight):
                    shared[v] += weight[i]
        met = touched[:n]
        together = common[met].astype(np.float64)
        other = length[met]
        if union:
            score = _jaccard(together, length[u], other)
        elif len(weight):
            score = _cosine(shared[met], length[u], other)
        else:
            score = _cosine(together, length[u], other)
        sizes[row] = _nearest(u, met, _shrunk(score, together, lam), region, beta, hard, best[row], scores[row])
        for t in range(n):
            common[met[t]] = 0
            if len(weight):
                shared[met[t]] = 0.0


@loop
def correlated(
    low: int,
    high: int,
    sizes: Short,
    best: Ints,
    scores: Single,
    which: Ints,
    offsets: Ints,
    items: Short,
    starts: Ints,
    user: Short,
    mine: Real,
    theirs: Real,
    common_means: bool,
    lam: float,
    region: Short,
    beta: float,
    hard: bool,
) -> None:
    """As `alike`, by Pearson's correlation of deviations, `mine` [E] along `items` and `theirs` [E] along `user`, from
    the means of the common items, or as they are."""
    width = len(offsets) - 1
    common, touched = np.zeros(width, dtype=np.int32), np.empty(width, dtype=np.int32)
    x, y, xy, xx, yy = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width)
    for row in range(low, high):
        u, n = which[row], 0
        for e in range(offsets[u], offsets[u + 1]):
            i, own = items[e], mine[e]
            for a in range(starts[i], starts[i + 1]):
                v, other = user[a], theirs[a]
                if common[v] == 0:
                    touched[n] = v
                    n += 1
                    x[v], y[v], xy[v], xx[v], yy[v] = 0.0, 0.0, 0.0, 0.0, 0.0
                common[v] += 1
                if common_means:
                    x[v] += own
                    y[v] += other
                xy[v] += own * other
                xx[v] += own * own
                yy[v] += other * other
        met = touched[:n]
        together = common[met].astype(np.float64)
        score = _shrunk(_pearson(together, x[met], y[met], xy[met], xx[met], yy[met]), together, lam)
        sizes[row] = _nearest(u, met, score, region, beta, hard, best[row], scores[row])
        for t in range(n):
            common[met[t]] = 0
