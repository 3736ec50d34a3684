"""Update rules of rows of a table on the CPU, compiled: repeats summed, then one pass over the rows of a batch.

V rows of a table, D width, N entries of a gradient, U distinct rows. Rows stay in the order in which they first appear
and entries of one are added in their order, so no row depends on the number of threads: each thread has rows of its
own. Import only inside a function: it loads numba.
"""

__all__ = ["summed", "change"]

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from shortlist.models.blocks.compiled import dividing, in_blocks, loop

Ints = NDArray[np.int64]
Slots = NDArray[np.int32]
Floats = NDArray[Any]
ALONE = 20_000  # entries of a gradient up to which a second thread costs more than it brings
BETA1, BETA2, ADAM_EPS, ADAGRAD_EPS = 0.9, 0.999, 1e-8, 1e-10


@loop
def gather(ids: Ints, values: Floats, slots: Slots, part: int, parts: int, rows: Ints, sums: Floats) -> int:
    """Sum the values [N, D] of each id whose remainder is `part`: fills `rows` [N] and `sums` [N, D] from the start,
    and gives U. `slots` [V] hold -1 before and after."""
    n, wide = 0, values.shape[1]
    for at in range(len(ids)):
        row = ids[at]
        if parts > 1 and row % parts != part:
            continue
        slot = slots[row]
        if slot < 0:
            slots[row] = n
            rows[n] = row
            for d in range(wide):
                sums[n, d] = values[at, d]
            n += 1
        else:
            for d in range(wide):
                sums[slot, d] += values[at, d]
    for slot in range(n):
        slots[rows[slot]] = -1
    return n


@dividing
def adam(
    rows: Ints, grads: Floats, weight: Floats, mean: Floats, square: Floats, l2: Any, lr: Any, new: Any, kept: Any,
    fresh: Any, root: Any, eps: Any,
) -> None:  # fmt: skip
    """`new` is 1 - beta1, `kept` beta2, `fresh` 1 - beta2; biases are corrected in `lr`, and by `root`."""
    for n in range(len(rows)):
        w, m, v, s = weight[rows[n]], mean[rows[n]], square[rows[n]], grads[n]
        for d in range(len(s)):
            g = s[d] + l2 * w[d]
            a = m[d] + (g - m[d]) * new
            b = v[d] * kept + g * g * fresh
            m[d], v[d] = a, b
            w[d] -= lr * a / (np.sqrt(b) * root + eps)


@dividing
def adagrad(rows: Ints, grads: Floats, weight: Floats, total: Floats, l2: Any, lr: Any, share: Any, eps: Any) -> None:
    """`share` is 1 / D."""
    for n in range(len(rows)):
        w, s = weight[rows[n]], grads[n]
        sum_ = total[rows[n]]
        for d in range(len(s)):
            s[d] += l2 * w[d]
            sum_ += s[d] * s[d] * share
        total[rows[n]] = sum_
        step = lr / (np.sqrt(sum_) + eps)
        for d in range(len(s)):
            w[d] -= step * s[d]


@loop
def sgd(rows: Ints, grads: Floats, weight: Floats, l2: Any, lr: Any) -> None:
    for n in range(len(rows)):
        w, s = weight[rows[n]], grads[n]
        for d in range(len(s)):
            w[d] -= lr * (s[d] + l2 * w[d])


def summed(ids: Tensor, values: Tensor, slots: Tensor, threads: int) -> list[tuple[Tensor, Tensor]]:
    """Distinct rows [U] of ids [N] and the sums [U, D] of their values [N, D]; a part for each thread worth it. `slots`
    [V], int32, hold -1 before and after."""
    given, each, places = ids.numpy(), values.contiguous().numpy(), slots.numpy()
    parts = threads if len(given) > ALONE else 1

    def part(low: int, _: int) -> tuple[Tensor, Tensor]:
        rows, sums = np.empty(len(given), dtype=np.int64), np.empty_like(each)
        n = gather(given, each, places, low, parts, rows, sums)
        return from_numpy(rows[:n]), from_numpy(sums[:n])

    return in_blocks(part, parts, 1) if parts > 1 else [part(0, 1)]


def change(
    rule: str, weight: Tensor, state: dict[str, Tensor], parts: list[tuple[Tensor, Tensor]], lr: float, l2: float
) -> None:
    """Apply a rule of `optimizers` to rows [U] and their gradients [U, D], which it may overwrite: each row once."""
    w = weight.detach().numpy()
    one = w.dtype.type
    kernel: Callable[..., None]
    given: tuple[Any, ...]
    if rule == "adam":
        state["step"] += 1
        step = state["step"].item()
        rates = lr / (1 - BETA1**step), 1 - BETA1, BETA2, 1 - BETA2, 1 / math.sqrt(1 - BETA2**step), ADAM_EPS
        kernel, given = adam, (state["exp_avg"].numpy(), state["exp_avg_sq"].numpy(), one(l2), *map(one, rates))
    elif rule == "adagrad":
        kernel, given = adagrad, (state["sum"].numpy(), *map(one, (l2, lr, 1 / w.shape[1], ADAGRAD_EPS)))
    else:
        kernel, given = sgd, (one(l2), one(lr))

    def part(low: int, _: int) -> None:
        rows, grads = parts[low]
        kernel(rows.numpy(), grads.numpy(), w, *given)

    if len(parts) == 1:
        part(0, 1)
    else:
        in_blocks(part, len(parts), 1)
