"""IVF-PQ: lists as in IVF, each row kept as a code of `bytes` bytes; `refine` times as many rows as asked are scored
again from the vectors (Jegou et al., TPAMI 2011; four-bit codes: Andre et al., VLDB 2015)."""

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

__all__ = ["Ivfpq"]


class Ivfpq:
    """The smallest beside the vectors, which are read for few rows only. `lists` as in IVF; `bytes` None means one for
    four numbers. Codes of four `bits` are read several at a time. Rows are padded with zeros where their width does not
    divide."""

    effort: ClassVar[str] = "probes"
    exact: ClassVar[bool] = False

    @frozen
    class Config:
        lists: Count | None = None
        probes: Count = 1
        bytes: Count | None = None
        bits: Literal[4, 8] = 8
        refine: Count = 10

    def __init__(self, config: Config, points: Points, made: Any) -> None:
        self.config, self.points, self.made = config, points, made

    @classmethod
    def build(cls, config: Config, points: Points, seed: int) -> Self:
        faiss = _faiss.library()
        lists = min(config.lists or round(4 * len(points) ** 0.5), len(points))
        size = config.bytes or -(-points.width // 4)
        config = dataclasses.replace(config, lists=lists, probes=min(config.probes, lists), bytes=size)
        parts = _parts(config)
        width = -(-points.width // parts) * parts
        kind = faiss.IndexIVFPQ if config.bits == 8 else faiss.IndexIVFPQFastScan
        made = kind(_faiss.coarse(points, width), width, lists, parts, config.bits, _faiss.metric(points))
        made.pq.cp.seed, made.pq.cp.min_points_per_centroid = seed, 1
        rows = _padded(points.shaped(), width)
        return cls(config, points, _faiss.grouped(made, rows, seed))

    @classmethod
    def open(cls, config: Config, points: Points, folder: Path, mapped: bool) -> Self:
        kind = "IndexIVFPQ" if config.bits == 8 else "IndexIVFPQFastScan"
        parts = _parts(config)
        return cls(config, points, _faiss.read(folder, points, kind, mapped, -(-points.width // parts) * parts))

    def write(self, folder: Path) -> None:
        _faiss.write(self.made, folder)

    def most(self) -> int:
        return int(self.made.nlist)

    def tuned(self, effort: int) -> Self:
        return type(self)(dataclasses.replace(self.config, probes=effort), self.points, self.made)

    def find(self, queries: NDArray[np.float32], n: int, allowed: NDArray[np.bool_] | None = None) -> Ints:
        faiss = _faiss.library()
        config, share = self.config, 1.0 if allowed is None else max(float(allowed.mean()), 1e-9)
        probes = min(self.most(), int(np.ceil(config.probes / share)))
        n = again(n, config.refine, len(self.points))
        kind = faiss.IVFPQSearchParameters if config.bits == 8 else faiss.SearchParametersIVF
        asked = _padded(queries, self.made.d)
        return _faiss.searched(self.made, asked, n, allowed, kind=kind, nprobe=probes)


def _parts(config: Ivfpq.Config) -> int:
    """How many pieces a row is cut into: one for each byte, two for four bits."""
    assert config.bytes is not None, "a built index says how many"
    return config.bytes * (8 // config.bits)


def _padded(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, width - rows.shape[1]))), dtype=np.float32)
