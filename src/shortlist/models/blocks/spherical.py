"""Spherical k-means: unit vectors in groups around unit centres (Dhillon, Modha, Machine Learning 2001; start: Arthur,
Vassilvitskii, SODA 2007). N vectors, K centres, D width."""

__all__ = ["Grouped", "cluster", "closest"]

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 64 * 2**20  # cosines of one block of vectors
LEVEL = 1e-6  # of a vector: what a round must add to the objective for another one

Ints = NDArray[np.int64]
Single = NDArray[np.float32]


@dataclass(frozen=True)
class Grouped:
    """`centres` [K, D] of length 1, the group of each vector [N], and the objective: the sum of cosines of vectors to
    the centres of their groups."""

    centres: Single
    groups: Ints
    objective: float


def cluster(x: Single, k: int, restarts: int, rounds: int, rng: np.random.Generator) -> Grouped:
    """The best by objective of several starts; `x` are unit vectors. There are never more groups than vectors."""
    best: Grouped | None = None
    for _ in range(restarts):
        for last in refined(x, _start(x, min(k, len(x)), rng), rounds):
            made = last
        if best is None or made.objective > best.objective:
            best = made
    assert best is not None
    return Grouped(best.centres, closest(best.centres, x)[0], best.objective)


def refined(x: Single, centres: Single, rounds: int) -> Iterator[Grouped]:
    """Round after round: every vector to its closest centre, an empty group to a vector that fits worst, every centre
    to the direction of its group's sum. The objective, of these groups and centres, never falls."""
    before = -np.inf
    for _ in range(rounds):
        groups, cosine = closest(centres, x)
        groups = _seated(groups, cosine, len(centres))
        centres = _directions(x, groups, centres)
        objective = float(np.einsum("nd,nd->n", x, centres[groups], dtype=np.float64).sum())
        yield Grouped(centres, groups, objective)
        if objective - before < LEVEL * len(x):
            return
        before = objective


def closest(centres: Single, x: Single) -> tuple[Ints, Single]:
    """The centre nearest to each vector by cosine [N], ties to the smaller number, and that cosine; `x` have any
    length, the cosine is times it."""
    groups, cosine = np.zeros(len(x), dtype=np.int64), np.zeros(len(x), dtype=np.float32)
    size = max(1, BLOCK_BYTES // (4 * max(len(centres), 1)))
    for low in range(0, len(x), size):
        table = x[low : low + size] @ centres.T
        groups[low : low + size] = table.argmax(axis=1)
        cosine[low : low + size] = table.max(axis=1)
    return groups, cosine


def _start(x: Single, k: int, rng: np.random.Generator) -> Single:
    """Vectors drawn one after the other, each with a chance of 1 - its cosine to the closest of those before."""
    far = np.ones(len(x))
    rows = np.zeros(k, dtype=np.int64)
    for n in range(k):
        mass = np.cumsum(far)
        if mass[-1] > 0:
            rows[n] = min(int(np.searchsorted(mass, rng.random() * mass[-1], side="right")), len(x) - 1)
        else:  # every vector is one of those drawn
            rows[n] = rng.integers(len(x))
        far = np.minimum(far, np.maximum(1.0 - (x @ x[rows[n]]).astype(np.float64), 0.0))
        far[rows[n]] = 0.0
        far[far < LEVEL] = 0.0  # the same vector, rounded
    return x[rows]


def _seated(groups: Ints, cosine: Single, k: int) -> Ints:
    """With a vector in every group: those that fit worst move, one from each group's surplus at a time."""
    sizes = np.bincount(groups, minlength=k)
    empty = np.flatnonzero(sizes == 0)
    if not len(empty):
        return groups
    groups = groups.copy()
    worst = iter(np.argsort(cosine, kind="stable"))
    for group in empty:
        for row in worst:
            if sizes[groups[row]] > 1:
                sizes[groups[row]] -= 1
                groups[row], sizes[group] = group, 1
                break
    return groups


def _directions(x: Single, groups: Ints, centres: Single) -> Single:
    """Sums of groups at length 1; a sum of nothing keeps the centre it had."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    out = centres.copy()
    edges = np.append(starts, len(order))
    for n, group in enumerate(present):  # a group at a time: no copy of all vectors in double precision
        total = x[order[edges[n] : edges[n + 1]]].sum(axis=0, dtype=np.float64)
        length = float(np.sqrt(total @ total))
        if length > LEVEL:
            out[group] = (total / length).astype(np.float32)
    return out
