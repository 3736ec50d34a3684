"""The funnel: requests in, slates out, the same offline and online. R requests, N candidates, C channels.

Engine order is fixed, parts are not: sources -> merge (provenance of every channel) -> filters (only they drop, each
with its reason) -> budget -> scoring stages (coarse, rank), each with a cut -> boosts -> selector -> backfill. Every
candidate ends in exactly one of selected, filtered (a filter's name) or not selected (`over_budget`, `below_<stage>`,
`not_selected`).

Online a part that fails is left out and named in `degraded`; offline it raises. Names there: `failed:<part>`,
`late:<channel>`, `unsound:<channel>` (rows against the contract, mended), `nan:<part>`, `relaxed:<rule>`, `backfill`,
`unknown_user`.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import ALIVE, BACKFILL, Candidates, Mask, Ragged, Requests, Slates, stack
from shortlist.errors import ConfigError
from shortlist.expressions import Expression
from shortlist.schema import Profiles

__all__ = [
    "Funnel",
    "Channel",
    "Source",
    "Queries",
    "Filter",
    "Merger",
    "Scorer",
    "Stage",
    "Booster",
    "Selector",
    "Recalled",
    "Keep",
    "BACKFILL",
]

OVER_BUDGET, NOT_SELECTED, BELOW = "over_budget", "not_selected", "below_"
ITEM = "item."  # before the name of a field, in fuse
LOG = logging.getLogger("shortlist.funnel")

Keys = NDArray[np.int64]
Scores = NDArray[np.float32]
Keep = Callable[[Keys, Keys], Mask]
Recalled = tuple[Keys, Keys, Scores]


class Source(Protocol):
    """A query builder over a form. Returns owners, items and scores [N], by request, best first, ties by smaller key;
    each item once a request, every score finite.

    `keep(owners, items)` says which items count against `n`. Ineligible ones above the cut are returned as well, so
    that filters can drop them with their reason. Rows below the cut are cut off by the funnel.

    A source whose options can be wrong in themselves, or for a schema, says so in a static method `check(config,
    schema)`, which raises ConfigError with the option in `where`: a project is then refused before it is trained.
    """

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled: ...


class Queries(Protocol):
    """What a source needs of a trained retriever: vectors of requests [R, D]."""

    def query(self, requests: Requests) -> NDArray[np.float32]: ...


class Filter(Protocol):
    """Says which (request, item) pairs [N] may be shown. A pure function of its arguments."""

    def keep(self, requests: Requests, owners: Keys, items: Keys) -> Mask: ...


class Merger(Protocol):
    """One comparable score [N] from ranks and scores of many channels: higher is better, not negative, so that a
    booster may multiply it. `quotas` [C] go with the first C columns of `candidates.rank`; rows that no channel
    brought may get anything."""

    def score(self, requests: Requests, candidates: Candidates, quotas: NDArray[np.float64]) -> NDArray[Any]: ...


class Scorer(Protocol):
    """Probabilities or values of tasks [N] for candidates. Sees only those it is given, and never drops or reorders."""

    def score(self, requests: Requests, candidates: Candidates) -> Mapping[str, Scores]: ...


class Booster(Protocol):
    """Changes scores [N] of living candidates; never drops or reorders by itself."""

    def boost(self, requests: Requests, candidates: Candidates, scores: Scores) -> Scores: ...


class Selector(Protocol):
    """Chooses and orders among the living: indexes into candidates [S] with offsets [R+1], at most `requests.n` each,
    and the rules that could not be kept, with the requests concerned: bool [R]. Goes on from `requests.prefix`.
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
class Stage:
    """Score the living, fuse the tasks into one score, keep the best `keep` (None: all); others end `below_<name>`.

    `fuse` reads the tasks, `merge` and, as `item.<field>`, dense fields of `items`.
    """

    name: str
    scorer: Scorer
    fuse: Expression
    keep: int | None = None
    items: Profiles | None = None

    def fused(
        self, tasks: Mapping[str, Scores], candidates: Candidates, *, strict: bool = False
    ) -> NDArray[np.float64]:
        """One score of each candidate [N], from its tasks and `merge`. If strict, raises ConfigError where finite
        numbers make none."""
        terms: dict[str, NDArray[Any]] = {"merge": candidates.scores["merge"], **tasks}
        for name in self.fuse.names:
            if name.startswith(ITEM) and self.items is not None:
                values = self.items.take(name.removeprefix(ITEM), candidates.items, np.nan)
                terms[name] = values.astype(np.float64)
        # float32 would make of a small power nothing
        terms = {name: column.astype(np.float64) for name, column in terms.items()}
        fused = np.asarray(self.fuse(terms, len(candidates), candidates.offsets), dtype=np.float64)
        if fused.shape != candidates.items.shape:
            raise ValueError(
                f"stage {self.name!r} returned scores of shape {fused.shape}, not {candidates.items.shape}"
            )
        if strict:
            _sound_fuse(self, terms, fused)
        return fused


