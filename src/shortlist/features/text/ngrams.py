"""Hashed n-grams of characters and words (Weinberger et al., ICML 2009), projected: at random (Kane & Nelson, J. ACM
2014), or on what training's texts have in common (latent semantic analysis: Deerwester et al., JASIS 1990).

N texts, W buckets, D width. A vector a text [N, D]; at random it is the same on every machine.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from shortlist.config import Count, frozen
from shortlist.errors import ConfigError
from shortlist.features.hashing import fnv1a, mix
from shortlist.features.words import words

__all__ = ["Ngrams"]

BLOCK = 1 << 20  # characters at once
SPREAD = 8  # entries of the projection for each bucket
LEARNED = 20_000  # texts that singular directions are learned on
Axes = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Buckets [B] and, for each, its place on the D directions [B, D]."""
CHARS, WORDS, PLACES = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03), np.uint64(0x8CB92BA72F3D8DD7)


class Ngrams:
    """Counts of n-grams in W buckets, each added or taken away by a second hash; weighted by how rare a bucket is,
    projected to D, of length 1. A random projection keeps the cosine of two texts to about 1 / sqrt(D): enough for
    titles, whose neighbours are near; texts of many words are told apart by `svd`, the first D singular directions of
    training's texts.

    Characters stay within a word, whose two ends count as characters. A text without a word is zero, with `svd` also
    one that has nothing in common with training's. Everything is summed one after the other, so that a text has one
    vector, whatever it is encoded with.
    """

    @frozen
    class Config:
        dim: Count = 128
        project: Literal["random", "svd"] = "random"
        chars: tuple[Count, ...] = (3, 4, 5)
        words: tuple[Count, ...] = (1, 2)
        idf: bool = True  # log((1 + texts) / (1 + texts with the bucket)) + 1, of training's texts
        width: Count = 1 << 18

    def __init__(self, config: Config, idf: NDArray[np.float32] | None = None, axes: Axes | None = None) -> None:
        """`idf` [W] and `axes` are fitted. Raises ConfigError where there is nothing to count."""
        if not config.chars and not config.words:
            raise ConfigError("no n-grams to count", where="encode.chars", hint="give lengths, as chars = [3, 4, 5]")
        self.config = config
        self.idf = idf
        self.axes = axes

    @classmethod
    def fit(cls, config: Config, texts: pl.Series, folder: Path) -> Self:
        """From the texts of training: how many have each bucket. Empty ones are no texts. `svd` learns on `LEARNED` of
        them at most, evenly taken, and on buckets that two of these have."""
        weighted = cls(config, cls._rarity(config, texts) if config.idf else None)
        if config.project == "random":
            return weighted
        some = np.unique(np.linspace(0, max(len(texts) - 1, 0), min(len(texts), LEARNED)).astype(np.int64))
        blocks = [weighted._weighted(counts) for counts in weighted._blocks(texts.gather(some), signed=True)]
        return cls(config, weighted.idf, directions(sp.csr_array(sp.vstack(blocks)), config.dim) if blocks else None)

    @classmethod
    def _rarity(cls, config: Config, texts: pl.Series) -> NDArray[np.float32]:
        """idf [W]."""
        empty = cls(config)
        having, known = np.zeros(config.width, dtype=np.int64), 0
        for counts in empty._blocks(texts, signed=False):
            having += np.bincount(counts.indices, minlength=config.width)
            known += int((np.diff(counts.indptr) > 0).sum())
        rare: NDArray[np.float32] = (np.log((1 + known) / (1 + having)) + 1).astype(np.float32)
        return rare

    @property
    def dim(self) -> int:
        return self.config.dim

    def __call__(self, texts: pl.Series) -> NDArray[np.float32]:
        """[N, D]. Never raises, whatever the texts are."""
        blocks = [self._project(counts) for counts in self._blocks(texts, signed=True)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.dim), dtype=np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What an artifact keeps: a JSON table and arrays."""
        arrays: dict[str, NDArray[Any]] = {} if self.idf is None else {"idf": self.idf}
        return {}, arrays | ({} if self.axes is None else {"buckets": self.axes[0], "axes": self.axes[1]})

    @classmethod
    def restore(
        cls, config: Config, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], folder: Path
    ) -> Self:
        """The inverse of `state`."""
        axes = (arrays["buckets"], arrays["axes"]) if "axes" in arrays else None
        return cls(config, arrays.get("idf"), axes)

    def _blocks(self, texts: pl.Series, *, signed: bool) -> Iterator[sp.csr_array]:
        """Counts [n, W] of some texts at a time."""
        letters = texts.cast(pl.String).fill_null("").str.len_chars().to_numpy().astype(np.int64) + 1
        block = np.cumsum(letters) // BLOCK
        starts = np.flatnonzero(np.diff(block, prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(texts)]):
            yield self._counts(texts[start:stop], signed)

    def _counts(self, texts: pl.Series, signed: bool) -> sp.csr_array:
        """Counts [N, W] in the order of buckets: characters are counted once for each distinct word."""
        sizes, found = words(texts)
        distinct = found.unique(maintain_order=True)
        code = found.to_frame().join(distinct.to_frame().with_row_index("code"), on="word", maintain_order="left")
        codes = code["code"].to_numpy().astype(np.int64)
        owners = np.repeat(np.arange(len(texts)), sizes)
        use = sp.csr_array((np.ones(len(codes)), (owners, codes)), shape=(len(texts), len(distinct)))
        points = np.frombuffer("".join(f" {w} " for w in distinct.to_list()).encode("utf-32-le"), dtype=np.uint32)
        lengths = distinct.str.len_chars().to_numpy().astype(np.int64) + 2
        inner = self._hashed(*runs(points.astype(np.uint64), lengths, self.config.chars, CHARS), len(distinct), signed)
        whole = runs(fnv1a(distinct)[codes], sizes, self.config.words, WORDS)
        counts = sp.csr_array(use @ inner + self._hashed(*whole, len(texts), signed))
        counts.sort_indices()
        return counts

    def _hashed(self, owners: NDArray[np.int64], hashes: NDArray[np.uint64], n: int, signed: bool) -> sp.csr_array:
        """Counts [n, W] by owner; the highest bit of a hash is its sign."""
        place = (hashes % np.uint64(self.config.width)).astype(np.int64)
        sign = 1.0 - 2.0 * (hashes >> np.uint64(63)) if signed else np.ones(len(hashes))
        return sp.csr_array((sign, (owners, place)), shape=(n, self.config.width))

    def _weighted(self, counts: sp.csr_array) -> sp.csr_array:
        if self.idf is not None:
            counts.data *= self.idf[counts.indices]
        return counts

    def _project(self, counts: sp.csr_array) -> NDArray[np.float32]:
        weighted, vectors = self._weighted(counts), np.zeros((counts.shape[0], self.dim))
        if self.config.project == "random":
            vectors = (weighted @ self._projection).toarray()
        elif self.axes is not None:
            vectors = weighted[:, self.axes[0]] @ self.axes[1].astype(np.float64)
        lengths = np.sqrt(np.cumsum(vectors * vectors, axis=1)[:, -1:])  # one after the other: the same everywhere
        return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0).astype(np.float32)

    @cached_property
    def _projection(self) -> sp.csr_array:
        """[W, D]: each bucket has one entry of 1 or -1 in each of `SPREAD` parts of the width."""
        parts = min(SPREAD, self.dim)
        edges = np.arange(parts + 1) * self.dim // parts
        hashes = mix(np.arange(self.config.width * parts, dtype=np.uint64) ^ PLACES).reshape(-1, parts)
        columns = edges[:-1] + (hashes % np.diff(edges).astype(np.uint64)).astype(np.int64)
        signs = 1.0 - 2.0 * (hashes >> np.uint64(63))
        starts = np.arange(self.config.width + 1) * parts
        return sp.csr_array((signs.ravel(), columns.ravel(), starts), shape=(self.config.width, self.dim))


def directions(texts: sp.csr_array, dim: int) -> Axes:
    """The first right singular vectors of texts [N, W] of length 1, by random projections (Halko, Martinsson & Tropp,
    SIAM Review 2011): buckets [B] and axes [B, D], as many as there are and zero behind them."""
    buckets = np.flatnonzero(np.bincount(texts.indices, minlength=texts.shape[1]) >= 2).astype(np.int64)
    lengths = np.sqrt(np.asarray(texts.multiply(texts).sum(axis=1))).ravel()
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    x_NB = sp.csr_array(sp.diags_array(scale) @ texts[:, buckets])
    axes = np.zeros((len(buckets), dim), dtype=np.float32)
    wide = min(dim + 16, *x_NB.shape)
    if not wide:
        return buckets, axes
    y_NK = x_NB @ np.random.default_rng(0).normal(size=(len(buckets), wide))
    for _ in range(4):
        y_NK = x_NB @ (x_NB.T @ np.linalg.qr(y_NK).Q)
    _, strength, v_KB = np.linalg.svd((x_NB.T @ np.linalg.qr(y_NK).Q).T, full_matrices=False)
    v_KB = v_KB[strength > 1e-9 * strength[0]][:dim]
    sizes_KB = np.abs(v_KB)
    largest = (sizes_KB > (1 - 1e-6) * sizes_KB.max(axis=1, keepdims=True)).argmax(
        axis=1
    )  # the first, but for rounding
    turned = np.sign(v_KB[np.arange(len(v_KB)), largest])  # or each could point either way
    axes[:, : len(v_KB)] = (turned[:, None] * v_KB).T
    return buckets, axes


def runs(
    codes: NDArray[np.uint64], lengths: NDArray[np.int64], sizes: Sequence[int], salt: np.uint64
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Owner and hash of every run of so many codes in a row; `lengths` [N] says how many codes each owner has."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(codes))  # from here to the owner's last
    hashes = np.full(len(codes), salt)
    owners, out = [owner[:0]], [hashes[:0]]
    live = np.arange(len(codes))
    for size in range(1, max(sizes, default=0) + 1):
        live = live[left[live] >= size]
        hashes[live] = mix(hashes[live] ^ codes[live + size - 1])
        if size in sizes:
            owners.append(owner[live])
            out.append(hashes[live])
    return np.concatenate(owners), np.concatenate(out)
