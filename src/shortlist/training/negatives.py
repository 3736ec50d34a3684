"""Negatives drawn from the catalogue (Mikolov et al., NIPS 2013; Huang et al., KDD 2020), each with log of its q.

N items, ids from 2. Hot items are drawn more often as negatives, not less. M examples, n draws, K known items of each.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shortlist.errors import DataError
from shortlist.schema import FIRST

__all__ = ["Sampler", "Drawn", "avoiding"]

TRIES = 20  # rounds of drawing again before the rest is written out


class Sampler:
    """Items with probability in proportion to count^beta; beta 0 is uniform. One never met counts as met once."""

    def __init__(self, counts: ArrayLike, beta: float = 0.0) -> None:
        met = np.maximum(np.asarray(counts, dtype=np.float64), 1.0)
        if not len(met):
            raise DataError("no item to draw negatives from", where="negatives", hint="the catalogue is empty")
        weights = met**beta
        self.p = weights / weights.sum()
        self.log_p = np.log(self.p)
        self._ends = np.cumsum(self.p)
        self._ends[-1] = 1.0

    def __len__(self) -> int:
        return len(self.p)

    def log_q(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Log of the probability of one draw, like ids."""
        log_q: NDArray[np.float32] = self.log_p[ids - FIRST].astype(np.float32)
        return log_q

    def sample(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """n independent draws: ids [n] and the log probability of each."""
        ids = np.searchsorted(self._ends, rng.random(n), side="right").astype(np.int64) + FIRST
        return ids, self.log_q(ids)


@dataclass(frozen=True)
class Drawn:
    """`ids` and `log_q` [M, n]; `stuck` counts the examples that know every item: theirs are drawn from all."""

    ids: NDArray[np.int64]
    log_q: NDArray[np.float32]
    stuck: int


def avoiding(sampler: Sampler, known: NDArray[np.int64], n: int, rng: np.random.Generator) -> Drawn:
    """n independent draws for each example out of the items that are not among its `known` [M, K].

    Ids below 2 fill `known` up. `log_q` is that of the distribution without the known items.
    """
    known = np.sort(known, axis=1)
    real = (known >= FIRST) & (np.diff(known, axis=1, prepend=-1) != 0)  # each item once
    full = real.sum(axis=1) == len(sampler)
    ids = sampler.sample(len(known) * n, rng)[0].reshape(len(known), n)
    again = _among(ids, known) & ~full[:, None]
    for _ in range(TRIES):
        rows = np.flatnonzero(again.any(axis=1))
        if not len(rows):
            break
        drawn, redo = ids[rows], again[rows]
        drawn[redo] = sampler.sample(int(redo.sum()), rng)[0]
        ids[rows], again[rows] = drawn, redo & _among(drawn, known[rows])
    for row in np.flatnonzero(again.any(axis=1)):  # knows almost everything: rare
        ids[row, again[row]] = _rest(sampler, known[row, real[row]], int(again[row].sum()), rng)
    taken = np.where(real & ~full[:, None], sampler.p[np.maximum(known - FIRST, 0)], 0.0).sum(axis=1)
    log_q = sampler.log_p[ids - FIRST] - np.log1p(-taken)[:, None]
    return Drawn(ids, log_q.astype(np.float32), int(full.sum()))


def _among(ids: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which draws [M, n] are known to their example [M, K]."""
    return np.asarray((ids[:, :, None] == known[:, None, :]).any(axis=2))


def _rest(sampler: Sampler, known: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n draws from the distribution without the known items, by writing it out."""
    p = sampler.p.copy()
    p[known - FIRST] = 0.0
    free = np.flatnonzero(p)
    ends = np.cumsum(p[free])
    at = np.searchsorted(ends, rng.random(n) * ends[-1], side="right")
    ids: NDArray[np.int64] = free[np.minimum(at, len(free) - 1)] + FIRST
    return ids
