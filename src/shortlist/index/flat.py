"""Exact search over Vectors: every query against every item, in blocks. Q queries, N items, D width."""

__all__ = ["FlatIndex"]

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ArtifactError, RequestError
from shortlist.forms import Vectors
from shortlist.index.cut import Floats, Ints, Keep, Rows

BLOCK_BYTES = 64 * 2**20  # scores of one block of queries


class FlatIndex:
    """Immutable. Scores are larger-is-better for every metric: `ip` and `cos` as they are, `l2` the squared
    distance, negated."""

    def __init__(self, form: Vectors) -> None:
        self.form = form
        # ascending keys, so that the smaller position is the smaller key
        order = np.argsort(form.keys)
        self.keys: Ints = form.keys[order]
        matrix = form.matrix[order]
        self.matrix: NDArray[np.float32] = _unit(matrix) if form.metric == "cos" else matrix

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _squares(self) -> Floats:
        squares: Floats = np.einsum("nd,nd->n", self.matrix, self.matrix)
        return squares

    def search(self, queries: NDArray[np.float32], n: int) -> tuple[Ints, Floats]:
        """The n best keys and scores of each query [Q, n], best first, ties by smaller key; -1 and -inf behind the end.

        Raises RequestError when the queries have another width.
        """
        if queries.ndim != 2 or queries.shape[1] != self.matrix.shape[1]:
            what = f"queries of shape {queries.shape} do not fit vectors of width {self.matrix.shape[1]}"
            raise RequestError(what, where="flat", hint="use the vectors of the same release")
        keys = np.full((len(queries), n), -1, dtype=np.int64)
        scores = np.full((len(queries), n), -np.inf, dtype=np.float32)
        size = max(1, BLOCK_BYTES // (4 * max(len(self), 1)))
        k = min(n, len(self))
        for low in range(0, len(queries) if k else 0, size):
            block = self._scores(queries[low : low + size])
            at = _top(block, k)
            keys[low : low + size, :k] = self.keys[at]
            scores[low : low + size, :k] = np.take_along_axis(block, at, axis=1)
        return keys, scores

    def top(self, owners: Ints, queries: NDArray[np.float32], n: int, keep: Keep | None = None) -> Rows:
        """The best n of each query [Q, D] that count for request `owners[q]` (ascending), as `cut` has it.

        Looks as deep as needed and no deeper, so that `keep` is asked about few items.
        """
        pending = np.arange(len(queries))
        want = n if keep is None else 2 * n + 64
        parts: list[tuple[Ints, Ints, Floats]] = []
        while len(pending) and len(self):
            depth = min(want, len(self))
            found, scores = self.search(queries[pending], depth)
            owner = np.repeat(owners[pending], depth)
            counts = (
                np.ones(found.shape, dtype=bool) if keep is None else keep(owner, found.ravel()).reshape(found.shape)
            )
            before = np.cumsum(counts, axis=1) - counts
            done = (counts.sum(axis=1) >= n) | (depth == len(self))
            rows = (before < n) & done[:, None]
            parts.append((owner.reshape(found.shape)[rows], found[rows], scores[rows]))
            pending = pending[~done]
            want *= 4
        if not parts:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        owner, items, score = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(owner, kind="stable")
        return owner[order], items[order], score[order]

    def _scores(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.form.metric == "cos":
            queries = _unit(queries)
        block: NDArray[np.float32] = queries @ self.matrix.T
        if self.form.metric == "l2":
            block *= 2
            block -= self._squares
            block -= np.einsum("qd,qd->q", queries, queries)[:, None]
        return block

    def verify(self, rng: np.random.Generator, samples: int = 32, n: int = 10) -> None:
        """Search for some of the items themselves and compare with float64 arithmetic. Raises ArtifactError
        where they part."""
        if not len(self):
            return
        asked = rng.choice(len(self), size=min(samples, len(self)), replace=False)
        queries = self.matrix[asked]
        _, found = self.search(queries, min(n, len(self)))
        exact = queries.astype(np.float64) @ self.matrix.T.astype(np.float64)
        if self.form.metric == "l2":
            squares = np.square(self.matrix.astype(np.float64)).sum(axis=1)
            exact = 2 * exact - squares - squares[asked][:, None]
        best = -np.sort(-exact, axis=1)[:, : found.shape[1]]
        scale = max(1.0, float(np.abs(exact).max()))
        error = float(np.abs(best - found).max())
        if not error <= 1e-5 * scale:
            hint = "build the index again"
            raise ArtifactError(f"search differs from exact scores by {error:.3g}", where="flat", hint=hint)


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Columns of the k largest of each row [Q, k], falling, ties by smaller column."""
    width = scores.shape[1]
    if k < width // 4:
        edge = np.partition(scores, width - k, axis=1)[:, width - k]
        out = np.empty((len(scores), k), dtype=np.int64)
        for q, row in enumerate(scores):
            at = np.flatnonzero(row >= edge[q])
            out[q] = at[np.argsort(-row[at], kind="stable")[:k]]
        return out
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _unit(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays."""
    length = np.sqrt(np.einsum("nd,nd->n", matrix, matrix))
    unit: NDArray[np.float32] = matrix / np.maximum(length, np.finfo(np.float32).tiny)[:, None]
    return unit
