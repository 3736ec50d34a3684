"""MMR with a sliding window and rules (Carbonell & Goldstein, SIGIR 1998).

R requests, P candidates of a request in the pool, K places, T items of earlier pages, V kinds of a field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Mask, Requests
from shortlist.config import Count, NonNegative, Share, frozen
from shortlist.funnel.pipeline import top
from shortlist.funnel.rules import Ahead, Rule, Rules, fewest_given_up, latest
from shortlist.funnel.similarity import Similarity
from shortlist.schema import Profiles, Schema

__all__ = ["Mmr"]

_CELLS = 1 << 22  # floats of one block of pools: 16 MiB a field
_LAST = -3.0  # below what any candidate with a score is worth


class Mmr:
    """Each place takes the feasible candidate with the largest theta * r - (1 - theta) * max sim to the last `window`.

    r is the score, min-max scaled inside the request's pool of the `pool` best. sim is the sum of `levels` weights
    (divided by their sum) times the cosine of the items' values in that field: 1 or 0 for single values, shared genres
    for lists; a missing value is like nothing. theta 1 is the order of scores; a window of None is all of the page.
    """

    @frozen
    class Config:
        theta: Share = 0.7
        window: Count | None = 10
        pool: Count = 200
        levels: dict[str, NonNegative] = field(default_factory=dict)
        rules: tuple[Rule, ...] = ()

    def __init__(self, config: Config, schema: Schema, items: Profiles) -> None:
        self.config = config
        levels = config.levels or ({schema.category: 1.0} if schema.category else {})
        self.similarity = Similarity.of(levels if config.theta < 1 else {}, schema, items, "rerank.levels")
        self.rules = Rules.of(config.rules, schema, items, "rerank.rules")
        self.width = 1 + sum(kinds.width for kinds in (*(k for k, _ in self.similarity.levels), *self.rules.kinds))

    def select(
        self, requests: Requests, candidates: Candidates, scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Mapping[str, Mask]]:
        """Pages of at most `requests.n`; a page larger than the pool widens it."""
        offsets, pool = top(candidates, scores, max(self.config.pool, requests.n))
        counts = np.diff(offsets)
        depth = int(counts.max(initial=0))
        window = self.config.window
        before = latest(requests.prefix, len(requests), None if window is None else max(window, self.rules.reach))
        start = np.zeros(len(requests), dtype=np.int64) if requests.prefix is None else np.diff(requests.prefix.offsets)
        page = np.full((len(requests), min(requests.n, depth)), -1, dtype=np.int64)
        broken = np.zeros((len(requests), len(self.rules.rules)), dtype=bool)
        step = max(1, _CELLS // (self.width * (depth + before.shape[1] + 1)))
        for low in range(0, len(requests), step):
            block = slice(low, min(low + step, len(requests)))
            present = np.arange(depth) < counts[block, None]
            at = np.full(present.shape, -1, dtype=np.int64)
            at[present] = pool[offsets[low] : offsets[block.stop]]
            keys = np.where(present, candidates.items[at] if len(pool) else -1, -1)
            r = scaled(np.where(present, scores[at] if len(pool) else np.nan, np.nan).astype(np.float64))
            shelf = _Shelf(keys, r, before[block], start[block], page.shape[1])
            places, broken[block] = self._fill(shelf)
            page[block] = np.where(places >= 0, np.take_along_axis(at, np.maximum(places, 0), axis=1), -1)
        sizes = (page >= 0).sum(axis=1)
        relaxed = {rule.name: broken[:, n] for n, rule in enumerate(self.rules.rules)}
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), page[page >= 0], relaxed

    def _fill(self, shelf: "_Shelf") -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Candidates chosen [R, K] and rules broken [R, rules]; pages that break any are made again, looking ahead."""
        places, broken = self._walk(shelf, ahead=False)
        stuck: Mask = np.any(broken, axis=1)
        if bool(stuck.any()):
            places[stuck], broken[stuck] = self._walk(shelf.where(stuck), ahead=True)
        return places, broken

    def _walk(self, shelf: "_Shelf", ahead: bool) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The same pages place by place, all requests together; with `ahead` each pick leaves a page to be finished."""
        row, left = np.arange(len(shelf.keys)), shelf.keys >= 0
        earlier, theta, window = shelf.before.shape[1], self.config.theta, self.config.window
        alike = self.similarity.start(np.concatenate([shelf.before, shelf.keys], axis=1))
        near = [alike.to(np.full(len(row), place))[:, earlier:] for place in range(earlier)]
        page = self.rules.start(shelf.keys, shelf.before, shelf.start)
        sights = [Ahead(page, int(r), left[r], shelf.places) for r in row] if ahead else []
        out = np.full((len(row), shelf.places), -1, dtype=np.int64)
        broken = np.zeros((len(row), len(self.rules.rules)), dtype=bool)
        for place in range(shelf.places):
            near = near[-window:] if window is not None else [np.maximum.reduce(near)] if near else []
            worth = theta * shelf.r - ((1 - theta) * np.maximum.reduce(near) if near else 0.0)
            worth[np.isnan(worth)] = _LAST
            blocked = page.blocked()
            feasible = fewest_given_up(left, blocked)
            pick = np.where(feasible, worth, -np.inf).argmax(axis=1)
            valid = feasible[row, pick]
            breaks = [valid & hit[row, pick] for hit in blocked]
            for r in np.flatnonzero(valid) if ahead else ():
                kept = not any(hit[r] for hit in breaks)
                if kept:
                    open_ = np.flatnonzero(feasible[r])
                    pick[r] = sights[r].choose(open_[np.argsort(-worth[r, open_], kind="stable")])
                sights[r].take(int(pick[r]), kept)
            for n, hit in enumerate(breaks):
                broken[:, n] |= hit
            out[:, place] = np.where(valid, pick, -1)
            left[row[valid], pick[valid]] = False
            page.take(pick, valid)
            if self.similarity.levels:
                near.append(alike.to(earlier + pick)[:, earlier:])
        return out, broken


@dataclass(frozen=True)
class _Shelf:
    """Pools of R requests: `keys` [R, P], -1 behind the end, relevance `r` [R, P], NaN where there is no score, what
    earlier pages hold (`before` [R, T], `start` [R]) and the places K to fill."""

    keys: NDArray[np.int64]
    r: NDArray[np.float64]
    before: NDArray[np.int64]
    start: NDArray[np.int64]
    places: int

    def where(self, mask: Mask) -> "_Shelf":
        return _Shelf(self.keys[mask], self.r[mask], self.before[mask], self.start[mask], self.places)


def scaled(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Min-max scaled to [0, 1] inside each row; a row of equal scores is 0; what is not finite is NaN."""
    known = np.isfinite(r)
    low = np.where(known, r, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    high = np.where(known, r, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    low, span = np.where(high >= low, low, 0.0), np.where(high > low, high - low, 1.0)
    return np.where(known, (np.where(known, r, 0.0) - low) / span, np.nan)
