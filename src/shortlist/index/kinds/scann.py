"""ScaNN: lists as in IVF, codes learned so that inner products suffer least (Guo et al., ICML 2020,
arXiv:1908.10396)."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, frozen
from shortlist.errors import ArtifactError
from shortlist.index.cut import Ints
from shortlist.index.kinds._through import again, through
from shortlist.index.points import Points

__all__ = ["Scann"]


class Scann:
    """Codes of four bits for two numbers; `refine` times as many rows as asked are scored again from the vectors.
    `lists` None means twice the square root of the number of rows. Its files are read, not mapped. It takes
    no seed: two builds differ."""

    effort: ClassVar[str] = "probes"
    exact: ClassVar[bool] = False

    @frozen
    class Config:
        lists: Count | None = None
        probes: Count = 1
        refine: Count = 10

    def __init__(self, config: Config, points: Points, made: Any) -> None:
        self.config, self.points, self.made = config, points, made

    @classmethod
    def build(cls, config: Config, points: Points, seed: int) -> Self:
        from scann import scann_ops_pybind

        lists = min(config.lists or round(2 * len(points) ** 0.5), len(points))
        config = dataclasses.replace(config, lists=lists, probes=min(config.probes, lists))
        metric = "squared_l2" if points.metric == "l2" else "dot_product"
        plan = scann_ops_pybind.builder(points.shaped(), 1, metric)
        plan = plan.tree(lists, config.probes, training_sample_size=min(len(points), 100 * lists))
        return cls(config, points, plan.score_ah(2, anisotropic_quantization_threshold=0.2).build())

    @classmethod
    def open(cls, config: Config, points: Points, folder: Path, mapped: bool) -> Self:
        from scann import scann_ops_pybind

        try:
            made = scann_ops_pybind.load_searcher(str(folder))
            size = np.load(folder / "datapoint_to_token.npy", mmap_mode="r", allow_pickle=False).size
            if size != len(points):
                raise ValueError(f"it is of {size} vectors, not {len(points)}")
        except (OSError, ValueError, RuntimeError) as error:
            hint = "train and publish again"
            raise ArtifactError(f"not an index: {error}", where=str(folder), hint=hint) from None
        return cls(config, points, made)

    def write(self, folder: Path) -> None:
        self.made.serialize(str(folder), relative_path=True)

    def most(self) -> int:
        assert self.config.lists is not None, "a built index says how many"
        return self.config.lists

    def tuned(self, effort: int) -> Self:
        return type(self)(dataclasses.replace(self.config, probes=effort), self.points, self.made)

    def find(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None) -> Ints:
        config, size = self.config, len(self.points)

        def look(depth: int) -> Ints:
            probes = min(self.most(), config.probes * -(-depth // n))
            asked = again(depth, config.refine, size)
            rows, scores = self.made.search_batched(queries, asked, asked, probes)
            found: Ints = rows.astype(np.int64)
            found[~np.isfinite(scores) | (found >= size)] = -1
            return found

        return through(look, n, size, allowed)
