"""The best n eligible rows of each request: what every source ends with. N rows, R requests."""

__all__ = ["cut"]

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Keep = Callable[[Ints, Ints], NDArray[np.bool_]]
Rows = tuple[Ints, Ints, Floats]


def cut(owners: Ints, items: Ints, scores: Floats, n: int, keep: Keep | None = None) -> Rows:
    """Rows by request, best first, ties by smaller item, down to the n-th row that `keep(owners, items)` counts.

    Rows that do not count but rank above the cut stay; a request with fewer than n that count keeps every row.
    """
    if bool((owners[1:] < owners[:-1]).any()):
        order = np.argsort(owners, kind="stable")
        owners, items, scores = owners[order], items[order], scores[order]
    starts = np.flatnonzero(np.diff(owners, prepend=owners[0] - 1)) if len(owners) else np.zeros(0, dtype=np.int64)
    stops = np.append(starts[1:], len(owners))
    pending = np.arange(len(starts))
    want = n if keep is None else 2 * n + 64
    chosen: list[Ints] = []
    while len(pending):  # look as deep as needed, and no deeper: `keep` is asked about few rows
        parts = [_best(scores, int(starts[r]), int(stops[r]), want) for r in pending]
        rows = np.concatenate(parts)
        rows = rows[np.lexsort((items[rows], -scores[rows], owners[rows]))]
        sizes = np.array([len(part) for part in parts])
        first = np.cumsum(sizes) - sizes
        counts = (
            np.ones(len(rows), dtype=np.int64) if keep is None else keep(owners[rows], items[rows]).astype(np.int64)
        )
        before = np.cumsum(counts) - counts
        before -= np.repeat(before[first], sizes)
        total = np.add.reduceat(counts, first)
        done = (total >= n) | (sizes == stops[pending] - starts[pending])
        chosen.append(rows[(before < n) & np.repeat(done, sizes)])
        pending = pending[~done]
        want *= 4
    at = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
    if len(chosen) > 1:
        at = at[np.argsort(owners[at], kind="stable")]
    return owners[at], items[at], scores[at]


def _best(scores: Floats, start: int, stop: int, want: int) -> Ints:
    """Rows of one request that reach its want-th best score, in any order; ties at the edge all come along."""
    size = stop - start
    if size <= want:
        return np.arange(start, stop)
    mine = scores[start:stop]
    edge = np.partition(mine, size - want)[size - want]
    return start + np.flatnonzero(mine >= edge)
