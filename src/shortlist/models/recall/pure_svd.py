"""PureSVD: the user-item matrix projected on its leading item space (Cremonesi, Koren, Turrin, RecSys 2010). U users,
I items, D width.

Reads who took what. Vectors of items; a user is the sum of those of the history (source `summed`): scores x_u Q Q'."""

__all__ = ["PureSvd"]

from typing import ClassVar

import numpy as np

from shortlist.config import Count, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.forms import Vectors
from shortlist.models.blocks.limits import fits, learnable
from shortlist.models.blocks.spectral import right_vectors, working_bytes
from shortlist.schema import Catalogue, Schema


class PureSvd:
    """X = U S Q' cut at `dim` singular values; the scores of a user with row x are x Q Q'.

    A new user, or a new click, needs nothing but a sum. An item that nobody took has no vector. Where the log has a
    lower rank than `dim`, there are as many columns as its rank.
    """

    source: ClassVar[str] = "summed"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """50 to 200 dimensions are usual; fewer favour what is popular."""

        dim: Count = 64
        budget_bytes: Count = 4 * 2**30

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.reads: tuple[str, ...] = ("actions",)

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Vectors:
        """Orthonormal columns over the items of the log. Raises CapacityError with the estimate, DataError on an empty
        log."""
        log = interactions.liked(self.schema.weights)
        learnable(log, "pure_svd")
        users, items = len(log.user_keys), len(log.item_keys)
        need = self.estimate(users, items, len(log))
        hint = "raise budget_bytes or lower dim"
        fits(f"{users} users and {items} items", need, self.config.budget_bytes, "pure_svd", hint)
        _, q_ID = right_vectors(log.matrix, self.config.dim)
        return Vectors(log.item_keys, q_ID.astype(np.float32), "ip")

    def estimate(self, users: int, items: int, events: int) -> int:
        """Bytes at the peak: the matrix in single and double precision, and what its decomposition works with."""
        return 8 * events + working_bytes(users, items, events, self.config.dim)
