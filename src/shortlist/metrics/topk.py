"""Top-K accuracy of served lists (NDCG: Järvelin & Kekäläinen, TOIS 2002).

R requests, K ranks, M labels, k the cut. A metric maps `hits` bool [R, K] (rank 1 first) and `relevant` [R]
(|T|: all labels of a request, found or not) to one value per request, float64 [R], NaN where a request has no
label. A list shorter than k has no hit behind its end.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import DataError

__all__ = [
    "accuracy", "hits", "recall", "precision", "f1", "hit_rate", "ndcg", "mrr", "average_precision",
    "skipped", "short", "discounts", "per_label", "known", "METRICS",
]  # fmt: skip

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
Column = NDArray[np.float64]


def hits(slates: NDArray[np.int64], offsets: NDArray[np.int64], labels: NDArray[np.int64]) -> Hits:
    """Which ranks hold a label. `slates` keys [R, K], -1 behind the end; request r has the labels
    `offsets[r]:offsets[r+1]`, where a -1 is a label outside the catalogue, never found.

    Raises DataError when a list or a label set holds an item twice: either would count one hit two times.
    """
    R = len(slates)
    if len(offsets) != R + 1 or offsets[-1] != len(labels):
        raise ValueError(f"{R} lists, {len(offsets)} offsets, {len(labels)} labels do not fit together")
    by_key = np.sort(slates, axis=1)
    _distinct(((by_key[:, 1:] == by_key[:, :-1]) & (by_key[:, 1:] >= 0)).any(axis=1), "list")
    width = int(max(slates.max(initial=0), labels.max(initial=0))) + 1
    wanted = np.sort((np.repeat(np.arange(R), np.diff(offsets)) * width + labels)[labels >= 0])
    twice = np.zeros(R, dtype=bool)
    twice[wanted[1:][wanted[1:] == wanted[:-1]] // width] = True
    _distinct(twice, "label set")
    if not len(wanted):
        return np.zeros(slates.shape, dtype=bool)
    asked = np.arange(R)[:, None] * width + slates
    at = np.minimum(np.searchsorted(wanted, asked), len(wanted) - 1)
    found: Hits = (wanted[at] == asked) & (slates >= 0)
    return found


def accuracy(
    slates: NDArray[np.int64],
    offsets: NDArray[np.int64],
    labels: NDArray[np.int64],
    ks: Sequence[int],
    metrics: Sequence[str] = ("recall", "precision", "f1", "hit_rate", "ndcg", "mrr", "map"),
) -> dict[str, Column]:
    """Every metric at every cut as a column [R] named `recall@10`, NaN where there is no label
    (`skipped`).
    """
    hits_RK, relevant = hits(slates, offsets, labels), np.diff(offsets)
    return {f"{name}@{k}": METRICS[name](hits_RK, relevant, k) for name in metrics for k in ks}


def recall(hits_RK: Hits, relevant: Counts, k: int) -> Column:
    """Found share of the labels: Σh / |T|."""
    return per_label(hits_RK[:, :k].sum(axis=1), relevant, relevant)


def precision(hits_RK: Hits, relevant: Counts, k: int) -> Column:
    """Share of the k places that hold a label; k even where the list is shorter."""
    return known(hits_RK[:, :k].sum(axis=1) / k, relevant)


def f1(hits_RK: Hits, relevant: Counts, k: int) -> Column:
    """2 Σh / (k + |T|): the harmonic mean of a request's own precision and recall."""
    return per_label(2 * hits_RK[:, :k].sum(axis=1), k + relevant, relevant)


def hit_rate(hits_RK: Hits, relevant: Counts, k: int) -> Column:
    """1 where any label is found."""
    return known(hits_RK[:, :k].any(axis=1), relevant)


def ndcg(hits_RK: Hits, relevant: Counts, k: int) -> Column:
    """DCG over the best DCG, that of min(|T|, k) hits on top: not of the hits found, so that misses cost."""
    dcg = hits_RK[:, :k] @ discounts(k)[: hits_RK.shape[1]]
    return per_label(dcg, np.cumsum(discounts(k))[np.clip(relevant, 1, k) - 1], relevant)


def mrr(hits_RK: Hits, relevant: Counts, k: int) -> Column:
    """1 / rank of the first hit, 0 without one."""
    found = hits_RK[:, :k]
    first = np.argmax(found, axis=1) if found.shape[1] else np.zeros(len(found), dtype=np.int64)
    return known(found.any(axis=1) / (first + 1), relevant)


def average_precision(hits_RK: Hits, relevant: Counts, k: int) -> Column:
    """Σ_r h_r · Precision@r / min(|T|, k); MAP is its mean."""
    found = hits_RK[:, :k]
    precisions = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    return per_label((precisions * found).sum(axis=1), np.minimum(relevant, k), relevant)


METRICS: Mapping[str, Callable[[Hits, Counts, int], Column]] = {
    "recall": recall,
    "precision": precision,
    "f1": f1,
    "hit_rate": hit_rate,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": average_precision,
}


def skipped(offsets: NDArray[np.int64]) -> int:
    """Requests without a label: the means leave them out, a report names their number."""
    return int(np.count_nonzero(np.diff(offsets) == 0))


def short(slates: NDArray[np.int64], k: int) -> int:
    """Lists that hold fewer than k items."""
    return int(np.count_nonzero((slates[:, :k] >= 0).sum(axis=1) < k))


def discounts(k: int) -> Column:
    """1 / log2(rank + 1) of ranks 1..k."""
    return 1 / np.log2(np.arange(2, k + 2))


def per_label(total: NDArray[Any], by: NDArray[Any], relevant: Counts) -> Column:
    """total / by, NaN where a request has no label."""
    out = np.full(len(relevant), np.nan)
    np.divide(total, by, out=out, where=relevant > 0)
    return out


def known(values: Any, relevant: Counts) -> Column:
    """The values, NaN where a request has no label."""
    return np.where(relevant > 0, values, np.nan)


def _distinct(twice: NDArray[np.bool_], what: str) -> None:
    if twice.any():
        where = f"request {int(np.argmax(twice))}"
        raise DataError(f"a {what} holds an item twice", where=where, hint="drop the repeats")
