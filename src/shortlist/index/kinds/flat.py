"""Exact search: every query against every row, by products of matrices in blocks."""

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

__all__ = ["Flat"]


class Flat:
    """With `storage = "int8"` a quarter of the bytes is read, eight bits a number: what they misplace by more than
    `refine` times is lost, so this is no longer exact in which items it finds."""

    effort: ClassVar[str] = "refine"

    @frozen
    class Config:
        storage: Literal["float32", "int8"] = "float32"
        refine: Count = 2

    def __init__(self, config: Config, points: Points, made: Any = None) -> None:
        self.config, self.points, self.made = config, points, made
        self.exact = made is None

    @classmethod
    def build(cls, config: Config, points: Points, seed: int) -> Self:
        if config.storage == "float32":
            return cls(config, points)
        faiss = _faiss.library()
        made = faiss.IndexScalarQuantizer(points.width, faiss.ScalarQuantizer.QT_8bit, _faiss.metric(points))
        rows = points.shaped()
        made.train(rows)
        made.add(rows)
        return cls(config, points, made)

    @classmethod
    def open(cls, config: Config, points: Points, folder: Path, mapped: bool) -> Self:
        if config.storage == "float32":
            return cls(config, points)
        return cls(config, points, _faiss.read(folder, points, "IndexScalarQuantizer", mapped))

    def write(self, folder: Path) -> None:
        if self.made is not None:
            _faiss.write(self.made, folder)

    def most(self) -> int:
        return 1 if self.exact else max(1, len(self.points))

    def tuned(self, effort: int) -> Self:
        return type(self)(dataclasses.replace(self.config, refine=effort), self.points, self.made)

    def find(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None) -> Ints:
        if self.made is None:
            return self.points.exact(queries, n, None if allowed is None else np.flatnonzero(allowed))[0]
        faiss = _faiss.library()
        n = again(n, self.config.refine, len(self.points))
        return _faiss.searched(self.made, queries, n, allowed, kind=faiss.SearchParameters)
