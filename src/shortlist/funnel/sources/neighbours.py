"""u2i2i: sum, over a user's recent items, of their neighbours' similarities (ItemCF at serving time)."""

from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests
from shortlist.config import Count, Positive, frozen
from shortlist.forms import Lists
from shortlist.funnel.ages import Ages
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.lists import Kept, searchable
from shortlist.schema import Profiles, Schema

__all__ = ["Neighbours"]

_HOUR_MS = 3_600_000.0
_FAINT = 64.0  # half-lives after which even the latest item of a user would be too faint for float32


class Neighbours:
    """Score of j: the sum over the `last` distinct items i of sim(i, j) * 0.5^(age of i / half-life).

    None means all items, and no decay. A user away for more than 64 half-lives counts as away for 64: the order is the
    same, and the sums are not lost to rounding.

    `max_age_hours`: only items published that long before the request, or less.
    """

    needs: ClassVar[tuple[str, ...]] = ("items",)

    @frozen
    class Config:
        last: Count | None = 30
        half_life_hours: Positive | None = None
        max_age_hours: Positive | None = None

    def __init__(self, config: Config, form: Lists | Kept, schema: Schema, items: Profiles | None = None) -> None:
        self.config = config
        self.index = searchable(form)
        hours = config.max_age_hours
        self.ages = None if hours is None else Ages(items, schema, hours, "max_age_hours")

    @staticmethod
    def check(config: "Neighbours.Config", schema: Schema) -> None:
        if config.max_age_hours is not None:
            Ages(None, schema, config.max_age_hours, "max_age_hours")

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """Neighbours of each user's history; a user without history gets none."""
        history = requests.history.latest()
        if self.config.last is not None:
            history = history.last(self.config.last)
        weights = np.ones(len(history.items), dtype=np.float32)
        if self.config.half_life_hours is not None:
            lives = (requests.now[history.owners] - history.times) / (self.config.half_life_hours * _HOUR_MS)
            youngest = np.full(len(requests), np.inf)
            np.minimum.at(youngest, history.owners, lives)
            lives -= np.maximum(youngest - _FAINT, 0.0)[history.owners]
            weights = np.exp2(-np.maximum(lives, 0.0)).astype(np.float32)
        if self.ages is None:
            return self.index.top(history.owners, history.items, weights, n, keep)
        counting = self.ages.counting(requests, keep)
        return self.ages.only(requests, self.index.top(history.owners, history.items, weights, n, counting))
