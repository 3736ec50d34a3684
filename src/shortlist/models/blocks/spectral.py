"""Leading singular vectors of a sparse matrix, the same in every run. U users, I items, D kept."""

__all__ = ["right_vectors"]

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FULL = 64  # matrices with a side below this many rows, or with most of their vectors kept, are decomposed whole


def right_vectors(x_UI: "sparse.csr_array", dim: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The `dim` largest singular values [D], falling, and their right vectors [I, D], orthonormal; fewer where the rank
    is lower. The largest entry of every vector is positive. Start of the iteration: a fixed vector (ARPACK).
    """
    from scipy.sparse.linalg import svds

    small = min(x_UI.shape)
    if small < FULL or dim >= small - 1:
        _, values, right = np.linalg.svd(x_UI.toarray().astype(np.float64), full_matrices=False)
        vectors: NDArray[Any] = right.T
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
