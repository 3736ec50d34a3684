"""How old items are at the moment of a request: what keeps a channel to fresh ones. R requests, N pairs, I items."""

__all__ = ["Ages"]

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Mask, Requests
from shortlist.errors import ConfigError
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.schema import Profiles, Schema

HOUR_MS = 3_600_000.0


class Ages:
    """An item is in when `schema.published` is not after the moment of the request, and at most `max_age_hours` before
    it (None: however long). An item without a time of publication is out.

    With `later`, one that the catalogue does not have is in: it came after the release.
    """

    def __init__(
        self, items: Profiles | None, schema: Schema, max_age_hours: float | None, where: str, *, later: bool = False
    ) -> None:
        if schema.published is None:
            hint = "set schema.published to a time field of [schema.items]"
            raise ConfigError("ages need a time of publication", where=where, hint=hint)
        self.items = items if items is not None else Profiles(np.zeros(0, dtype=np.int64), {})
        self.most_ms = np.inf if max_age_hours is None else max_age_hours * HOUR_MS
        column = self.items.columns.get(schema.published, np.full(len(self.items), np.nan))
        times = np.array([np.nan if value is None else value for value in column.tolist()], dtype=np.float64)
        self.times: NDArray[np.float64] = np.append(times, -np.inf if later else np.nan)  # the last one for no row
        self.later = later

    def within(self, requests: Requests, owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        """bool [N]."""
        rows = self.items.rows(items)
        age = requests.now[owners] - self.times[rows]
        mask: Mask = (age >= 0) & (age <= self.most_ms)
        return mask | (rows < 0) if self.later else mask

    def some(self, requests: Requests, items: NDArray[np.int64]) -> Mask:
        """Which items [I] are in for at least one of the requests, or nearly: never fewer."""
        if not len(requests):
            return np.zeros(len(items), dtype=bool)
        rows = self.items.rows(items)
        times = self.times[rows]
        mask: Mask = (times <= requests.now.max()) & (times >= requests.now.min() - self.most_ms)
        return mask | (rows < 0) if self.later else mask

    def counting(self, requests: Requests, keep: Keep) -> Keep:
        """`keep`, and within the age."""
        return lambda owners, items: keep(owners, items) & self.within(requests, owners, items)

    def only(self, requests: Requests, rows: Recalled) -> Recalled:
        """The rows within the age."""
        mask = self.within(requests, rows[0], rows[1])
        return rows if bool(mask.all()) else (rows[0][mask], rows[1][mask], rows[2][mask])
