"""Vectors in clusters, every kind of index with the options that make it another, and float64 to compare with."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.forms import Metric, Vectors
from shortlist.index.building import NEEDS

METRICS: tuple[Metric, ...] = ("ip", "cos", "l2")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "flat": ("flat", {}),
    "flat int8": ("flat", {"storage": "int8"}),
    "ivf": ("ivf", {"lists": 30}),
    "ivf float32": ("ivf", {"storage": "float32", "lists": 20}),
    "ivfpq": ("ivfpq", {"lists": 20, "bytes": 6}),
    "ivfpq 4 bits": ("ivfpq", {"lists": 20, "bytes": 9, "bits": 4}),
    "hnsw": ("hnsw", {"build_ef": 40, "ef": 32}),
    "hnsw int8": ("hnsw", {"build_ef": 40, "ef": 64, "storage": "int8"}),
    "ball_tree": ("ball_tree", {"leaf": 20}),
    "annoy": ("annoy", {"trees": 20, "nodes": 200}),
    "scann": ("scann", {}),
}
EXACT = ("flat", "ball_tree")


def there(use: str) -> None:
    """Skip where the package of a kind is not installed."""
    module, extra = NEEDS.get(use, ("faiss", ""))
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (pip install 'shortlist[{extra}]')")


def clustered(rng: np.random.Generator, n: int, metric: Metric, width: int = 18) -> tuple[Vectors, NDArray[np.float32]]:
    """Items of many lengths around 30 centres, keys in no order, and a way to ask: 60 queries around the same."""
    centres = rng.standard_normal((30, width))

    def drawn(count: int) -> NDArray[np.float32]:
        near = centres[rng.integers(0, 30, count)] + 0.5 * rng.standard_normal((count, width))
        return (near * np.exp(0.3 * rng.standard_normal((count, 1)))).astype(np.float32)

    return Vectors(rng.permutation(3 * n)[:n], drawn(n), metric), drawn(60)


def truth(form: Vectors, queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores of every pair [Q, N] in float64, columns as the form's rows."""
    x, q = form.matrix.astype(np.float64), queries.astype(np.float64)
    if form.metric == "l2":
        table: NDArray[np.float64] = -np.square(q[:, None] - x[None]).sum(axis=2)
        return table
    if form.metric == "cos":
        tiny = np.finfo(np.float32).tiny
        x /= np.maximum(np.linalg.norm(x, axis=1), tiny)[:, None]
        q /= np.maximum(np.linalg.norm(q, axis=1), tiny)[:, None]
    return np.asarray(q @ x.T)


def scores_of(form: Vectors, exact: NDArray[np.float64], keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """The float64 scores of the keys that were found [Q, n]."""
    order = np.argsort(form.keys)
    column = order[np.searchsorted(form.keys, keys, sorter=order)]
    return np.take_along_axis(exact, column, axis=1)


def recall(exact: NDArray[np.float64], found: NDArray[np.floating[Any]]) -> float:
    """Share of what was found that scores as high as the last of the best as many."""
    n = found.shape[1]
    edge = -np.sort(-exact, axis=1)[:, n - 1]
    return float((found >= edge[:, None] - 1e-5 * np.abs(edge)[:, None] - 1e-6).mean())
