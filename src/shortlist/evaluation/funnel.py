"""Measure a whole funnel by running it: every channel alone, the merged candidates, the page, on the same
requests.

The funnel is the one that serves (`Funnel.run`); what a channel, the merge and the page would have shown is
read off its candidates. R requests, K the longest cut, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Requests, Slates
from shortlist.funnel.pipeline import BELOW, NOT_SELECTED, OVER_BUDGET, Funnel, cut
from shortlist.funnel.trace import fates
from shortlist.metrics.beyond import coverage, exposure, gini, self_information
from shortlist.metrics.bootstrap import Estimate, difference, mean, ratio
from shortlist.metrics.topk import accuracy

__all__ = ["Listed", "Measured", "measure", "channel_lists", "merged_lists", "in_budget"]

Keys = NDArray[np.int64]
Column = NDArray[np.float64]
Kind = Literal["channel", "merged", "page"]


@dataclass(frozen=True)
class Listed:
    """One way of making lists and what they are worth. `columns` name -> value per request [R] (`recall@10`,
    ...).
    """

    name: str
    kind: Kind
    lists: Keys
    columns: Mapping[str, Column]
    coverage: Mapping[int, float]
    gini: Mapping[int, float]
    novelty: Mapping[int, float]

    def estimate(self, metric: str, seed: int) -> Estimate:
        """Mean over requests with labels, with a bootstrap interval."""
        return mean(self.columns[metric], np.random.default_rng(seed))


@dataclass(frozen=True)
class Measured:
    """A funnel's figures on one set of requests.

    `overlap` [C, C]: share of the row channel's items the column channel brought too; `alone` [C]: share no other
    brought; `left_out[c]`: recall of the merge without channel c.
    """

    listed: tuple[Listed, ...]
    ks: tuple[int, ...]
    page: int
    overlap: NDArray[np.float64]
    alone: tuple[float, ...]
    left_out: Mapping[str, Column]
    fates: Mapping[str, int]
    took_ms: Mapping[str, float]
    requests: int
    labelled: int

    def of(self, name: str) -> Listed:
        return next(x for x in self.listed if x.name == name)

    @property
    def channels(self) -> tuple[Listed, ...]:
        return tuple(x for x in self.listed if x.kind == "channel")

    @property
    def deepest(self) -> int:
        """The largest cut that every channel and the merge reach: nothing is asked of a channel beyond its quota."""
        return _deepest(self.listed)

    def best_channel(self, metric: str) -> Listed:
        return max(self.channels, key=lambda x: float(np.nanmean(x.columns[metric])))

    def compare(self, a: str, b: str, metric: str, seed: int) -> tuple[Estimate, Estimate]:
        """Paired difference a - b and ratio a / b of the means, with intervals."""
        x, y = self.of(a).columns[metric], self.of(b).columns[metric]
        return difference(x, y, np.random.default_rng(seed)), ratio(x, y, np.random.default_rng(seed))


def channel_lists(candidates: Candidates, channel: int, k: int) -> Keys:
    """What one channel alone would show: its k best eligible items [R, k], -1 behind the end."""
    rank = candidates.rank[:, channel]
    rows = np.flatnonzero((rank > 0) & (rank <= k) & eligible(candidates))
    out = np.full((len(candidates.offsets) - 1, k), -1, dtype=np.int64)
    out[candidates.owners[rows], rank[rows] - 1] = candidates.items[rows]
    return out


def merged_lists(candidates: Candidates, scores: NDArray[np.floating], among: NDArray[np.bool_], k: int) -> Keys:
    """The k best by score [R, k] among the masked candidates, -1 behind the end."""
    order = candidates.best_first(scores, among)
    owner = candidates.owners[order]
    counts = np.bincount(owner, minlength=len(candidates.offsets) - 1)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    out = np.full((len(counts), k), -1, dtype=np.int64)
    short = place < k
    out[owner[short], place[short]] = candidates.items[order[short]]
    return out


def eligible(candidates: Candidates) -> NDArray[np.bool_]:
    """Candidates no filter dropped."""
    cuts = (OVER_BUDGET, NOT_SELECTED)
    kept = [reason in cuts or reason.startswith(BELOW) for reason in candidates.reasons]
    codes = [0, *(n for n, known in enumerate(kept, start=1) if known)]
    return np.isin(candidates.fate, codes)


def in_budget(candidates: Candidates) -> Candidates:
    """The candidates a first scorer would see: alive again is what only later stages or the page left out."""
    gone = ~eligible(candidates) | (candidates.fate == _code(candidates, OVER_BUDGET))
    return replace(candidates, fate=gone.astype(np.int16), reasons=("gone",))


def measure(
    funnel: Funnel,
    requests: Requests,
    label_offsets: Keys,
    labels: Keys,
    items: Keys,
    popularity: Keys,
    users: int,
    ks: Sequence[int] = (10, 50, 200),
    step: Callable[[int, int], None] | None = None,
) -> Measured:
    """Run the funnel on all requests, in blocks, and compare every list with the labels (CSR over requests).

    The length of a page is a cut too. `items` [I] is the catalogue, `popularity` [I] how often each was met in
    training by how many of `users`.
    """
    page = requests.n
    ks = sorted({page, *ks})
    longest = max(ks)
    names = [c.name for c in funnel.channels]
    blocks: dict[str, list[Keys]] = {name: [] for name in (*names, "merged", "page", *(f"without {n}" for n in names))}
    counts: dict[str, int] = {}
    took: dict[str, float] = {}
    shared, single = np.zeros((len(names), len(names))), np.zeros(len(names))
    for start in range(0, len(requests), funnel.block):
        stop = min(start + funnel.block, len(requests))
        slates = funnel.run(requests.take(start, stop))
        for name, lists in _lists(funnel, slates, longest).items():
            blocks[name].append(lists)
        for fate, n in fates(slates).items():
            counts[fate] = counts.get(fate, 0) + n
        for stage, ms in slates.took_ms.items():
            took[stage] = took.get(stage, 0.0) + ms
        brought = ((slates.candidates.rank[:, :-1] > 0) & eligible(slates.candidates)[:, None]).astype(np.float64)
        shared += brought.T @ brought
        single += (brought * (brought.sum(axis=1) == 1)[:, None]).sum(axis=0)
        if step:
            step(stop, len(requests))
    joined = {name: np.concatenate(lists) for name, lists in blocks.items()}
    quotas = {c.name: c.quota for c in funnel.channels}
    depths = {**quotas, "merged": max(funnel.budget, page), "page": page}
    listed = []
    for name in (*names, "merged", "page"):
        cuts = [k for k in ks if k <= max(depths[name], page)]
        lists = joined[name][:, : max(cuts)]
        kind: Kind = "channel" if name in names else "page" if name == "page" else "merged"
        seen = {k: exposure(lists[:, :k], items) for k in cuts}
        listed.append(
            Listed(
                name,
                kind,
                lists,
                accuracy(lists, label_offsets, labels, cuts),
                {k: coverage(e) for k, e in seen.items()},
                {k: gini(e) for k, e in seen.items()},
                {k: _known_mean(self_information(lists[:, :k], items, popularity, users)) for k in cuts},
            )
        )
    deepest = _deepest(listed)
    left_out = {
        name: accuracy(joined[f"without {name}"], label_offsets, labels, [deepest], ["recall"])[f"recall@{deepest}"]
        for name in names
    }
    size = np.maximum(np.diag(shared), 1.0)
    labelled = int((np.diff(label_offsets) > 0).sum())
    overlap = shared / size[:, None]
    alone = tuple(float(x) for x in single / size)
    return Measured(tuple(listed), tuple(ks), page, overlap, alone, left_out, counts, took, len(requests), labelled)


def _known_mean(values: NDArray[np.float64]) -> float:
    """Without NaN; of a channel that brought nothing, NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _deepest(listed: Sequence[Listed]) -> int:
    """The largest cut that every channel and the merge reach: what they are compared at."""
    reached = [set(x.coverage) for x in listed if x.kind != "page"]
    return max(set.intersection(*reached))


