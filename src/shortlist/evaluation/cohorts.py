"""Figures of parts of the users and of the labels: who has little behind them, and what was met seldom.

Thirds by rank of a count; where a count is so frequent that the outer thirds would touch, there are no cohorts of it.
R requests, M labels, I items of the catalogue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Requests
from shortlist.evaluation.funnel import Measured
from shortlist.metrics.topk import accuracy

__all__ = ["Cohort", "cohorts"]

Ints = NDArray[np.int64]
Column = NDArray[np.float64]


@dataclass(frozen=True)
class Cohort:
    """`columns[list][metric]` [R], NaN where a request is not of the cohort or has no label of it. `of` says whether
    users or items are parted; `bound` is the largest count of a `new` cohort, the smallest of an `old` one; `size` in
    requests with a label, for items in labels.
    """

    name: str
    of: str
    bound: int
    size: int
    columns: Mapping[str, Mapping[str, Column]]


def cohorts(
    measured: Measured, requests: Requests, offsets: Ints, labels: Ints, items: Ints, popularity: Ints
) -> tuple[Cohort, ...]:
    """New and old users by the length of their history, new and old items by `popularity` [I] in training.

    A list's columns are recall at every cut and NDCG at the page's length. Against labels of a cohort of items the
    rest of a list counts as misses.
    """
    ks, page = measured.ks, measured.page
    wanted = (*(f"recall@{k}" for k in ks), f"ndcg@{page}")
    out: list[Cohort] = []
    length = np.diff(requests.history.offsets)
    labelled = np.diff(offsets) > 0
    for name, bound, mask in thirds(length, labelled):
        columns = {
            listed.name: {m: np.where(mask, listed.columns[m], np.nan) for m in wanted if m in listed.columns}
            for listed in measured.listed
        }
        out.append(Cohort(f"{name} users", "users", bound, int((mask & labelled).sum()), columns))
    met = counts_of(labels, items, popularity)
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    for name, bound, mask in thirds(met, np.ones(len(met), dtype=bool)):
        few = np.bincount(owners[mask], minlength=len(offsets) - 1)
        part = np.concatenate([[0], np.cumsum(few)]).astype(np.int64)
        columns = {
            listed.name: found(listed.lists, part, labels[mask], [m for m in wanted if m in listed.columns])
            for listed in measured.listed
        }
        out.append(Cohort(f"{name} items", "items", bound, int(mask.sum()), columns))
    return tuple(out)


def thirds(counts: Ints, among: NDArray[np.bool_]) -> list[tuple[str, int, NDArray[np.bool_]]]:
    """(`new`, its largest count, mask) and (`old`, its smallest count, mask) of counts [N] `among`, or nothing."""
    mine = np.sort(counts[among])
    if len(mine) < 3:
        return []
    low, high = int(mine[(len(mine) - 1) // 3]), int(mine[-1 - (len(mine) - 1) // 3])
    if low >= high:
        return []
    return [("new", low, among & (counts <= low)), ("old", high, among & (counts >= high))]


def found(lists: Ints, offsets: Ints, labels: Ints, metrics: Sequence[str]) -> dict[str, Column]:
    """These metrics (`recall@10`) of lists [R, K] against labels (CSR over requests)."""
    out: dict[str, Column] = {}
    for name in metrics:
        stem, _, k = name.partition("@")
        out |= accuracy(lists, offsets, labels, [int(k)], [stem])
    return out


def counts_of(labels: Ints, items: Ints, popularity: Ints) -> Ints:
    """How often each label [M] was met in training; 0 for one outside the catalogue."""
    order = np.argsort(items)
    if not len(items):
        return np.zeros(len(labels), dtype=np.int64)
    at = np.minimum(np.searchsorted(items, labels, sorter=order), len(items) - 1)
    row = order[at]
    return np.where(items[row] == labels, popularity[row], 0)
