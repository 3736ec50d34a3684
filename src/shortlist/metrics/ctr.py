"""How well probabilities rank and fit clicks: AUC (Fawcett 2006), GAUC (Zhou et al., KDD 2018), normalized entropy
(He X. et al., ADKDD 2014).

N rows with score s (any number, more is likelier) or probability p, label y (0 or 1), group (user). A metric that is
not defined on its rows (one class only, none at all) is NaN.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.metrics.calibration import ece, ratio

__all__ = [
    "auc", "gauc", "Grouped", "logloss", "normalized_entropy", "relative_improvement", "rate", "measure",
    "Histogram", "Lost", "permutation_importance",
]  # fmt: skip

CLIP = 1e-7
Real = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Grouped:
    """A mean over groups, how many it is of, and how many have one class only and say nothing."""

    value: float
    groups: int
    skipped: int


def auc(s: NDArray[Any], y: NDArray[Any]) -> float:
    """Share of (positive, negative) pairs that s orders rightly; a tie is half of one."""
    return float(_aucs(s, y, np.zeros(len(s), dtype=np.int64))[0][0]) if len(s) else float("nan")


def gauc(s: NDArray[Any], y: NDArray[Any], groups: NDArray[Any]) -> Grouped:
    """Mean of the groups' AUC, each weighted by its rows (impressions)."""
    codes = np.unique(groups, return_inverse=True)[1]
    if not len(codes):
        return Grouped(float("nan"), 0, 0)
    values, rows = _aucs(s, y, codes)
    known = ~np.isnan(values)
    value = float(np.average(values[known], weights=rows[known])) if known.any() else float("nan")
    return Grouped(value, int(known.sum()), int((~known).sum()))


def _aucs(s: NDArray[Any], y: NDArray[Any], codes: Ints) -> tuple[Real, Ints]:
    """AUC of each group 0..G-1, NaN for one class, and its rows: (Σ ranks⁺ - n⁺(n⁺ + 1) / 2) / (n⁺ n⁻), mid-ranks."""
    if np.isnan(s).any():
        raise ValueError("scores hold NaN")
    order = np.lexsort((s, codes))
    s, y, codes = s[order], np.asarray(y)[order].astype(np.float64), codes[order]
    rows = np.bincount(codes)
    first = np.cumsum(rows) - rows
    starts = np.flatnonzero(np.r_[True, (s[1:] != s[:-1]) | (codes[1:] != codes[:-1])])
    ties = np.diff(starts, append=len(s))
    rank = np.repeat(starts - first[codes[starts]] + (ties + 1) / 2, ties)
    positives = np.bincount(codes, y)
    pairs = positives * (rows - positives)
    won = np.bincount(codes, rank * y) - positives * (positives + 1) / 2
    return np.divide(won, pairs, out=np.full(len(rows), np.nan), where=pairs > 0), rows


def logloss(p: NDArray[Any], y: NDArray[Any]) -> float:
    """Mean of -log of what was given to the label that came, p clipped to [1e-7, 1 - 1e-7]."""
    if not len(p):
        return float("nan")
    p = np.clip(np.asarray(p, dtype=np.float64), CLIP, 1 - CLIP)
    return float(-np.mean(np.where(np.asarray(y) > 0, np.log(p), np.log1p(-p))))


def normalized_entropy(p: NDArray[Any], y: NDArray[Any]) -> float:
    """Logloss over that of always saying the base rate: below 1 is better than knowing nothing."""
    base = float(np.mean(y)) if len(y) else float("nan")
    if not 0 < base < 1:
        return float("nan")
    return logloss(p, y) / float(-base * np.log(base) - (1 - base) * np.log1p(-base))


def relative_improvement(value: float, base: float) -> float:
    """(AUC - 0.5) / (AUC of the base - 0.5) - 1 (RelaImpr); NaN where the base is chance."""
    return (value - 0.5) / (base - 0.5) - 1 if base != 0.5 else float("nan")


