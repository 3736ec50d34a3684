"""Co-occurrence of items in users' lists, row by row, keeping the best of each row. U users, I items, E list entries.

Lists are CSR: user u owns entries `offsets[u]:offsets[u+1]` of `items` [E], in order of time. A row
needs memory for I sums and its own result, whatever the number of pairs. Import only inside a function: it
loads numba.
"""

__all__ = ["latest", "by_item", "counted", "sequenced", "rated"]

import numpy as np
from numpy.typing import NDArray

from shortlist.models.blocks.compiled import loop

Ints = NDArray[np.int64]
Short = NDArray[np.int32]
Real = NDArray[np.float64]
Single = NDArray[np.float32]
Flags = NDArray[np.bool_]

TINY = 1e-37  # what is smaller is nothing in a float32 score


@loop
def latest(offsets: Ints, items: Short, cap: int, width: int) -> tuple[Flags, Ints, Ints, Ints]:
    """Which events stand for their (user, item) pair: the last of each, and of a user's pairs the `cap` latest.

    Returns keep [E], kept and distinct items per user [U] (distinct before the cap), and users per item [width]."""
    users = len(offsets) - 1
    keep = np.zeros(len(items), dtype=np.bool_)
    kept, distinct = np.zeros(users, dtype=np.int64), np.zeros(users, dtype=np.int64)
    audience = np.zeros(width, dtype=np.int64)
    seen_by = np.full(width, -1, dtype=np.int64)
    for u in range(users):
        for e in range(offsets[u + 1] - 1, offsets[u] - 1, -1):
            i = items[e]
            if seen_by[i] == u:
                continue
            seen_by[i] = u
            audience[i] += 1
            distinct[u] += 1
            if kept[u] < cap:
                keep[e] = True
                kept[u] += 1
    return keep, kept, distinct, audience


@loop
def by_item(offsets: Ints, items: Short, width: int) -> tuple[Ints, Short, Short]:
    """The lists transposed: item i owns `starts[i]:starts[i+1]` of (entry, user), both int32 [E]."""
    starts = np.zeros(width + 1, dtype=np.int64)
    for e in range(len(items)):
        starts[items[e] + 1] += 1
    for i in range(width):
        starts[i + 1] += starts[i]
    at = starts[:-1].copy()
    entry, user = np.empty(len(items), dtype=np.int32), np.empty(len(items), dtype=np.int32)
    for u in range(len(offsets) - 1):
        for e in range(offsets[u], offsets[u + 1]):
            i = items[e]
            entry[at[i]] = e
            user[at[i]] = u
            at[i] += 1
    return starts, entry, user


@loop
def _behind(score: np.float32, item: int, other_score: np.float32, other_item: int) -> bool:
    """Whether the first ranks behind the second: smaller score, ties by larger item."""
    return bool(score < other_score or (score == other_score and item > other_item))


