"""How alike items are by their attributes: what diversity compares.

R requests, Q items of a request, V values of a field.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.funnel.kinds import Kinds
from shortlist.schema import Profiles, Schema

__all__ = ["Similarity", "Compared"]


@dataclass(frozen=True)
class Similarity:
    """The sum of level weights (divided by their sum) times the cosine of two items' values in that field: 1 or 0 for
    single values, the share of common ones for lists. A missing value is like nothing; an item is like itself."""

    levels: tuple[tuple[Kinds, float], ...]

    @classmethod
    def of(cls, weights: Mapping[str, float], schema: Schema, items: Profiles, where: str) -> "Similarity":
        """Raises ConfigError for an unknown field."""
        total = sum(weights.values())
        return cls(tuple((Kinds.of(items, schema, name, where), w / total) for name, w in weights.items() if w))

    def start(self, keys: NDArray[np.int64]) -> "Compared":
        """For comparing items `keys` [R, Q] of the same request; -1 is like nothing."""
        return Compared([(kinds.dense(keys), weight) for kinds, weight in self.levels], keys.shape)


class Compared:
    """Counts of common values are whole numbers, so a batch gives the bits that a single request does."""

    def __init__(self, levels: list[tuple[NDArray[np.float32], float]], shape: tuple[int, ...]) -> None:
        self.levels = [(hot, np.maximum(hot.sum(axis=2, dtype=np.float64), 1.0), weight) for hot, weight in levels]
        self.shape = shape

    def to(self, place: NDArray[np.int64]) -> NDArray[np.float64]:
        """Similarity [R, Q] of each request's items to the one at `place` [R] of them."""
        row = np.arange(self.shape[0])
        out = np.zeros(self.shape)
        for hot, size, weight in self.levels:
            common = np.matmul(hot, hot[row, place][:, :, None])[:, :, 0]
            out += weight * (common / np.sqrt(size * size[row, place][:, None]))
        out[row, place] = 1.0
        return out
