"""u2i by the vector that was learned for the user, searched among the items'."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests, located
from shortlist.config import frozen
from shortlist.forms import Form, Vectors
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.vectors import VectorIndex, searched
from shortlist.schema import Schema

__all__ = ["OfUser"]


class OfUser:
    """Asks with `users` beside the form; who has no vector there gets nothing."""

    needs: ClassVar[tuple[str, ...]] = ("beside",)

    @frozen
    class Config:
        pass

    def __init__(self, config: Config, form: Vectors | VectorIndex, schema: Schema, beside: Mapping[str, Form]) -> None:
        users = beside["users"]
        assert isinstance(users, Vectors)
        order = np.argsort(users.keys)
        self.users, self.matrix = users.keys[order], users.matrix[order]
        self.index = searched(form)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """Items by the form's metric, best first; what the user has already taken is among them."""
        at, there = located(self.users, requests.users)
        known = np.flatnonzero(there)
        if not len(known):
            none = np.zeros(0, dtype=np.int64)
            return none, none, none.astype(np.float32)
        return self.index.top(known, self.matrix[at[known]], n, keep)
