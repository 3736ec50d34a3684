"""Vectors made searchable: one index over any kind, its checks, its exact scores, its filter. Q queries, N items."""

__all__ = ["VectorIndex", "Engine", "searched"]

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ArtifactError, RequestError
from shortlist.forms import Vectors
from shortlist.index.cut import Floats, Ints, Keep, Rows
from shortlist.index.kinds.flat import Flat
from shortlist.index.points import Points, blank
from shortlist.index.top import top

FEW = 10_000  # allowed rows that are searched one and all


class Engine(Protocol):
    """What a file of `index/kinds/` implements, beside `build(config, points, seed)` and `open(config, points, folder,
    mapped)`.

    `find` gives rows [Q, n or more] in any order, -1 for none: whether these are all and the best, is a matter of the
    kind (`exact`); what they score is not. `effort` names the option that trades time for recall, up to `most()`.
    """

    points: Points
    config: Any

    @property
    def effort(self) -> str: ...
    @property
    def exact(self) -> bool: ...
    def find(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None) -> Ints: ...
    def tuned(self, effort: int) -> Self: ...
    def most(self) -> int: ...
    def write(self, folder: Path) -> None: ...


class VectorIndex:
    """Immutable. Exact search by default, else what `engine` finds; every score is the exact one of the form's metric,
    larger is better. Never gives fewer items than there are: where the engine stops short, all are looked at.
    """

    def __init__(self, form: Vectors, engine: Engine | None = None, fingerprint: str = "") -> None:
        if engine is None:
            engine = Flat(Flat.Config(), Points(form))
        self.engine: Engine = engine
        self.points = engine.points
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.points)

    @property
    def keys(self) -> Ints:
        """Keys of the items, ascending [N]."""
        return self.points.keys

    @property
    def matrix(self) -> NDArray[np.float32]:
        """The vectors as they were given, in the order of `keys` [N, D]."""
        return self.points.matrix

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the vectors: what a delta must have too."""
        return self._fingerprint or identity(self.points)

    def search(self, queries: NDArray[np.float32], n: int, allowed: NDArray[Any] | None = None) -> tuple[Ints, Floats]:
        """The n best keys and scores of each query [Q, n], best first, ties by smaller key; -1 and -inf behind the end.

        `allowed` are the only items that may be found: a mask over `keys` [N], or keys in any order, of which unknown
        ones are nothing. Raises RequestError when queries or mask do not fit.
        """
        queries = self.points.asked(queries)
        if n < 0:
            raise RequestError(f"cannot find {n} items", where="index", hint="ask for 0 or more")
        among = None if allowed is None else np.flatnonzero(masked(self.keys, allowed))
        size = len(self) if among is None else len(among)
        if among is not None and size == len(self):
            among = None
        want = min(n, size)
        rows, scores = blank(len(queries), n)
        if not want or not len(queries):
            return rows, scores
        if 4 * want >= size or (among is not None and size <= FEW):
            rows, scores = self.points.exact(queries, n, among)
        else:
            rows, scores = self._found(queries, n, want, among)
        return np.where(rows >= 0, self.keys[rows], -1), scores

    def _found(self, queries: NDArray[np.float32], n: int, want: int, among: Ints | None) -> tuple[Ints, Floats]:
        allowed = None
        if among is not None:
            allowed = np.zeros(len(self), dtype=bool)
            allowed[among] = True
        found = self.engine.find(queries, want, allowed)
        rows, scores = self.points.ranked(queries, found, n)
        short = np.flatnonzero(rows[:, want - 1] < 0)
        if len(short):
            rows[short], scores[short] = self.points.exact(queries[short], n, among)
        return rows, scores

    def top(
        self,
        owners: Ints,
        queries: NDArray[np.float32],
        n: int,
        keep: Keep | None = None,
        allowed: NDArray[Any] | None = None,
    ) -> Rows:
        """The best n of each request that count, as `cut` has it. Query q [Q, D] asks for request `owners[q]`
        (ascending); a request may have several, then an item's score is the best of them."""
        mask = None if allowed is None else masked(self.keys, allowed)
        size = len(self) if mask is None else int(mask.sum())
        return top(lambda asked, depth: self.search(asked, depth, mask), size, owners, queries, n, keep)

    def verify(self, rng: np.random.Generator, samples: int = 8, n: int = 10) -> None:
        """Search for some of the items themselves and compare with float64 arithmetic. Raises ArtifactError where they
        part."""
        if not len(self):
            return
        asked = rng.choice(len(self), size=min(samples, len(self)), replace=False)
        queries = np.array(self.points.matrix[asked])
        _, found = self.search(queries, min(n, len(self)))
        matrix = self.points.matrix.astype(np.float64)
        if self.points.metric == "cos":
            matrix /= self.points.lengths.astype(np.float64)[:, None]
        exact = matrix[asked] @ matrix.T
        if self.points.metric == "l2":
            squares = np.square(matrix).sum(axis=1)
            exact = 2 * exact - squares - squares[asked][:, None]
        best = -np.sort(-exact, axis=1)[:, : found.shape[1]]
        scale = max(1.0, float(np.abs(exact).max()))
        error = float(np.abs(best - found).max())
        if not error <= 1e-5 * scale:
            hint = "build the index again"
            raise ArtifactError(f"search differs from exact scores by {error:.3g}", where="index", hint=hint)


def searched(form: Vectors | VectorIndex) -> VectorIndex:
    """The index over vectors: the one that was built, else exact search."""
    return VectorIndex(form) if isinstance(form, Vectors) else form


def identity(points: Points) -> str:
    """A name for exactly these keys and numbers."""
    digest = hashlib.sha256(f"{points.metric} {points.matrix.shape}".encode())
    digest.update(np.ascontiguousarray(points.keys).data)
    digest.update(np.ascontiguousarray(points.matrix).data)
    return digest.hexdigest()


def masked(keys: Ints, allowed: NDArray[Any]) -> NDArray[np.bool_]:
    """A mask over `keys` (ascending) from a mask or from keys. Raises RequestError for a mask of another length."""
    if allowed.dtype == np.bool_:
        if allowed.shape != keys.shape:
            what = f"a mask of shape {allowed.shape} does not fit {len(keys)} items"
            raise RequestError(what, where="index", hint="give a mask over the index's own keys")
        return allowed
    return np.isin(keys, allowed)
