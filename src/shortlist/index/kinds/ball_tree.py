"""Ball tree: rows in nested balls, whole balls left out by the triangle inequality (Omohundro 1989). Exact."""

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, frozen
from shortlist.errors import ArtifactError
from shortlist.index.cut import Ints
from shortlist.index.kinds._through import through
from shortlist.index.points import Points

__all__ = ["BallTree"]

ARRAYS = ("order", "nodes", "bounds", "counts")


class BallTree:
    """Distances order as inner products do after the transform of `Points.lifted`. For few rows of few columns: in
    wide spaces every ball is looked into. Its arrays are stored, and no object."""

    effort: ClassVar[str] = ""
    exact: ClassVar[bool] = True

    @frozen
    class Config:
        leaf: Count = 40

    def __init__(self, config: Config, points: Points, tree: Any) -> None:
        self.config, self.points, self.tree = config, points, tree

    @classmethod
    def build(cls, config: Config, points: Points, seed: int) -> Self:
        from sklearn.neighbors import BallTree as Tree

        return cls(config, points, Tree(points.lifted(), leaf_size=config.leaf))

    @classmethod
    def open(cls, config: Config, points: Points, folder: Path, mapped: bool) -> Self:
        from sklearn.metrics import DistanceMetric
        from sklearn.neighbors import BallTree as Tree

        rows = points.lifted()
        try:
            order, nodes, bounds, counts = (
                np.load(folder / f"index.{name}.npy", allow_pickle=False) for name in ARRAYS
            )
            if len(order) != len(rows) or bounds.shape[-1] != rows.shape[1]:
                raise ValueError(f"{len(order)} rows of width {bounds.shape[-1]}, not {rows.shape}")
            tree = Tree.__new__(Tree)
            euclid = DistanceMetric.get_metric("euclidean")
            tree.__setstate__((rows, order, nodes, bounds, *counts.tolist(), euclid, None))
        except (OSError, ValueError, TypeError, EOFError) as error:
            hint = "train and publish again"
            raise ArtifactError(f"not a ball tree: {error}", where=str(folder), hint=hint) from None
        return cls(config, points, tree)

    def write(self, folder: Path) -> None:
        _, order, nodes, bounds, *counts = self.tree.__getstate__()
        parts = (order, nodes, bounds, np.array(counts[:-2], dtype=np.int64))
        for name, part in zip(ARRAYS, parts, strict=True):
            np.save(folder / f"index.{name}.npy", np.asarray(part), allow_pickle=False)

    def most(self) -> int:
        return 1

    def tuned(self, effort: int) -> Self:
        return self

    def find(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None) -> Ints:
        asked, size = self.points.lift(queries), len(self.points)

        def look(depth: int) -> Ints:
            rows: Ints = self.tree.query(asked, k=depth, return_distance=False).astype(np.int64)
            return rows

        return through(look, n, size, allowed)
