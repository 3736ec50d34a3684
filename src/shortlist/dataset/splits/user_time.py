"""Each user's own time: the last share of a user's events is test, a share before it validation, the rest train.

Every user can be asked about; as in leave-last-out, other users' later events are seen.
"""

import numpy as np

from shortlist.config import Count, Fraction, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.split import TEST, TRAIN, VALID, Split, place

__all__ = ["UserTime"]


class UserTime:
    """Shares are rounded down; users with fewer than `min_events` stay in train."""

    @frozen
    class Config:
        test: Fraction = 0.2
        valid: Fraction = 0.1
        min_events: Count = 10

    def __init__(self, config: Config) -> None:
        self.config = config

    def split(self, interactions: Interactions, rng: np.random.Generator) -> Split:
        """Throws no dice. Raises DataError when no user has enough events."""
        position, count = place(interactions)
        # Rounded first: 0.1 * 30 is a little more than 3, 0.29 * 100 a little less than 29.
        test = np.floor(np.round(self.config.test * count, 9))
        valid = np.floor(np.round(self.config.valid * count, 9))
        enough = count >= self.config.min_events
        from_end = count - position  # 1 is the last
        roles = np.full(len(interactions), TRAIN, dtype=np.int8)
        roles[enough & (from_end <= test + valid)] = VALID
        roles[enough & (from_end <= test)] = TEST
        return Split(interactions, roles, "user_time", "user").checked()
