"""Stochastic gradient steps of matrix factorization, one example after the other. U users, I items, D width, E events.

A model is `mu` [1], `b_U`, `b_I`, `p_UD`, `q_ID`, all float32, changed in place. Users' items are CSR, ascending in
each row. The dice is a number of state that goes from call to call. Import only inside a function: it loads numba.
"""

__all__ = ["pointwise", "pairwise"]

import numpy as np
from numpy.typing import NDArray

from shortlist.models.blocks.compiled import loop

Ints = NDArray[np.int64]
Short = NDArray[np.int32]
Single = NDArray[np.float32]
State = NDArray[np.uint64]


@loop
def draw(state: State, below: int) -> int:
    """An integer in [0, below): splitmix64 (Steele, Lea, Flood, 2014), its high half scaled."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return int(((z >> np.uint64(32)) * np.uint64(below)) >> np.uint64(32))


@loop
def taken(items: Short, low: int, high: int, item: int) -> bool:
    """Whether the ascending `items[low:high]` hold the item."""
    while low < high:
        middle = (low + high) // 2
        if items[middle] < item:
            low = middle + 1
        elif items[middle] > item:
            high = middle
        else:
            return True
    return False


@loop
def step(
    mu: Single, b_U: Single, b_I: Single, p_UD: Single, q_ID: Single, u: int, i: int, y: float, logistic: bool,
    lr: np.float32, reg: np.float32,
) -> float:  # fmt: skip
    """One example: its loss before the step."""
    p, q = p_UD[u], q_ID[i]
    score = mu[0] + b_U[u] + b_I[i]
    for d in range(len(p)):
        score += p[d] * q[d]
    if logistic:
        error = np.float32(1 / (1 + np.exp(-score)) - y)
        loss = max(score, 0.0) - score * y + np.log1p(np.exp(-abs(score)))
    else:
        error = np.float32(score - y)
        loss = error * error
    for d in range(len(p)):
        was = p[d]
        p[d] -= lr * (error * q[d] + reg * was)
        q[d] -= lr * (error * was + reg * q[d])
    mu[0] -= lr * error
    b_U[u] -= lr * (error + reg * b_U[u])
    b_I[i] -= lr * (error + reg * b_I[i])
    return float(loss)


@loop
def pointwise(
    order: Ints, users: Short, events: Short, values: Single, offsets: Ints, items: Short, mu: Single, b_U: Single,
    b_I: Single, p_UD: Single, q_ID: Single, logistic: bool, negatives: int, lr: np.float32, reg: np.float32,
    state: State,
) -> float:  # fmt: skip
    """One pass over the events (`users`, `events` their items, `values` their labels) in this order, each with
    `negatives` items drawn among those the user has not taken, label 0. Returns the sum of losses."""
    total = 0.0
    for e in order:
        u = users[e]
        total += step(mu, b_U, b_I, p_UD, q_ID, u, events[e], values[e], logistic, lr, reg)
        low, high = offsets[u], offsets[u + 1]
        if high - low >= len(b_I):
            continue  # this user has taken everything
        for _ in range(negatives):
            j = draw(state, len(b_I))
            while taken(items, low, high, j):
                j = draw(state, len(b_I))
            total += step(mu, b_U, b_I, p_UD, q_ID, u, j, 0.0, logistic, lr, reg)
    return total


@loop
def pairwise(
    order: Ints, users: Short, events: Short, offsets: Ints, items: Short, b_I: Single, p_UD: Single, q_ID: Single,
    negatives: int, lr: np.float32, reg: np.float32, state: State,
) -> float:  # fmt: skip
    """One pass of BPR: for each event `negatives` times an item the user has not taken is to score lower. Returns the
    sum of -ln sigmoid(difference)."""
    total = 0.0
    for e in order:
        u, i = users[e], events[e]
        low, high = offsets[u], offsets[u + 1]
        if high - low >= len(b_I):
            continue
        for _ in range(negatives):
            j = draw(state, len(b_I))
            while taken(items, low, high, j):
                j = draw(state, len(b_I))
            p, qi, qj = p_UD[u], q_ID[i], q_ID[j]
            gap = b_I[i] - b_I[j]
            for d in range(len(p)):
                gap += p[d] * (qi[d] - qj[d])
            total += max(-gap, 0.0) + np.log1p(np.exp(-abs(gap)))
            pull = np.float32(1 / (1 + np.exp(gap)))
            for d in range(len(p)):
                was, better, worse = p[d], qi[d], qj[d]
                p[d] += lr * (pull * (better - worse) - reg * was)
                qi[d] += lr * (pull * was - reg * better)
                qj[d] -= lr * (pull * was + reg * worse)
            b_I[i] += lr * (pull - reg * b_I[i])
            b_I[j] -= lr * (pull + reg * b_I[j])
    return total
