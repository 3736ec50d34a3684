"""Channels take turns, each in proportion to its quota (stride order)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Requests
from shortlist.config import frozen

__all__ = ["Snake"]

_LATER = 1e-3  # of a place: equal turns go to the earlier channel, also in float32


class Snake:
    """An item's turn is (rank - 1/2) / quota where it comes earliest; equal turns go to the earlier channel.

    One channel gives its own order; equal quotas alternate. The score is 1 - turn, between 0 and 1.
    """

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, channels: tuple[str, ...]) -> None:
        pass

    def score(self, requests: Requests, candidates: Candidates, quotas: NDArray[np.float64]) -> NDArray[Any]:
        """1 - turn [N], -inf for what no channel brought."""
        rank = candidates.rank[:, : len(quotas)]
        turn = np.where(rank > 0, (rank - 0.5 + _LATER * np.arange(len(quotas))) / quotas, np.inf)
        score: NDArray[np.float64] = 1.0 - turn.min(axis=1, initial=np.inf)
        return score
