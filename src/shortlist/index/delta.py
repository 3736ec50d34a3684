"""Fresh items beside an immutable index: their vectors searched exactly, merged, replaced by key, and taken away. F
fresh items, Q queries, D width."""

__all__ = ["Delta", "Fresh"]

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ArtifactError
from shortlist.forms import Vectors
from shortlist.index.cut import Floats, Ints, Keep, Rows
from shortlist.index.top import top
from shortlist.index.vectors import VectorIndex, masked


@dataclass(frozen=True)
class Delta:
    """What has changed since vectors of this `fingerprint` were indexed: `keys` [F] ascending with their `matrix`
    [F, D], and the keys that are `gone`, ascending. Plain arrays, to be stored by whoever follows the log."""

    fingerprint: str
    keys: Ints
    matrix: NDArray[np.float32]
    gone: Ints

    def __post_init__(self) -> None:
        Vectors(self.keys, self.matrix)  # refuses what is no set of vectors
        for name, keys in (("keys", self.keys), ("gone", self.gone)):
            if bool((keys[1:] <= keys[:-1]).any()):
                raise _refuse(f"{name} must be ascending and distinct")
        if bool(np.isin(self.keys, self.gone).any()):
            raise _refuse("a key is both fresh and gone")

    @classmethod
    def empty(cls, fingerprint: str, width: int) -> Self:
        """Nothing has changed."""
        none = np.zeros(0, dtype=np.int64)
        return cls(fingerprint, none, np.zeros((0, width), dtype=np.float32), none)

    def __len__(self) -> int:
        return len(self.keys)

    def put(self, keys: Ints, matrix: NDArray[np.float32]) -> Self:
        """With these vectors in place of those of the same keys, gone or not. Of a key given twice, the last counts."""
        if matrix.ndim != 2 or matrix.shape != (len(keys), self.matrix.shape[1]):
            width = self.matrix.shape[1]
            raise _refuse(f"{len(keys)} keys and a matrix of shape {matrix.shape} do not fit vectors of width {width}")
        every = np.concatenate([keys[::-1], self.keys])  # the first of each key is the latest
        rows = np.concatenate([matrix[::-1], self.matrix]).astype(np.float32, copy=False)
        unique, first = np.unique(every, return_index=True)
        return replace(self, keys=unique.astype(np.int64), matrix=rows[first], gone=np.setdiff1d(self.gone, keys))

    def drop(self, keys: Ints) -> Self:
        """Without these items, wherever they are."""
        kept = ~np.isin(self.keys, keys)
        gone = np.union1d(self.gone, keys).astype(np.int64)
        return replace(self, keys=self.keys[kept], matrix=self.matrix[kept], gone=gone)


class Fresh:
    """What `VectorIndex` does, over the index and its delta as one set of items. Immutable: a new delta is a new Fresh.

    Raises ArtifactError for a delta of other vectors.
    """

    def __init__(self, index: VectorIndex, delta: Delta) -> None:
        if delta.fingerprint != index.fingerprint:
            what = f"belongs to the vectors {delta.fingerprint[:12]!r}, the index to {index.fingerprint[:12]!r}"
            raise ArtifactError(what, where="delta", hint="make the delta again for the current release")
        if delta.matrix.shape[1] != index.points.width:
            what = f"vectors of width {delta.matrix.shape[1]} do not fit an index of width {index.points.width}"
            raise ArtifactError(what, where="delta", hint="make the delta again for the current release")
        self.index, self.delta = index, delta
        self.recent = VectorIndex(Vectors(delta.keys, delta.matrix, index.points.metric))
        hidden = np.isin(index.keys, np.concatenate([delta.keys, delta.gone]))
        self._left = ~hidden if bool(hidden.any()) else None

    @cached_property
    def keys(self) -> Ints:
        """Keys of all items, ascending [N]."""
        left = self.index.keys if self._left is None else self.index.keys[self._left]
        return np.union1d(left, self.recent.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def search(self, queries: NDArray[np.float32], n: int, allowed: NDArray[Any] | None = None) -> tuple[Ints, Floats]:
        """As `VectorIndex.search`: exact where the index is, and for every fresh item."""
        left, recent = self._left, None
        if allowed is not None:
            wanted = self.keys[masked(self.keys, allowed)]
            recent = np.isin(self.recent.keys, wanted)
            left = np.isin(self.index.keys, wanted) & (True if self._left is None else self._left)
        keys, scores = self.index.search(queries, n, left)
        if not len(self.recent):
            return keys, scores
        more, better = self.recent.search(queries, n, recent)
        keys, scores = np.hstack([keys, more]), np.hstack([scores, better])
        # behind the end stands -1: it comes last, whatever its key
        order = np.lexsort((keys, -scores, keys < 0), axis=1)[:, :n]
        return np.take_along_axis(keys, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def top(
        self,
        owners: Ints,
        queries: NDArray[np.float32],
        n: int,
        keep: Keep | None = None,
        allowed: NDArray[Any] | None = None,
    ) -> Rows:
        """As `VectorIndex.top`."""
        mask = None if allowed is None else masked(self.keys, allowed)
        size = len(self) if mask is None else int(mask.sum())
        return top(lambda asked, depth: self.search(asked, depth, mask), size, owners, queries, n, keep)


def _refuse(what: str) -> ArtifactError:
    return ArtifactError(what, where="delta", hint="give keys and vectors as the model of the release makes them")
