"""Negatives of retrieval examples, each with log of its q (Mikolov et al., NIPS 2013; Huang et al., KDD 2020).

From the catalogue, uniformly or by count^beta: hot items are drawn more often as negatives, not less (and kept less
often as positives). From the ranks of an index (EBR, Huang et al.), from the positive's own market (Grbovic & Cheng,
KDD 2018), or among what an index ranks well and is about something else (Fan et al., KDD 2019). All by one call,
`sample(asked, n, rng)`. Columns that examples share, of the batch and drawn ones, are the softmax's own.

N items, ids from 2; an id below 2 is no draw. M examples, n draws, K known items of each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shortlist.errors import DataError
from shortlist.schema import FIRST, PAD

__all__ = [
    "Asked", "Drawn", "Negatives", "Sampler", "Catalogued", "Pooled", "Alike", "Blend",
    "avoiding", "keep_probability", "ranked",
]  # fmt: skip

TRIES = 20  # rounds of drawing again before the rest is written out
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """Examples: who they are of (keys [M]), the item wanted [M], and what is no negative of each [M, K], filled up
    with ids below 2. The item wanted never is one."""

    users: NDArray[np.int64]
    wanted: Ids
    known: Ids

    def __len__(self) -> int:
        return len(self.wanted)

    @property
    def barred(self) -> Ids:
        """What may not be drawn [M, K + 1]."""
        return np.concatenate([self.known, self.wanted[:, None]], axis=1)


@dataclass(frozen=True)
class Drawn:
    """`ids` and `log_q` [M, n]; `stuck` counts the examples whose own pool was exhausted: theirs are drawn from all."""

    ids: Ids
    log_q: NDArray[np.float32]
    stuck: int


class Negatives(Protocol):
    """A way of drawing."""

    def sample(self, asked: Asked, n: int, rng: np.random.Generator) -> Drawn:
        """n negatives of each example, none of them barred."""
        ...

    def probability(self, asked: Asked, ids: Ids) -> NDArray[np.float64]:
        """What is declared for ids [M, n]: the probability of one draw; 0 for what is barred."""
        ...


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

    def log_q(self, ids: Ids) -> NDArray[np.float32]:
        """Log of the probability of one draw, like ids."""
        log_q: NDArray[np.float32] = self.log_p[ids - FIRST].astype(np.float32)
        return log_q

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Ids, NDArray[np.float32]]:
        """n independent draws: ids [n] and the log probability of each."""
        ids = np.searchsorted(self._ends, rng.random(n), side="right").astype(np.int64) + FIRST
        return ids, self.log_q(ids)


def keep_probability(counts: ArrayLike, threshold: float = 1e-3) -> NDArray[np.float64]:
    """How often an event of each item [N] is kept as a positive: min(1, sqrt(t/f) + t/f), f its share of all events
    and t the threshold. An item without events has nothing to keep, and 1."""
    met = np.asarray(counts, dtype=np.float64)
    share = met / max(met.sum(), 1.0)
    over = np.divide(threshold, share, out=np.full(len(met), np.inf), where=share > 0)
    return np.asarray(np.minimum(1.0, np.sqrt(over) + over))


@dataclass(frozen=True)
class Catalogued:
    """From the whole catalogue, for each example on its own."""

    sampler: Sampler

    def sample(self, asked: Asked, n: int, rng: np.random.Generator) -> Drawn:
        return avoiding(self.sampler, asked.barred, n, rng)

    def probability(self, asked: Asked, ids: Ids) -> NDArray[np.float64]:
        taken, full = _taken(self.sampler, asked.barred)
        p = np.where(ids >= FIRST, self.sampler.p[np.maximum(ids - FIRST, 0)], 0.0) / (1 - taken)[:, None]
        return np.asarray(np.where(_among(ids, asked.barred) & ~full[:, None], 0.0, p))


@dataclass(frozen=True)
class Pooled:
    """Uniformly from a pool of each example's own. `pool(asked)` gives distinct ids [M, W], filled up with ids below 2;
    what is barred is taken out of it. Where nothing is left, `rest` draws instead."""

    pool: Callable[[Asked], Ids]
    rest: Catalogued

    def sample(self, asked: Asked, n: int, rng: np.random.Generator) -> Drawn:
        pool = self._free(asked)
        size = (pool >= FIRST).sum(axis=1)
        pick = np.floor(rng.random((len(asked), n)) * np.maximum(size, 1)[:, None]).astype(np.int64)
        # free ones first, in their order: the r-th of them stands in place r
        ordered = np.take_along_axis(pool, np.argsort(pool < FIRST, axis=1, kind="stable"), axis=1)
        ids = np.take_along_axis(ordered, pick, axis=1) if pool.shape[1] else np.zeros((len(asked), n), dtype=np.int64)
        log_q = np.tile(-np.log(np.maximum(size, 1))[:, None], (1, n)).astype(np.float32)
        return _filled(ids, log_q, size == 0, self.rest, asked, n, rng)

    def probability(self, asked: Asked, ids: Ids) -> NDArray[np.float64]:
        pool = self._free(asked)
        size = (pool >= FIRST).sum(axis=1)[:, None]
        own = np.where((ids >= FIRST) & _among(ids, pool), 1.0 / np.maximum(size, 1), 0.0)
        return np.where(size > 0, own, self.rest.probability(asked, ids))

    def _free(self, asked: Asked) -> Ids:
        pool = self.pool(asked)
        return np.where(_among(pool, asked.barred), PAD, pool)


def ranked(ranks: NDArray[np.int32], rest: Catalogued, group: Ids | None = None) -> Pooled:
    """Hard ones: what an index ranks in some window for each user, ids [U, W] by user id, filled up with ids below 2.

    With a `group` of every item [N] by id from 2 (category, market; below 0 for none) only those of another group than
    the wanted item's: a model likes them, and they are about something else (Fan et al., KDD 2019, whose teacher of
    relevance is here a field).
    """

    def pool(asked: Asked) -> Ids:
        ids = ranks[asked.users].astype(np.int64)
        if group is None:
            return ids
        own, theirs = _group(group, asked.wanted)[:, None], _group(group, ids)
        return np.where((own >= 0) & (theirs >= 0) & (own != theirs), ids, PAD)

    return Pooled(pool, rest)


@dataclass(frozen=True)
class Alike:
    """Hard by business: uniformly from the items of the wanted one's own group (category, market). `group` [N] by id
    from 2; an item of a negative group has none. Where the group has nothing left, `rest` draws instead."""

    group: NDArray[np.int64]
    rest: Catalogued

    @cached_property
    def members(self) -> NDArray[np.int64]:
        """Items, counted from 0, group after group."""
        return np.argsort(self.group, kind="stable")

    @cached_property
    def ordered(self) -> NDArray[np.int64]:
        """The group of each of them, ascending."""
        return self.group[self.members]

    def sample(self, asked: Asked, n: int, rng: np.random.Generator) -> Drawn:
        members = self.members
        low, free = self._span(asked)
        size = self._size(asked)
        ids = np.zeros((len(asked), n), dtype=np.int64)
        again = np.tile((free > 0)[:, None], (1, n))
        for _ in range(TRIES):
            row, column = np.nonzero(again)
            if not len(row):
                break
            at = low[row] + np.floor(rng.random(len(row)) * size[row]).astype(np.int64)
            ids[row, column] = members[at] + FIRST
            again &= _among(ids, asked.barred)
        for m in np.flatnonzero(again.any(axis=1)).tolist():  # almost all of its group is barred: rare
            mine = members[low[m] : low[m] + size[m]] + FIRST
            left = mine[~np.isin(mine, asked.barred[m])]
            ids[m, again[m]] = rng.choice(left, int(again[m].sum()))
        log_q = np.tile(-np.log(np.maximum(free, 1))[:, None], (1, n)).astype(np.float32)
        return _filled(ids, log_q, free == 0, self.rest, asked, n, rng)

    def probability(self, asked: Asked, ids: Ids) -> NDArray[np.float64]:
        own = self._own(asked)[:, None]
        free = self._span(asked)[1][:, None]
        alike = (own >= 0) & (_group(self.group, ids) == own)
        p = np.where(alike & ~_among(ids, asked.barred), 1.0 / np.maximum(free, 1), 0.0)
        return np.where(free > 0, p, self.rest.probability(asked, ids))

    def _own(self, asked: Asked) -> NDArray[np.int64]:
        """Group of the item wanted [M], -1 for none."""
        return np.maximum(_group(self.group, asked.wanted), -1)

    def _size(self, asked: Asked) -> NDArray[np.int64]:
        own = self._own(asked)
        count = np.searchsorted(self.ordered, own, "right") - np.searchsorted(self.ordered, own, "left")
        return np.where(own >= 0, count, 0)

    def _span(self, asked: Asked) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each example's group begins among the members, and how many of it are not barred [M]."""
        own = self._own(asked)
        barred, real = _distinct(asked.barred)
        mine = real & (self.group[np.maximum(barred - FIRST, 0)] == own[:, None])
        return np.searchsorted(self.ordered, own, "left"), self._size(asked) - np.where(own >= 0, mine.sum(axis=1), 0)


