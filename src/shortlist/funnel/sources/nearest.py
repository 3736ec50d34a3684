"""u2i: the vector a trained model gives the request, searched among its items' vectors."""

from typing import ClassVar

from shortlist.candidates import Requests
from shortlist.config import frozen
from shortlist.forms import Vectors
from shortlist.funnel.pipeline import Keep, Queries, Recalled
from shortlist.index.flat import FlatIndex
from shortlist.schema import Schema

__all__ = ["Nearest"]


class Nearest:
    """A user without history gets nothing: the vector would be the same for all of them."""

    needs: ClassVar[tuple[str, ...]] = ("queries",)

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, form: Vectors, schema: Schema, queries: Queries) -> None:
        self.index = FlatIndex(form)
        self.queries = queries

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """Items by the form's metric, best first."""
        known = (requests.history.offsets[1:] > requests.history.offsets[:-1]).nonzero()[0]
        if not len(known):
            none = requests.history.items[:0]
            return none, none, none.astype("float32")
        return self.index.top(known, self.queries.query(requests)[known], n, keep)
