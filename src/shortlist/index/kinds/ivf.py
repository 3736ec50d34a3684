"""IVF: rows in lists by their nearest centre, the nearest `probes` lists are read (Jegou et al., TPAMI 2011; Faiss,
Johnson et al. 2017)."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, frozen
from shortlist.index.cut import Ints
from shortlist.index.kinds import _faiss
from shortlist.index.kinds._through import again
from shortlist.index.points import Points

__all__ = ["Ivf"]


class Ivf:
    """`lists` None means four times the square root of the number of rows. `int8` lists take a quarter of the bytes
    and less time; then `refine` times as many rows as asked are scored again. `float32` is IVF-Flat."""

    effort: ClassVar[str] = "probes"
    exact: ClassVar[bool] = False

    @frozen
    class Config:
        lists: Count | None = None
        probes: Count = 1
        storage: Literal["float32", "int8"] = "int8"
        refine: Count = 2

    def __init__(self, config: Config, points: Points, made: Any) -> None:
        self.config, self.points, self.made = config, points, made

    @classmethod
    def build(cls, config: Config, points: Points, seed: int) -> Self:
        faiss = _faiss.library()
        lists = min(config.lists or round(4 * len(points) ** 0.5), len(points))
        config = dataclasses.replace(config, lists=lists, probes=min(config.probes, lists))
        width, metric = points.width, _faiss.metric(points)
        centres = _faiss.coarse(points, width)
        if config.storage == "int8":
            made = faiss.IndexIVFScalarQuantizer(centres, width, lists, faiss.ScalarQuantizer.QT_8bit, metric)
        else:
            made = faiss.IndexIVFFlat(centres, width, lists, metric)
        return cls(config, points, _faiss.grouped(made, points.shaped(), seed))

    @classmethod
    def open(cls, config: Config, points: Points, folder: Path, mapped: bool) -> Self:
        kind = "IndexIVFScalarQuantizer" if config.storage == "int8" else "IndexIVFFlat"
        return cls(config, points, _faiss.read(folder, points, kind, mapped))

    def write(self, folder: Path) -> None:
        _faiss.write(self.made, folder)

    def most(self) -> int:
        return int(self.made.nlist)

    def tuned(self, effort: int) -> Self:
        return type(self)(dataclasses.replace(self.config, probes=effort), self.points, self.made)

    def find(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None) -> Ints:
        faiss = _faiss.library()
        config, share = self.config, 1.0 if allowed is None else max(float(allowed.mean()), 1e-9)
        probes = min(self.most(), int(np.ceil(config.probes / share)))  # as many rows that count as without a filter
        n = again(n, config.refine, len(self.points)) if config.storage == "int8" else n
        return _faiss.searched(self.made, queries, n, allowed, kind=faiss.SearchParametersIVF, nprobe=probes)
