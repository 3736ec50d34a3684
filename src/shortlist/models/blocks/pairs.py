"""Pairs of users who have an item in common, row by row (Swing). U users, I items, E list entries, P picked users.

User u owns entries `offsets[u]:offsets[u+1]` of `items` [E], item i owns `starts[i]:starts[i+1]` of `user` [P]. A
thread needs memory for I sums, its own result and the lists of one item's users. Import only inside a function: it
loads numba.
"""

__all__ = ["swung"]

import numpy as np
from numpy.typing import NDArray

from shortlist.models.blocks.compiled import loop
from shortlist.models.blocks.cooccurrence import offer, rank

Ints = NDArray[np.int64]
Short = NDArray[np.int32]
Real = NDArray[np.float64]
Single = NDArray[np.float32]


@loop
def swung(
    low: int,
    high: int,
    sizes: Short,
    best: Ints,
    scores: Single,
    offsets: Ints,
    items: Short,
    starts: Ints,
    user: Short,
    weight: Real,
    alpha: float,
    scale: Real,
) -> None:
    """Rows low..high of scale_i * sum of w_u w_v / (alpha + |I_u and I_v|) over the picked pairs u < v of i that have j
    too. Fills sizes [I], best (columns) and scores [I, keep].

    Of one item's users the lists are turned round first, items that only one of them has left out: then what a pair
    shares is counted along these, and nothing is looked up."""
    width, keep = len(starts) - 1, best.shape[1]
    count, touched = np.zeros(width, dtype=np.int32), np.empty(width, dtype=np.int32)
    begin, end = np.zeros(width, dtype=np.int64), np.zeros(width, dtype=np.int64)
    total = np.zeros(width, dtype=np.float64)
    for i in range(low, high):
        first, picked = starts[i], starts[i + 1] - starts[i]
        n = 0
        for a in range(picked):
            u = user[first + a]
            for e in range(offsets[u], offsets[u + 1]):
                j = items[e]
                if count[j] == 0:
                    touched[n] = j
                    n += 1
                count[j] += 1
        places = 0
        for t in range(n):
            j = touched[t]
            begin[j], end[j] = places, places
            if count[j] > 1:
                places += count[j]
        among = np.empty(places, dtype=np.int32)  # of each item the picked users so far, by their place in `user`
        common, worth = np.zeros(picked, dtype=np.int32), np.empty(picked, dtype=np.float64)
        for a in range(picked):
            u = user[first + a]
            for e in range(offsets[u], offsets[u + 1]):
                j = items[e]
                for at in range(begin[j], end[j]):
                    common[among[at]] += 1
            for b in range(a):
                worth[b] = weight[u] * weight[user[first + b]] / (alpha + common[b])
                common[b] = 0
            for e in range(offsets[u], offsets[u + 1]):
                j = items[e]
                if count[j] > 1:
                    for at in range(begin[j], end[j]):
                        total[j] += worth[among[at]]
                    among[end[j]] = a
                    end[j] += 1
        row_items, row_scores, size = best[i], scores[i], 0
        for t in range(n):
            j = touched[t]
            score = np.float32(scale[i] * total[j])
            count[j], total[j] = 0, 0.0
            if j != i and score > 0.0 and (size < keep or score >= row_scores[0]):
                size = offer(row_scores, row_items, size, score, j)
        rank(row_scores, row_items, size)
        sizes[i] = size
