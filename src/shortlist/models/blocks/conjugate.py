"""Ridge regressions of all rows of a matrix, a few steps nearer: conjugate gradients from the vectors there are (for
implicit feedback: Takacs, Pilaszy, Tikk, RecSys 2011), compiled and on all cores.

R rows, N items, D width. Import only inside a function: it loads numba.
"""

__all__ = ["nearer"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import DataError
from shortlist.models.blocks.compiled import in_blocks, summing

ROWS = 64  # rows a thread takes at once
Ints = NDArray[np.int64]
Shorts = NDArray[np.integer[Any]]
Reals = NDArray[np.floating[Any]]


def nearer(
    offsets: Ints, items: Shorts, q_ND: Reals, weight: float, penalty_R: Reals, gram_DD: Reals, p_RD: Reals, steps: int
) -> Reals:
    """`p_RD` after so many steps towards what `ridge` gives for the same arguments [R, D]; no step goes away from it.

    In the basis of Q'Q's eigenvectors A = weight * Q'Q + penalty_r I is diagonal, so that a step costs two products of
    the row's items and none of Q'Q (the paper's form has one), and A is what steps are scaled by: a row of n items is
    exact after n of them. A row without items gives zeros. Raises DataError when penalties are lost beside the sums,
    or are beyond what the precision holds.
    """
    kind = q_ND.dtype.type
    root_D, basis_DD = np.linalg.eigh(gram_DD.astype(np.float64))
    root_D, basis_DD = (weight * np.maximum(root_D, 0)).astype(kind), basis_DD.astype(kind)
    turned_ND, penalty_R = q_ND @ basis_DD, penalty_R.astype(kind)
    out_RD = np.empty((len(penalty_R), q_ND.shape[1]), dtype=kind)

    def work(low: int, high: int) -> bool:
        out_RD[low:high] = p_RD[low:high] @ basis_DD
        _stepped(low, high, offsets, items, turned_ND, root_D, penalty_R, out_RD, steps)
        out_RD[low:high] = out_RD[low:high] @ basis_DD.T
        return bool(np.isfinite(out_RD[low:high]).all())

    if penalty_R.min(initial=np.inf) <= np.finfo(kind).eps ** 2 * root_D[-1]:
        what = f"the normal equations are singular in {q_ND.dtype}: lam is too small beside the counts"
        raise DataError(what, where="ials", hint="raise lam")
    if not all(in_blocks(work, len(out_RD), ROWS)):
        raise DataError(f"vectors came out as no numbers in {q_ND.dtype}", where="ials", hint="lower lam or alpha0")
    return out_RD


@summing
def _stepped(
    low: int, high: int, offsets: Ints, items: Shorts, q_ND: Reals, root_D: Reals, penalty_R: Reals, p_RD: Reals,
    steps: int,
) -> None:  # fmt: skip
    """Moves p of rows low..high, in the basis of the eigenvectors. `r` is what the equations lack, `s` the direction,
    `z` their left side for it; lengths of steps are summed in double precision."""
    wide, kind = q_ND.shape[1], q_ND.dtype.type
    a_D, r_D, s_D, z_D = np.empty_like(root_D), np.empty_like(root_D), np.empty_like(root_D), np.empty_like(root_D)
    for row in range(low, high):
        p_D, first, end = p_RD[row], offsets[row], offsets[row + 1]
        if first == end:
            p_D[:] = 0
            continue
        for d in range(wide):
            a_D[d] = root_D[d] + penalty_R[row]
            r_D[d] = -a_D[d] * p_D[d]
        for e in range(first, end):
            q_D, y = q_ND[items[e]], kind(0)
            for d in range(wide):
                y += q_D[d] * p_D[d]
            y = kind(1) - y
            for d in range(wide):
                r_D[d] += y * q_D[d]
        left = 0.0
        for d in range(wide):
            s_D[d] = r_D[d] / a_D[d]
            left += np.float64(r_D[d]) * s_D[d]
        for _ in range(steps):
            for d in range(wide):
                z_D[d] = a_D[d] * s_D[d]
            for e in range(first, end):
                q_D, y = q_ND[items[e]], kind(0)
                for d in range(wide):
                    y += q_D[d] * s_D[d]
                for d in range(wide):
                    z_D[d] += y * q_D[d]
            curve, rest = 0.0, 0.0
            for d in range(wide):
                curve += np.float64(s_D[d]) * z_D[d]
            if curve <= 0:  # there is no direction left
                break
            far = kind(left / curve)
            for d in range(wide):
                p_D[d] += far * s_D[d]
                r_D[d] -= far * z_D[d]
                z_D[d] = r_D[d] / a_D[d]
                rest += np.float64(r_D[d]) * z_D[d]
            turn = kind(rest / left)
            for d in range(wide):
                s_D[d] = z_D[d] + turn * s_D[d]
            left = rest
