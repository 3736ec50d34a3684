"""Random-projection trees: a forest of random halvings of the space (Annoy, https://github.com/spotify/annoy)."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, frozen
from shortlist.errors import ArtifactError
from shortlist.index.cut import Ints
from shortlist.index.kinds._through import through
from shortlist.index.points import Points

__all__ = ["Annoy"]

FILE = "index.annoy"


class Annoy:
    """Annoy's angular value is a distance, sqrt(2 - 2 cos): its smallest are the nearest, and scores never are it. An
    `ip` row is lifted (`Points.lifted`): then all have one length, and the order of angles is that of inner products.
    `nodes` is what Annoy calls search_k, for each 100 rows asked. One query after the other; the file is always
    mapped."""

    effort: ClassVar[str] = "nodes"
    exact: ClassVar[bool] = False

    @frozen
    class Config:
        trees: Count = 50
        nodes: Count = 1000

    def __init__(self, config: Config, points: Points, made: Any) -> None:
        self.config, self.points, self.made = config, points, made

    @classmethod
    def _empty(cls, points: Points) -> Any:
        from annoy import AnnoyIndex

        metric = "euclidean" if points.metric == "l2" else "angular"
        return AnnoyIndex(points.width + points.raised, metric)

    @classmethod
    def build(cls, config: Config, points: Points, seed: int) -> Self:
        made = cls._empty(points)
        made.set_seed(seed)
        for row, vector in enumerate(points.lifted()):
            made.add_item(row, vector)
        made.build(config.trees, n_jobs=1)
        return cls(config, points, made)

    @classmethod
    def open(cls, config: Config, points: Points, folder: Path, mapped: bool) -> Self:
        made, path = cls._empty(points), folder / FILE
        try:
            made.load(str(path))
        except OSError as error:
            raise ArtifactError(f"not an index: {error}", where=str(path), hint="train and publish again") from None
        if made.get_n_items() != len(points):
            what = f"an index of {made.get_n_items()} vectors, not {len(points)}"
            raise ArtifactError(what, where=str(path), hint="train and publish again")
        return cls(config, points, made)

    def write(self, folder: Path) -> None:
        self.made.save(str(folder / FILE))

    def most(self) -> int:
        return self.config.trees * max(1, len(self.points))

    def tuned(self, effort: int) -> Self:
        return type(self)(dataclasses.replace(self.config, nodes=effort), self.points, self.made)

    def find(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None) -> Ints:
        asked = self.points.lift(queries)

        def look(depth: int) -> Ints:
            rows = np.full((len(asked), depth), -1, dtype=np.int64)
            nodes = min(self.most(), self.config.nodes * max(-(-depth // n), -(-depth // 100)))
            for q, vector in enumerate(asked):
                found = self.made.get_nns_by_vector(vector, depth, nodes)
                rows[q, : len(found)] = found
            return rows

        return through(look, n, len(self.points), allowed)
