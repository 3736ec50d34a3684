"""Hot lists by key: the list of the request's region, backed off to its country's and to the global one."""

from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.candidates import Requests, spans
from shortlist.config import frozen
from shortlist.forms import GLOBAL, Lists, of_country, of_region
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.cut import cut
from shortlist.index.lists import Kept
from shortlist.schema import Profiles, Schema, text

__all__ = ["Popular"]


class Popular:
    """Reads `requests.context[schema.region]`. A region without a list of its own gets that of its country, where
    `country` names a field of the users, else the global list.

    A request's country is what it tells, else the one most users of its region are in, else that of the user.
    """

    needs: ClassVar[tuple[str, ...]] = ("users",)

    @frozen
    class Config:
        country: str | None = None

    def __init__(self, config: Config, form: Lists | Kept, schema: Schema, users: Profiles | None = None) -> None:
        self.form = form
        self.region, self.country, self.users = schema.region, config.country, users
        self.places = _places(form) if isinstance(form, Lists) else {}
        self.country_of = {} if users is None else _countries(users, schema.region, config.country)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """The list of each request's region, cut at n eligible items."""
        wanted = self._labels(requests)
        if isinstance(self.form, Lists):
            form, places = self.form, self.places
        else:
            form = self.form.named({GLOBAL, *(label for labels in wanted for label in labels)})
            places = _places(form)
        first = [next((places[label] for label in (*labels, GLOBAL) if label in places), -1) for labels in wanted]
        owners, at = _rows(form, np.array(first, dtype=np.int64))
        return cut(owners, form.items[at], form.scores[at], n, keep)

    def _labels(self, requests: Requests) -> list[tuple[str, ...]]:
        """The lists each request would have, the nearest first [R]."""
        nothing: list[str | None] = [None] * len(requests)
        if len(self.places) == 1:
            return [()] * len(requests)
        told = None if self.region is None else requests.context.get(self.region)
        regions = nothing if told is None else text(told).to_list()
        countries = nothing
        if self.country is not None:
            told = requests.context.get(self.country)
            own = None if self.users is None else self.users.take(self.country, requests.users)
            spoken, theirs = (nothing if column is None else text(column).to_list() for column in (told, own))
            places = [None if region is None else self.country_of.get(region) for region in regions]
            countries = [next((c for c in some if c), None) for some in zip(spoken, places, theirs, strict=True)]
        return [
            (*([of_region(r)] if r is not None else []), *([of_country(c)] if c is not None else []))
            for r, c in zip(regions, countries, strict=True)
        ]


def _countries(users: Profiles, region: str | None, country: str | None) -> dict[str, str]:
    """Of each region the country that most of its users are in, ties by name."""
    if region not in users.columns or country not in users.columns:
        return {}
    pairs = pl.DataFrame({"region": text(users.columns[region]), "country": text(users.columns[country])}).drop_nulls()
    counted = pairs.group_by("region", "country").len().sort("len", "country", descending=[True, False])
    return dict(counted.unique("region", keep="first", maintain_order=True).select("region", "country").iter_rows())


def _places(form: Lists) -> dict[str, int]:
    return {label: n for n, label in enumerate(form.labels)}


def _rows(form: Lists, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Owners and positions in the form of the lists at `place` [R], -1 for no list."""
    known = np.flatnonzero(place >= 0)
    start = form.offsets[place[known]]
    counts = form.offsets[place[known] + 1] - start
    return np.repeat(known, counts), spans(start, counts)
