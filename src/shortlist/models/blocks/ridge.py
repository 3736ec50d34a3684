"""Many small ridge regressions on rows of one matrix, as a fold-in needs them: at serving, without compiled loops. A
fit solves the same by `regressions`.

R rows, E entries (what a row has), N items, D width.
"""

__all__ = ["ridge"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import DataError

BLOCK_BYTES = 2 * 2**20  # of gathered vectors and of normal equations: what a core keeps near runs fastest
Ints = NDArray[np.int64]
Shorts = NDArray[np.integer[Any]]
Reals = NDArray[np.floating[Any]]


def ridge(offsets: Ints, items: Shorts, q_ND: Reals, weight: float, penalty_R: Reals, gram_DD: Reals) -> Reals:
    """p_r = (sum q_i q_i' + weight * Q'Q + penalty_r I)^-1 sum q_i over `items[offsets[r]:offsets[r+1]]`, rows of q.

    [R, D] in the precision of q; `gram_DD` is Q'Q. A row without items gives zeros. Rows of any length take bounded
    memory. Raises DataError when penalties are lost beside the sums.
    """
    from scipy.linalg.lapack import dposv, sposv

    counts = np.diff(offsets)
    wide = q_ND.shape[1]
    base_DD = weight * gram_DD
    solve: Any = sposv if q_ND.dtype == np.float32 else dposv
    p_RD = np.zeros((len(counts), wide), dtype=q_ND.dtype)
    order = np.argsort(counts, kind="stable")  # rows of like length share a block, so little is padded
    order = order[np.searchsorted(counts[order], 1) :]
    size = max(1, BLOCK_BYTES // (base_DD.itemsize * wide * wide))
    for low in range(0, len(order), size):
        rows = order[low : low + size]
        a_BDD, b_BD = _normal(offsets[rows], counts[rows], items, q_ND)
        a_BDD += base_DD
        np.einsum("bdd->bd", a_BDD)[:] += penalty_R[rows, None]
        for at, row in enumerate(rows.tolist()):  # a factorization each: LAPACK by row is faster than a batched solve
            _, p_RD[row], failed = solve(a_BDD[at].T, b_BD[at], lower=1, overwrite_a=1)
            if failed:
                what = f"the normal equations are singular in {q_ND.dtype}: lam is too small beside the counts"
                raise DataError(what, where="ials", hint="raise lam")
    return p_RD


def _normal(starts: Ints, counts: Ints, items: Shorts, q_ND: Reals) -> tuple[Reals, Reals]:
    """sum q q' [B, D, D] and sum q [B, D] of rows by rising count; long rows in pieces."""
    wide = q_ND.shape[1]
    a_BDD = np.zeros((len(starts), wide, wide), dtype=q_ND.dtype)
    b_BD = np.zeros((len(starts), wide), dtype=q_ND.dtype)
    done = 0
    while done < counts[-1]:
        first = int(np.searchsorted(counts, done, side="right"))  # rows before it are complete
        piece = max(1, BLOCK_BYTES // (q_ND.itemsize * wide * (len(counts) - first)))
        place = done + np.arange(min(piece, int(counts[-1]) - done))
        at = np.minimum(starts[first:, None] + place, len(items) - 1)
        q_BLD = q_ND[items[at]]
        q_BLD[place >= counts[first:, None]] = 0
        a_BDD[first:] += np.matmul(q_BLD.transpose(0, 2, 1), q_BLD)
        b_BD[first:] += q_BLD.sum(axis=1)
        done += piece
    return a_BDD, b_BD
