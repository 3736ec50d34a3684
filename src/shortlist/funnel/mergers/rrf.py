"""Weighted reciprocal-rank fusion (Cormack, Clarke, Buettcher, SIGIR 2009): sum of weight / (kappa + rank)."""

from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Requests
from shortlist.config import NonNegative, frozen, nearest
from shortlist.errors import ConfigError

__all__ = ["Rrf"]


class Rrf:
    """A channel without a weight counts 1. A better rank in one channel never lowers the score."""

    @frozen
    class Config:
        kappa: NonNegative = 60.0
        weights: dict[str, NonNegative] = field(default_factory=dict)

    def __init__(self, config: Config, channels: tuple[str, ...]) -> None:
        for name in config.weights:
            if name not in channels:
                raise ConfigError(f"no channel is called {name!r}", where="merge.weights", hint=nearest(name, channels))
        self.config = config

    def score(self, requests: Requests, candidates: Candidates, quotas: NDArray[np.float64]) -> NDArray[Any]:
        """Fused prior [N]."""
        rank = candidates.rank[:, : len(quotas)]
        weights = np.array([self.config.weights.get(name, 1.0) for name in candidates.channels[: len(quotas)]])
        parts = np.where(rank > 0, weights / (self.config.kappa + np.maximum(rank, 1)), 0.0)
        fused: NDArray[np.float64] = parts.sum(axis=1)
        return fused
