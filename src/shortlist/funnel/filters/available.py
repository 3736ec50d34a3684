"""Drop what is not in the catalogue, or outside its availability window."""

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Mask, Requests
from shortlist.config import frozen
from shortlist.schema import Profiles, Schema

__all__ = ["Available"]


class Available:
    """An item is available from `schema.available_from` (inclusive) to `schema.available_to` (exclusive), in ms.

    A missing bound is open.
    """

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, schema: Schema, items: Profiles) -> None:
        self.items = items
        self.start = _times(items, schema.available_from, -np.inf)
        self.stop = _times(items, schema.available_to, np.inf)

    def keep(self, requests: Requests, owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        """bool [N]: in the catalogue and inside its window at the time of the request."""
        rows = self.items.rows(items)
        known = rows >= 0
        if self.start is None and self.stop is None:
            return known
        now, at = requests.now[owners], np.maximum(rows, 0)
        if self.start is not None:
            known &= self.start[at] <= now
        if self.stop is not None:
            known &= now < self.stop[at]
        return known


def _times(items: Profiles, name: str | None, missing: float) -> NDArray[np.float64] | None:
    if name is None or name not in items.columns or not len(items):
        return None
    values = np.array([missing if v is None else v for v in items.columns[name].tolist()], dtype=np.float64)
    return np.where(np.isnan(values), missing, values)
