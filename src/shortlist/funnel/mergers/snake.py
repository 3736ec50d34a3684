"""Channels take turns, each in proportion to its quota (stride order)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Requests
from shortlist.config import frozen

__all__ = ["Snake"]


class Snake:
    """An item's turn is (rank - 1/2) / quota where it comes earliest; equal turns go to the earlier channel.

    One channel gives its own order; equal quotas alternate.
    """

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, channels: tuple[str, ...]) -> None:
        self.later = np.arange(len(channels)) * 1e-9

    def score(self, requests: Requests, candidates: Candidates, quotas: NDArray[np.float64]) -> NDArray[Any]:
        """Minus the turn [N]."""
        rank = candidates.rank[:, : len(self.later)]
        turn = np.where(rank > 0, (rank - 0.5) / quotas + self.later, np.inf)
        earliest: NDArray[np.float64] = -turn.min(axis=1, initial=np.inf)
        return earliest
