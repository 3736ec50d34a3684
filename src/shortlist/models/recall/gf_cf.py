"""GF-CF: a linear and an ideal low-pass filter of the item graph, without training (Shen et al., CIKM 2021,
arXiv:2108.07567). U users, I items, D kept frequencies.

Reads who took what. Lists: row i (taken) -> items j by their weight; the scores of a user are sums over the history."""

__all__ = ["GfCf"]

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, NonNegative, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.forms import Lists
from shortlist.models.blocks.limits import fits, learnable
from shortlist.models.blocks.spectral import right_vectors, working_bytes
from shortlist.schema import Catalogue, Schema

BLOCK = 512  # rows made at once


class GfCf:
    """With R~ = Du^-1/2 R Di^-1/2 and V its `dim` leading right vectors, row i of the weights is

        R~'R~ + alpha * Di^-1/2 V V' Di^1/2.

    The first part counts common users, both sides damped by how much they hold; the second spreads along the smoothest
    directions of the graph. A weight on the item itself tells how well known it is and changes no order among others:
    it stays, as the paper has it, and what a user has taken is dropped later. The source sums the rows of a user's
    latest 30 items where `last` says nothing else; the paper's are of all, `last = inf`.
    """

    source: ClassVar[str] = "neighbours"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """`keep` weights of each row, the largest; the paper keeps all, which takes I * I of them."""

        dim: Count = 256
        alpha: NonNegative = 0.3
        keep: Count = 1000
        budget_bytes: Count = 4 * 2**30

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.reads: tuple[str, ...] = ("actions",)

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Lists:
        """Rows of at most `keep` weights. Raises CapacityError with the estimate, DataError on an empty log."""
        log = interactions.liked(self.schema.weights)
        learnable(log, "gf_cf")
        keys, config = log.item_keys, self.config
        need = self.estimate(len(log.user_keys), len(keys), len(log))
        fits(f"{len(keys)} items", need, config.budget_bytes, "gf_cf", "raise budget_bytes, or lower keep or dim")
        x_UI = log.matrix.astype(np.float64)
        d_U, d_I = np.asarray(x_UI.sum(axis=1)), np.asarray(x_UI.sum(axis=0))
        r_UI: Any = x_UI.multiply(1 / np.sqrt(d_U)[:, None]).multiply(1 / np.sqrt(d_I)[None, :]).tocsr()
        r_IU = r_UI.T.tocsr()
        v_ID = right_vectors(r_UI, config.dim)[1] if config.alpha else np.zeros((len(keys), 0))
        left, right = (
            (v_ID * side[:, None]).astype(np.float32) for side in (config.alpha / np.sqrt(d_I), np.sqrt(d_I))
        )
        kept = min(config.keep, len(keys))
        items, scores = np.empty(len(keys) * kept, dtype=np.int64), np.empty(len(keys) * kept, dtype=np.float32)
        for low in range(0, len(keys), BLOCK):
            high = min(low + BLOCK, len(keys))
            block = (r_IU[low:high] @ r_UI).astype(np.float32).toarray()
            block += left[low:high] @ right.T
            at = _largest(block, kept)
            items[low * kept : high * kept] = keys[at].ravel()
            scores[low * kept : high * kept] = np.take_along_axis(block, at, axis=1).ravel()
        return Lists(keys, np.arange(len(keys) + 1) * kept, items, scores)

    def estimate(self, users: int, items: int, events: int) -> int:
        """Bytes at the peak: the matrix both ways round, what its decomposition works with or the two sides of the
        second filter, a block of rows (dense, sparse and sorted), and the lists."""
        spectral = working_bytes(users, items, events, self.config.dim) if self.config.alpha else 0
        kept = min(self.config.keep, items)
        sides = 2 * 8 * min(self.config.dim, users, items) * items
        return 36 * events + spectral + sides + BLOCK * items * 48 + items * kept * 12


def _largest(block: NDArray[np.float32], kept: int) -> NDArray[np.int64]:
    """Columns of the largest of each row, falling, ties by smaller column."""
    if kept == block.shape[1]:
        return np.argsort(-block, axis=1, kind="stable")
    edge = np.partition(block, block.shape[1] - kept, axis=1)[:, block.shape[1] - kept]
    held = block >= edge[:, None]
    spare = held.sum(axis=1) - kept
    for row in np.flatnonzero(spare):  # of those at the edge the last give way
        held[row, np.flatnonzero(block[row] == edge[row])[-spare[row] :]] = False
    at = np.nonzero(held)[1].reshape(len(block), kept)
    order = np.argsort(-np.take_along_axis(block, at, axis=1), axis=1, kind="stable")
    return np.take_along_axis(at, order, axis=1)
