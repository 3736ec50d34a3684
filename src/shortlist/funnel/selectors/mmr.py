"""MMR with a sliding window and rules (Carbonell & Goldstein, SIGIR 1998; cards X1, X2, X4).

R requests, P candidates of a request in the pool, K places, W width of the similarity features.
"""

from collections.abc import Mapping
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Mask, Requests
from shortlist.config import Count, NonNegative, Share, frozen, nearest
from shortlist.errors import ConfigError
from shortlist.funnel.kinds import Kinds
from shortlist.funnel.pipeline import top
from shortlist.funnel.rules import Rule, Rules
from shortlist.schema import Profiles, Schema

__all__ = ["Mmr"]

_CELLS = 20_000_000  # floats of one block of pools


class Mmr:
    """Each place takes the feasible candidate with the largest theta * r - (1 - theta) * max sim to the last `window`.

    r is the score, min-max scaled inside the request's pool of the `pool` best. sim is the sum of `levels` weights
    (divided by their sum) times the cosine of the items' values in that field: 1 or 0 for single values, shared genres
    for lists; a missing value is like nothing. theta 1 is the order of scores.
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
        for name in levels:
            if name not in items.columns:
                hint = nearest(name, list(items.columns))
                raise ConfigError(f"no item field is called {name!r}", where="rerank.levels", hint=hint)
        total = sum(levels.values())
        self.levels = tuple((Kinds.of(items, name), weight / total) for name, weight in levels.items() if weight)
        self.rules = Rules.of(config.rules, items, "rerank.rules")

    def select(
        self, requests: Requests, candidates: Candidates, scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Mapping[str, Mask]]:
        """Pages of at most `requests.n` of the pool; the rest of a larger page is filled by score."""
        offsets, pool = top(candidates, scores, max(self.config.pool, requests.n))
        counts = np.diff(offsets)
        picks_per: list[NDArray[np.int64]] = []
        relaxed: dict[str, Mask] = {}
        start = 0
        while start < len(counts):
            stop = self._block(counts, start)
            at = pool[offsets[start] : offsets[stop]]
            picks, notes = self._pages(candidates.items[at], scores[at], counts[start:stop], requests.n)
            picks_per.extend(at[row[row >= 0]] for row in picks)
            for name, hit in notes.items():
                relaxed.setdefault(name, np.zeros(len(counts), dtype=bool))[start:stop] |= hit
            start = stop
        sizes = np.array([len(p) for p in picks_per], dtype=np.int64)
        joined = np.concatenate(picks_per) if picks_per else np.zeros(0, dtype=np.int64)
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), joined, relaxed

    def _block(self, counts: NDArray[np.int64], start: int) -> int:
        width = (
            1
            + sum(min(len(k.values), 4096) for k, _ in self.levels)
            + sum(min(len(k.values), 4096) for k in self.rules.kinds)
        )
        size = max(1, _CELLS // (width * max(int(counts.max(initial=1)), 1)))
        return min(len(counts), start + size)

    def _pages(
        self, items: NDArray[np.int64], scores: NDArray[np.float32], counts: NDArray[np.int64], n: int
    ) -> tuple[NDArray[np.int64], dict[str, Mask]]:
        """Positions chosen [R, K] in the flat pool of these requests, -1 behind the end."""
        requests, depth = len(counts), int(counts.max(initial=0))
        present = np.arange(depth) < counts[:, None]
        keys = np.full((requests, depth), -1, dtype=np.int64)
        keys[present] = items
        r = np.zeros((requests, depth), dtype=np.float64)
        r[present] = np.nan_to_num(scores.astype(np.float64), nan=-np.inf)
        r = scaled(r, present)
        places = min(n, depth)
        features = self._features(keys)
        page = self.rules.start(keys, present, places)
        left, base = present.copy(), np.concatenate([[0], np.cumsum(counts)])[:-1]
        out = np.full((requests, places), -1, dtype=np.int64)
        theta, window = self.config.theta, self.config.window
        near: list[NDArray[np.float32]] = []
        row = np.arange(requests)
        notes: dict[str, Mask] = {}
        for place in range(places):
            value = theta * r
            if near and theta < 1 and self.levels:
                recent = near if window is None else near[-window:]
                value = value - (1 - theta) * np.maximum.reduce(recent)
            feasible, given_up = page.feasible(place, left)
            for name, hit in given_up.items():
                notes[name] = notes[name] | hit if name in notes else hit
            pick = np.where(feasible, value, -np.inf).argmax(axis=1)
            valid = feasible[row, pick]
            out[:, place] = np.where(valid, base + pick, -1)
            left[row[valid], pick[valid]] = False
            page.take(pick, valid)
            if features is not None and theta < 1:
                near.append(np.matmul(features, features[row, pick][:, :, None])[:, :, 0] * valid[:, None])
        return out, notes

    def _features(self, keys: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Rows [R, P, W] whose inner products are the similarities."""
        parts = []
        for kinds, weight in self.levels:
            hot = kinds.dense(keys.ravel())
            norm = np.sqrt(hot.sum(axis=1, keepdims=True))
            parts.append(np.sqrt(weight) * hot / np.maximum(norm, 1.0))
        return np.concatenate(parts, axis=1).astype(np.float32).reshape(*keys.shape, -1) if parts else None


def scaled(r: NDArray[np.float64], present: Mask) -> NDArray[np.float64]:
    """Min-max scaled to [0, 1] inside each row; a row of equal scores is 0; not-finite scores are 0."""
    finite = present & np.isfinite(r)
    low = np.where(finite, r, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    high = np.where(finite, r, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    return np.where(finite, (np.where(finite, r, 0.0) - np.where(np.isfinite(low), low, 0.0)) / span, 0.0)