def _lists(funnel: Funnel, slates: Slates, k: int) -> dict[str, Keys]:
    """Lists [R, k] of every channel, the merge, the page, and the merge without each channel."""
    candidates = slates.candidates
    among = eligible(candidates)
    budgeted = among & (candidates.fate != _code(candidates, OVER_BUDGET))
    out = {c.name: channel_lists(candidates, n, k) for n, c in enumerate(funnel.channels)}
    out["merged"] = merged_lists(candidates, candidates.scores["merge"], budgeted, k)
    out["page"] = slates.matrix(k)
    quotas = np.array([c.quota for c in funnel.channels], dtype=np.float64)
    for n, channel in enumerate(funnel.channels):
        rank = candidates.rank.copy()
        rank[:, n] = 0
        fate = np.where(among & (rank[:, :-1] > 0).any(axis=1), 0, 1).astype(np.int16)
        rest = replace(candidates, rank=rank, fate=fate, reasons=("gone",))
        score = np.asarray(funnel.merger.score(slates.requests, rest, quotas))
        rest = cut(rest, score, funnel.budget, OVER_BUDGET)
        out[f"without {channel.name}"] = merged_lists(rest, score, rest.alive, k)
    return out


def _code(candidates: Candidates, reason: str) -> int:
    return candidates.reasons.index(reason) + 1 if reason in candidates.reasons else -1
