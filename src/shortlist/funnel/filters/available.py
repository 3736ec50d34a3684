"""Drop what is not in the catalogue, or outside its availability window."""

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Mask, Requests
from shortlist.config import frozen
from shortlist.errors import ConfigError
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
        if self.start is not None:
            known &= self.start[rows] <= requests.now[owners]
        if self.stop is not None:
            known &= requests.now[owners] < self.stop[rows]
        return known


def _times(items: Profiles, name: str | None, missing: float) -> NDArray[np.float64] | None:
    """Bounds [I + 1], the last one for row -1; None where there is no field. Raises ConfigError for other types."""
    if name is None or name not in items.columns:
        return None
    values = [missing if v is None else v for v in items.columns[name].tolist()]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            hint = "write milliseconds since 1970, UTC"
            raise ConfigError(f"holds {value!r}, which is not a time", where=f"schema.items.{name}", hint=hint)
    times = np.array([*values, missing], dtype=np.float64)
    return np.where(np.isnan(times), missing, times)
