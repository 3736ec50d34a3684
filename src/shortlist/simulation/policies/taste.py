"""Taste: an oracle, which reads from the truth what a user would click and like now."""

__all__ = ["Taste"]

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, Positive, Share, frozen
from shortlist.simulation.events import Events
from shortlist.simulation.policy import Deck
from shortlist.simulation.recent import Recent
from shortlist.simulation.truth import CLICK, Truth

Ints = NDArray[np.int64]

BLOCK = 1 << 21  # worths computed at once


class Taste:
    """Ranks by worth, the probability of a click and a like, without what the user clicked of late. Of the best `pool`
    items an item's weight is worth^(1/`heat`); the others are never shown. It does not look at the planted order.
    """

    @frozen
    class Config:
        pool: Count = 100
        heat: Positive = 0.3
        shuffle: Share = 0.0

    def __init__(self, config: Config, truth: Truth) -> None:
        self.config = config
        self.truth = truth
        self._known = Recent(len(truth.people), truth.model.memory)

    def show(
        self, users: Ints, now: Ints, available: Ints, k: int, rng: np.random.Generator
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Slates [R, K] and propensities."""
        rows = max(1, BLOCK // len(available))
        parts = [
            self._some(users[low : low + rows], now[low : low + rows], available, k, rng)
            for low in range(0, len(users), rows)
        ]
        items, odds = zip(*parts, strict=True)
        return np.concatenate(items), np.concatenate(odds)

    def _some(
        self, users: Ints, now: Ints, available: Ints, k: int, rng: np.random.Generator
    ) -> tuple[Ints, NDArray[np.float32]]:
        truth, R = self.truth, np.arange(len(users))[:, None]
        near_RA = truth.taste(users, now) @ truth.shelf.content[available].T
        worth_RA = truth.attracted(near_RA, available, now[:, None]) * truth.given("like", near_RA, available)
        known = self._known.of(users)
        at = np.minimum(np.searchsorted(available, known), len(available) - 1)
        row, column = np.nonzero(available[at] == known)
        worth_RA[row, at[row, column]] *= 1e-3
        pool = min(max(self.config.pool, k), len(available))
        best = np.argpartition(-worth_RA, pool - 1, axis=1)[:, :pool]
        order = np.argsort(-worth_RA[R, best], axis=1, kind="stable")
        best = best[R, order]
        weight = worth_RA[R, best].astype(np.float64)
        weight = np.maximum(weight / weight[:, :1], 1e-6) ** (1 / self.config.heat)
        places, odds = Deck.of(weight, k).deal(len(users), self.config.shuffle, rng)
        return available[best[R, places]], odds

    def observe(self, events: Events) -> None:
        """Remembers clicks."""
        clicks = events.take(np.flatnonzero(events.actions == CLICK))
        self._known.add(clicks.users, clicks.items)
