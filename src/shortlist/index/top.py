"""The best n eligible items of each request by one or several vectors: a search repeated deeper until enough count."""

__all__ = ["top"]

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shortlist.index.cut import Floats, Ints, Keep, Rows

Look = Callable[[NDArray[np.float32], int], tuple[Ints, Floats]]


def top(look: Look, size: int, owners: Ints, queries: NDArray[np.float32], n: int, keep: Keep | None = None) -> Rows:
    """The best n of each request that count, as `cut` has it. `look(queries, depth)` searches `size` items.

    Query q [Q, D] asks for request `owners[q]` (ascending). A request with several queries gets the union of what they
    find: an item stands once, with its best score. Looks as deep as needed and no deeper, so that `keep` is asked about
    few items.
    """
    several = bool((owners[1:] == owners[:-1]).any())
    pending = np.arange(len(queries))
    want = n if keep is None else 2 * n + 64
    parts: list[Rows] = []
    while len(pending) and size and n > 0:
        depth = min(want, size)
        found, scores = look(queries[pending], depth)
        owner = owners[pending]
        rows, sure = _merged(owner, found, scores, depth == size) if several else _as_found(owner, found, scores)
        counts = np.ones(len(rows[0]), dtype=bool) if keep is None else keep(rows[0], rows[1])
        starts = np.flatnonzero(np.diff(rows[0], prepend=-1))
        sizes = np.diff(np.append(starts, len(rows[0])))
        counted = counts.astype(np.int64)
        before = np.cumsum(counted) - counted
        before -= np.repeat(before[starts], sizes)
        enough = np.add.reduceat(counted, starts) >= n if len(starts) else np.zeros(0, dtype=bool)
        done = enough | sure[starts] | (depth == size)
        kept = (before < n) & np.repeat(done, sizes)
        parts.append((rows[0][kept], rows[1][kept], rows[2][kept]))
        pending = pending[np.isin(owner, rows[0][starts[~done]])]
        want *= 4
    if not parts:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    owner, items, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(owner, kind="stable")
    return owner[order], items[order], score[order]


def _as_found(owner: Ints, found: Ints, scores: Floats) -> tuple[Rows, NDArray[np.bool_]]:
    """Rows of requests with one query each, and per row whether its request was searched to the end."""
    known = found >= 0
    sure = np.repeat(~known.all(axis=1), known.sum(axis=1))
    return (np.repeat(owner, known.sum(axis=1)), found[known], scores[known]), sure


def _merged(owner: Ints, found: Ints, scores: Floats, whole: bool) -> tuple[Rows, NDArray[np.bool_]]:
    """As `_as_found` for requests with several queries: each item once, down to where the first of the queries ends,
    behind which another item may be missing."""
    depth = found.shape[1]
    known = found >= 0
    ended = ~known.all(axis=1) | whole
    of = np.repeat(owner, depth)[known.ravel()]
    items, score = found[known], scores[known]
    order = np.lexsort((-score, items, of))
    of, items, score = of[order], items[order], score[order]
    first = np.append(True, (of[1:] != of[:-1]) | (items[1:] != items[:-1]))[: len(of)]
    of, items, score = of[first], items[first], score[first]
    # the last row of each query that does not reach the end, in the same order: score falling, key rising
    last = np.flatnonzero(~ended)
    every_of = np.concatenate([of, owner[last]])
    every_items = np.concatenate([items, found[last, -1]])
    every_score = np.concatenate([score, scores[last, -1]])
    bound = np.repeat([0, 1], [len(of), len(last)])  # behind the row it equals
    order = np.lexsort((bound, every_items, -every_score, every_of))
    of, items, score, bound = every_of[order], every_items[order], every_score[order], bound[order]
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    sizes = np.diff(np.append(starts, len(of)))
    passed = np.cumsum(bound) - bound
    passed -= np.repeat(passed[starts], sizes)
    open_ended = np.add.reduceat(bound, starts) > 0 if len(starts) else np.zeros(0, dtype=bool)
    sure = np.repeat(~open_ended, sizes)
    kept = (passed == 0) & (bound == 0)
    return (of[kept], items[kept], score[kept]), sure[kept]
