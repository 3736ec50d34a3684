"""Co-occurrence of items in users' lists, row by row, keeping the best of each row. U users, I items, E list entries.

Lists are CSR: user u owns entries `offsets[u]:offsets[u+1]` of `items` [E], in order of time. A row
needs memory for I sums and its own result, whatever the number of pairs. Import only inside a function: it
loads numba.
"""

__all__ = ["offer", "rank", "census", "latest", "by_item", "counted", "sequenced", "rated", "squeeze", "ranked"]

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shortlist.forms import Lists
from shortlist.models.blocks.compiled import in_blocks, loop

Ints = NDArray[np.int64]
Short = NDArray[np.int32]
Real = NDArray[np.float64]
Single = NDArray[np.float32]
Rows = Callable[[int, int, Short, Ints, Single], None]

TINY = 1e-37  # what is smaller is nothing in a float32 score
NOISE = 1e-12  # a correlation below is what sums leave of a zero


@loop
def census(offsets: Ints, items: Ints, place: Short, cap: int, width: int) -> tuple[Ints, Ints, Ints]:
    """What `latest` will keep: entries and, before the cap, distinct items per user [U]; users per item [width].

    `items` [E] are keys, `place[key]` their columns."""
    users = len(offsets) - 1
    kept, distinct = np.zeros(users, dtype=np.int64), np.zeros(users, dtype=np.int64)
    audience, seen_by = np.zeros(width, dtype=np.int64), np.full(width, -1, dtype=np.int64)
    for u in range(users):
        for e in range(offsets[u], offsets[u + 1]):
            i = place[items[e]]
            if seen_by[i] != u:
                seen_by[i] = u
                audience[i] += 1
                distinct[u] += 1
        kept[u] = min(distinct[u], cap)
    return kept, distinct, audience


@loop
def latest(offsets: Ints, items: Ints, place: Short, starts: Ints, width: int, event: Short) -> Short:
    """The lists: of a user's events on an item the last, and of these the latest, in order of time.

    User u gets `starts[u]:starts[u+1]`. `event` is filled with the events the entries come from, unless it is empty."""
    lists = np.empty(starts[-1], dtype=np.int32)
    seen_by = np.full(width, -1, dtype=np.int64)
    for u in range(len(offsets) - 1):
        at, e = starts[u + 1], offsets[u + 1]
        while at > starts[u]:
            e -= 1
            i = place[items[e]]
            if seen_by[i] != u:
                seen_by[i] = u
                at -= 1
                lists[at] = i
                if len(event):
                    event[at] = e
    return lists


@loop
def by_item(offsets: Ints, items: Short, width: int, entry: Short) -> tuple[Ints, Short]:
    """The lists transposed: item i owns `starts[i]:starts[i+1]` of users, and of their entries, unless `entry`
    is empty."""
    count = np.zeros(width, dtype=np.int64)
    for e in range(len(items)):
        count[items[e]] += 1
    starts = np.zeros(width + 1, dtype=np.int64)
    for i in range(width):
        starts[i + 1] = starts[i] + count[i]
    at, user = starts[:-1].copy(), np.empty(len(items), dtype=np.int32)
    for u in range(len(offsets) - 1):
        for e in range(offsets[u], offsets[u + 1]):
            i = items[e]
            user[at[i]] = u
            if len(entry):
                entry[at[i]] = e
            at[i] += 1
    return starts, user


@loop
def squeeze(sizes: Short, items: Ints, scores: Single, keep: int) -> int:
    """Move the rows, `keep` apart, next to each other. Returns the sum of sizes."""
    at = 0
    for row in range(len(sizes)):
        for n in range(sizes[row]):
            items[at], scores[at] = items[row * keep + n], scores[row * keep + n]
            at += 1
    return at


