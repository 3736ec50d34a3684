"""Drop what the caller ruled out, by item or by a condition on item fields."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Mask, Requests
from shortlist.config import frozen
from shortlist.expressions import Expression
from shortlist.schema import Profiles, Schema

__all__ = ["Excluded"]

_CONDITIONS = 32  # whose answers are kept: one byte an item each


class Excluded:
    """`requests.exclude` lists items and `requests.prefix` those of earlier pages; `requests.where` keeps items whose
    fields satisfy it. An item without a profile satisfies nothing.
    """

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, schema: Schema, items: Profiles) -> None:
        self.items = items
        self._wanted = lru_cache(maxsize=_CONDITIONS)(self._evaluate)

    def keep(self, requests: Requests, owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        """bool [N]: not ruled out. Raises ConfigError when it names an unknown field or is no condition."""
        keep = ~requests.exclude.contains(owners, items)
        if requests.prefix is not None:
            keep &= ~requests.prefix.contains(owners, items)
        if requests.where is not None:
            keep &= self._wanted(requests.where)[self.items.rows(items)]
        return keep

    def _evaluate(self, where: Expression) -> Mask:
        """bool [I + 1]: the catalogue's rows that satisfy it; row -1, no such item, does not."""
        return np.append(where.mask(self.items.columns, len(self.items)), False)