@dataclass(frozen=True)
class Funnel:
    """One scene. `fallback` fills slates that end short and answers when everything else failed."""

    channels: tuple[Channel, ...]
    merger: Merger
    filters: Mapping[str, Filter]
    selector: Selector
    budget: int = 1000
    stages: tuple[Stage, ...] = ()
    boosters: tuple[Booster, ...] = ()
    fallback: Source | None = None
    block: int = 512
    pool: ThreadPoolExecutor | None = field(default=None, compare=False)

    def run(self, requests: Requests, *, strict: bool = True, deadline: float | None = None) -> Slates:
        """Slates of all requests. Memory grows with their candidates: `runs` gives one block at a time.

        `strict` lets a failing part raise (offline); otherwise it is left out and named in `degraded` (online).
        `deadline` is a `time.monotonic()` instant: channels not back by then are left out. Without a `pool` they are
        asked one after the other, and one under way is waited for. A filter that fails always raises: what must not be
        shown is not shown.
        """
        if len(requests) <= self.block:
            return self._run(requests, strict, deadline)
        return join(list(self.runs(requests, strict=strict, deadline=deadline)), requests)

    def runs(self, requests: Requests, *, strict: bool = True, deadline: float | None = None) -> Iterator[Slates]:
        """Slates of `block` requests at a time."""
        for at in range(0, len(requests), self.block):
            yield self._run(requests.take(at, min(at + self.block, len(requests))), strict, deadline)

    def verdict(self, requests: Requests, owners: Keys, items: Keys) -> NDArray[np.int16]:
        """For each pair [N] the first filter that refuses it: 1 + its position, 0 where all keep it."""
        code = np.zeros(len(items), dtype=np.int16)
        for n, part in reversed(list(enumerate(self.filters.values(), start=1))):
            code[~part.keep(requests, owners, items)] = n
        return code

    def keep(self, requests: Requests) -> Keep:
        """What sources are given: whether all filters keep a pair."""
        return lambda owners, items: self.verdict(requests, owners, items) == ALIVE

    def _run(self, requests: Requests, strict: bool, deadline: float | None) -> Slates:
        took: dict[str, float] = {}
        degraded: dict[str, Mask] = {}
        _note(degraded, "unknown_user", requests.users < 0)
        self.verdict(requests, *_NONE[:2])  # a filter that cannot be applied raises here, and not inside a channel
        recalled = self._recall(requests, strict, deadline, degraded, took)

        candidates = self._merge(requests, [*recalled, _NONE], took)
        short = np.bincount(candidates.owners[candidates.alive], minlength=len(requests)) < requests.n
        if self.fallback is not None and bool(short.any()):
            extra = self._backfill(self.fallback, requests, short, strict, degraded, took)
            candidates = candidates.append(self._merge(requests, [*(_NONE for _ in self.channels), extra], took))
        filled = candidates.rank[:, -1] > 0  # the fallback was asked for these, and no channel brought them

        started = time.perf_counter()
        quotas = np.array([c.quota for c in self.channels], dtype=np.float64)
        merged = np.asarray(self.merger.score(requests, candidates, quotas), dtype=np.float64)
        merged = _finite("merge", behind(merged, candidates, filled), candidates, strict, degraded)
        candidates = candidates.scored("merge", merged)
        candidates = cut(candidates, merged, max(self.budget, requests.n), OVER_BUDGET)
        took["budget"] = _ms(started)

        scores = candidates.scores["merge"]
        for stage in self.stages:
            started = time.perf_counter()
            candidates, scores = self._stage(stage, requests, candidates, scores, filled, strict, deadline, degraded)
            took[stage.name] = _ms(started)

        started = time.perf_counter()
        for booster in self.boosters:
            scores = self._boosted(booster, requests, candidates, scores, strict, degraded)
        if self.boosters:
            candidates = candidates.scored("boost", scores)
            took["boost"] = _ms(started)

        started = time.perf_counter()
        offsets, picks = self._select(requests, candidates, scores, filled, strict, degraded)
        _note(degraded, BACKFILL, np.bincount(candidates.owners[picks[filled[picks]]], minlength=len(requests)) > 0)
        shown = np.zeros(len(candidates), dtype=bool)
        shown[picks] = True
        candidates = candidates.drop(~shown, NOT_SELECTED)
        took["select"] = _ms(started)
        return Slates(offsets, picks, scores[picks], requests, candidates, degraded, took)

    def _recall(
        self,
        requests: Requests,
        strict: bool,
        deadline: float | None,
        degraded: dict[str, Mask],
        took: dict[str, float],
    ) -> list[Recalled]:
        """Rows of every channel, none for those that failed or were late."""

        def one(channel: Channel) -> tuple[Recalled, float]:
            started = time.perf_counter()
            rows = sound(channel.source.recall(requests, channel.quota, keep), len(requests))
            return rows, _ms(started)

        keep, everyone = self.keep(requests), np.ones(len(requests), dtype=bool)
        futures: list[Future[tuple[Recalled, float]]] = []
        if self.pool is not None and deadline is not None:
            futures = [self.pool.submit(one, channel) for channel in self.channels]
            wait(futures, timeout=max(0.0, deadline - time.monotonic()))
        out = []
        for n, channel in enumerate(self.channels):
            rows = _NONE
            try:
                if futures:
                    rows, took[f"recall:{channel.name}"] = futures[n].result(timeout=0)
                elif deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError("not asked: the deadline had passed")
                else:
                    rows, took[f"recall:{channel.name}"] = one(channel)
                rows = _mended(channel.name, rows, len(requests), strict, degraded)
            except TimeoutError:
                if futures:
                    futures[n].cancel()
                if strict:
                    raise TimeoutError(f"channel {channel.name!r} was not back by the deadline") from None
                _note(degraded, f"late:{channel.name}", everyone)
            except Exception as error:
                if strict:
                    raise
                _left_out(channel.name, error, everyone, degraded)
            out.append(rows)
        return out

    def _merge(self, requests: Requests, recalled: Sequence[Recalled], took: dict[str, float]) -> Candidates:
        """Candidates under the verdict of the filters: a filter's name is the reason it drops for."""
        filters = 0.0

        def verdict(owners: Keys, items: Keys) -> NDArray[np.int16]:
            nonlocal filters
            started = time.perf_counter()
            code = self.verdict(requests, owners, items)
            filters += _ms(started)
            return code

        started = time.perf_counter()
        names = (*(c.name for c in self.channels), BACKFILL)
        quotas = np.array([*(c.quota for c in self.channels), _ROOM * requests.n], dtype=np.int64)
        candidates = merge(len(requests), names, recalled, quotas, tuple(self.filters), verdict)
        took["filter"] = took.get("filter", 0.0) + filters
        took["merge"] = took.get("merge", 0.0) + _ms(started) - filters
        return candidates

    def _backfill(
        self,
        fallback: Source,
        requests: Requests,
        short: Mask,
        strict: bool,
        degraded: dict[str, Mask],
        took: dict[str, float],
    ) -> Recalled:
        """The fallback's rows for the requests that came up short. Online, a failing fallback leaves them short."""
        started = time.perf_counter()
        try:
            rows = sound(fallback.recall(requests, _ROOM * requests.n, self.keep(requests)), len(requests))
            owners, items, scores = _mended(BACKFILL, rows, len(requests), strict, degraded)
        except Exception as error:
            if strict:
                raise
            _left_out(BACKFILL, error, short, degraded)
            return _NONE
        took[f"recall:{BACKFILL}"] = _ms(started)
        mine = short[owners]
        return owners[mine], items[mine], scores[mine]

    def _stage(
        self,
        stage: Stage,
        requests: Requests,
        candidates: Candidates,
        scores: Scores,
        filled: Mask,
        strict: bool,
        deadline: float | None,
        degraded: dict[str, Mask],
    ) -> tuple[Candidates, Scores]:
        """Candidates with the stage's scores, and its fused one; online a failing stage leaves the scores before it."""
        everyone = np.ones(len(requests), dtype=bool)
        living = np.flatnonzero(candidates.alive)
        try:
            if deadline is not None and time.monotonic() >= deadline:
                _note(degraded, f"late:{stage.name}", everyone)
                return candidates, scores
            among = candidates.only(living)
            tasks = stage.scorer.score(requests, among)
            fused = stage.fused(tasks, among, strict=strict)
        except Exception as error:
            if strict:
                raise
            _left_out(stage.name, error, everyone, degraded)
            return candidates, scores
        for task, column in tasks.items():
            candidates = candidates.scored(f"{stage.name}.{task}", _spread(column, living, len(candidates)))
        whole = behind(_spread(fused, living, len(candidates)).astype(np.float64), candidates, filled)
        whole = _finite(stage.name, whole, candidates, strict, degraded)
        candidates = candidates.scored(stage.name, whole)
        if stage.keep is not None:
            candidates = cut(candidates, whole, max(stage.keep, requests.n), f"{BELOW}{stage.name}")
        return candidates, candidates.scores[stage.name]

    def _boosted(
        self,
        booster: Booster,
        requests: Requests,
        candidates: Candidates,
        scores: Scores,
        strict: bool,
        degraded: dict[str, Mask],
    ) -> Scores:
        name = type(booster).__name__.lower()
        try:
            boosted = np.asarray(booster.boost(requests, candidates, scores), dtype=np.float32)
            if boosted.shape != scores.shape:
                raise ValueError(f"booster {name!r} returned scores of shape {boosted.shape}, not {scores.shape}")
            return _finite(name, boosted, candidates, strict, degraded).astype(np.float32)
        except Exception as error:
            if strict:
                raise
            _left_out(name, error, np.ones(len(requests), dtype=bool), degraded)
            return scores

    def _select(
        self,
        requests: Requests,
        candidates: Candidates,
        scores: Scores,
        filled: Mask,
        strict: bool,
        degraded: dict[str, Mask],
    ) -> tuple[Keys, Keys]:
        """What channels brought, and behind its end what the fallback did."""

        def pages(pick: Callable[[Requests, Candidates], tuple[Keys, Keys]]) -> tuple[Keys, Keys]:
            if not bool(filled.any()):
                return pick(requests, candidates)
            page = pick(requests, candidates.drop(filled, BACKFILL))
            shown = Ragged.of(page[0], candidates.items[page[1]])
            prefix = shown if requests.prefix is None else requests.prefix.then(shown)
            room = (requests.n - np.diff(page[0]))[candidates.owners]
            for places in np.unique(room[filled & (room > 0)]).tolist():  # one, as a rule: those that got nothing
                rest = candidates.drop(~filled | (room != places), BACKFILL)
                page = joined(page, pick(replace(requests, n=places, prefix=prefix), rest))
            return page

        try:
            return pages(lambda asked, among: self._picked(asked, among, scores, degraded))
        except Exception as error:
            if strict:
                raise
            _left_out("selector", error, np.ones(len(requests), dtype=bool), degraded)
            return pages(lambda asked, among: top(among, scores, asked.n))

    def _picked(
        self, requests: Requests, candidates: Candidates, scores: Scores, degraded: dict[str, Mask]
    ) -> tuple[Keys, Keys]:
        """The selector's answer. Raises ValueError where it is not what a selector may give."""
        offsets, picks, relaxed = self.selector.select(requests, candidates, scores)
        counts = np.diff(offsets)
        own = np.repeat(np.arange(len(counts)), counts)
        fits = len(counts) == len(requests) and int(counts.max(initial=0)) <= requests.n and len(own) == len(picks)
        if not fits or len(np.unique(picks)) != len(picks):
            raise ValueError("the selector's pages are too long, repeat a candidate or do not match the requests")
        if not bool((candidates.alive[picks] & (candidates.owners[picks] == own)).all()):
            raise ValueError("the selector picked what a filter dropped, or what another request asked for")
        for name, hit in relaxed.items():
            _note(degraded, f"relaxed:{name}", hit)
        return offsets, picks


