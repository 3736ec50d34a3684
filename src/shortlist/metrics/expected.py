"""Top-K accuracy of scores with ties: the expectation over all random orders of equal scores, in closed form.

For a label: g candidates score strictly higher, m share its score (itself included), t of these m are labels,
H labels score higher. Its rank is uniform on g+1..g+m. Without ties (m = 1) every metric equals its namesake
in `topk`. Hit rate follows the hypergeometric law at the group that straddles the cut, MRR the negative
hypergeometric law of the first group with a label. R requests, I candidates, M labels, k the cut.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import DataError
from shortlist.metrics.topk import discounts, known, per_label

__all__ = [
    "TiedRanks", "tied_ranks", "positive_ranks", "accuracy", "recall", "precision", "f1", "hit_rate", "ndcg", "mrr",
    "average_precision", "METRICS", "UNRANKED",
]  # fmt: skip

Column = NDArray[np.float64]

UNRANKED = 1 << 40
"""`above` of a label that is no candidate or ranks below the depth that was asked for."""

PIECE = 1 << 22  # elements of an intermediate matrix; bounds memory, changes no result


@dataclass(frozen=True)
class TiedRanks:
    """Where labels stand: `above` (g) and `tied` (m) int64 [M]; request r owns `offsets[r]:offsets[r+1]`.

    `relevant` [R] counts all labels of a request (|T|), also those outside the candidates. Exact for ranks up
    to `depth` (None: for all); a label whose first possible rank lies deeper has `above` = UNRANKED.
    """

    offsets: NDArray[np.int64]
    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    relevant: NDArray[np.int64]
    depth: int | None = None

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """Request of each label [M]."""
        return np.repeat(np.arange(len(self.relevant)), np.diff(self.offsets))

    @cached_property
    def groups(self) -> "Groups":
        """The labels by tie group."""
        ranked = np.flatnonzero(self.above < UNRANKED)
        order = ranked[np.lexsort((self.above[ranked], self.owners[ranked]))]
        owner, above = self.owners[order], self.above[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (owner[1:] != owner[:-1]) | (above[1:] != above[:-1])
        start = np.flatnonzero(new)
        first_of_owner = np.searchsorted(owner, owner[start])
        labels = np.diff(np.append(start, len(order)))
        return Groups(owner[start], above[start], self.tied[order][start], labels, start - first_of_owner)


@dataclass(frozen=True)
class Groups:
    """Tie groups that hold a label, by request and rank [G]: `above` g, `tied` m, `labels` t, `before` H."""

    owner: NDArray[np.int64]
    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    labels: NDArray[np.int64]
    before: NDArray[np.int64]

    def within(self, k: int) -> NDArray[np.int64]:
        """How many of a group's m places lie at rank k or better [G]."""
        return np.clip(k - self.above, 0, self.tied)


def tied_ranks(
    scores: NDArray[Any],
    offsets: NDArray[np.int64],
    columns: NDArray[np.int64],
    *,
    candidates: NDArray[np.bool_] | None = None,
    depth: int | None = None,
    overwrite: bool = False,
) -> TiedRanks:
    """Where labels stand in a score matrix [R, I]; request r has `columns[offsets[r]:offsets[r+1]]`.

    A column of -1 is a label that no column holds: it counts in |T| and is never found, like a label outside
    `candidates` bool [R, I]. A score of -inf takes a column out of the ranking. `depth` is the deepest rank
    of interest, all by default: a small one costs one partition per row. `overwrite` lets float scores serve
    as scratch space. Raises DataError on NaN.
    """
    R, width = scores.shape
    exact_to = depth if depth is not None and depth < width else None
    depth = exact_to or width
    work = scores if overwrite else np.array(scores, dtype=np.result_type(scores, np.float32), order="C")
    if candidates is not None:
        work[~candidates] = -np.inf
    owner = np.repeat(np.arange(R), np.diff(offsets))
    above, tied = np.full(len(columns), UNRANKED), np.ones(len(columns), dtype=np.int64)
    if not work.size:
        return TiedRanks(offsets, above, tied, np.diff(offsets))
    score = np.where(columns >= 0, work[owner, columns], -np.inf)
    # The `depth` best of each row, ascending: what scores above the lowest of them lies wholly inside.
    work.partition(width - depth, axis=1)
    top = np.sort(work[:, width - depth :], axis=1)
    nan = np.isnan(top[:, -1])
    if nan.any():
        raise DataError(
            "a score is NaN",
            where=f"row {int(np.argmax(nan))}",
            hint="check the model; -inf rules an item out",
        )
    cut = top[:, 0]
    at_cut = np.flatnonzero((score == cut[owner]) & (score > -np.inf))
    if len(at_cut):
        rows, inverse = np.unique(owner[at_cut], return_inverse=True)
        above[at_cut] = (top > cut[:, None]).sum(axis=1)[owner[at_cut]]
        tied[at_cut] = _equal(work, rows, cut)[inverse]
    inside = np.flatnonzero(score > cut[owner])
    for piece in _pieces(inside, depth):
        row, own = top[owner[piece]], score[piece, None]
        above[piece], tied[piece] = (row > own).sum(axis=1), (row == own).sum(axis=1)
    return TiedRanks(offsets, above, tied, np.diff(offsets), exact_to)


def _equal(work: NDArray[Any], rows: NDArray[np.int64], cut: NDArray[Any]) -> NDArray[np.int64]:
    """How many scores of each row equal its cut."""
    pieces = _pieces(rows, work.shape[1])
    return np.concatenate([np.count_nonzero(work[at] == cut[at, None], axis=1) for at in pieces])


