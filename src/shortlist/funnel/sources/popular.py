"""Hot lists by key: the list of the request's region, backed off to the global one."""

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Requests
from shortlist.config import frozen
from shortlist.forms import GLOBAL, Lists, of_region
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.cut import cut
from shortlist.index.lists import Kept
from shortlist.schema import Schema, text

__all__ = ["Popular"]


class Popular:
    """Reads `requests.context[schema.region]`. A region without a list of its own gets the global list."""

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, form: Lists | Kept, schema: Schema) -> None:
        self.form = form
        self.region = schema.region
        self.places = _places(form) if isinstance(form, Lists) else {}

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """The list of each request's region, cut at n eligible items."""
        labels = self._labels(requests)
        if isinstance(self.form, Lists):
            form, places = self.form, self.places
        else:
            form = self.form.named({GLOBAL, *labels})
            places = _places(form)
        owners, at = _rows(form, np.array([places.get(v, places.get(GLOBAL, -1)) for v in labels], dtype=np.int64))
        return cut(owners, form.items[at], form.scores[at], n, keep)

    def _labels(self, requests: Requests) -> list[str]:
        """The list each request would have [R]."""
        regions = None if self.region is None else requests.context.get(self.region)
        if regions is None or len(self.places) == 1:
            return [GLOBAL] * len(requests)
        return [of_region(region) for region in text(regions)]


def _places(form: Lists) -> dict[str, int]:
    return {label: n for n, label in enumerate(form.labels)}


def _rows(form: Lists, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Owners and positions in the form of the lists at `place` [R], -1 for no list."""
    known = np.flatnonzero(place >= 0)
    start = form.offsets[place[known]]
    counts = form.offsets[place[known] + 1] - start
    ends = np.cumsum(counts)
    at = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(start - (ends - counts), counts)
    return np.repeat(known, counts), at