_NONE: Recalled = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
_ROOM = 4  # times the page that the fallback is asked for, so that rules have a choice
_LARGEST = 1 << 40  # keys are counted up from 0; anything beyond is not a key


def _note(degraded: dict[str, Mask], name: str, hit: Mask) -> None:
    if bool(hit.any()):
        degraded[name] = degraded[name] | hit if name in degraded else hit


def _spread(values: NDArray[Any], at: Keys, n: int) -> NDArray[np.float32]:
    """Values at positions `at` of a column [n], NaN elsewhere."""
    column = np.full(n, np.nan, dtype=np.float32)
    column[at] = values
    return column


def _left_out(name: str, error: Exception, hit: Mask, degraded: dict[str, Mask]) -> None:
    LOG.warning("%s is left out: %s: %s", name, type(error).__name__, error)
    _note(degraded, f"failed:{name}", hit)


def _finite(
    name: str, values: NDArray[Any], candidates: Candidates, strict: bool, degraded: dict[str, Mask]
) -> NDArray[Any]:
    """Scores [N] with NaN, which sorts last, for what is not finite among the living. Raises ValueError if strict."""
    lost = ~np.isfinite(values)
    hit = lost & candidates.alive
    if not bool(hit.any()):
        return values
    if strict:
        raise ValueError(f"{int(hit.sum())} scores of {name!r} are not finite")
    _note(degraded, f"nan:{name}", np.bincount(candidates.owners[hit], minlength=len(candidates.offsets) - 1) > 0)
    return np.where(lost, np.nan, values)


