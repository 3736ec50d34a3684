"""Drop what the user interacted with, and what was shown to the user lately."""

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Mask, Ragged, Requests
from shortlist.config import Count, NonNegative, frozen
from shortlist.schema import Profiles, Schema

__all__ = ["Seen"]

_DAY_MS = 86_400_000


class Seen:
    """`days` bounds how long an interaction counts (None: for good). An item shown `shown_cap` times within
    `shown_hours` is dropped too; 0 hours switches that off."""

    @frozen
    class Config:
        days: NonNegative | None = None
        shown_hours: NonNegative = 0.0
        shown_cap: Count = 3

    def __init__(self, config: Config, schema: Schema, items: Profiles) -> None:
        self.config = config

    def keep(self, requests: Requests, owners: NDArray[np.int64], items: NDArray[np.int64]) -> Mask:
        """bool [N]: not seen by the request's user."""
        history = requests.history
        if self.config.days is not None:
            history = history.where(_age(history, requests) < self.config.days * _DAY_MS)
        keep = ~history.contains(owners, items)
        if self.config.shown_hours:
            shown = requests.shown.where(_age(requests.shown, requests) < self.config.shown_hours * 3_600_000)
            keep &= ~often(shown, self.config.shown_cap).contains(owners, items)
        return keep


def _age(events: Ragged, requests: Requests) -> NDArray[np.int64]:
    """Milliseconds between each event and its request."""
    return requests.now[events.owners] - events.times


def often(events: Ragged, times: int) -> Ragged:
    """Only events on items that occur at least `times` times for their request."""
    if times == 1 or not len(events.items):
        return events
    width = int(events.items.max()) + 1
    _, inverse, counts = np.unique(events.owners * width + events.items, return_inverse=True, return_counts=True)
    return events.where(counts[inverse] >= times)
