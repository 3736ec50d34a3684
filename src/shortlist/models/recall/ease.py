"""EASE: a linear item-item model in closed form (Steck, WWW 2019, arXiv:1905.03375). I items.

Reads who took what. Lists: row i (consumed) -> items j by B_ij (recommended); weights may be negative, B is
not symmetric."""

__all__ = ["Ease"]

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from shortlist.config import Count, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.forms import Lists
from shortlist.models.blocks.limits import fits, learnable
from shortlist.schema import Catalogue, Schema

BLOCK = 512  # rows turned into lists at once


class Ease:
    """Minimizes |X - XB|^2 + lam |B|^2 with a zero diagonal: P = (X'X + lam I)^-1, B_ij = -P_ij / P_jj.

    Scores x_u B are sums of the lists of a user's items, all with weight 1: a new user needs no more than the history
    at hand. The source sums the latest 30 where `last` says nothing else; `last = inf` is the paper's x_u B. An
    item that nobody took has no list and is in none. Refuses, before allocating, what would not fit.
    """

    source: ClassVar[str] = "neighbours"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """`lam` grows with the log: 100 to 1000 are usual. `keep` cuts each row to its largest weights, which
        drops negative ones and changes the scores; None keeps every weight but the exact zeros."""

        lam: Positive = 500.0
        keep: Count | None = None
        budget_bytes: Count = 4 * 2**30

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config = config
        self.schema = schema
        self.reads: tuple[str, ...] = ("actions",)

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Lists:
        """The rows of B as lists. Raises CapacityError with the estimate, DataError on an empty log."""
        log = interactions.liked(self.schema.weights)
        keys = log.item_keys
        learnable(log, "ease")
        hint = "raise budget_bytes, set keep, or use item_cf"
        fits(f"{len(keys)} items", self.estimate(len(keys)), self.config.budget_bytes, "ease", hint)
        return _lists(weights(log.matrix, self.config.lam), keys, self.config.keep)

    def estimate(self, items: int) -> int:
        """Bytes at the peak: the dense matrix, and the lists cut from it beside it (an item key and a weight each)."""
        kept = items - 1 if self.config.keep is None else min(self.config.keep, items - 1)
        return items * items * 4 + items * kept * (8 + 4) + BLOCK * items * (4 + 8 + 4)


def weights(x_UI: sparse.csr_array, lam: float) -> NDArray[np.float32]:
    """B [I, I] from the binary matrix, in the memory of one dense float32 matrix."""
    from scipy.linalg import lapack

    p_II = _gram(x_UI)
    diagonal = np.einsum("ii->i", p_II)
    diagonal += np.float32(lam)
    # The transpose is the column-major view that LAPACK overwrites; lower of the one is upper of the other.
    _, failed = lapack.spotrf(p_II.T, lower=1, clean=0, overwrite_a=1)
    _, singular = lapack.spotri(p_II.T, lower=1, overwrite_c=1)
    assert not failed, "X'X + lam I is positive definite for lam > 0"
    assert not singular
    for low in range(0, len(p_II), BLOCK):  # LAPACK filled the upper triangle: mirror it
        high = low + BLOCK
        corner = p_II[low:high, low:high]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
        p_II[high:, low:high] = p_II[low:high, high:].T
    p_II /= -diagonal.copy()
    diagonal[:] = 0
    return p_II


def _gram(x_UI: sparse.csr_array) -> NDArray[np.float32]:
    """X'X [I, I] dense; counts up to 2^24 are exact."""
    n = x_UI.shape[1]
    x_IU: Any = x_UI.T.tocsr()
    gram = np.empty((n, n), dtype=np.float32)
    for low in range(0, n, BLOCK):
        (x_IU[low : low + BLOCK] @ x_UI).todense(out=gram[low : low + BLOCK])
    return gram


def _lists(b_II: NDArray[np.float32], keys: NDArray[np.int64], keep: int | None) -> Lists:
    """Rows best first, ties by smaller key, without exact zeros."""
    n = len(keys)
    kept = n - 1 if keep is None else min(keep, n - 1)
    items, scores = np.empty(n * kept, dtype=np.int64), np.empty(n * kept, dtype=np.float32)
    sizes = np.zeros(n, dtype=np.int64)
    at = 0
    for low in range(0, n, BLOCK):
        block = b_II[low : low + BLOCK]
        order = np.argsort(-block, axis=1, kind="stable")
        ranked = np.take_along_axis(block, order, axis=1)
        chosen = ranked != 0
        chosen &= np.cumsum(chosen, axis=1) <= kept
        sizes[low : low + BLOCK] = chosen.sum(axis=1)
        end = at + int(sizes[low : low + BLOCK].sum())
        items[at:end], scores[at:end] = keys[order[chosen]], ranked[chosen]
        at = end
    has = sizes > 0
    return Lists(keys[has], np.concatenate([[0], np.cumsum(sizes[has])]), items[:at], scores[:at])