def _sound_fuse(stage: Stage, terms: Mapping[str, NDArray[Any]], fused: NDArray[np.float64]) -> None:
    """Raises ConfigError where the expression makes of finite numbers what is none, or a field that it reads is
    missing."""
    lost = ~np.isfinite(fused)
    for name in sorted(stage.fuse.names):
        unknown = lost & ~np.isfinite(terms[name])
        if name.startswith(ITEM) and bool(unknown.any()):
            what = f"{name} is missing for {int(unknown.sum())} of {len(lost)} candidates"
            raise ConfigError(what, where=f"{stage.name}.fuse", hint=f"write coalesce({name}, 0), or another value")
        lost &= np.isfinite(terms[name])
    if bool(lost.any()):
        what = f"{stage.fuse.text!r} is not finite for {int(lost.sum())} of {len(lost)} candidates"
        raise ConfigError(what, where=f"{stage.name}.fuse", hint="it divides by 0, or its numbers are too large")


def sound(rows: Recalled, requests: int) -> Recalled:
    """What a source returned, as int64, int64, float32. Raises ValueError for columns that differ in length or are
    not numbers, and for owners that are not requests in ascending order."""
    owners, items = np.asarray(rows[0]), np.asarray(rows[1])
    scores: Scores = np.asarray(rows[2])
    if not (owners.shape == items.shape == scores.shape and owners.ndim == 1):
        raise ValueError(f"a source returned columns of shapes {owners.shape}, {items.shape}, {scores.shape}")
    if len(owners) and not (owners.dtype.kind in "iu" and items.dtype.kind in "iu" and scores.dtype.kind in "fiu"):
        raise ValueError(f"a source returned columns of types {owners.dtype}, {items.dtype}, {scores.dtype}")
    if len(owners) and (owners[0] < 0 or owners[-1] >= requests or bool((owners[1:] < owners[:-1]).any())):
        raise ValueError("a source returned owners that are not requests in ascending order")
    return (
        owners.astype(np.int64, copy=False),
        items.astype(np.int64, copy=False),
        scores.astype(np.float32, copy=False),
    )


