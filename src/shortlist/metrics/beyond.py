"""Beyond accuracy: coverage, novelty, Gini, diversity (ILD: Ziegler et al., WWW 2005; Castells et al., 2015).

R lists of K item keys, -1 behind the end; I items in the catalogue, `items` their keys, ascending.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import DataError

__all__ = [
    "exposure", "coverage", "gini", "lorenz", "head_share", "mean_popularity", "self_information", "ild",
    "Similarity", "cosine", "attributes", "of_matrix",
]  # fmt: skip

Keys = NDArray[np.int64]
Column = NDArray[np.float64]
Similarity = Callable[[Keys, Keys], Column]
"""Similarity of pairs of item keys, [P] and [P] to [P]; 1 is the same."""

PIECE = 1 << 20  # pairs at a time; bounds memory, changes no result


def exposure(slates: Keys, items: Keys) -> NDArray[np.int64]:
    """How many lists show each item of the catalogue, zeros included [I]."""
    return np.bincount(_rows(slates[slates >= 0], items), minlength=len(items))


def coverage(exposures: NDArray[np.int64]) -> float:
    """Share of the catalogue that is shown at all."""
    return float(np.count_nonzero(exposures) / len(exposures)) if len(exposures) else float("nan")


def gini(exposures: NDArray[np.int64]) -> float:
    """0 when every item is shown equally often, towards 1 when one takes all; NaN when nothing is shown."""
    n, total = len(exposures), exposures.sum()
    if not total:
        return float("nan")
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float((weights * np.sort(exposures).astype(np.float64)).sum() / (n * total))


def lorenz(exposures: NDArray[np.int64], points: int = 101) -> Column:
    """Share of exposure that the least shown 0 %..100 % of the items take together, at `points` even
    steps.
    """
    below = np.concatenate([[0.0], np.cumsum(np.sort(exposures))])
    at = np.linspace(0, len(exposures), points)
    return np.interp(at, np.arange(len(below)), below) / below[-1] if below[-1] else np.full(points, np.nan)


def head_share(exposures: NDArray[np.int64], popularity: NDArray[np.int64], share: float = 0.01) -> float:
    """Share of exposure that the most popular `share` of the items take, at least one item; ties by smaller
    key.
    """
    total = exposures.sum()
    if not total:
        return float("nan")
    head = np.argsort(-popularity, kind="stable")[: max(1, round(share * len(popularity)))]
    return float(exposures[head].sum() / total)


def mean_popularity(slates: Keys, items: Keys, popularity: NDArray[np.int64]) -> Column:
    """Mean training popularity of the items of each list [R]; lower is newer. NaN for an empty list."""
    return _mean(slates, items, popularity.astype(np.float64))


def self_information(slates: Keys, items: Keys, popularity: NDArray[np.int64], users: int) -> Column:
    """Mean -log2(n_i / |U|) of the items of each list [R], in bits; higher is newer. NaN for an empty list.

    `popularity` n_i counts distinct users [I]; an item nobody took yet counts as half a user.
    """
    return _mean(slates, items, -np.log2(np.maximum(popularity, 0.5) / users))


def ild(slates: Keys, similarity: Similarity) -> Column:
    """Mean 1 - similarity over the pairs of each list [R]; NaN for a list of fewer than two items."""
    R, K = slates.shape
    first, second = np.triu_indices(K, 1)
    out = np.full(R, np.nan)
    step = max(1, PIECE // max(1, len(first)))
    for start in range(0, R if len(first) else 0, step):
        piece = slates[start : start + step]
        a, b = piece[:, first], piece[:, second]
        pair = (a >= 0) & (b >= 0)
        distance = np.zeros(pair.shape)
        distance[pair] = 1 - similarity(a[pair], b[pair])
        count = pair.sum(axis=1)
        np.divide(distance.sum(axis=1), count, out=out[start : start + step], where=count > 0)
    return out


def cosine(items: Keys, vectors: NDArray[np.float32]) -> Similarity:
    """Cosine of content vectors [I, D], negative ones clipped to 0. A zero vector is like nothing but
    itself.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)

    def similarity(a: Keys, b: Keys) -> Column:
        dots = np.einsum("pd,pd->p", unit[_rows(a, items)], unit[_rows(b, items)])
        return np.where(a == b, 1.0, np.clip(dots, 0, 1))

    return similarity


def attributes(items: Keys, codes: NDArray[np.int64], weights: tuple[float, ...] = (0.5, 0.3, 0.2)) -> Similarity:
    """Σ_l ω_l · 1[equal on level l], Σω = 1. `codes` [I, L]; a missing value (-1) equals nothing but its own
    item.
    """
    if codes.shape[1] != len(weights) or abs(sum(weights) - 1) > 1e-9:
        raise ValueError(f"{codes.shape[1]} levels need as many weights that sum to 1, got {weights}")

    def similarity(a: Keys, b: Keys) -> Column:
        left, right = codes[_rows(a, items)], codes[_rows(b, items)]
        return np.where(a == b, 1.0, ((left == right) & (left >= 0)) @ np.asarray(weights))

    return similarity


def of_matrix(items: Keys, matrix: NDArray[np.floating]) -> Similarity:
    """Looked up in a similarity matrix [I, I]."""
    return lambda a, b: matrix[_rows(a, items), _rows(b, items)].astype(np.float64)


def _rows(keys: Keys, items: Keys) -> NDArray[np.int64]:
    """Place of each key in the catalogue. Raises DataError for a key it does not hold."""
    at = np.minimum(np.searchsorted(items, keys), max(len(items) - 1, 0))
    strange = items[at] != keys if len(items) else np.ones(len(keys), dtype=bool)
    if strange.any():
        what = f"item key {int(keys[np.argmax(strange)])} is not in the catalogue"
        raise DataError(what, where="beyond accuracy", hint="give the catalogue that the lists were made from")
    return at


def _mean(slates: Keys, items: Keys, values: Column) -> Column:
    shown = slates >= 0
    each = np.zeros(slates.shape)
    each[shown] = values[_rows(slates[shown], items)]
    count = shown.sum(axis=1)
    out = np.full(len(slates), np.nan)
    np.divide(each.sum(axis=1), count, out=out, where=count > 0)
    return out
