"""Hot lists by key: the list of the request's region, backed off to the global one."""

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Requests
from shortlist.config import frozen
from shortlist.forms import GLOBAL, Lists, of_region
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.cut import cut
from shortlist.schema import Schema, text

__all__ = ["Popular"]


class Popular:
    """Reads `requests.context[schema.region]`. A region without a list of its own gets the global list."""

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, form: Lists, schema: Schema) -> None:
        self.form = form
        self.region = schema.region
        self.places = {label: n for n, label in enumerate(form.labels)}

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """The list of each request's region, cut at n eligible items."""
        owners, at = self._rows(self._lists(requests))
        return cut(owners, self.form.items[at], self.form.scores[at], n, keep)

    def _lists(self, requests: Requests) -> NDArray[np.int64]:
        """Which list each request gets [R], -1 for none."""
        world = self.places.get(GLOBAL, -1)
        regions = None if self.region is None else requests.context.get(self.region)
        if regions is None or len(self.places) < 2:
            return np.full(len(requests), world, dtype=np.int64)
        found = [self.places.get(of_region(region), world) for region in text(regions)]
        return np.array(found, dtype=np.int64)

    def _rows(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Owners and positions in the form of the lists at `place` [R], -1 for no list."""
        known = np.flatnonzero(place >= 0)
        start = self.form.offsets[place[known]]
        counts = self.form.offsets[place[known] + 1] - start
        ends = np.cumsum(counts)
        at = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(start - (ends - counts), counts)
        return np.repeat(known, counts), at