def ranked(rows: Rows, keys: Ints, others: Ints, keep: int, block: int) -> Lists:
    """Lists of the rows of `keys` [R], ascending, each filled with at most `keep` places in `others`.

    `rows(low, high, sizes, best, scores)` fills rows low..high of sizes [R], best and scores [R, keep]; threads take
    `block` of them at once. All happens in the memory of the result, 12 bytes for each place that could be filled:
    nothing is held twice."""
    n, keep = len(keys), max(1, min(keep, len(others)))
    sizes = np.zeros(n, dtype=np.int32)
    items, scores = np.empty(n * keep, dtype=np.int64), np.empty(n * keep, dtype=np.float32)

    def fill(low: int, high: int) -> None:
        best = items.reshape(n, keep)
        rows(low, high, sizes, best, scores.reshape(n, keep))
        filled = np.arange(keep) < sizes[low:high, None]
        best[low:high][filled] = others[best[low:high][filled]]

    in_blocks(fill, n, block)
    total = squeeze(sizes, items, scores, keep)
    # no view of the two is left, and squeeze moved all of worth to the front
    items.resize(total, refcheck=False)
    scores.resize(total, refcheck=False)
    has = sizes > 0
    offsets = np.concatenate([[0], np.cumsum(sizes[has])]).astype(np.int64)
    return Lists(keys[has], offsets, items, scores)


@loop
def _behind(score: np.float32, item: int, other_score: np.float32, other_item: int) -> bool:
    """Whether the first ranks behind the second: smaller score, ties by larger item."""
    return bool(score < other_score or (score == other_score and item > other_item))


@loop
def _sink(scores: Single, items: Ints, size: int, score: np.float32, item: int) -> None:
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
def offer(scores: Single, items: Ints, size: int, score: np.float32, item: int) -> int:
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
def rank(scores: Single, items: Ints, size: int) -> None:
    """Turn the heap into a list, best first."""
    for last in range(size - 1, 0, -1):
        worst_score, worst_item = scores[0], items[0]
        _sink(scores, items, last, scores[last], items[last])
        scores[last], items[last] = worst_score, worst_item


@loop
def counted(
    low: int,
    high: int,
    sizes: Short,
    best: Ints,
    scores: Single,
    offsets: Ints,
    items: Short,
    starts: Ints,
    user: Short,
    own: Real,
    other: Real,
) -> None:
    """Rows low..high of count_ij * own_i * other_j, count_ij the users who have both. Fills
    sizes [I], best (columns) and scores [I, keep]."""
    width = len(own)
    keep = best.shape[1]
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
        row_items, row_scores, size = best[i], scores[i], 0
        for t in range(n):
            j = touched[t]
            score = np.float32(count[j] * own[i] * other[j])
            count[j] = 0
            if j != i and (size < keep or score >= row_scores[0]):
                size = offer(row_scores, row_items, size, score, j)
        rank(row_scores, row_items, size)
        sizes[i] = size


@loop
def sequenced(
    low: int,
    high: int,
    sizes: Short,
    best: Ints,
    scores: Single,
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
) -> None:
    """Rows low..high of the pair weights of ItemCF. `step[e]` is the click-gap factor from entry e to e+1 of one user.

    Position and click gap multiply along a list, so a pair costs one product and no exponential; publish gap
    and category belong to the items alone and enter once a pair of items. `published` in units of the
    half-life, NaN unknown, empty: no such weight. Categories agree when the codes (>= 0) do, or when any bit
    of `tags` [I, W] is shared."""
    width = len(own)
    keep = best.shape[1]
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
        row_items, row_scores, size = best[i], scores[i], 0
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
                size = offer(row_scores, row_items, size, score, j)
        rank(row_scores, row_items, size)
        sizes[i] = size


@loop
def rated(
    low: int,
    high: int,
    sizes: Short,
    best: Ints,
    scores: Single,
    offsets: Ints,
    items: Short,
    starts: Ints,
    entry: Short,
    user: Short,
    deviation: Real,
) -> None:
    """Rows low..high of adjusted cosine over co-raters; `deviation` [E] from the user's mean. Only likeness
    above zero is kept."""
    width = len(starts) - 1
    keep = best.shape[1]
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
        row_items, row_scores, size = best[i], scores[i], 0
        for t in range(n):
            j = touched[t]
            if j != i and product[j] > NOISE * np.sqrt(own[j] * other[j]):
                score = np.float32(product[j] / np.sqrt(own[j] * other[j]))
                if size < keep or score >= row_scores[0]:
                    size = offer(row_scores, row_items, size, score, j)
        rank(row_scores, row_items, size)
        sizes[i] = size
