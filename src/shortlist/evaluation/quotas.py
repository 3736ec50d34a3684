"""Which quotas the recall channels of a scene should have: the same number of candidates, more of what is looked for.

Channels are asked once, as deep as a quota could be; what any quotas would have found is read off the ranks. R
requests, M labels, N candidates, C channels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Requests
from shortlist.errors import ConfigError
from shortlist.evaluation.funnel import eligible
from shortlist.funnel.mergers.rrf import Rrf
from shortlist.funnel.pipeline import Funnel

__all__ = ["Found", "Reached", "chosen", "equal", "found", "reached"]

Ints = NDArray[np.int64]
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Found:
    """Where channels ranked what was looked for: `ranks` int32 [M, C], 0 where a channel did not bring the label, and
    `weights` float64 [M], one over the labels of its request."""

    ranks: NDArray[np.int32]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Reached:
    """What some way of spending the budget found: recall [R], NaN where nothing was looked for, and how many distinct
    candidates a request had of it in the mean."""

    recall: NDArray[np.float64]
    candidates: float


def equal(channels: int, budget: int) -> Ints:
    """The same for every channel; what is left over goes to the first."""
    if budget < channels:
        what, hint = f"a budget of {budget} for {channels} channels", "give at least one candidate to each"
        raise ConfigError(what, where="budget", hint=hint)
    return budget // channels + (np.arange(channels) < budget % channels).astype(np.int64)


def found(
    funnel: Funnel, requests: Requests, offsets: Ints, labels: Ints, depth: int, progress: Step | None = None
) -> Found:
    """Ask every channel of the funnel for `depth` eligible items and look where the labels (CSR over requests) are."""
    ranks, weights = [], []
    for start, candidates in _asked(funnel, requests, depth, progress):
        stop = start + len(candidates.offsets) - 1
        at, owner = _labelled(candidates, offsets[start : stop + 1], labels)
        hit = np.where((at >= 0)[:, None], candidates.rank[at, :-1], 0)
        ranks.append(hit.astype(np.int32))
        weights.append(1.0 / np.diff(offsets)[start:stop][owner])
    return Found(np.concatenate(ranks), np.concatenate(weights))


def chosen(seen: Found, budget: int, step: int) -> Ints:
    """Quotas [C] that sum to the budget: greedily, the channel and the number of steps that find most per candidate.

    A quota is a prefix of a channel's list, and what lies deeper may be worth more than what comes next: therefore
    every number of steps is looked at, not one. What finds nothing more is spread evenly. Ties go to the shorter piece,
    then to the channel named first.
    """
    channels = seen.ranks.shape[1]
    quotas = np.zeros(channels, dtype=np.int64)
    open_, left = np.ones(len(seen.ranks), dtype=bool), budget
    while left > 0:
        best = (0.0, 0, 0)
        for c in range(channels):
            mine = seen.ranks[:, c]
            deeper = open_ & (mine > quotas[c]) & (mine <= quotas[c] + left)
            piece = (mine[deeper] - quotas[c] - 1) // step
            gain = np.cumsum(np.bincount(piece, seen.weights[deeper], minlength=1))
            size = np.minimum((np.arange(len(gain)) + 1) * step, left)
            at = int(np.argmax(gain / size))
            if gain[at] / size[at] > best[0] * (1 + 1e-12):
                best = (float(gain[at] / size[at]), c, int(size[at]))
        if not best[2]:
            break
        quotas[best[1]] += best[2]
        left -= best[2]
        open_ &= ~((seen.ranks[:, best[1]] > 0) & (seen.ranks[:, best[1]] <= quotas[best[1]]))
    return quotas + (equal(channels, left) if left >= channels else left * (np.arange(channels) == 0))


def reached(
    funnel: Funnel,
    requests: Requests,
    offsets: Ints,
    labels: Ints,
    quotas: Mapping[str, Ints],
    progress: Step | None = None,
) -> dict[str, Reached]:
    """What each of the quotas [C] finds, by name; and `rrf`: all channels asked for the whole budget, merged by
    reciprocal rank and cut where each request has as many distinct candidates as the last of the quotas gives it."""
    depth = max(int(q.sum()) for q in quotas.values())
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
