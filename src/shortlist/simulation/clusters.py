"""Taste clusters: a generated log with the shape of a real one, at any size. U users, I items, E events.

Popularity follows Zipf; every user has one home cluster of taste and drinks from it with probability `taste`,
else from the whole catalogue; activity is log-normal; clicks come in sessions. No item is clicked before it is
published.
"""

__all__ = ["Clusters"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, NonNegative, Positive, Share, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.schema import Catalogue, Profiles, Schema

DAY_MS = 86_400_000
BLOCK = 1 << 20  # events drawn at once: bounds the memory of the draw


@dataclass(frozen=True)
class Clusters:
    """A generated world: the log, what is known of the entities, and the truth: the taste cluster of each user
    and item."""

    interactions: Interactions
    catalogue: Catalogue
    user_cluster: NDArray[np.int32]
    item_cluster: NDArray[np.int32]
    now: int

    @frozen
    class Config:
        """`zipf` is the exponent of popularity, `activity` the log-normal spread of events per user,
        `sessions` of a user's visits.

        The log covers `days` up to `start_ms + days`; an item is published up to `days` before its start, or during it.
        """

        users: Count = 1_000
        items: Count = 500
        events: Count = 50_000
        clusters: Count = 20
        regions: Count = 5
        zipf: NonNegative = 0.9
        taste: Share = 0.8
        activity: NonNegative = 1.0
        sessions: Count = 12
        days: Positive = 30.0
        start_ms: int = 1_700_000_000_000

    @staticmethod
    def schema() -> Schema:
        """What the columns of a generated world mean."""
        return Schema.parse(
            {
                "users": {"region": "sparse"},
                "items": {"category": "sparse", "published": "time"},
                "region": "region",
                "category": "category",
                "published": "published",
            }
        )

    @classmethod
    def generate(cls, config: Config, rng: np.random.Generator) -> "Clusters":
        """Draw a world. Keys are 0..U-1 and 0..I-1; the category of an item names its cluster. Same rng state,
        same world."""
        span = int(config.days * DAY_MS)
        item_cluster = rng.integers(config.clusters, size=config.items, dtype=np.int32)
        user_cluster = rng.integers(config.clusters, size=config.users, dtype=np.int32)
        published = config.start_ms + (rng.uniform(-1, 0.9, config.items) * span).astype(np.int64)
        region = rng.integers(config.regions, size=config.users)
        weight = np.exp(config.activity * rng.standard_normal(config.users))
        counts = rng.multinomial(config.events, weight / weight.sum())
        visits = config.start_ms + (rng.random((config.users, config.sessions)) * span).astype(np.int64)

        users = np.repeat(np.arange(config.users), counts)
        items, times = np.empty_like(users), np.empty_like(users)
        draw = _Popularity(config, item_cluster, rng)
        for low in range(0, config.events, BLOCK):
            block = slice(low, low + BLOCK)
            owner = users[block]
            items[block] = draw(user_cluster[owner], rng)
            visit = visits[owner, rng.integers(config.sessions, size=len(owner))]
            pause = rng.exponential(5 * 60_000, len(owner)).astype(np.int64)
            times[block] = np.maximum(visit, published[items[block]]) + pause
        first = int(times.min())
        width = int(times.max()) - first + 1
        order = np.argsort(users * width + (times - first), kind="stable")
        # users are sorted already and only move among their own events
        log = Interactions(
            users,
            items[order],
            times[order],
            np.zeros(config.events, dtype=np.int16),
            np.full(config.events, np.nan, dtype=np.float32),
        )
        catalogue = Catalogue(
            Profiles(np.arange(config.users), {"region": _named("r", region)}),
            Profiles(np.arange(config.items), {"category": _named("c", item_cluster), "published": published}),
        )
        return cls(log, catalogue, user_cluster, item_cluster, int(times.max()) + 1)


class _Popularity:
    """Draws items by popularity, inside a cluster or from everything: one cumulative sum with clusters side by side."""

    def __init__(self, config: Clusters.Config, item_cluster: NDArray[np.int32], rng: np.random.Generator) -> None:
        self.taste = config.taste
        self.order = np.argsort(item_cluster, kind="stable")
        weight = (1.0 + rng.permutation(config.items)) ** -config.zipf
        self.cumulative = np.cumsum(weight[self.order])
        edges = np.searchsorted(item_cluster[self.order], np.arange(config.clusters + 1))
        self.edge = np.concatenate([[0.0], self.cumulative])[edges]

    def __call__(self, cluster: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int64]:
        low, high = self.edge[cluster], self.edge[cluster + 1]
        abroad = (rng.random(len(cluster)) >= self.taste) | (high <= low)
        low[abroad], high[abroad] = 0.0, self.edge[-1]
        at = np.searchsorted(self.cumulative, low + rng.random(len(cluster)) * (high - low), side="right")
        items: NDArray[np.int64] = self.order[np.minimum(at, len(self.order) - 1)]
        return items


def _named(prefix: str, codes: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.object_]:
    names = np.array([f"{prefix}{n}" for n in range(int(codes.max()) + 1)], dtype=object)
    return names[codes]
