"""HNSW: a graph of near rows in layers, walked towards the query (Malkov and Yashunin, TPAMI 2020,
arXiv:1603.09320)."""

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

__all__ = ["Hnsw"]


class Hnsw:
    """`m` links a row, `build_ef` and `ef` rows in view while it is built and asked. Built on one thread, so that the
    same rows make the same graph. Of `int8` rows twice as many as asked are scored again from the vectors."""

    effort: ClassVar[str] = "ef"
    exact: ClassVar[bool] = False

    @frozen
    class Config:
        m: Count = 32
        build_ef: Count = 128
        ef: Count = 128
        storage: Literal["float32", "int8"] = "float32"

    def __init__(self, config: Config, points: Points, made: Any) -> None:
        self.config, self.points, self.made = config, points, made

    @classmethod
    def build(cls, config: Config, points: Points, seed: int) -> Self:
        faiss = _faiss.library()
        width, metric = points.width, _faiss.metric(points)
        if config.storage == "int8":
            made = faiss.IndexHNSWSQ(width, faiss.ScalarQuantizer.QT_8bit, config.m, metric)
        else:
            made = faiss.IndexHNSWFlat(width, config.m, metric)
        made.hnsw.efConstruction = config.build_ef
        made.keep_max_size_level0 = True  # else rows that many are nearer to than to one another cannot be reached
        rows = points.shaped()
        with _faiss.threads(1):
            made.train(rows)
            made.add(rows)
        return cls(config, points, made)

    @classmethod
    def open(cls, config: Config, points: Points, folder: Path, mapped: bool) -> Self:
        kind = "IndexHNSWSQ" if config.storage == "int8" else "IndexHNSWFlat"
        return cls(config, points, _faiss.read(folder, points, kind, mapped))

    def write(self, folder: Path) -> None:
        _faiss.write(self.made, folder)

    def most(self) -> int:
        return max(1, len(self.points))

    def tuned(self, effort: int) -> Self:
        return type(self)(dataclasses.replace(self.config, ef=effort), self.points, self.made)

    def find(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None) -> Ints:
        faiss = _faiss.library()
        share = 1.0 if allowed is None else max(float(allowed.mean()), 1e-9)
        n = again(n, 2, len(self.points)) if self.config.storage == "int8" else n
        ef = min(self.most(), int(np.ceil(max(self.config.ef, n) / share)))
        return _faiss.searched(self.made, queries, n, allowed, kind=faiss.SearchParametersHNSW, efSearch=ef)
