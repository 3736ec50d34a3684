"""iALS: implicit alternating least squares (Hu, Koren, Volinsky, ICDM 2008; tuned by Rendle, Krichene, Zhang, Koren,
RecSys 2022, arXiv:2110.14037). U users, I items, D width.

Reads who took what. Vectors of items; a user's vector is solved from the history when asked (source `fold_in`)."""

__all__ = ["IALS"]

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy import sparse

from shortlist.config import Count, NonNegative, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.forms import Vectors
from shortlist.models.blocks.limits import fits, learnable
from shortlist.models.blocks.ridge import BLOCK_BYTES
from shortlist.schema import Catalogue, Schema

Reals = NDArray[np.floating[Any]]


class IALS:
    """Minimizes sum over taken (u, i) of (<p_u, q_i> - 1)^2 + alpha0 * sum over all (u, i) of <p_u, q_i>^2
    + lam * (sum_u (|I_u| + alpha0 |I|)^nu |p_u|^2 + sum_i (|U_i| + alpha0 |U|)^nu |q_i|^2).

    A half-step is exact, or goes some steps from the vectors before it towards that. Users' vectors are not kept: they
    are folded in from histories, so a new user, or a new click, costs nothing but the solve. An item that nobody took
    has no vector.
    """

    source: ClassVar[str] = "fold_in"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """`alpha0` and `lam` as tuned for MovieLens-1M; smaller catalogues and sparser logs want their own. `solver`
        says how a half-step is made: `exact`, or by `cg_steps` steps of conjugate gradients (`cg`)."""

        dim: Count = 64
        epochs: Count = 12
        alpha0: Positive = 0.3
        lam: Positive = 0.007
        nu: NonNegative = 1.0
        seed: Annotated[int, Ge(0)] = 0
        solver: Literal["exact", "cg"] = "cg"
        cg_steps: Count = 3
        budget_bytes: Count = 4 * 2**30

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config = config
        self.schema = schema
        self.reads: tuple[str, ...] = ("actions",)

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Vectors:
        """Vectors of the items of the log. Raises CapacityError with the estimate, DataError on an empty log."""
        log = interactions.liked(self.schema.weights)
        learnable(log, "ials")
        users, items = len(log.user_keys), len(log.item_keys)
        need = self.estimate(users, items, len(log))
        hint = "raise budget_bytes or lower dim"
        fits(f"{users} users and {items} items", need, self.config.budget_bytes, "ials", hint)
        q_ID: Reals = start(items, self.config)
        x_UI = log.matrix
        x_IU: sparse.csr_array = x_UI.T.tocsr()
        p_UD: Reals | None = None
        for _ in range(self.config.epochs):
            p_UD = half_step(x_UI, q_ID, self.config, p_UD)
            q_ID = half_step(x_IU, p_UD, self.config, q_ID)
        return Vectors(log.item_keys, q_ID.astype(np.float32), "ip")

    def estimate(self, users: int, items: int, events: int) -> int:
        """Bytes at the peak: both sides' vectors (old and new), the matrix both ways round, Q'Q and what taking its
        eigenvectors works with, blocks of the solve."""
        dim = self.config.dim
        return 8 * dim * (users + items) + 2 * 12 * events + 48 * dim * dim + 4 * BLOCK_BYTES


def start(items: int, config: IALS.Config) -> NDArray[np.float32]:
    """Item vectors to begin with [I, D]: normal, of length about 0.1."""
    rng = np.random.default_rng(config.seed)
    q_ID: NDArray[np.float32] = rng.standard_normal((items, config.dim), dtype=np.float32)
    return q_ID * np.float32(0.1 / np.sqrt(config.dim))


def half_step(x_UI: sparse.csr_array, q_ID: Reals, config: IALS.Config, p_UD: Reals | None = None) -> Reals:
    """The best vectors of all rows, given those of the columns [U, D]; by `cg` some steps nearer to these from `p_UD`,
    or from zeros."""
    from shortlist.models.blocks.conjugate import nearer
    from shortlist.models.blocks.regressions import regressions

    counts, offsets = np.diff(x_UI.indptr), x_UI.indptr.astype(np.int64)
    penalty_U = config.lam * (counts + config.alpha0 * x_UI.shape[1]) ** config.nu
    gram_DD = q_ID.T @ q_ID
    if config.solver == "exact":
        return regressions(offsets, x_UI.indices, q_ID, config.alpha0, penalty_U, gram_DD)
    if p_UD is None:
        p_UD = np.zeros((len(counts), q_ID.shape[1]), dtype=q_ID.dtype)
    return nearer(offsets, x_UI.indices, q_ID, config.alpha0, penalty_U, gram_DD, p_UD, config.cg_steps)