def mend(rows: Recalled, requests: int) -> tuple[Recalled, Mask]:
    """Rows as a source should return them, and the requests [R] that had others.

    Rows of no item or without a finite score are dropped; what is out of order is sorted; of a repeated item the best
    row stays.
    """
    owners, items, scores = rows
    touched = np.zeros(requests, dtype=bool)
    lost = (items < 0) | (items >= _LARGEST) | ~np.isfinite(scores)
    if bool(lost.any()):
        touched[owners[lost]] = True
        owners, items, scores = owners[~lost], items[~lost], scores[~lost]
    tied = (scores[1:] == scores[:-1]) & (items[1:] < items[:-1])
    wrong = np.flatnonzero((owners[1:] == owners[:-1]) & ((scores[1:] > scores[:-1]) | tied))
    if len(wrong):
        touched[owners[wrong]] = True
        order = np.lexsort((items, -scores, owners))
        owners, items, scores = owners[order], items[order], scores[order]
    width = int(items.max(initial=0)) + 1
    pairs, row = distinct(owners * width + items, requests * width)
    if len(pairs) < len(owners):
        first = np.full(len(pairs), len(owners))
        np.minimum.at(first, row, np.arange(len(owners)))
        again = np.arange(len(owners)) != first[row]
        touched[owners[again]] = True
        owners, items, scores = owners[~again], items[~again], scores[~again]
    return (owners, items, scores), touched


