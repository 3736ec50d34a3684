"""Drop what the caller ruled out, by item or by a condition on item fields."""

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Mask, Requests
from shortlist.config import frozen
from shortlist.schema import Profiles, Schema

__all__ = ["Excluded"]


class Excluded:
    """`requests.exclude` lists items; `requests.where` keeps items whose fields satisfy it.

    An item without a profile satisfies nothing.
    """

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, schema: Schema, items: Profiles) -> None:
        self.items = items

    def keep(self, requests: Requests, owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        """bool [N]: not ruled out. Raises ConfigError when the condition names an unknown field."""
        keep = ~requests.exclude.contains(owners, items)
        if requests.where is not None:
            wanted = np.asarray(requests.where(self.items.columns, len(self.items)), dtype=bool)
            rows = self.items.rows(items)
            keep &= (rows >= 0) & wanted[np.maximum(rows, 0)] if len(wanted) else False
        return keep
