"""The funnel: requests in, slates out, the same offline and online. R requests, N candidates, C channels.

Engine order is fixed, parts are not: sources -> merge (provenance of every channel) -> filters (only they drop, each
with its reason) -> budget -> boosts -> selector -> backfill. Every candidate ends in exactly one of selected,
filtered (a filter's name) or not selected (`over_budget`, `not_selected`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Mask, Requests, Slates, stack

__all__ = [
    "Funnel",
    "Channel",
    "Source",
    "Filter",
    "Merger",
    "Booster",
    "Selector",
    "Recalled",
    "Keep",
    "BACKFILL",
]

BACKFILL = "backfill"
OVER_BUDGET, NOT_SELECTED = "over_budget", "not_selected"

Keys = NDArray[np.int64]
Scores = NDArray[np.float32]
Keep = Callable[[Keys, Keys], Mask]
Recalled = tuple[Keys, Keys, Scores]


class Source(Protocol):
    """A query builder over a form. Returns owners, items and scores [N], by request, best first, ties by smaller key.

    `keep(owners, items)` says which items count against `n`. Ineligible ones above the cut are returned as well, so
    that filters can drop them with their reason.
    """

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled: ...


class Filter(Protocol):
    """Says which (request, item) pairs [N] may be shown. A pure function of its arguments."""

    def keep(self, requests: Requests, owners: Keys, items: Keys) -> Mask: ...


class Merger(Protocol):
    """One comparable score [N] from ranks and scores of many channels. Higher is better."""

    def score(self, requests: Requests, candidates: Candidates, quotas: NDArray[np.float64]) -> NDArray[Any]: ...


class Booster(Protocol):
    """Changes scores [N] of living candidates; never drops or reorders by itself."""

    def boost(self, requests: Requests, candidates: Candidates, scores: Scores) -> Scores: ...


class Selector(Protocol):
    """Chooses and orders: indexes into candidates [S] with offsets [R+1], at most `requests.n` each.

    `relaxed` names the rules that could not be kept, with the requests concerned: bool [R].
    """

    def select(
        self, requests: Requests, candidates: Candidates, scores: Scores
    ) -> tuple[Keys, Keys, Mapping[str, Mask]]: ...


@dataclass(frozen=True)
class Channel:
    """A named source and how many eligible items it may bring per request."""

    name: str
    source: Source
    quota: int


@dataclass(frozen=True)
class Funnel:
    """One scene. `fallback` fills slates that end short and answers when everything else failed."""

    channels: tuple[Channel, ...]
    merger: Merger
    filters: Mapping[str, Filter]
    selector: Selector
    budget: int = 1000
    boosters: tuple[Booster, ...] = ()
    fallback: Source | None = None
    block: int = 512
    pool: ThreadPoolExecutor | None = field(default=None, compare=False)

    def run(self, requests: Requests, *, strict: bool = True, deadline: float | None = None) -> Slates:
        """Slates of all requests, in blocks of bounded memory.

        `strict` lets a failing part raise (offline); otherwise it is left out and named in `degraded` (online).
        `deadline` is a `time.monotonic()` instant: channels not back by then are left out.
        """
        if len(requests) <= self.block:
            return self._run(requests, strict, deadline)
        return join([
            self._run(requests.take(at, min(at + self.block, len(requests))), strict, deadline)
            for at in range(0, len(requests), self.block)
        ], requests)  # fmt: skip

    def _run(self, requests: Requests, strict: bool, deadline: float | None) -> Slates:
        took: dict[str, float] = {}
        degraded: dict[str, Mask] = {}
        everyone = np.ones(len(requests), dtype=bool)
        if bool((requests.users < 0).any()):
            degraded["unknown_user"] = requests.users < 0

        def keep(owners: Keys, items: Keys) -> Mask:
            mask = np.ones(len(items), dtype=bool)
            for part in self.filters.values():
                mask &= part.keep(requests, owners, items)
            return mask

        names = (*(c.name for c in self.channels), BACKFILL)
        recalled = self._recall(requests, keep, strict, deadline, degraded, took)
        started = time.perf_counter()
        candidates = merge(len(requests), names, [*recalled, _NONE], keep)
        eligible = keep(candidates.owners, candidates.items)
        short = np.bincount(candidates.owners[eligible], minlength=len(requests)) < requests.n
        if bool(short.any()):
            extra = self._backfill(requests, keep, short, strict)
            candidates = merge(len(requests), names, [*recalled, extra], keep)
        took["merge"] = _ms(started)

        started = time.perf_counter()
        for name, part in self.filters.items():
            candidates = candidates.drop(~part.keep(requests, candidates.owners, candidates.items), name)
        filled = candidates.alive & (candidates.rank[:, -1] > 0) & (candidates.rank[:, :-1] == 0).all(axis=1)
        if bool(filled.any()):
            degraded[BACKFILL] = np.bincount(candidates.owners[filled], minlength=len(requests)) > 0
        took["filter"] = _ms(started)

        started = time.perf_counter()
        quotas = np.array([c.quota for c in self.channels], dtype=np.float64)
        merged = np.asarray(self.merger.score(requests, candidates, quotas), dtype=np.float64)
        candidates = candidates.scored("merge", behind(merged, filled, candidates.rank[:, -1]))
        candidates = cut(candidates, candidates.scores["merge"], self.budget, OVER_BUDGET)
        took["budget"] = _ms(started)

        scores = candidates.scores["merge"]
        started = time.perf_counter()
        for booster in self.boosters:
            scores = booster.boost(requests, candidates, scores)
        if self.boosters:
            candidates = candidates.scored("boost", scores)
            took["boost"] = _ms(started)

        started = time.perf_counter()
        try:
            offsets, picks, relaxed = self.selector.select(requests, candidates, scores)
        except Exception:
            if strict:
                raise
            degraded["selector"] = everyone
            offsets, picks = top(candidates, scores, requests.n)
            relaxed = {}
        degraded.update({f"relaxed:{name}": hit for name, hit in relaxed.items() if bool(hit.any())})
        shown = np.zeros(len(candidates), dtype=bool)
        shown[picks] = True
        candidates = candidates.drop(~shown, NOT_SELECTED)
        took["select"] = _ms(started)
        return Slates(offsets, picks, scores[picks], requests, candidates, degraded, took)

    def _recall(
        self,
        requests: Requests,
        keep: Keep,
        strict: bool,
        deadline: float | None,
        degraded: dict[str, Mask],
        took: dict[str, float],
    ) -> list[Recalled]:
        def one(channel: Channel) -> Recalled:
            started = time.perf_counter()
            rows = sound(channel.source.recall(requests, channel.quota, keep), len(requests))
            took[f"recall:{channel.name}"] = _ms(started)
            return rows

        everyone = np.ones(len(requests), dtype=bool)
        if self.pool is None or deadline is None:
            calls: list[Callable[[], Recalled] | Future[Recalled]] = [lambda c=c: one(c) for c in self.channels]  # type: ignore[misc]
        else:
            futures = [self.pool.submit(one, c) for c in self.channels]
            wait(futures, timeout=max(0.0, deadline - time.monotonic()))
            calls = list(futures)
        out = []
        for channel, call in zip(self.channels, calls, strict=True):
            if isinstance(call, Future) and not call.done():
                call.cancel()
                degraded[f"late:{channel.name}"] = everyone
                out.append(_NONE)
                continue
            try:
                out.append(call.result() if isinstance(call, Future) else call())
            except Exception:
                if strict:
                    raise
                degraded[f"failed:{channel.name}"] = everyone
                out.append(_NONE)
        return out

    def _backfill(self, requests: Requests, keep: Keep, short: Mask, strict: bool) -> Recalled:
        """Rows of the fallback for the requests that came up short. Online, a failing fallback leaves them short."""
        if self.fallback is None:
            return _NONE
        try:
            owners, items, score = sound(self.fallback.recall(requests, requests.n, keep), len(requests))
        except Exception:
            if strict:
                raise
            return _NONE
        mine = short[owners]
        return owners[mine], items[mine], score[mine]


_NONE: Recalled = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))


def sound(rows: Recalled, requests: int) -> Recalled:
    """What a source returned, without rows of no item (-1) or no request. Raises ValueError for columns that differ."""
    owners, items = np.asarray(rows[0]), np.asarray(rows[1])
    scores: Scores = np.asarray(rows[2])
    if not (owners.shape == items.shape == scores.shape and owners.ndim == 1):
        raise ValueError(f"a source returned columns of shapes {owners.shape}, {items.shape}, {scores.shape}")
    owners, items = owners.astype(np.int64, copy=False), items.astype(np.int64, copy=False)
    good: Mask = (items >= 0) & (owners >= 0) & (owners < requests)
    if not bool(good.all()):
        owners, items, scores = owners[good], items[good], scores[good]
    return (
        owners.astype(np.int64, copy=False),
        items.astype(np.int64, copy=False),
        scores.astype(np.float32, copy=False),
    )


def merge(requests: int, channels: tuple[str, ...], recalled: Sequence[Recalled], keep: Keep | None) -> Candidates:
    """The union of what channels brought, each item once per request, with rank and score in every channel.

    A rank counts the eligible items above it in that channel's list; the first has rank 1.
    """
    owners = np.concatenate([r[0] for r in recalled]) if recalled else np.zeros(0, dtype=np.int64)
    if not len(owners):
        return Candidates.empty(requests, channels)
    items = np.concatenate([r[1] for r in recalled])
    scores = np.concatenate([r[2] for r in recalled])
    channel = np.repeat(np.arange(len(recalled)), [len(r[0]) for r in recalled])
    width = int(items.max()) + 1
    pair, row = np.unique(owners * width + items, return_inverse=True)
    owner, item = pair // width, pair % width
    eligible = np.ones(len(pair), dtype=bool) if keep is None else keep(owner, item)
    rank = np.zeros((len(pair), len(channels)), dtype=np.int32)
    score = np.full((len(pair), len(channels)), np.nan, dtype=np.float32)
    place = _place(channel * requests + owners, eligible[row])
    rank[row, channel] = place
    score[row, channel] = scores
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=requests))]).astype(np.int64)
    return Candidates(offsets, item, channels, rank, score, {}, np.zeros(len(pair), dtype=np.int16))


def _place(group: Keys, counts: Mask) -> NDArray[np.int32]:
    """1 + counted rows above, inside runs of equal `group`."""
    before: Keys = np.cumsum(counts) - counts
    start = np.concatenate([[True], group[1:] != group[:-1]])
    base = np.maximum.accumulate(np.where(start, before, 0))
    return (before - base + 1).astype(np.int32)


def behind(scores: NDArray[np.float64], filled: Mask, rank: NDArray[np.int32]) -> NDArray[np.float64]:
    """Scores [N] with backfilled rows behind all others, in the fallback's order."""
    if not bool(filled.any()):
        return scores
    rest = scores[~filled & np.isfinite(scores)]
    low, high = (float(rest.min()), float(rest.max())) if len(rest) else (0.0, 0.0)
    step = max(high - low, 1e-3) * 1e-3
    return np.where(filled, low - step * rank, scores)


