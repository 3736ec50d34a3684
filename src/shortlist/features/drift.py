"""How far one set of values is from another: population stability index, Kolmogorov-Smirnov distance, coverage.

N values of one set, M of another, B bins. Missing values are a bin of their own. Of lists every value counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.features.coverage import covered
from shortlist.features.encoders import lists
from shortlist.schema import text

__all__ = ["Drift", "drift", "drifts", "histogram", "psi", "ks", "STEADY", "MOVED"]

STEADY, MOVED = 0.1, 0.25  # below the first a column has not moved, from the second on it has (Siddiqi, 2006)
BINS = 10
FLOOR = 1e-4  # share of a bin that is empty on one side
OTHER, MISSING = "other", "missing"
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """One column before and after: shares `before` and `after` [B] of `bins`, which are words.

    `psi` over these, `ks` of numbers (NaN for words), and the shares of rows with another value than the default.
    """

    name: str
    bins: tuple[str, ...]
    before: Shares
    after: Shares
    psi: float
    ks: float
    covered_before: float
    covered_after: float

    @property
    def verdict(self) -> str:
        """What is commonly made of the index."""
        if not np.isfinite(self.psi):
            return "unknown"
        return "steady" if self.psi < STEADY else "moving" if self.psi < MOVED else "moved"


def psi(before: Shares, after: Shares) -> float:
    """sum (after - before) ln(after / before) over bins, each share at least `FLOOR`; NaN where one side is empty."""
    if not before.sum() or not after.sum():
        return float("nan")
    p, q = (np.maximum(counts / counts.sum(), FLOOR) for counts in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


def ks(before: NDArray[Any], after: NDArray[Any]) -> float:
    """The largest distance of the two distribution functions [N], [M]; NaN where one side has no number."""
    a, b = (np.sort(values[np.isfinite(values)]) for values in (before, after))
    if not len(a) or not len(b):
        return float("nan")
    every = np.concatenate([a, b])
    below = [np.searchsorted(side, every, side="right") / len(side) for side in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def histogram(
    before: NDArray[Any], after: NDArray[Any], bins: int = BINS
) -> tuple[tuple[str, ...], Shares, Shares]:  # fmt: skip
    """Bins as words, and how many values of each set fall into each.

    Numbers in bins with about equally many values before; words by value, the most frequent before, the rest together.
    """
    if before.dtype != object and after.dtype != object:
        return _numbers(before.astype(np.float64), after.astype(np.float64), bins)
    return _words(before, after, bins)


def drift(name: str, before: NDArray[Any], after: NDArray[Any], bins: int = BINS) -> Drift:
    """A column of raw values [N] against another [M]: numbers, or objects that hold text or lists of it."""
    words, p, q = histogram(before, after, bins)
    numeric = before.dtype != object and after.dtype != object
    distance = ks(before.astype(np.float64), after.astype(np.float64)) if numeric else float("nan")
    shares = [counts / counts.sum() if counts.sum() else counts for counts in (p, q)]
    known = [covered({name: values})[name] for values in (before, after)]
    return Drift(name, words, shares[0], shares[1], psi(p, q), distance, *known)


def drifts(before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]], bins: int = BINS) -> list[Drift]:
    """Every column that both sets have, the one that moved most first."""
    found = [drift(name, before[name], after[name], bins) for name in before if name in after]
    return sorted(found, key=lambda d: -d.psi if np.isfinite(d.psi) else np.inf)


def _numbers(before: Shares, after: Shares, bins: int) -> tuple[tuple[str, ...], Shares, Shares]:
    known = before[np.isfinite(before)]
    edges = np.unique(np.quantile(known, np.arange(1, bins) / bins)) if len(known) else np.zeros(0)
    if len(edges) and edges[0] == known.min():
        edges = edges[1:] if len(edges) > 1 else edges  # nothing lies below the least value
    few = np.unique(known)
    if len(few) <= bins:  # each value is a bin
        edges = few[1:]
    counts = []
    for values in (before, after):
        there = np.isfinite(values)
        inside = np.bincount(np.searchsorted(edges, values[there], side="right"), minlength=len(edges) + 1)
        counts.append(np.append(inside, (~there).sum()).astype(np.float64))
    words = [f"below {_short(edges[0])}", *(f"from {_short(e)}" for e in edges)] if len(edges) else ["all"]
    return _trimmed([*words, MISSING], counts[0], counts[1])


def _words(before: NDArray[Any], after: NDArray[Any], bins: int) -> tuple[tuple[str, ...], Shares, Shares]:
    told = [_counted(values) for values in (before, after)]
    first = sorted(told[0][0].items(), key=lambda entry: (-entry[1], entry[0]))
    names = [name for name, _ in first[:bins]]
    counts = []
    for found, missing in told:
        own = [found.get(name, 0) for name in names]
        counts.append(np.array([*own, sum(found.values()) - sum(own), missing], dtype=np.float64))
    return _trimmed([*names, OTHER, MISSING], counts[0], counts[1])


def _counted(values: NDArray[Any]) -> tuple[dict[str, int], int]:
    """How often each value is there, and how many rows have none."""
    lengths, flat = lists(values)
    table = text(flat).drop_nulls().value_counts(name="count")
    return dict(zip(table.to_series(0).to_list(), table["count"].to_list(), strict=True)), int((lengths == 0).sum())


def _trimmed(words: list[str], before: Shares, after: Shares) -> tuple[tuple[str, ...], Shares, Shares]:
    """Without a last bin or two that hold nothing on either side."""
    keep = np.ones(len(words), dtype=bool)
    for n, word in enumerate(words):
        if word in (OTHER, MISSING) and n >= len(words) - 2:
            keep[n] = bool(before[n] or after[n])
    return tuple(word for word, kept in zip(words, keep, strict=True) if kept), before[keep], after[keep]


def _short(edge: float) -> str:
    return f"{edge:.4g}"
