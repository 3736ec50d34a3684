"""Uniform negatives a user never met, for ranking a held-out item among them. R users, I items, n negatives each."""

import numpy as np
from numpy.typing import NDArray

from shortlist.dataset.interactions import Interactions
from shortlist.errors import DataError

__all__ = ["unseen"]


def unseen(events: Interactions, users: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n distinct items [R, n] without any event of the user, each such set equally likely; items are those of the log.

    Same log, same users, same dice: same lists. Raises DataError when a user has fewer than n items left.
    """
    items = events.item_keys
    met = events.histories(users)
    column = np.searchsorted(items, met.items)
    pairs = np.unique(met.owners * len(items) + column)
    owner, column = pairs // len(items), pairs % len(items)
    counts = np.bincount(owner, minlength=len(users))
    free = len(items) - counts
    if len(users) and int(free.min()) < n:
        what = f"a user has {int(free.min())} items never met, {n} negatives are wanted"
        raise DataError(what, where="negatives", hint="ask for fewer")
    ranks = _subsets(free, n, rng)
    # The r-th item never met lies behind as many met ones as have fewer than or exactly r unmet items before them.
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    before = column - (np.arange(len(pairs)) - starts[owner])
    width = len(items) + 1
    keys = owner * width + before
    asked = (np.arange(len(users))[:, None] * width + ranks).ravel()
    passed = np.searchsorted(keys, asked, side="right").reshape(ranks.shape) - starts[:, None]
    negatives: NDArray[np.int64] = items[ranks + passed]
    return negatives


def _subsets(free: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n distinct numbers below free[r] for each row [R, n], uniform (Floyd's algorithm, all rows at once)."""
    chosen = np.full((len(free), n), -1, dtype=np.int64)
    for step in range(n):
        last = free - n + step
        drawn = rng.integers(0, last + 1)
        taken = (chosen[:, :step] == drawn[:, None]).any(axis=1)
        chosen[:, step] = np.where(taken, last, drawn)
    return chosen
