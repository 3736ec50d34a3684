"""Asking for more than is wanted: to score again what was found by shortened vectors, and to filter what cannot."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shortlist.index.cut import Ints

LEAST = 64  # rows that are scored again, however few are asked


def again(n: int, refine: int, size: int) -> int:
    """How many rows to find by shortened vectors, so that the n best are among them."""
    return min(max(n * refine, LEAST), size)


def through(find: Callable[[int], Ints], n: int, size: int, allowed: NDArray[np.bool_] | None) -> Ints:
    """A filter for structures that have none: rows of `find(depth)` [Q, depth], those not allowed -1, as deep as n
    need."""
    if allowed is None:
        return find(min(n, size))
    depth = min(size, int(1.2 * n / max(float(allowed.mean()), 1e-9)) + 16)
    while True:
        rows = find(depth)
        kept = np.where((rows >= 0) & allowed[rows], rows, -1)
        if depth == size or bool(((kept >= 0).sum(axis=1) >= n).all()):
            return kept
        depth = min(size, 2 * depth)
