"""Users held out whole (Liang et al., WWW 2018): 8:1:1 of users; of a held-out user the first 80 % is input.

For models without a vector per user: those learned for train users say nothing about the others.
"""

from typing import Annotated

import numpy as np
from annotated_types import Ge

from shortlist.config import Fraction, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.split import TEST, TEST_INPUT, TRAIN, VALID, VALID_INPUT, Split, place

__all__ = ["UserCut"]


class UserCut:
    """Users with fewer than `min_events` are never held out. Input is the first ⌊prefix * n⌋ events."""

    @frozen
    class Config:
        valid: Fraction = 0.1
        test: Fraction = 0.1
        prefix: Fraction = 0.8
        min_events: Annotated[int, Ge(2)] = 5

    def __init__(self, config: Config) -> None:
        self.config = config

    def split(self, interactions: Interactions, rng: np.random.Generator) -> Split:
        """Raises DataError when too few users have enough events."""
        position, count = place(interactions)
        able = interactions.users[(position == 0) & (count >= self.config.min_events)]
        total = len(interactions.user_keys)
        shuffled = rng.permutation(able)
        n_test, n_valid = (int(round(share * total, 9)) for share in (self.config.test, self.config.valid))
        test, valid = shuffled[:n_test], shuffled[n_test : n_test + n_valid]
        given = position < np.floor(np.round(self.config.prefix * count, 9))
        roles = np.full(len(interactions), TRAIN, dtype=np.int8)
        for users, asked, known in ((test, TEST, TEST_INPUT), (valid, VALID, VALID_INPUT)):
            mine = np.isin(interactions.users, users)
            roles[mine] = np.where(given[mine], known, asked)
        return Split(interactions, roles, "user_cut", "user", disjoint=True).checked()