def rate(hits: float, trials: float) -> float:
    """CTR = clicks / impressions, CVR (conversion rate) = conversions / clicks; NaN without trials."""
    return hits / trials if trials else float("nan")


def measure(p: NDArray[Any], y: NDArray[Any], groups: NDArray[Any], bins: int = 20) -> dict[str, float]:
    """What a report says of a task: `auc`, `gauc`, `logloss`, `ne`, `ece`, `calibration` (Σp / Σy), `base_rate`."""
    return {
        "auc": auc(p, y),
        "gauc": gauc(p, y, groups).value,
        "logloss": logloss(p, y),
        "ne": normalized_entropy(p, y),
        "ece": ece(p, y, bins),
        "calibration": ratio(p, y),
        "base_rate": rate(float(np.sum(y)), len(y)),
    }


class Histogram:
    """AUC of rows that come in pieces: counts of positives and negatives by probability. Never a mean of batches'.

    `bound` says how far from the exact value it can be: half of the pairs that fall into one bin.
    """

    def __init__(self, bins: int = 100_000) -> None:
        self.positives = np.zeros(bins, dtype=np.int64)
        self.negatives = np.zeros(bins, dtype=np.int64)

    def add(self, p: NDArray[Any], y: NDArray[Any]) -> None:
        """Count rows; p in [0, 1], 1 in the last bin. Raises ValueError for another p."""
        p, bins = np.asarray(p, dtype=np.float64), len(self.positives)
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError("probabilities outside 0..1")
        at = np.minimum((p * bins).astype(np.int64), bins - 1)
        hit = np.asarray(y) > 0
        self.positives += np.bincount(at[hit], minlength=bins)
        self.negatives += np.bincount(at[~hit], minlength=bins)

    def __add__(self, other: "Histogram") -> "Histogram":
        """Both, as if the rows had come to one."""
        both = Histogram(len(self.positives))
        both.positives, both.negatives = self.positives + other.positives, self.negatives + other.negatives
        return both

    @property
    def auc(self) -> float:
        below = np.cumsum(self.negatives) - self.negatives
        return self._share(float(np.sum(self.positives * (below + 0.5 * self.negatives))))

    @property
    def bound(self) -> float:
        """½ Σ_b (n⁺_b / n⁺)(n⁻_b / n⁻) >= |auc - exact|."""
        return self._share(0.5 * float(np.sum(self.positives * self.negatives.astype(np.float64))))

    def _share(self, pairs: float) -> float:
        return rate(pairs, float(self.positives.sum()) * float(self.negatives.sum()))


@dataclass(frozen=True)
class Lost:
    """AUC lost when a column is shuffled: `auc` [P], of each shuffle, and `by_group` [G], each group's own in the mean
    over the shuffles (NaN for a group of one class) with its `rows` [G]: weighted by these their mean is GAUC lost."""

    auc: Real
    by_group: Real
    rows: Ints


def permutation_importance(
    score: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]],
    columns: Mapping[str, NDArray[Any]],
    y: NDArray[Any],
    rng: np.random.Generator,
    repeats: int = 3,
    groups: NDArray[Any] | None = None,
) -> dict[str, Lost]:
    """What `score` takes from each column [N, ...] alone: AUC lost when just that one is shuffled, `repeats` times;
    without `groups` [N] all rows are one.

    Columns that say the same stand in for one another, so each of them may lose nothing.
    """
    codes = np.zeros(len(y), dtype=np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    whole = score(columns)
    base, (each, rows) = auc(whole, y), _aucs(whole, y, codes)
    lost = {}
    for name, column in columns.items():
        found, own = [], []
        for _ in range(repeats):
            s = score({**columns, name: column[rng.permutation(len(column))]})
            found.append(base - auc(s, y))
            own.append(each - _aucs(s, y, codes)[0])
        lost[name] = Lost(np.array(found), np.mean(own, axis=0), rows)
    return lost