@loop
def _sink(scores: Single, items: Short, size: int, score: np.float32, item: int) -> None:
    """Put (score, item) at the root of a heap whose root is the worst, and let it sink to its place."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _behind(scores[child + 1], items[child + 1], scores[child], items[child]):
            child += 1
        if not _behind(scores[child], items[child], score, item):
            break
        scores[place], items[place] = scores[child], items[child]
        place = child
    scores[place], items[place] = score, item


@loop
def _offer(scores: Single, items: Short, size: int, score: np.float32, item: int) -> int:
    """Keep (score, item) if it is among the best `len(scores)` so far. Returns how many are held.

    A row touches nearly every item, so callers first compare with the worst held: a call costs more than that."""
    if size < len(scores):
        place = size
        while place > 0 and _behind(score, item, scores[(place - 1) // 2], items[(place - 1) // 2]):
            scores[place], items[place] = scores[(place - 1) // 2], items[(place - 1) // 2]
            place = (place - 1) // 2
        scores[place], items[place] = score, item
        return size + 1
    if _behind(scores[0], items[0], score, item):
        _sink(scores, items, size, score, item)
    return size


@loop
def _rank(scores: Single, items: Short, size: int) -> None:
    """Turn the heap into a list, best first."""
    for last in range(size - 1, 0, -1):
        worst_score, worst_item = scores[0], items[0]
        _sink(scores, items, last, scores[last], items[last])
        scores[last], items[last] = worst_score, worst_item


@loop
def counted(
    low: int, high: int, keep: int, offsets: Ints, items: Short, starts: Ints, user: Short, own: Real, other: Real
) -> tuple[Short, Short, Single]:
    """Rows low..high of count_ij * own_i * other_j, count_ij the users who have both. Sizes [high-low], items
    and scores [rows, keep]."""
    width = len(own)
    sizes = np.zeros(high - low, dtype=np.int32)
    best, scores = np.empty((high - low, keep), dtype=np.int32), np.empty((high - low, keep), dtype=np.float32)
    count, touched = np.zeros(width, dtype=np.int32), np.empty(width, dtype=np.int32)
    for i in range(low, high):
        n = 0
        for a in range(starts[i], starts[i + 1]):
            u = user[a]
            for e in range(offsets[u], offsets[u + 1]):
                j = items[e]
                if count[j] == 0:
                    touched[n] = j
                    n += 1
                count[j] += 1
        row_items, row_scores, size = best[i - low], scores[i - low], 0
        for t in range(n):
            j = touched[t]
            score = np.float32(count[j] * own[i] * other[j])
            count[j] = 0
            if j != i and (size < keep or score >= row_scores[0]):
                size = _offer(row_scores, row_items, size, score, j)
        _rank(row_scores, row_items, size)
        sizes[i - low] = size
    return sizes, best, scores


@loop
def sequenced(
    low: int,
    high: int,
    keep: int,
    offsets: Ints,
    items: Short,
    starts: Ints,
    entry: Short,
    user: Short,
    user_weight: Real,
    step: Real,
    position_decay: float,
    back: float,
    own: Real,
    other: Real,
    published: Real,
    category: Short,
    tags: NDArray[np.uint64],
    same_category: float,
) -> tuple[Short, Short, Single]:
    """Rows low..high of the pair weights of ItemCF. `step[e]` is the click-gap factor from entry e to e+1 of one user.

    Position and click gap multiply along a list, so a pair costs one product and no exponential; publish gap
    and category belong to the items alone and enter once a pair of items. `published` in units of the
    half-life, NaN unknown, empty: no such weight. Categories agree when the codes (>= 0) do, or when any bit
    of `tags` [I, W] is shared."""
    width = len(own)
    sizes = np.zeros(high - low, dtype=np.int32)
    best, scores = np.empty((high - low, keep), dtype=np.int32), np.empty((high - low, keep), dtype=np.float32)
    total, touched = np.zeros(width, dtype=np.float64), np.empty(width, dtype=np.int32)
    for i in range(low, high):
        n = 0
        for a in range(starts[i], starts[i + 1]):
            u, at = user[a], entry[a]
            weight = user_weight[u]
            for e in range(at + 1, offsets[u + 1]):
                weight *= step[e - 1]
                if weight < TINY:
                    break
                j = items[e]
                if total[j] == 0.0:
                    touched[n] = j
                    n += 1
                total[j] += weight
                weight *= position_decay
            weight = user_weight[u] * back
            for e in range(at - 1, offsets[u] - 1, -1):
                weight *= step[e]
                if weight < TINY:
                    break
                j = items[e]
                if total[j] == 0.0:
                    touched[n] = j
                    n += 1
                total[j] += weight
                weight *= position_decay
        row_items, row_scores, size = best[i - low], scores[i - low], 0
        for t in range(n):
            j = touched[t]
            worth = total[j] * own[i] * other[j]
            total[j] = 0.0
            if len(published):
                gap = abs(published[i] - published[j])
                if not np.isnan(gap):
                    worth *= 0.5**gap
            if same_category != 1.0:
                same = category[i] >= 0 and category[i] == category[j]
                for w in range(tags.shape[1]):
                    same = same or (tags[i, w] & tags[j, w]) != 0
                if same:
                    worth *= same_category
            score = np.float32(worth)
            if score > 0.0 and (size < keep or score >= row_scores[0]):
                size = _offer(row_scores, row_items, size, score, j)
        _rank(row_scores, row_items, size)
        sizes[i - low] = size
    return sizes, best, scores


@loop
def rated(
    low: int,
    high: int,
    keep: int,
    offsets: Ints,
    items: Short,
    starts: Ints,
    entry: Short,
    user: Short,
    deviation: Real,
) -> tuple[Short, Short, Single]:
    """Rows low..high of adjusted cosine over co-raters; `deviation` [E] from the user's mean. Only likeness
    above zero is kept."""
    width = len(starts) - 1
    sizes = np.zeros(high - low, dtype=np.int32)
    best, scores = np.empty((high - low, keep), dtype=np.int32), np.empty((high - low, keep), dtype=np.float32)
    row_of, touched = np.full(width, -1, dtype=np.int64), np.empty(width, dtype=np.int32)
    product, own, other = np.empty(width), np.empty(width), np.empty(width)
    for i in range(low, high):
        n = 0
        for a in range(starts[i], starts[i + 1]):
            u, mine = user[a], deviation[entry[a]]
            for e in range(offsets[u], offsets[u + 1]):
                j = items[e]
                if row_of[j] != i:
                    row_of[j] = i
                    touched[n] = j
                    n += 1
                    product[j], own[j], other[j] = 0.0, 0.0, 0.0
                product[j] += mine * deviation[e]
                own[j] += mine * mine
                other[j] += deviation[e] * deviation[e]
        row_items, row_scores, size = best[i - low], scores[i - low], 0
        for t in range(n):
            j = touched[t]
            if j != i and product[j] > 0.0:
                score = np.float32(product[j] / np.sqrt(own[j] * other[j]))
                if size < keep or score >= row_scores[0]:
                    size = _offer(row_scores, row_items, size, score, j)
        _rank(row_scores, row_items, size)
        sizes[i - low] = size
    return sizes, best, scores