@dataclass(frozen=True)
class Blend:
    """A hard draw for every `easy_per_hard` easy ones, by chance: hard ones alone make recall collapse (EBR)."""

    easy: Negatives
    hard: Negatives
    easy_per_hard: float = 100.0

    def sample(self, asked: Asked, n: int, rng: np.random.Generator) -> Drawn:
        easy, hard = self.easy.sample(asked, n, rng), self.hard.sample(asked, n, rng)
        ids = np.where(rng.random((len(asked), n)) * (1 + self.easy_per_hard) < 1, hard.ids, easy.ids)
        return Drawn(ids, _log(self.probability(asked, ids)), hard.stuck)

    def probability(self, asked: Asked, ids: Ids) -> NDArray[np.float64]:
        share = 1 / (1 + self.easy_per_hard)
        return share * self.hard.probability(asked, ids) + (1 - share) * self.easy.probability(asked, ids)


def avoiding(sampler: Sampler, known: NDArray[np.int64], n: int, rng: np.random.Generator) -> Drawn:
    """n independent draws for each example out of the items that are not among its `known` [M, K].

    Ids below 2 fill `known` up. `log_q` is that of the distribution without the known items.
    """
    known, real = _distinct(known)
    taken, full = _taken(sampler, known)
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
    log_q = sampler.log_p[ids - FIRST] - np.log1p(-taken)[:, None]
    return Drawn(ids, log_q.astype(np.float32), int(full.sum()))


