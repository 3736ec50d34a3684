"""u2i: the vector a trained model gives the request, searched among its items' vectors. R requests, K interests, D
width."""

from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests
from shortlist.config import frozen
from shortlist.forms import Vectors
from shortlist.funnel.pipeline import Keep, Queries, Recalled
from shortlist.index.vectors import VectorIndex, searched
from shortlist.schema import Schema

__all__ = ["Nearest"]


class Nearest:
    """A user without history gets nothing: the vector would be the same for all of them.

    A model may give several vectors of a request [R, K, D], NaN for an interest that it has not: an item's score is the
    best of theirs.
    """

    needs: ClassVar[tuple[str, ...]] = ("queries",)

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, form: Vectors | VectorIndex, schema: Schema, queries: Queries) -> None:
        self.index = searched(form)
        self.queries = queries

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
        return self.index.top(known, asked, n, keep)
