"""How much of an item is usually played to its end, by the item's length. N items, K corners."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Length"]

Floats = NDArray[np.float64]
LEAST = 0.01  # what nobody ever finished is not made more than a hundred times of


@dataclass(frozen=True)
class Length:
    """f of the item field `field`: usual completion `at[1]` by log length `at[0]`, ascending, both [K], straight
    between and level outside; `mean` where the length is missing or not above 0."""

    field: str
    at: Floats
    mean: float

    def usual(self, lengths: ArrayLike) -> Floats:
        """f [N], above 0."""
        long = np.asarray(lengths, dtype=np.float64)
        known = long > 0  # NaN is not
        out = np.full(long.shape, self.mean)
        out[known] = np.interp(np.log(long[known]), *self.at)
        return np.asarray(np.maximum(out, LEAST))
