"""u2i by the sum of a user's items' own vectors: what a linear model of items asks with."""

from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests, located
from shortlist.config import Count, frozen
from shortlist.forms import Vectors
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.vectors import VectorIndex, searched
from shortlist.schema import Schema

__all__ = ["Summed"]


class Summed:
    """The query is the sum over the distinct items of the history, or the `last` of them; None means all.

    Items unknown to the form do not count; a user without any gets none.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    @frozen
    class Config:
        last: Count | None = None

    def __init__(self, config: Config, form: Vectors | VectorIndex, schema: Schema) -> None:
        self.config = config
        self.index = searched(form)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """Items by the form's metric, best first; what the user has already taken is among them."""
        history = requests.history.latest()
        if self.config.last is not None:
            history = history.last(self.config.last)
        keys, matrix = self.index.keys, self.index.matrix
        at, known = located(keys, history.items)
        owner, at = history.owners[known], at[known]
        owners = np.unique(owner)
        if not len(owners):
            none = owners[:0]
            return none, none, none.astype(np.float32)
        starts = np.searchsorted(owner, owners)
        queries = np.add.reduceat(matrix[at].astype(np.float64), starts, axis=0).astype(np.float32)
        return self.index.top(owners, queries, n, keep)