def _distinct(known: Ids) -> tuple[Ids, NDArray[np.bool_]]:
    """Items of each row [M, K] ascending, and which of them are items, each once."""
    known = np.sort(known, axis=1)
    return known, (known >= FIRST) & (np.diff(known, axis=1, prepend=-1) != 0)


def _taken(sampler: Sampler, known: Ids) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probability of drawing something known [M], and who knows every item [M]: for these it counts as 0."""
    known, real = _distinct(known)
    full = real.sum(axis=1) == len(sampler)
    taken = np.where(real & ~full[:, None], sampler.p[np.maximum(known - FIRST, 0)], 0.0).sum(axis=1)
    return taken, full


def _filled(
    ids: Ids,
    log_q: NDArray[np.float32],
    empty: NDArray[np.bool_],
    rest: Catalogued,
    asked: Asked,
    n: int,
    rng: np.random.Generator,
) -> Drawn:
    """The draws, those of examples without a pool of their own from the rest."""
    if empty.any():
        some = Asked(asked.users[empty], asked.wanted[empty], asked.known[empty])
        instead = rest.sample(some, n, rng)
        ids[empty], log_q[empty] = instead.ids, instead.log_q
    return Drawn(ids, log_q, int(empty.sum()))


def _group(group: NDArray[np.int64], ids: Ids) -> NDArray[np.int64]:
    """The group of each id, -1 of what is no item."""
    return np.where(ids >= FIRST, group[np.maximum(ids - FIRST, 0)], -1)


def _log(p: NDArray[np.float64]) -> NDArray[np.float32]:
    """Log of what is there; 0 where nothing is."""
    return np.log(p, out=np.zeros_like(p), where=p > 0).astype(np.float32)


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
