"""Which quotas the recall channels of a scene should have: the same number of distinct candidates, more of what is
looked for. (What two channels bring costs once: the stages behind see it once.)

Channels are asked once, as deep as a quota could be; what any quotas would have found is read off the ranks, in which
candidates of many requests that no quota tells apart are one row. R requests, M labels, N rows, C channels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Requests
from shortlist.errors import ConfigError
from shortlist.evaluation.funnel import eligible
from shortlist.evaluation.stages import sample
from shortlist.funnel.mergers.rrf import Rrf
from shortlist.funnel.pipeline import Funnel

__all__ = ["Found", "Reached", "chosen", "equal", "found", "reached"]

Ints = NDArray[np.int64]
Ranks = NDArray[np.int16] | NDArray[np.int32]
Step = Callable[[int, int], None]
SEEN = 4_000_000  # rows that are held to choose quotas on


@dataclass(frozen=True)
class Found:
    """The eligible candidates of some requests, those together that were brought at the same ranks: `ranks` int16
    [N, C] (int32 of deeper lists) counts pieces of `step`, from 1, and is 0 where a channel did not bring them;
    `counts` [N] is how many they are, and `weights` float64 [N] their sum of one over the labels of its request for
    each that was looked for.

    `first` [D + 1] counts the candidates by their best rank in any channel. `requests` is how many there were.
    """

    ranks: Ranks
    counts: Ints
    weights: NDArray[np.float64]
    first: Ints
    requests: int
    step: int

    @classmethod
    def of(cls, ranks: Ranks, weights: NDArray[np.float64], requests: int, step: int = 1) -> "Found":
        """Of candidates one by one, at their own ranks."""
        best = np.where(ranks > 0, ranks, np.iinfo(ranks.dtype).max).min(axis=1)
        wide = -(-ranks.astype(np.int64) // step)
        pieces: Ranks = wide.astype(np.int16) if ranks.dtype == np.int16 else wide.astype(np.int32)
        counts = np.ones(len(ranks), dtype=np.int64)
        return _together(pieces, counts, weights, np.bincount(best, minlength=1).astype(np.int64), requests, step)

    def joined(self, other: "Found") -> "Found":
        """Those of both, of different requests and the same channels and step."""
        first = np.zeros(max(len(self.first), len(other.first)), dtype=np.int64)
        first[: len(self.first)] += self.first
        first[: len(other.first)] += other.first
        ranks: Ranks = np.concatenate([self.ranks, other.ranks])
        counts = np.concatenate([self.counts, other.counts])
        weights = np.concatenate([self.weights, other.weights])
        return _together(ranks, counts, weights, first, self.requests + other.requests, self.step)


def _together(ranks: Ranks, counts: Ints, weights: NDArray[np.float64], first: Ints, requests: int, step: int) -> Found:
    """Rows of the same ranks as one."""
    order = np.lexsort(ranks.T[::-1])
    ranks, counts, weights = ranks[order], counts[order], weights[order]
    new = np.ones(len(ranks), dtype=bool)
    new[1:] = (ranks[1:] != ranks[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    if len(starts) < len(ranks):
        ranks, counts, weights = ranks[starts], np.add.reduceat(counts, starts), np.add.reduceat(weights, starts)
    return Found(ranks, counts, weights, first, requests, step)


@dataclass(frozen=True)
class Reached:
    """What some way of spending the budget found: recall [R], NaN where nothing was looked for, and how many distinct
    candidates a request had of it in the mean."""

    recall: NDArray[np.float64]
    candidates: float


def found(
    funnel: Funnel,
    requests: Requests,
    offsets: Ints,
    labels: Ints,
    depth: int,
    step: int = 1,
    progress: Step | None = None,
) -> Found:
    """Ask every channel of the funnel for `depth` eligible items, for quotas that are multiples of `step`.

    Requests are asked in rounds, each evenly spread over all of them, until the next round might take what is held
    beyond `SEEN` rows.
    """
    most = max(SEEN // 4, 1)
    rounds = max(1, min(len(requests), -(-len(requests) * depth * len(funnel.channels) // most)))
    held: Found | None = None
    for n in range(rounds):
        if held is not None and len(held.counts) + most > SEEN:
            break
        done = 0 if held is None else held.requests
        some = sample(requests, offsets, labels, np.arange(n, len(requests), rounds))
        told = None if progress is None else _after(progress, done, len(requests))
        fresh = _round(funnel, *some, depth, step, told)
        held = fresh if held is None else held.joined(fresh)
    assert held is not None
    return held


def _after(progress: Step, done: int, total: int) -> Step:
    return lambda more, _: progress(done + more, total)


def _round(
    funnel: Funnel, requests: Requests, offsets: Ints, labels: Ints, depth: int, step: int, progress: Step | None
) -> Found:
    kind = np.int16 if depth <= np.iinfo(np.int16).max else np.int32
    ranks, weights = [], []
    for start, candidates in _asked(funnel, requests, depth, progress):
        stop = start + len(candidates.offsets) - 1
        at, owner = _labelled(candidates, offsets[start : stop + 1], labels)
        weight = np.zeros(len(candidates))
        weight[at[at >= 0]] = 1.0 / np.diff(offsets)[start:stop][owner[at >= 0]]
        ranks.append(candidates.rank[:, :-1].astype(kind))
        weights.append(weight)
    return Found.of(np.concatenate(ranks), np.concatenate(weights), len(requests), step)


def equal(seen: Found, budget: int) -> Ints:
    """The largest quota that all channels may have for at most `budget` distinct candidates a request in the mean.

    Raises ConfigError where that is none.
    """
    cost = np.cumsum(seen.first) / max(seen.requests, 1)
    quota = int(np.searchsorted(cost, budget, side="right")) - 1
    channels = seen.ranks.shape[1]
    if quota < 1:
        what, hint = f"a budget of {budget} for {channels} channels", "give room for an item of each"
        raise ConfigError(what, where="budget", hint=hint)
    return np.full(channels, quota, dtype=np.int64)


def chosen(seen: Found, budget: int) -> Ints:
    """Quotas [C], multiples of `seen.step`, for at most `budget` distinct candidates a request in the mean: greedily,
    the channel and the number of steps that find most for each candidate nobody had brought.

    A quota is a prefix of a channel's list, and what lies deeper may be worth more than what comes next: therefore
    every number of steps is looked at, not one. Once nothing more is found, what is left of the budget goes to the
    channels in turn, a step each. Ties go to the shorter piece, then to the channel named first.
    """
    channels = seen.ranks.shape[1]
    quotas = np.zeros(channels, dtype=np.int64)
    rest, left = seen, budget * seen.requests
    while True:
        best = (0.0, 0, 0)
        for c in range(channels):
            deeper = rest.ranks[:, c] > quotas[c]
            piece = rest.ranks[deeper, c] - quotas[c] - 1
            cost = np.cumsum(np.bincount(piece, rest.counts[deeper], minlength=1))
            gain = np.cumsum(np.bincount(piece, rest.weights[deeper], minlength=1))
            worth = np.where((cost > 0) & (cost <= left), gain / np.maximum(cost, 1), 0.0)
            at = int(np.argmax(worth))
            if worth[at] > best[0] * (1 + 1e-12):
                best = (float(worth[at]), c, at + 1)
        if not best[2]:
            break
        quotas[best[1]] += best[2]
        rest, left = _without(rest, best[1], int(quotas[best[1]]), left)
    spent = np.zeros(channels, dtype=bool)
    while not spent.all():
        for c in range(channels):
            there = rest.ranks[:, c] > 0
            spent[c] = int(rest.counts[there & (rest.ranks[:, c] <= quotas[c] + 1)].sum()) > left or not there.any()
            if not spent[c]:
                quotas[c] += 1
                rest, left = _without(rest, c, int(quotas[c]), left)
    return quotas * seen.step


def _without(seen: Found, channel: int, quota: int, left: int) -> tuple[Found, int]:
    """What a channel's quota, in steps, leaves to be brought, and of the budget."""
    taken = (seen.ranks[:, channel] > 0) & (seen.ranks[:, channel] <= quota)
    rest = replace(seen, ranks=seen.ranks[~taken], counts=seen.counts[~taken], weights=seen.weights[~taken])
    return rest, left - int(seen.counts[taken].sum())


