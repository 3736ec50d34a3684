"""Popularity: what was clicked most of late, on top; the same for everybody."""

__all__ = ["Popularity"]

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Fraction, NonNegative, Positive, Share, frozen
from shortlist.simulation.events import Events
from shortlist.simulation.policy import Deck
from shortlist.simulation.truth import CLICK, DAY_MS, Truth

Ints = NDArray[np.int64]


class Popularity:
    """Weight of an item: (clicks, halved every `half_life_days`, + `prior`)^`power`. It knows the log alone.

    What it shows is clicked and shown again: with `power` below 1 that comes to rest. `prior` is a share of the mean
    of clicks over items, so that a new item is shown before anybody has clicked it.
    """

    @frozen
    class Config:
        half_life_days: Positive = 7.0
        power: Fraction = 0.42
        prior: NonNegative = 0.2
        shuffle: Share = 0.2

    def __init__(self, config: Config, truth: Truth) -> None:
        self.config = config
        self._clicks = np.zeros(len(truth.shelf), dtype=np.float64)
        self._now = 0
        self._deck: tuple[Ints, Ints, Deck] | None = None  # what was available, in order of clicks, dealt

    def show(
        self, users: Ints, now: Ints, available: Ints, k: int, rng: np.random.Generator
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Slates [R, K] and propensities."""
        if self._deck is None or self._deck[0] is not available:
            clicks = self._clicks[available]
            weight = (clicks + self.config.prior * clicks.mean() + 1e-3) ** self.config.power
            order = np.lexsort((rng.random(len(weight)), -weight))  # of equal ones, who stands on top is up to chance
            self._deck = available, available[order], Deck.of(weight[order][None], k)
        _, items, deck = self._deck
        places, odds = deck.deal(len(users), self.config.shuffle, rng)
        return items[places], odds

    def observe(self, events: Events) -> None:
        """Counts clicks."""
        self._deck = None
        if not len(events):
            return
        newest = int(events.times[-1])
        kept = 0.5 ** ((newest - self._now) / (self.config.half_life_days * DAY_MS)) if self._now else 0.0
        clicked = events.items[events.actions == CLICK]
        self._clicks = self._clicks * kept + np.bincount(clicked, minlength=len(self._clicks))
        self._now = newest
