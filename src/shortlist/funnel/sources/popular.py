"""Hot lists by key: the list of the request's region, backed off to the global one."""

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Requests
from shortlist.config import frozen
from shortlist.forms import Lists
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.lists import cut
from shortlist.schema import Schema

__all__ = ["Popular"]

GLOBAL = "global"


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
        place = np.full(len(requests), self.places.get(GLOBAL, -1), dtype=np.int64)
        if self.region is not None and self.region in requests.context and len(self.places) > 1:
            values, inverse = np.unique(requests.context[self.region].astype(str), return_inverse=True)
            found = [self.places.get(f"region:{value}", self.places.get(GLOBAL, -1)) for value in values]
            place = np.array(found, dtype=np.int64)[inverse]
        owners, at = self._rows(place)
        return cut(owners, self.form.items[at], self.form.scores[at], n, keep)

    def _rows(self, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Owners and positions in the form of the lists at `place` [R], -1 for no list."""
        known = np.flatnonzero(place >= 0)
        start = self.form.offsets[place[known]]
        counts = self.form.offsets[place[known] + 1] - start
        ends = np.cumsum(counts)
        at = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(start - (ends - counts), counts)
        return np.repeat(known, counts), at