def cut(candidates: Candidates, values: NDArray[Any], n: int, reason: str) -> Candidates:
    """Keep the n best living candidates of each request, the rest end for `reason`."""
    if int(np.diff(candidates.offsets).max(initial=0)) <= n:
        return candidates
    order = candidates.best_first(values, candidates.alive)
    counts = np.bincount(candidates.owners[order], minlength=len(candidates.offsets) - 1)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    out = np.zeros(len(candidates), dtype=bool)
    out[order[place >= n]] = True
    return candidates.drop(out, reason)


def top(candidates: Candidates, scores: NDArray[Any], n: int) -> tuple[Keys, Keys]:
    """The n best living candidates of each request, in order: offsets [R+1] and indexes [S]."""
    order = candidates.best_first(scores, candidates.alive)
    counts = np.bincount(candidates.owners[order], minlength=len(candidates.offsets) - 1)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    picks = order[place < n]
    return np.concatenate([[0], np.cumsum(np.minimum(counts, n))]).astype(np.int64), picks


def join(blocks: Sequence[Slates], requests: Requests) -> Slates:
    """Slates of blocks of requests, as one."""
    sizes = np.cumsum([0] + [len(b.candidates) for b in blocks])
    reasons = tuple(dict.fromkeys(r for b in blocks for r in b.candidates.reasons))
    names = tuple(blocks[0].candidates.scores)
    notes = tuple(dict.fromkeys(n for b in blocks for n in b.degraded))
    fates = []
    for b in blocks:
        code = np.array([0, *(reasons.index(r) + 1 for r in b.candidates.reasons)], dtype=np.int16)
        fates.append(code[b.candidates.fate])
    candidates = Candidates(
        stack([b.candidates.offsets for b in blocks]),
        np.concatenate([b.candidates.items for b in blocks]),
        blocks[0].candidates.channels,
        np.concatenate([b.candidates.rank for b in blocks]),
        np.concatenate([b.candidates.score for b in blocks]),
        {n: np.concatenate([b.candidates.scores[n] for b in blocks]) for n in names},
        np.concatenate(fates),
        reasons,
    )  # fmt: skip
    took: dict[str, float] = {}
    for b in blocks:
        for stage, ms in b.took_ms.items():
            took[stage] = took.get(stage, 0.0) + ms
    return Slates(
        stack([b.offsets for b in blocks]),
        np.concatenate([b.picks + at for b, at in zip(blocks, sizes, strict=False)]),
        np.concatenate([b.scores for b in blocks]),
        requests,
        candidates,
        {n: np.concatenate([b.degraded.get(n, np.zeros(len(b.requests), bool)) for b in blocks]) for n in notes},
        took,
    )


def _ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000.0