def _mended(name: str, rows: Recalled, requests: int, strict: bool, degraded: dict[str, Mask]) -> Recalled:
    """Rows as they should be. Raises ValueError if strict, when they were not."""
    rows, touched = mend(rows, requests)
    if strict and bool(touched.any()):
        what = "rows out of order, repeated, of no item or without a finite score"
        raise ValueError(f"channel {name!r} returned {what}")
    _note(degraded, f"unsound:{name}", touched)
    return rows


def distinct(codes: Keys, size: int) -> tuple[Keys, Keys]:
    """`np.unique(codes, return_inverse=True)` for codes in [0, size), by a table where that is small."""
    if size > 8 * len(codes) + 65536:
        values, inverse = np.unique(codes, return_inverse=True)
        return values, inverse
    table = np.zeros(size, dtype=np.int64)
    table[codes] = 1
    values = np.flatnonzero(table)
    table[values] = np.arange(len(values))
    return values, table[codes]


def merge(
    requests: int,
    channels: tuple[str, ...],
    recalled: Sequence[Recalled],
    quotas: Keys,
    reasons: tuple[str, ...],
    verdict: Callable[[Keys, Keys], NDArray[np.int16]],
) -> Candidates:
    """The union of what channels brought, each item once per request, with rank and score in every channel.

    A rank counts the eligible items above it in that channel's list; the first has rank 1, and beyond the channel's
    quota nothing is taken. `verdict` gives fates: 0, or 1 + the position in `reasons`.
    """
    owners, items, scores = (np.concatenate([rows[column] for rows in recalled]) for column in range(3))
    channel = np.repeat(np.arange(len(recalled)), [len(rows[0]) for rows in recalled])
    width = int(items.max(initial=0)) + 1
    pair, row = distinct(owners * width + items, requests * width)
    owner, item = np.divmod(pair, width)
    fate = verdict(owner, item)
    place = _place(channel * requests + owners, fate[row] == ALIVE)
    within = place <= quotas[channel]
    if not bool(within.all()):
        ends = np.cumsum([0, *(len(rows[0]) for rows in recalled)])
        masks = [within[a:b] for a, b in pairwise(ends.tolist())]
        less = [(r[0][mask], r[1][mask], r[2][mask]) for r, mask in zip(recalled, masks, strict=True)]
        return merge(requests, channels, less, quotas, reasons, verdict)
    rank = np.zeros((len(pair), len(channels)), dtype=np.int32)
    score = np.full((len(pair), len(channels)), np.nan, dtype=np.float32)
    rank[row, channel] = place
    score[row, channel] = scores
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=requests))]).astype(np.int64)
    return Candidates(offsets, item, channels, rank, score, {}, fate, reasons)


