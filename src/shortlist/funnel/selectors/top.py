"""The best n by score, ties by smaller key."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Mask, Requests
from shortlist.config import frozen
from shortlist.funnel.pipeline import top
from shortlist.schema import Profiles, Schema

__all__ = ["Top"]


class Top:
    """No diversity, no rules."""

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, schema: Schema, items: Profiles) -> None:
        pass

    def select(
        self, requests: Requests, candidates: Candidates, scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Mapping[str, Mask]]:
        offsets, picks = top(candidates, scores, requests.n)
        return offsets, picks, {}
