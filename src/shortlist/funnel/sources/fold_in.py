"""u2i by fold-in: a user's vector solved from the history at hand, then searched."""

from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests, located
from shortlist.config import Count, NonNegative, Positive, frozen
from shortlist.forms import Vectors
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.index.fields import allowed, check
from shortlist.index.vectors import VectorIndex, searched
from shortlist.models.blocks.ridge import ridge
from shortlist.schema import Profiles, Schema

__all__ = ["FoldIn"]


class FoldIn:
    """The best p for <p, q_i> under the loss the items were learned with, so `alpha0`, `lam` and `nu` are the model's
    (one key of a channel sets both). Items unknown to the form and repeats do not count; a user without any gets none.

    `last`: only that many latest distinct items; None means all. `where` is a condition over items' fields: only items
    that fit are searched.
    """

    needs: ClassVar[tuple[str, ...]] = ("items",)

    @frozen
    class Config:
        alpha0: Positive = 0.3
        lam: Positive = 0.007
        nu: NonNegative = 1.0
        last: Count | None = None
        where: str = ""

    def __init__(
        self, config: Config, form: Vectors | VectorIndex, schema: Schema, items: Profiles | None = None
    ) -> None:
        self.config = config
        self.index = searched(form)
        self.allowed = allowed(config.where, self.index, items)
        self.gram = self.index.matrix.T @ self.index.matrix

    @staticmethod
    def check(config: "FoldIn.Config", schema: Schema) -> None:
        check(config.where, schema)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """Items by <p, q>, best first; what the user has already taken is among them."""
        history = requests.history.latest()
        if self.config.last is not None:
            history = history.last(self.config.last)
        keys, matrix, config = self.index.keys, self.index.matrix, self.config
        at, known = located(keys, history.items)
        counts = np.bincount(history.owners[known], minlength=len(requests))
        owners = np.flatnonzero(counts)
        offsets = np.concatenate([[0], np.cumsum(counts[owners])]).astype(np.int64)
        penalty = config.lam * (counts[owners] + config.alpha0 * len(keys)) ** config.nu
        queries = ridge(offsets, at[known], matrix, config.alpha0, penalty, self.gram)
        return self.index.top(owners, queries, n, keep, self.allowed)
