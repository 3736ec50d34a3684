"""The split that the makers of a benchmark fixed: test is the file's pairs, and validation where the file has some.

Comparable with the literature on that file alone: held-out events are drawn without regard to time, so a model sees
what users did after the held-out moment. A file without a validation part gets one, drawn from each user's training
events; the fit that is judged on the test part learns from them again, so it learns from exactly the file's own.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import Share, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.published import parts
from shortlist.dataset.split import TRAIN, VALID, Split
from shortlist.errors import DataError

__all__ = ["Published"]


class Published:
    """`valid` is the share of a user's training events that is drawn, rounded down; users keep at least one event."""

    @frozen
    class Config:
        valid: Share = 0.1

    def __init__(self, config: Config) -> None:
        self.config = config

    def split(self, interactions: Interactions, rng: np.random.Generator, pairs: pl.DataFrame | None = None) -> Split:
        """`pairs` (`user`, `item`, `part`, by key) is what the import kept of the file. Raises DataError without it."""
        if pairs is None or "part" not in pairs.columns:
            hint = 'use an adapter that brings one, or split.use = "user_time"'
            raise DataError("this log comes without a split of its own", where="split (published)", hint=hint)
        roles = parts(interactions, pairs)
        if not (roles == VALID).any():
            roles[self._drawn(interactions.users, roles == TRAIN, rng)] = VALID
        return Split(interactions, roles, "published").checked()

    def _drawn(self, users: NDArray[np.int64], train: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
        """Places of the drawn events: of a user with n training events the floor of `valid` * n."""
        at = np.flatnonzero(train)
        at = at[np.lexsort((rng.random(len(at)), users[at]))]
        starts = np.flatnonzero(np.append(True, users[at][1:] != users[at][:-1]))
        counts = np.diff(np.append(starts, len(at)))
        place = np.arange(len(at)) - np.repeat(starts, counts)
        # Rounded first: 0.29 * 100 is a little less than 29.
        wanted = np.floor(np.round(self.config.valid * counts, 9))
        return at[place < np.repeat(np.minimum(wanted, counts - 1), counts)]
