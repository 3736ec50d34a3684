"""What a user's items say of topics, the topics being given: the user's side of variational Bayes (Blei, Ng, Jordan,
JMLR 2003). U users, N pairs of a user and an item, K topics."""

__all__ = ["counted", "fold_in"]

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]

ROUNDS, STILL = 100, 1e-4  # a user's shares have come to rest when no topic moves more than this of an event
TINY = 1e-100


def counted(users: Ints, items: Ints, cap: int | None) -> tuple[Ints, Ints, Reals]:
    """Events [E] as pairs, by user, then item, each with how many there are, at most `cap`."""
    width = int(items.max(initial=0)) + 1
    pair, counts = np.unique(users * width + items, return_counts=True)
    capped = counts if cap is None else np.minimum(counts, cap)
    return pair // width, pair % width, capped.astype(np.float64)


def fold_in(users: Ints, counts: Reals, phi: Reals, alpha: float) -> tuple[Ints, Reals]:
    """Users [U], and alpha plus the events of each that belong to each topic [U, K], of pairs by user: a share of every
    event, z_k in proportion to phi_ki exp(digamma(gamma_uk)).

    `phi` [N, K] is each pair's item's probability in each topic; an item that has none anywhere says nothing. Every
    user is worked out alone: neither the others nor the order of events matter.
    """
    known = phi.sum(axis=1) > 0
    users, counts, phi = users[known], counts[known], phi[known]
    who, starts = np.unique(users, return_index=True)
    gamma = np.full((len(who), phi.shape[1]), alpha)
    if not len(who):
        return who, gamma
    edges = np.append(starts, len(users))
    sizes = np.diff(edges)
    gamma += (np.add.reduceat(counts, starts) / phi.shape[1])[:, None]
    moving = np.arange(len(who))
    for _ in range(ROUNDS):
        rows = np.concatenate([np.arange(edges[u], edges[u + 1]) for u in moving])
        first = np.concatenate([[0], np.cumsum(sizes[moving])[:-1]])
        weight = np.exp(digamma(gamma[moving]) - digamma(gamma[moving].sum(axis=1, keepdims=True)))
        share = phi[rows] * np.repeat(weight, sizes[moving], axis=0)
        share *= (counts[rows] / np.maximum(share.sum(axis=1), TINY))[:, None]
        fresh = alpha + np.add.reduceat(share, first, axis=0)
        change = np.abs(fresh - gamma[moving]).max(axis=1)
        gamma[moving] = fresh
        moving = moving[change > STILL]
        if not len(moving):
            break
    return who, gamma