def _place(group: Keys, counts: Mask) -> NDArray[np.int32]:
    """1 + counted rows above, inside runs of equal `group`."""
    before: Keys = np.cumsum(counts) - counts
    start = np.diff(group, prepend=-1) != 0
    base = np.maximum.accumulate(np.where(start, before, 0))
    return (before - base + 1).astype(np.int32)


def behind(scores: NDArray[np.float64], candidates: Candidates, filled: Mask) -> NDArray[np.float64]:
    """Scores [N] with backfilled rows below all others of their request, in the fallback's order."""
    if not bool(filled.any()):
        return scores
    low = np.full(len(candidates.offsets) - 1, 1.0)
    brought = ~filled & np.isfinite(scores)
    np.minimum.at(low, candidates.owners[brought], scores[brought])
    return np.where(filled, low[candidates.owners] / (1 + candidates.rank[:, -1]), scores)


def cut(candidates: Candidates, values: NDArray[Any], n: int, reason: str) -> Candidates:
    """Keep the n best living candidates of each request, the rest end for `reason`."""
    if int(np.diff(candidates.offsets).max(initial=0)) <= n:
        return candidates
    order = candidates.best_first(values, candidates.alive)
    out = np.zeros(len(candidates), dtype=bool)
    out[order[_depth(candidates, order) >= n]] = True
    return candidates.drop(out, reason)


def top(candidates: Candidates, scores: NDArray[Any], n: int) -> tuple[Keys, Keys]:
    """The n best living candidates of each request, in order: offsets [R+1] and indexes [S]."""
    order = candidates.best_first(scores, candidates.alive)
    picks = order[_depth(candidates, order) < n]
    counts = np.bincount(candidates.owners[picks], minlength=len(candidates.offsets) - 1)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), picks


def _depth(candidates: Candidates, order: Keys) -> Keys:
    """How many rows of the same request stand above each row of `order`, which goes by request."""
    counts = np.bincount(candidates.owners[order], minlength=len(candidates.offsets) - 1)
    return np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)


def joined(first: tuple[Keys, Keys], rest: tuple[Keys, Keys]) -> tuple[Keys, Keys]:
    """Pages with the rest behind the first, request by request: offsets [R+1] and indexes [S]."""
    owner = np.concatenate([np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) for offsets, _ in (first, rest)])
    return first[0] + rest[0], np.concatenate([first[1], rest[1]])[np.argsort(owner, kind="stable")]


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
