"""u2i: the vector a trained model gives the request, searched among its items' vectors. R requests, K interests, D
width."""

from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests
from shortlist.config import frozen
from shortlist.forms import Vectors
from shortlist.funnel.pipeline import Keep, Queries, Recalled
from shortlist.index.fields import allowed, check
from shortlist.index.vectors import VectorIndex, searched
from shortlist.schema import Profiles, Schema

__all__ = ["Nearest"]


class Nearest:
    """A user without history gets nothing: the vector would be the same for all of them.

    A model may give several vectors of a request [R, K, D], NaN for an interest that it has not: an item's score is the
    best of theirs. `where` is a condition over items' fields (`category == "news"`): only items that fit are searched.
    """

    needs: ClassVar[tuple[str, ...]] = ("queries", "items")

    @frozen
    class Config:
        where: str = ""

    def __init__(
        self,
        config: Config,
        form: Vectors | VectorIndex,
        schema: Schema,
        queries: Queries,
        items: Profiles | None = None,
    ) -> None:
        self.index = searched(form)
        self.queries = queries
        self.allowed = allowed(config.where, self.index, items)

    @staticmethod
    def check(config: "Nearest.Config", schema: Schema) -> None:
        check(config.where, schema)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """Items by the form's metric, best first."""
        known = (requests.history.offsets[1:] > requests.history.offsets[:-1]).nonzero()[0]
        if not len(known):
            none = requests.history.items[:0]
            return none, none, none.astype("float32")
        asked = self.queries.query(requests)[known]
        if asked.ndim == 3:
            there = np.isfinite(asked).all(axis=2)
            known, asked = np.repeat(known, there.sum(axis=1)), asked[there]
        return self.index.top(known, asked, n, keep, self.allowed)
