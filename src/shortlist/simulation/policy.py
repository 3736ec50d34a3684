"""Who decides what is shown: the contract, and how to draw slates whose propensities are exact.

R requests, A available items, P items in order, K slots. A *deck* deals P items, best first, to the K slots so that
each slot holds 1/K of the weight: slot j draws one item of its own, by weight, independently of the others. So the
best stand on top, no item is drawn twice, and the probability of (item, position) is known without a sum over orders.
With probability `shuffle` the slate is put into random order, so that every item can stand anywhere.
"""

__all__ = ["Policy", "Deck", "named"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from shortlist.config import build, find
from shortlist.simulation.events import Events
from shortlist.simulation.truth import Truth

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Policy(Protocol):
    """Built as `Policy(config, truth)`; only an oracle reads the truth."""

    def show(
        self, users: Ints, now: Ints, available: Ints, k: int, rng: np.random.Generator
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Slates [R, K] for users [R] at `now` [R] ms, of `available` items [A], ascending; distinct inside a slate.

        And propensities [R, K]: the probability, before the dice, of just this item at just this position. -1 ends a
        slate that comes up short.
        """
        ...

    def observe(self, events: Events) -> None:
        """What happened since the last call, in order of time."""
        ...


def named(name: str, truth: Truth, options: Mapping[str, Any] | None = None) -> Policy:
    """The policy of a file of `policies/`. Raises ConfigError for an unknown name or option."""
    kind = cast(Any, find(name, ["shortlist.simulation.policies"], "policy"))
    return cast(Policy, kind(build(kind.Config, options or {}, f"policy {name}"), truth))


@dataclass(frozen=True)
class Deck:
    """`slot` and `chance` [R, P] of each item: where it belongs, and with which probability it is drawn there.
    `reached` [R, P] is the sum of chances so far, slot by slot: 1 at the end of the first slot, K at the end."""

    slot: Ints
    chance: Floats
    reached: Floats
    k: int

    @classmethod
    def of(cls, weights: Floats, k: int) -> "Deck":
        """From weights [R, P] above 0, falling in each row; at least K of them."""
        share = _capped(weights, k)
        rows = np.arange(len(share))[:, None]
        slot = np.clip(np.floor(np.cumsum(share, axis=1) - share / 2).astype(np.int64), 0, k - 1)
        mass = np.bincount((rows * k + slot).ravel(), share.ravel(), len(share) * k).reshape(-1, k)
        chance = share / mass[rows, slot]
        reached = np.cumsum(chance, axis=1)
        ends = np.diff(slot, axis=1, append=k) != 0
        reached[ends] = slot[ends] + 1.0  # exactly, so that no draw falls between two slots
        return cls(slot, chance, reached, k)

    def draw(self, requests: int, rng: np.random.Generator) -> Ints:
        """Places in the deck [R, K], slot by slot. A deck of one row serves all requests."""
        aim = rng.random((requests, self.k)) + np.arange(self.k)
        if len(self.reached) == 1:
            shared: Ints = np.searchsorted(self.reached[0], aim, side="right")
            return shared
        rows, width = np.arange(requests)[:, None], self.reached.shape[1]
        flat = (self.reached + rows * self.k).ravel()
        at = np.searchsorted(flat, aim + rows * self.k, side="right") - rows * width
        own: Ints = np.minimum(at, width - 1)
        return own

    def deal(self, requests: int, shuffle: float, rng: np.random.Generator) -> tuple[Ints, NDArray[np.float32]]:
        """Places in the deck [R, K] in the order shown, and the propensity of each."""
        places = self.draw(requests, rng)
        rows = np.zeros((requests, 1), np.int64) if len(self.reached) == 1 else np.arange(requests)[:, None]
        mixed = np.flatnonzero(rng.random(requests) < shuffle)
        places[mixed] = rng.permuted(places[mixed], axis=1)
        at_home = self.slot[rows, places] == np.arange(self.k)
        odds = (1 - shuffle) * at_home + shuffle / self.k
        return places, (self.chance[rows, places] * odds).astype(np.float32)


def _capped(weights: Floats, k: int) -> Floats:
    """Shares in proportion to weights that add up to K, none above 1: what is cut off goes to the others."""
    share: Floats = weights * (k / weights.sum(axis=1, keepdims=True))
    full = np.zeros(share.shape, dtype=bool)
    while (share > 1 + 1e-12).any():
        full |= share >= 1
        rest = np.where(full, 0.0, weights)
        left = k - full.sum(axis=1, keepdims=True)
        share = np.where(full, 1.0, rest * (left / np.maximum(rest.sum(axis=1, keepdims=True), 1e-300)))
    return share
