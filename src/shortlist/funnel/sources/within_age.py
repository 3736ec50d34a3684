"""u2i among fresh items: the vector a trained model gives the request, searched among items young enough at that
moment."""

from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests
from shortlist.config import Positive, frozen
from shortlist.forms import Vectors
from shortlist.funnel.ages import Ages
from shortlist.funnel.pipeline import Keep, Queries, Recalled
from shortlist.index.vectors import VectorIndex, searched
from shortlist.schema import Profiles, Schema

__all__ = ["WithinAge"]


class WithinAge:
    """As `nearest`, over the items that are out and were published at most `max_age_hours` before the request. An item
    without a time of publication is in no pool."""

    needs: ClassVar[tuple[str, ...]] = ("queries", "items")

    @frozen
    class Config:
        max_age_hours: Positive = 24.0

    def __init__(
        self, config: Config, form: Vectors | VectorIndex, schema: Schema, queries: Queries, items: Profiles
    ) -> None:
        self.index, self.queries = searched(form), queries
        self.ages = Ages(items, schema, config.max_age_hours, "max_age_hours")

    @staticmethod
    def check(config: "WithinAge.Config", schema: Schema) -> None:
        Ages(None, schema, config.max_age_hours, "max_age_hours")

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """Items by the form's metric, best first."""
        known = (requests.history.offsets[1:] > requests.history.offsets[:-1]).nonzero()[0]
        young = self.ages.some(requests, self.index.keys)
        if not len(known) or not young.any():
            none = requests.history.items[:0]
            return none, none, none.astype(np.float32)
        asked = self.queries.query(requests)[known]
        if asked.ndim == 3:
            there = np.isfinite(asked).all(axis=2)
            known, asked = np.repeat(known, there.sum(axis=1)), asked[there]
        rows = self.index.top(known, asked, n, self.ages.counting(requests, keep), young)
        return self.ages.only(requests, rows)
