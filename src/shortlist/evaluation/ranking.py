"""Full ranking and sampled ranking (He X. et al., WWW 2017), in blocks of users, without Python per user.

Full ranking scores every item that a user has not seen. Benchmark metrics take the expectation over ties,
served lists break ties by smaller key. Numbers over sampled candidates do not compare with those over all
items (Krichene & Rendle, KDD 2020). U users, I items, B users of a block, K the deepest cut.

Memory beside the caller's own arrays: the block that `score_block` returns, one copy of it, and 24 bytes per
label; with the default block about 128 MiB for float32 scores, twice that for float64.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from shortlist.errors import DataError
from shortlist.metrics import expected
from shortlist.metrics.expected import TiedRanks, positive_ranks

__all__ = ["full_ranking", "full_ranks", "topk", "candidates_ranking", "ScoreBlock"]

ScoreBlock = Callable[[int, int], NDArray[Any]]
"""Scores [stop - start, I] of users start..stop. -inf takes an item out of the ranking; NaN is refused."""

BLOCK = 1 << 24  # scores of a block: 64 MiB of float32
LIST_BLOCK = 1 << 22  # the same for lists, whose ties need indexes of 16 bytes per score at worst


def full_ranking(
    score_block: ScoreBlock,
    seen: sparse.csr_array,
    relevant: sparse.csr_array,
    ks: Sequence[int],
    *,
    cold: NDArray[np.int64] | None = None,
    block: int | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Expected accuracy of every user as columns [U] (`recall@10`, ...), NaN for users without a label.

    `seen` and `relevant` [U, I] mean their stored entries, whatever the value. A label that is also seen, and
    the `cold` [U] labels of a user that no column holds, count in |T| and are never found.
    """
    return expected.accuracy(full_ranks(score_block, seen, relevant, max(ks), cold=cold, block=block), ks)


def full_ranks(
    score_block: ScoreBlock,
    seen: sparse.csr_array,
    relevant: sparse.csr_array,
    depth: int,
    *,
    cold: NDArray[np.int64] | None = None,
    block: int | None = None,
) -> TiedRanks:
    """Where each label of `relevant` stands among the unseen items, exact down to rank `depth`.

    One partition per row finds the `depth` best scores; labels are compared with these alone, and with the
    whole row only where they tie with the last of them.
    """
    labels = _distinct(relevant)
    offsets, columns = labels.indptr.astype(np.int64), labels.indices.astype(np.int64)
    above, tied = np.empty(len(columns), dtype=np.int64), np.empty(len(columns), dtype=np.int64)
    exact_to: int | None = None
    for start, stop, scores in _blocks(score_block, seen, relevant.shape, block, BLOCK):
        own = slice(offsets[start], offsets[stop])
        part = offsets[start : stop + 1] - offsets[start]
        try:
            ranks = expected.tied_ranks(scores, part, columns[own], depth=depth, overwrite=True)
        except DataError as error:
            raise DataError(error.what, where=f"users {start}..{stop - 1}, {error.where}", hint=error.hint) from None
        above[own], tied[own], exact_to = ranks.above, ranks.tied, ranks.depth
    counts = np.diff(offsets) if cold is None else np.diff(offsets) + cold
    return TiedRanks(offsets, above, tied, counts, exact_to)


def topk(
    score_block: ScoreBlock,
    seen: sparse.csr_array,
    k: int,
    *,
    keys: NDArray[np.int64] | None = None,
    block: int | None = None,
) -> NDArray[np.int64]:
    """The k best unseen items of every user, best first, ties by smaller key: [U, k], -1 behind the end.

    `keys` [I] ascending names the columns; without it the list holds columns.
    """
    U, width = seen.shape
    if keys is not None and (len(keys) != width or bool((np.diff(keys) <= 0).any())):
        raise ValueError(f"{width} columns need as many ascending distinct keys")
    lists = np.full((U, k), -1, dtype=np.int64)
    n = min(k, width)
    if not n:
        return lists
    for start, stop, scores in _blocks(score_block, seen, seen.shape, block, LIST_BLOCK):
        part = np.partition(scores, width - n, axis=1)
        _refuse_nan(part[:, width - n :].max(axis=1), start)
        cut = part[:, width - n, None]
        chosen = scores > cut
        # Of the items that tie for the last places, the first columns get them.
        missing = n - np.count_nonzero(chosen, axis=1)
        tied = np.flatnonzero(scores == cut)
        row = tied // width
        first = np.searchsorted(row, np.arange(stop - start))
        chosen.ravel()[tied[np.arange(len(row)) - first[row] < missing[row]]] = True
        best = np.flatnonzero(chosen).reshape(stop - start, n) % width
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        best, values = np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)
        lists[start:stop, :n] = np.where(values > -np.inf, best if keys is None else keys[best], -1)
    return lists


def candidates_ranking(
    scores: NDArray[Any], positive: NDArray[np.int64] | int, ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Expected accuracy of one positive among few candidates [U, C] as columns [U]: leave-one-out with 99
    negatives.

    `positive` is the column of the positive, one for all users or per user.
    """
    return expected.accuracy(positive_ranks(scores, positive), ks)


def _blocks(
    score_block: ScoreBlock, seen: sparse.csr_array, shape: tuple[int, int], block: int | None, size: int
) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Blocks of scores as (start, stop, scores [B, I]): a copy that may be written, seen items at -inf."""
    U, width = shape
    if seen.shape != shape:
        raise ValueError(f"seen is {seen.shape}, relevant {shape}")
    step = block or max(1, size // max(1, width))
    work = np.empty((0, width), dtype=np.float32)
    for start in range(0, U, step):
        stop = min(start + step, U)
        scores = score_block(start, stop)
        if scores.shape != (stop - start, width):
            raise ValueError(f"users {start}..{stop - 1} got scores {scores.shape}, not {(stop - start, width)}")
        dtype = np.result_type(scores, np.float32)
        if work.dtype != dtype or len(work) < len(scores):
            work = np.empty(scores.shape, dtype=dtype)
        copy = work[: len(scores)]
        copy[:] = scores
        span = slice(seen.indptr[start], seen.indptr[stop])
        row = np.repeat(np.arange(stop - start), np.diff(seen.indptr[start : stop + 1]))
        copy[row, seen.indices[span]] = -np.inf
        yield start, stop, copy


def _distinct(matrix: sparse.csr_array) -> sparse.csr_array:
    """The matrix with sorted, distinct entries; a copy where that changes it."""
    if matrix.has_canonical_format:
        return matrix
    matrix = matrix.copy()
    matrix.sum_duplicates()
    return matrix


def _refuse_nan(best: NDArray[Any], start: int) -> None:
    """`best` is the largest score of each row, NaN where the row holds one."""
    nan = np.isnan(best)
    if nan.any():
        where = f"user {start + int(np.argmax(nan))}"
        raise DataError("a score is NaN", where=where, hint="check the model; -inf rules an item out")