def reached(
    funnel: Funnel,
    requests: Requests,
    offsets: Ints,
    labels: Ints,
    quotas: Mapping[str, Ints],
    progress: Step | None = None,
) -> dict[str, Reached]:
    """What each of the quotas [C] finds, by name; and `rrf`: all channels asked as deep as any quota goes, merged by
    reciprocal rank and cut where a request has as many distinct candidates as the last of the quotas gives it."""
    depth = max(int(q.max()) for q in quotas.values())
    recall: dict[str, list[NDArray[np.float64]]] = {name: [] for name in (*quotas, "rrf")}
    sizes: dict[str, list[Ints]] = {name: [] for name in recall}
    merger = Rrf(Rrf.Config(), tuple(c.name for c in funnel.channels))
    for start, candidates in _asked(funnel, requests, depth, progress):
        R = len(candidates.offsets) - 1
        at, owner = _labelled(candidates, offsets[start : start + R + 1], labels)
        ranks = candidates.rank[:, :-1]
        any_of = (ranks > 0).any(axis=1)
        within: dict[str, NDArray[np.bool_]] = {}
        for name, q in quotas.items():
            within[name] = np.asarray(((ranks > 0) & (ranks <= q)).any(axis=1))
        count = {name: np.bincount(candidates.owners[mask], minlength=R) for name, mask in within.items()}
        last = count[list(quotas)[-1]]
        score = np.asarray(merger.score(requests, candidates, next(iter(quotas.values())).astype(np.float64)))
        order = candidates.best_first(score, np.asarray(any_of))
        place = np.zeros(len(candidates), dtype=np.int64)
        all_of = np.bincount(candidates.owners[order], minlength=R)
        place[order] = np.arange(len(order)) - np.repeat(np.cumsum(all_of) - all_of, all_of)
        brought = np.zeros(len(candidates), dtype=bool)
        brought[order] = True
        within["rrf"] = brought & (place < last[candidates.owners])
        count["rrf"] = np.minimum(last, all_of)
        wanted = np.diff(offsets)[start : start + R].astype(np.float64)
        for name, mask in within.items():
            hits = np.bincount(owner[(at >= 0) & mask[at]], minlength=R)
            recall[name].append(np.divide(hits, wanted, out=np.full(R, np.nan), where=wanted > 0))
            sizes[name].append(count[name])
    return {n: Reached(np.concatenate(parts), float(np.concatenate(sizes[n]).mean())) for n, parts in recall.items()}


