"""Leave-last-out (He X. et al., WWW 2017): each user's last event is test, the one before it validation.

Comparable with its own literature alone: a model sees what other users did after the held-out moment.
"""

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from shortlist.config import frozen
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.negatives import unseen
from shortlist.dataset.split import TEST, TRAIN, VALID, Split, place

__all__ = ["LastOut"]


class LastOut:
    """Users with fewer than `min_events` stay in train. `negatives` > 0 draws as many unmet items per test user.

    `valid` "random" takes any other event instead of the one before the last: for logs whose order means nothing.
    """

    @frozen
    class Config:
        min_events: Annotated[int, Ge(3)] = 3
        negatives: Annotated[int, Ge(0)] = 0
        valid: Literal["last", "random"] = "last"

    def __init__(self, config: Config) -> None:
        self.config = config

    def split(self, interactions: Interactions, rng: np.random.Generator) -> Split:
        """Raises DataError when no user has enough events."""
        position, count = place(interactions)
        enough = count >= self.config.min_events
        roles = np.full(len(interactions), TRAIN, dtype=np.int8)
        roles[enough & (position == count - 1)] = TEST
        if self.config.valid == "last":
            roles[enough & (position == count - 2)] = VALID
        else:
            first = np.flatnonzero(enough & (position == 0))
            roles[first + rng.integers(0, count[first] - 1)] = VALID
        order: Literal["user", "none"] = "user" if self.config.valid == "last" else "none"
        split = Split(interactions, roles, "last_out", order)
        if not self.config.negatives:
            return split.checked()
        test = split.test
        drawn = unseen(interactions, test.users, self.config.negatives, rng)
        lists = np.concatenate([test.items[:, None], drawn], axis=1)
        return Split(interactions, roles, "last_out", order, candidates=lists).checked()
