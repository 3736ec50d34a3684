"""Uniform: any available item at any position, each with the same probability."""

__all__ = ["Uniform"]

import numpy as np
from numpy.typing import NDArray

from shortlist.config import frozen
from shortlist.simulation.events import Events
from shortlist.simulation.truth import Truth

Ints = NDArray[np.int64]


class Uniform:
    """Propensity 1/A for every item and position. Slates with a repeat are drawn again, which keeps it exact."""

    @frozen
    class Config:
        """Nothing to choose."""

    def __init__(self, config: Config, truth: Truth) -> None:
        self.config = config

    def show(
        self, users: Ints, now: Ints, available: Ints, k: int, rng: np.random.Generator
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Slates [R, K] and propensities."""
        A, R = len(available), len(users)
        odds = np.full((R, k), 1 / A, dtype=np.float32)
        if 2 * k * k > A:  # repeats are likely: shuffle the shelf instead
            return available[np.argsort(rng.random((R, A)), axis=1)[:, :k]], odds
        drawn = rng.integers(A, size=(R, k))
        again = np.arange(R)
        while len(again):
            ordered = np.sort(drawn[again], axis=1)
            again = again[(ordered[:, 1:] == ordered[:, :-1]).any(axis=1)]
            drawn[again] = rng.integers(A, size=(len(again), k))
        return available[drawn], odds

    def observe(self, events: Events) -> None:
        """Learns nothing."""
