"""Leading singular vectors of a sparse matrix, the same in every run. U users, I items, D kept."""

__all__ = ["right_vectors", "working_bytes"]

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FULL = 64  # a side below this, or most of the vectors kept: the Gram matrix of the smaller side is decomposed whole
FAINT = 1e-7  # of the largest singular value: what is below cannot be told from zero in a Gram matrix


def right_vectors(x_UI: "sparse.csr_array", dim: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The `dim` largest singular values [D], falling, and their right vectors [I, D], orthonormal; fewer where the rank
    is lower. The largest entry of every vector is positive. Start of the iteration: a fixed vector (ARPACK).
    """
    from scipy.sparse.linalg import svds

    small = min(x_UI.shape)
    vectors: NDArray[Any]
    if _whole(small, dim):
        x_UI = x_UI.astype(np.float64)
        few_users = x_UI.shape[0] < x_UI.shape[1]
        squares, vectors = np.linalg.eigh((x_UI @ x_UI.T if few_users else x_UI.T @ x_UI).toarray())
        values, vectors = np.sqrt(np.maximum(squares[::-1], 0.0)), vectors[:, ::-1]
        there = values > FAINT * values.max(initial=0.0)
        values, vectors = values[there], vectors[:, there]
        if few_users:
            vectors = (x_UI.T @ vectors) / values
    else:
        start = np.random.default_rng(0).standard_normal(small)
        _, values, right = svds(x_UI.astype(np.float64), k=dim, v0=start, return_singular_vectors="vh")  # type: ignore[arg-type]
        order = np.argsort(-values, kind="stable")
        values, vectors = values[order], right[order].T
    there = values > max(x_UI.shape) * np.finfo(np.float64).eps * max(float(values.max(initial=0.0)), 1.0)
    values, vectors = values[there][:dim], vectors[:, there][:, :dim]
    largest = np.abs(vectors).argmax(axis=0) if vectors.size else np.zeros(0, dtype=np.int64)
    signs = np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
    return values, vectors * signs


def working_bytes(users: int, items: int, events: int, dim: int) -> int:
    """Bytes that `right_vectors` takes at its peak, its result and a copy of the matrix included."""
    small = min(users, items)
    kept = min(dim, small)
    if _whole(small, dim):
        return 12 * events + 3 * 8 * small * small + 2 * 8 * kept * items
    return 12 * events + 8 * max(2 * dim + 1, 20) * small + 2 * 8 * dim * items


def _whole(small: int, dim: int) -> bool:
    return small < FULL or dim >= small - 1
