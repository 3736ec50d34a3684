"""A stable 64-bit hash of text and ids by hash, for fields whose values have no bound.

N values. FNV-1a over UTF-8 bytes, then the finalizer of MurmurHash3: the same on every machine, in every process.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.schema import FIRST, UNKNOWN, text

__all__ = ["Hashed", "fnv1a", "mix", "sealed"]

_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_SHIFT, _M1, _M2 = np.uint64(33), np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)


def fnv1a(values: pl.Series) -> NDArray[np.uint64]:
    """64-bit FNV-1a of each text [N]; a null hashes as empty text."""
    values = values.fill_null("")
    lengths = values.str.len_bytes().to_numpy().astype(np.int64)
    letters = np.frombuffer("".join(values.to_list()).encode(), dtype=np.uint8).astype(np.uint64)
    order = np.argsort(-lengths, kind="stable")  # longest first: who still has a byte is always a prefix
    starts, falling = (np.cumsum(lengths) - lengths)[order], -lengths[order]
    hashes = np.full(len(values), _BASIS)
    for place in range(int(lengths.max(initial=0))):
        live = int(np.searchsorted(falling, -place, side="left"))
        hashes[:live] = (hashes[:live] ^ letters[starts[:live] + place]) * _PRIME
    out = np.empty_like(hashes)
    out[order] = hashes
    return out


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of MurmurHash3: every bit of the input moves half the bits of the output."""
    numbers = (numbers ^ (numbers >> _SHIFT)) * _M1
    numbers = (numbers ^ (numbers >> _SHIFT)) * _M2
    return numbers ^ (numbers >> _SHIFT)


def sealed(table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of what was fitted: a JSON table and arrays by name."""
    digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Hashed:
    """Ids 2..buckets+1 by hash; a missing value is 1. Of the `values` distinct ones of training, `shared` have an id
    that another of them has too.
    """

    buckets: int
    values: int = 0
    shared: int = 0

    @classmethod
    def fit(cls, column: pl.Series, buckets: int) -> Self:
        """Nothing is learned but how often values collide."""
        distinct = text(column).drop_nulls().unique()
        _, counts = np.unique(cls(buckets).encode(distinct), return_counts=True)
        return cls(buckets, len(distinct), int(counts[counts > 1].sum()))

    def __len__(self) -> int:
        """Rows an embedding table needs."""
        return FIRST + self.buckets

    @property
    def collisions(self) -> float:
        """Share of training's distinct values that share their id; 0 where there were none."""
        return self.shared / self.values if self.values else 0.0

    def encode(self, column: pl.Series | Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        """Ids [N] of any values. Never raises."""
        series = text(column)
        ids = (mix(fnv1a(series)) % np.uint64(self.buckets)).astype(np.int64) + FIRST
        return np.where(series.is_null().to_numpy(), UNKNOWN, ids)
