"""Ridge regressions of all rows of a matrix, as a fit needs them: `ridge` for many rows, compiled and on all cores.

R rows, E entries (what a row has), N items, D width, L entries of one row. Import only inside a function: it loads
numba.
"""

__all__ = ["regressions"]

from typing import Any

import numpy as np
from numba import types
from numba.experimental import function_type
from numba.extending import get_cython_function_address
from numpy.typing import NDArray

from shortlist.errors import DataError
from shortlist.models.blocks.compiled import in_blocks, loop

ROWS = 64  # rows a thread takes at once
PIECE = 256  # entries read at once
Ints = NDArray[np.int64]
Shorts = NDArray[np.integer[Any]]
Reals = NDArray[np.floating[Any]]
Protocol: Any = vars(function_type)["WrapperAddressProtocol"]  # from there: it lets routines be arguments


class Routine(Protocol):  # type: ignore[misc]
    """A routine of scipy's BLAS or LAPACK, for a loop to call: all it takes are addresses."""

    def __init__(self, module: str, name: str, count: int) -> None:
        self.address: int = get_cython_function_address(f"scipy.linalg.{module}", name)
        self.count = count

    def __wrapper_address__(self) -> int:
        return self.address

    def signature(self) -> Any:
        return types.void(*[types.voidptr] * self.count)


def regressions(offsets: Ints, items: Shorts, q_ND: Reals, weight: float, penalty_R: Reals, gram_DD: Reals) -> Reals:
    """What `ridge` gives [R, D], up to rounding.

    In the basis of Q'Q's eigenvectors A = weight * Q'Q + penalty_r I is diagonal. A row of L <= D entries Q_r is
    solved as A^-1 Q_r' (I + Q_r A^-1 Q_r')^-1 1, L equations and not D (Woodbury), unless A is nearly singular.
    Raises DataError when penalties are lost beside the sums.
    """
    kind = q_ND.dtype.type
    q_ND = np.ascontiguousarray(q_ND)
    counts, wide = np.diff(offsets), q_ND.shape[1]
    p_RD = np.zeros((len(counts), wide), dtype=kind)
    root_D, basis_DD = np.linalg.eigh(gram_DD.astype(np.float64))
    root_D = weight * np.maximum(root_D, 0)
    sound = root_D[0] + penalty_R > 64 * np.finfo(kind).eps * (root_D[-1] + penalty_R)
    short = sound & (counts <= wide)
    basis_DD = basis_DD.astype(kind)
    turned_ND, base_DD = q_ND @ basis_DD, (weight * gram_DD).astype(kind)
    letter = "s" if kind is np.float32 else "d"
    syrk, posv = Routine("cython_blas", f"{letter}syrk", 10), Routine("cython_lapack", f"{letter}posv", 8)
    full, few = np.flatnonzero(~short & (counts > 0)), np.flatnonzero(short & (counts > 0))

    def solve(low: int, high: int) -> int:
        return int(_full(full[low:high], offsets, items, q_ND, base_DD, penalty_R, p_RD, syrk, posv))

    def solve_few(low: int, high: int) -> int:
        rows = few[low:high]
        failed = int(_few(rows, offsets, items, turned_ND, root_D, penalty_R, p_RD, syrk, posv))
        p_RD[rows] = p_RD[rows] @ basis_DD.T
        return failed

    if any(in_blocks(solve, len(full), ROWS) + in_blocks(solve_few, len(few), ROWS)):
        what = f"the normal equations are singular in {q_ND.dtype}: lam is too small beside the counts"
        raise DataError(what, where="ials", hint="raise lam")
    return p_RD


@loop
def _full(
    rows: Ints, offsets: Ints, items: Shorts, q_ND: Reals, base_DD: Reals, penalty_R: Reals, p_RD: Reals,
    syrk: Any, posv: Any,
) -> int:  # fmt: skip
    """Fills p of `rows`; how many were singular."""
    wide, failed = q_ND.shape[1], 0
    a_DD, near_LD = np.empty_like(base_DD), np.empty((PIECE, wide), dtype=q_ND.dtype)
    upper, plain, one = np.full(1, 85, np.uint8), np.full(1, 78, np.uint8), np.ones(1, q_ND.dtype)
    n, k, single, info = np.full(1, wide, np.int32), np.zeros(1, np.int32), np.ones(1, np.int32), np.zeros(1, np.int32)
    for r in rows:
        a_DD[:] = base_DD
        for d in range(wide):
            a_DD[d, d] += penalty_R[r]
        p_D, e = p_RD[r], offsets[r]
        while e < offsets[r + 1]:
            m = min(PIECE, offsets[r + 1] - e)
            for at in range(m):
                q_D, near_D = q_ND[items[e + at]], near_LD[at]
                for d in range(wide):
                    near_D[d] = q_D[d]
                    p_D[d] += q_D[d]
            e += m
            k[0] = m
            syrk(
                upper.ctypes, plain.ctypes, n.ctypes, k.ctypes, one.ctypes, near_LD.ctypes, n.ctypes, one.ctypes,
                a_DD.ctypes, n.ctypes,
            )  # fmt: skip
        posv(
            upper.ctypes, n.ctypes, single.ctypes, a_DD.ctypes, n.ctypes, p_D.ctypes, n.ctypes, info.ctypes
        )  # fmt: skip
        failed += info[0] != 0
    return failed


@loop
def _few(
    rows: Ints, offsets: Ints, items: Shorts, turned_ND: Reals, root_D: Reals, penalty_R: Reals, p_RD: Reals,
    syrk: Any, posv: Any,
) -> int:  # fmt: skip
    """Fills p of `rows`, in the basis of the eigenvectors; how many were singular."""
    wide, failed = turned_ND.shape[1], 0
    k_LL, near_LD = np.empty(wide * wide, turned_ND.dtype), np.empty((wide, wide), turned_ND.dtype)
    scale_D, y_L = np.empty(wide, turned_ND.dtype), np.empty(wide, turned_ND.dtype)
    upper, turned, one = np.full(1, 85, np.uint8), np.full(1, 84, np.uint8), np.ones(1, turned_ND.dtype)
    none, n, k = np.zeros(1, turned_ND.dtype), np.zeros(1, np.int32), np.full(1, wide, np.int32)
    single, info = np.ones(1, np.int32), np.zeros(1, np.int32)
    for r in rows:
        count = offsets[r + 1] - offsets[r]
        for d in range(wide):
            scale_D[d] = 1 / np.sqrt(root_D[d] + penalty_R[r])
        for at in range(count):
            q_D, near_D = turned_ND[items[offsets[r] + at]], near_LD[at]
            for d in range(wide):
                near_D[d] = q_D[d] * scale_D[d]
            y_L[at] = 1
        n[0] = count
        syrk(
            upper.ctypes, turned.ctypes, n.ctypes, k.ctypes, one.ctypes, near_LD.ctypes, k.ctypes, none.ctypes,
            k_LL.ctypes, n.ctypes,
        )  # fmt: skip
        for at in range(count):
            k_LL[at * count + at] += 1
        posv(
            upper.ctypes, n.ctypes, single.ctypes, k_LL.ctypes, n.ctypes, y_L.ctypes, n.ctypes, info.ctypes
        )  # fmt: skip
        failed += info[0] != 0
        p_D = p_RD[r]
        for at in range(count):
            near_D, y = near_LD[at], y_L[at]
            for d in range(wide):
                p_D[d] += y * near_D[d]
        for d in range(wide):
            p_D[d] *= scale_D[d]
    return failed
