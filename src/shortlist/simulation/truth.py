"""What is true in a world, and what nobody in it can read: tastes, quality, and the probability of every action.

The world itself acts by these functions. Their arguments are arrays that broadcast: users and times [R, 1] against
items and positions [R, K], or all [N]. Times in ms.
"""

__all__ = ["Truth", "Click", "ACTIONS", "IMPRESSION", "CLICK", "AFTER", "DAY_MS", "HOUR_MS"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import NonNegative, frozen
from shortlist.simulation.ground import Ground
from shortlist.simulation.people import People
from shortlist.simulation.shelf import Creators, Shelf

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
ACTIONS = ("impression", "click", "like", "favourite", "share", "follow")  # in code order
IMPRESSION, CLICK = 0, 1

# Logit of an action once an item is clicked: at zero, per unit of affinity, of the item's quality, of its creator's.
# Who likes agrees, who keeps values the item, who shares speaks of it, who follows trusts its creator.
AFTER = {
    "like": (-2.2, 2.5, 0.9, 0.0),
    "favourite": (-3.6, 3.0, 1.2, 0.0),
    "share": (-4.2, 1.0, 1.5, 0.0),
    "follow": (-4.6, 1.5, 0.3, 1.0),
}
BAIT_LOGIT = -5.0  # what bait takes from each of them
BIAS = (0.7, 0.4, 0.55)  # by device: position p is looked at with probability p^-bias

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@frozen
class Click:
    """What makes a click once an item is looked at, in logits.

    `base` for an item of no appeal and no affinity; `taste` per unit of affinity (cosine of taste and content);
    `season` at the hour a category peaks at; `next` for the item that belongs after the last one clicked in the
    session; `bored` is taken from an item among the last `memory` the user clicked.
    """

    base: float = -4.6
    taste: NonNegative = 10.0
    season: NonNegative = 0.4
    next: NonNegative = 2.0
    bored: NonNegative = 3.0
    memory: int = 32


class Truth:
    """`after` [I] is the planted order: the item that belongs behind each one, -1 for none."""

    def __init__(
        self, ground: Ground, people: People, creators: Creators, shelf: Shelf, after: Ints, click: Click, start_ms: int
    ) -> None:
        self.ground, self.people, self.creators, self.shelf, self.after = ground, people, creators, shelf, after
        self.model, self.start_ms = click, start_ms
        hours = np.arange(24)[:, None] + 0.5
        self._season = (click.season * np.cos(2 * np.pi * (hours - ground.peak) / 24)).astype(np.float32)
        self._trust = creators.quality[shelf.creator]

    @property
    def quality(self) -> Floats:
        """Hidden quality of each item [I]."""
        return self.shelf.quality

    @property
    def bait(self) -> NDArray[np.bool_]:
        """Items that get clicks and nothing after [I]."""
        return self.shelf.bait

    def taste(self, users: Ints, times: Ints) -> Floats:
        """Tastes [..., D] of length 1: they turn with time."""
        angle = self.people.speed[users] * ((times - self.start_ms) / DAY_MS)
        cos, sin = np.cos(angle).astype(np.float32)[..., None], np.sin(angle).astype(np.float32)[..., None]
        turned: Floats = cos * self.people.here[users] + sin * self.people.there[users]
        return turned

    def affinity(self, users: Ints, items: Ints, times: Ints) -> Floats:
        """Cosine of taste and content."""
        near: Floats = np.einsum("...d,...d->...", self.taste(users, times), self.shelf.content[items])
        return near

    def season(self, items: Ints, times: Ints) -> Floats:
        """What the hour of day adds to an item's logit."""
        wave: Floats = self._season[(times // HOUR_MS) % 24, self.shelf.category[items]]
        return wave

    def examined(self, positions: Ints, devices: Ints) -> Floats:
        """Probability that a position (from 1) is looked at."""
        seen: Floats = np.power(positions, -np.array(BIAS)[devices]).astype(np.float32)
        return seen

    def attraction(
        self,
        users: Ints,
        items: Ints,
        times: Ints,
        last: Ints | None = None,
        recent: NDArray[np.integer[Any]] | None = None,
    ) -> Floats:
        """Probability of a click on an item that is looked at.

        `last` is the item clicked before in the same session (-1 none), `recent` [..., M] what the user clicked lately:
        without them, that of an item neither awaited nor known.
        """
        return self.attracted(self.affinity(users, items, times), items, times, last, recent)

    def attracted(
        self,
        affinity: Floats,
        items: Ints,
        times: Ints,
        last: Ints | None = None,
        recent: NDArray[np.integer[Any]] | None = None,
    ) -> Floats:
        """The same, from the affinity."""
        model = self.model
        logit = np.float32(model.base) + np.float32(model.taste) * affinity
        logit += self.shelf.appeal[items]
        logit += self.season(items, times)
        if last is not None:
            awaited = np.where(last >= 0, self.after[last], -1)
            logit += np.float32(model.next) * ((items == awaited) & (awaited >= 0))
        if recent is not None:
            logit -= np.float32(model.bored) * (items[..., None] == recent).any(axis=-1)
        return _sigmoid(logit)

    def click(
        self,
        users: Ints,
        items: Ints,
        times: Ints,
        positions: Ints,
        devices: Ints | None = None,
        last: Ints | None = None,
        recent: NDArray[np.integer[Any]] | None = None,
    ) -> Floats:
        """Probability of a click on an item shown at a position, on the user's usual device unless one is given."""
        seen = self.examined(positions, self.people.device[users] if devices is None else devices)
        return seen * self.attraction(users, items, times, last, recent)

    def then(self, action: str, users: Ints, items: Ints, times: Ints) -> Floats:
        """Probability of an action (like, favourite, share, follow) by who clicked; given a click they are independent
        of each other."""
        return self.given(action, self.affinity(users, items, times), items)

    def given(self, action: str, affinity: Floats, items: Ints) -> Floats:
        """The same, from the affinity."""
        zero, near, good, trust = (np.float32(number) for number in AFTER[action])
        logit = zero + near * affinity + good * self.shelf.quality[items] + trust * self._trust[items]
        return _sigmoid(logit + np.float32(BAIT_LOGIT) * self.shelf.bait[items])

    def like(self, users: Ints, items: Ints, times: Ints) -> Floats:
        """Probability of a like by who clicked."""
        return self.then("like", users, items, times)

    def worth(self, users: Ints, items: Ints, times: Ints) -> Floats:
        """True utility: the probability that an item which is looked at is clicked and liked."""
        near = self.affinity(users, items, times)
        return self.attracted(near, items, times) * self.given("like", near, items)

    def watched(self, affinity: Floats, items: Ints, noise: Floats) -> Floats:
        """Seconds a user who clicked stays: the item's length times a share; `noise` is standard normal."""
        logit = affinity + np.float32(0.8) * self.shelf.quality[items] + noise
        stayed: Floats = self.shelf.length_s[items] * _sigmoid(logit - np.float32(2.5) * self.shelf.bait[items])
        return stayed


def _sigmoid(logit: NDArray[Any]) -> Floats:
    out = np.negative(logit, dtype=np.float32)
    np.exp(out, out=out)
    out += 1
    chance: Floats = np.reciprocal(out, out=out)
    return chance
