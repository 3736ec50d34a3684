"""The pass of FTRL-Proximal over rows, one after the other (McMahan et al., KDD 2013, Algorithm 1).

R requests, B rows, S slots, N places. Import only inside a function: it loads numba.
"""

__all__ = ["learn"]

import numpy as np
from numpy.typing import NDArray

from shortlist.models.blocks.compiled import loop

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@loop
def gather(total: Floats, places: Ints, values: Floats) -> None:
    """Add up the values of each place of a line: a place may come twice in it."""
    for s in range(len(places)):
        total[places[s]] += values[s]


@loop
def dot(z: Floats, n: Floats, places: Ints, values: Floats, alpha: float, beta: float, l1: float, l2: float) -> float:
    """<w, x> over a line's slots."""
    out = 0.0
    for s in range(len(places)):
        j = places[s]
        if values[s] != 0.0 and abs(z[j]) > l1:
            rate = (beta + np.sqrt(n[j])) / alpha + l2
            if rate > 0.0:
                out += values[s] * (np.sign(z[j]) * l1 - z[j]) / rate
    return out


@loop
def update(
    z: Floats, n: Floats, total: Floats, places: Ints, error: float, alpha: float, beta: float, l1: float, l2: float
) -> None:
    """Move z and n of a line's places, each once, and leave `total` at 0."""
    for s in range(len(places)):
        j = places[s]
        x = total[j]
        if x == 0.0:
            continue
        total[j] = 0.0
        w = 0.0
        rate = (beta + np.sqrt(n[j])) / alpha + l2
        if abs(z[j]) > l1 and rate > 0.0:
            w = (np.sign(z[j]) * l1 - z[j]) / rate
        g = error * x
        sigma = (np.sqrt(n[j] + g * g) - np.sqrt(n[j])) / alpha
        z[j] += g - sigma * w
        n[j] += g * g


@loop
def learn(
    z: Floats, n: Floats, total: Floats, request_of: Ints, request_places: Ints, request_values: Floats,
    row_places: Ints, row_values: Floats, y: Floats, weight: Floats, alpha: float, beta: float, l1: float, l2: float,
) -> float:  # fmt: skip
    """Rows in order; those of weight 0 are passed over. `total` [N] is 0 before and after. Returns the sum of weighted
    log losses, each before its row was learned."""
    loss = 0.0
    for b in range(len(request_of)):
        if weight[b] == 0.0:
            continue
        r = request_of[b]
        score = dot(z, n, request_places[r], request_values[r], alpha, beta, l1, l2)
        score += dot(z, n, row_places[b], row_values[b], alpha, beta, l1, l2)
        p = 1.0 / (1.0 + np.exp(-score))
        loss += weight[b] * (max(score, 0.0) - score * y[b] + np.log1p(np.exp(-abs(score))))
        gather(total, request_places[r], request_values[r])
        gather(total, row_places[b], row_values[b])
        error = weight[b] * (p - y[b])
        update(z, n, total, request_places[r], error, alpha, beta, l1, l2)
        update(z, n, total, row_places[b], error, alpha, beta, l1, l2)
    return loss
