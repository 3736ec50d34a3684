"""Static boost of new items: score' = times * score + plus, then free competition."""

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import BACKFILL, Candidates, Requests
from shortlist.config import NonNegative, Positive, frozen
from shortlist.errors import ConfigError
from shortlist.schema import Profiles, Schema

__all__ = ["Boost"]

HOUR_MS = 3_600_000


class Boost:
    """New is an item published less than `younger_than_hours` before the request; one without a known time is not.

    The order among new items, and among the others, stays. `times` would push items with negative scores down, so
    these are refused and `plus` is the way. What only fills a short slate stays behind the rest.
    """

    @frozen
    class Config:
        times: Positive = 1.0
        plus: NonNegative = 0.0
        younger_than_hours: Positive = 24.0

    def __init__(self, config: Config, schema: Schema, items: Profiles) -> None:
        if schema.published is None:
            hint = "set schema.published to the item field that holds the time"
            raise ConfigError("no field says when items were published", where="boost", hint=hint)
        self.config = config
        self.items = items
        column = items.columns.get(schema.published, np.full(len(items), np.nan))
        times = np.array([np.nan if v is None else v for v in column.tolist()], dtype=np.float64)
        self.published = np.append(times, np.nan)  # the last, for row -1: not in the catalogue

    def boost(self, requests: Requests, candidates: Candidates, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [N] at the time of each candidate's request. Raises ConfigError for `times` on negative scores."""
        age_ms = requests.now[candidates.owners] - self.published[self.items.rows(candidates.items)]
        new = age_ms < self.config.younger_than_hours * HOUR_MS
        columns = [n for n, name in enumerate(candidates.channels) if name != BACKFILL]
        brought = candidates.alive & (candidates.rank[:, columns] > 0).any(axis=1)
        return boosted(scores, new & brought, self.config.times, self.config.plus)


def boosted(scores: NDArray[np.float32], new: NDArray[np.bool_], times: float, plus: float) -> NDArray[np.float32]:
    """`times * score + plus` where `new`, the score as it was elsewhere."""
    if times != 1.0 and bool((scores[new] < 0).any()):
        raise ConfigError(
            "times multiplies scores, and some are negative",
            where="boost.times",
            hint="use boost.plus, or a merge policy whose scores are not negative, such as rrf",
        )
    return np.where(new, scores * np.float32(times) + np.float32(plus), scores).astype(np.float32)
