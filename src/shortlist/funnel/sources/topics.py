"""u2topic2i: items of the topics that a user's history is of. R requests, H events, K topics, N items."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests, located
from shortlist.config import Count, Positive, Share, frozen
from shortlist.forms import Form, Lists, Vectors
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.funnel.shares import found, summed
from shortlist.index.lists import Kept
from shortlist.models.blocks.topics import counted, fold_in
from shortlist.schema import Schema

__all__ = ["Topics"]


class Topics:
    """theta_u is folded in from the history at hand, phi as it was learned; `alpha` and `cap` are the model's (one key
    of a channel sets both). An item scores the sum over the topics asked for of theta_uk phi_ki, phi as in the lists.

    Asked for are the `top` topics of a user, of those that at least the share `least` of the events belongs to, and the
    best one in any case; each for the share theta_uk of what is asked for, rounded up. Items that training does not
    know say nothing; a user without any gets nothing.
    """

    needs: ClassVar[tuple[str, ...]] = ("beside",)

    @frozen
    class Config:
        top: Count = 10
        least: Share = 0.1
        alpha: Positive | None = None
        cap: Count | None = 5

    def __init__(self, config: Config, form: Lists | Kept, schema: Schema, beside: Mapping[str, Form]) -> None:
        phi = beside["topics"]
        assert isinstance(phi, Vectors)
        self.config, self.form = config, form
        order = np.argsort(phi.keys)
        self.keys, self.phi = phi.keys[order], phi.matrix[order]
        self.alpha = 1 / max(phi.matrix.shape[1], 1) if config.alpha is None else config.alpha

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """What the user has already taken is among them."""
        history = requests.history
        at, known = located(self.keys, history.items)
        users, places, counts = counted(history.owners[known], at[known], self.config.cap)
        who, gamma = fold_in(users, counts, self.phi[places].astype(np.float64), self.alpha)
        theta = gamma / gamma.sum(axis=1, keepdims=True)
        order = np.argsort(-theta, axis=1, kind="stable")[:, : self.config.top]
        events = np.take_along_axis(gamma, order, axis=1) - self.alpha
        total = (gamma - self.alpha).sum(axis=1, keepdims=True)
        asked = events >= self.config.least * total
        asked[:, :1] = True
        row, place = np.nonzero(asked)
        owners, topics, share = who[row], order[row, place], theta[row, order[row, place]]
        limits = np.maximum(np.ceil(share * n - 1e-9), 1).astype(np.int64)
        rows = found(self.form, owners, topics, limits, keep)
        return summed(owners[rows.pairs], rows.items, share[rows.pairs] * rows.scores, n, keep)