def _asked(funnel: Funnel, requests: Requests, depth: int, progress: Step | None) -> Iterator[tuple[int, Candidates]]:
    """The eligible candidates of a block of requests, with its first request."""
    channels = tuple(replace(channel, quota=depth) for channel in funnel.channels)
    deep = replace(
        funnel, channels=channels, stages=(), boosters=(), fallback=None, budget=depth * max(len(channels), 1)
    )
    start = 0
    for slates in deep.runs(requests):
        candidates = slates.candidates
        yield start, candidates.only(np.flatnonzero(eligible(candidates)))
        start += len(candidates.offsets) - 1
        if progress:
            progress(start, len(requests))


def _labelled(candidates: Candidates, offsets: Ints, labels: Ints) -> tuple[Ints, Ints]:
    """Of each label of these requests the row among the candidates, -1 for none, and the request."""
    mine = labels[offsets[0] : offsets[-1]]
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if not len(candidates) or not len(mine):
        return np.full(len(mine), -1, dtype=np.int64), owner
    width = int(max(candidates.items.max(), mine.max())) + 1
    codes = candidates.owners * width + candidates.items
    order = np.argsort(codes)
    asked = owner * width + mine
    at = order[np.minimum(np.searchsorted(codes, asked, sorter=order), len(codes) - 1)]
    return np.where(codes[at] == asked, at, -1), owner