def positive_ranks(scores: NDArray[Any], positive: NDArray[np.int64] | int = 0) -> TiedRanks:
    """One label among few candidates [R, C]: `positive` is its column, one for all or one per request."""
    columns = np.broadcast_to(np.asarray(positive, dtype=np.int64), (len(scores),))
    return tied_ranks(scores, np.arange(len(scores) + 1), columns)


def accuracy(
    ranks: TiedRanks,
    ks: Sequence[int],
    metrics: Sequence[str] = ("recall", "precision", "f1", "hit_rate", "ndcg", "mrr", "map"),
) -> dict[str, Column]:
    """Every expected metric at every cut as a column [R] named `recall@10`, NaN where there is no label."""
    return {f"{name}@{k}": METRICS[name](ranks, k) for name in metrics for k in ks}


def recall(ranks: TiedRanks, k: int) -> Column:
    """Expected found share: each label lies at rank k or better with probability clip((k - g) / m, 0, 1)."""
    return per_label(_found(ranks, k), ranks.relevant, ranks.relevant)


def precision(ranks: TiedRanks, k: int) -> Column:
    """Expected share of the k places that hold a label."""
    return known(_found(ranks, k) / k, ranks.relevant)


def f1(ranks: TiedRanks, k: int) -> Column:
    """Expected harmonic mean of precision and recall: it is linear in what is found, 2 found / (k + |T|)."""
    return per_label(2 * _found(ranks, k), k + ranks.relevant, ranks.relevant)


def hit_rate(ranks: TiedRanks, k: int) -> Column:
    """1 - Π P(no label of a group at rank k or better); hypergeometric for the group that straddles k."""
    groups = _groups(ranks, k)
    places = groups.within(k)
    none = np.where(places > 0, 0.0, 1.0)
    for piece in _pieces(np.flatnonzero((places > 0) & (places < groups.tied)), k):
        none[piece] = _none_yet(groups, piece, k)[np.arange(len(piece)), places[piece] - 1]
    product = np.ones(len(ranks.relevant))
    np.multiply.at(product, groups.owner, none)
    return known(1 - product, ranks.relevant)


def ndcg(ranks: TiedRanks, k: int) -> Column:
    """A tied label gains the mean discount of its group's places, those below k giving 0."""
    groups = _groups(ranks, k)
    total = np.concatenate([[0.0], np.cumsum(discounts(k))])
    above = np.minimum(groups.above, k)
    gain = groups.labels * (total[above + groups.within(k)] - total[above]) / groups.tied
    return per_label(_by_request(ranks, groups, gain), total[np.minimum(ranks.relevant, k)], ranks.relevant)


def mrr(ranks: TiedRanks, k: int) -> Column:
    """Expected 1 / rank of the first hit, which lies in the first group that holds a label."""
    groups = _groups(ranks, k)
    first = np.flatnonzero((groups.before == 0) & (groups.above < k))
    value = np.zeros(len(ranks.relevant))
    alone = first[groups.tied[first] == 1]
    value[groups.owner[alone]] = 1 / (groups.above[alone] + 1)
    place = np.arange(1, k + 1)
    for piece in _pieces(first[groups.tied[first] > 1], k):
        none = _none_yet(groups, piece, k)
        here = np.concatenate([np.ones((len(piece), 1)), none[:, :-1]], axis=1) - none
        rank = groups.above[piece, None] + place
        value[groups.owner[piece]] = np.where(rank <= k, here / rank, 0).sum(axis=1)
    return known(value, ranks.relevant)


def average_precision(ranks: TiedRanks, k: int) -> Column:
    """Expected Σ_r h_r · Precision@r / min(|T|, k).

    Before a label at place x of its group lie, on average, H labels above it and (x-1)(t-1)/(m-1) inside it.
    """
    groups = _groups(ranks, k)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, k + 1))])
    places, above = groups.within(k), np.minimum(groups.above, k)
    density = (groups.labels - 1) / np.maximum(groups.tied - 1, 1)
    # Σ_x (H + 1 + (x-1)·density) / (g+x), with x-1 = (g+x) - (g+1)
    sums = (groups.before + 1 - density * (groups.above + 1)) * (harmonic[above + places] - harmonic[above])
    gain = groups.labels / groups.tied * (sums + density * places)
    return per_label(_by_request(ranks, groups, gain), np.minimum(ranks.relevant, k), ranks.relevant)


METRICS: Mapping[str, Callable[[TiedRanks, int], Column]] = {
    "recall": recall,
    "precision": precision,
    "f1": f1,
    "hit_rate": hit_rate,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": average_precision,
}


def _groups(ranks: TiedRanks, k: int) -> Groups:
    if not 1 <= k <= (ranks.depth or k):
        raise ValueError(f"cut {k} is outside 1..{ranks.depth}, the depth of these ranks")
    return ranks.groups


def _found(ranks: TiedRanks, k: int) -> Column:
    groups = _groups(ranks, k)
    return _by_request(ranks, groups, groups.labels * groups.within(k) / groups.tied)


def _by_request(ranks: TiedRanks, groups: Groups, values: Column) -> Column:
    return np.bincount(groups.owner, values, len(ranks.relevant)).astype(np.float64, copy=False)


def _none_yet(groups: Groups, at: NDArray[np.int64], k: int) -> Column:
    """P(no label among a group's first n places) = Π_{i<n} (m - t - i) / (m - i), n = 1..k: [len(at), k]."""
    left = groups.tied[at, None] - np.arange(k)
    none: Column = np.cumprod(np.maximum(1 - groups.labels[at, None] / np.maximum(left, 1), 0.0), axis=1)
    return none


def _pieces(at: NDArray[np.int64], k: int) -> Iterator[NDArray[np.int64]]:
    """`at` in parts whose matrices of k columns stay within PIECE elements."""
    step = max(1, PIECE // k)
    return (at[start : start + step] for start in range(0, len(at), step))
