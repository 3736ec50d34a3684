"""u2i2i: sum, over a user's recent items, of their neighbours' similarities (card A3, serving part)."""

import numpy as np

from shortlist.candidates import Requests
from shortlist.config import Count, Positive, frozen
from shortlist.forms import Lists
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.lists import ListIndex, cut
from shortlist.schema import Schema

__all__ = ["Neighbours"]

_HOUR_MS = 3_600_000.0


class Neighbours:
    """Score of j: the sum over the `last` distinct items i of sim(i, j) * 0.5^(age of i / half-life).

    None means all items, and no decay.
    """

    @frozen
    class Config:
        last: Count | None = 30
        half_life_hours: Positive | None = None

    def __init__(self, config: Config, form: Lists, schema: Schema) -> None:
        self.config = config
        self.index = ListIndex(form)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """Neighbours of each user's history; a user without history gets none."""
        history = requests.history
        owners, items, times = history.owners, history.items, history.times
        if len(items):  # an item met twice counts once, at its latest time
            width = int(items.max()) + 1
            _, first = np.unique((owners * width + items)[::-1], return_index=True)
            latest = np.sort(len(items) - 1 - first)
            owners, items, times = owners[latest], items[latest], times[latest]
        if self.config.last is not None:
            counts = np.bincount(owners, minlength=len(requests))
            from_end = np.cumsum(counts)[owners] - np.arange(len(owners))
            recent = from_end <= self.config.last
            owners, items, times = owners[recent], items[recent], times[recent]
        weights = np.ones(len(items), dtype=np.float32)
        if self.config.half_life_hours is not None:
            age_ms = np.maximum(requests.now[owners] - times, 0).astype(np.float64)
            weights = np.exp2(-age_ms / (self.config.half_life_hours * _HOUR_MS)).astype(np.float32)
        return cut(*self.index.gather(owners, items, weights), n, keep)
