"""Percentile bootstrap (Efron 1979) over requests: resample R requests with replacement, take the statistic,
cut the tails.

All columns of a call share the same resamples: one pass for a whole table, and differences between its rows
stay paired. The percentile interval is a little narrow for few requests (below about 30) and for very skewed
values.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "mean", "means", "difference", "ratio"]

Column = NDArray[np.float64]

PIECE = 1 << 22  # resampled requests held at a time, 32 MiB a copy; changes no result


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. All NaN where nothing was measured."""

    value: float
    low: float
    high: float


def mean(values: Column, rng: np.random.Generator, resamples: int = 1000, level: float = 0.95) -> Estimate:
    """Mean of per-request values [R], NaN left out."""
    return means({"": values}, rng, resamples, level)[""]


def means(
    columns: Mapping[str, Column], rng: np.random.Generator, resamples: int = 1000, level: float = 0.95
) -> dict[str, Estimate]:
    """Means of many columns [R] of the same requests, NaN left out of each."""
    if not columns:
        return {}
    values = np.stack([np.asarray(c, dtype=np.float64) for c in columns.values()], axis=1)
    values = values[~np.isnan(values).all(axis=1)]
    valid = ~np.isnan(values)
    counts = valid[:, :1] if valid.all() else valid  # usually all columns know the same requests
    tops, bottoms = _resampled(np.where(valid, values, 0), counts.astype(np.float64), rng, resamples)
    return dict(zip(columns, _estimates(tops, bottoms, level), strict=True))


def difference(a: Column, b: Column, rng: np.random.Generator, resamples: int = 1000, level: float = 0.95) -> Estimate:
    """Mean of a - b over the requests where both are known: paired, so much tighter than two intervals."""
    return mean(a - b, rng, resamples, level)


def ratio(
    numerators: NDArray[Any],
    denominators: NDArray[Any],
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Mean of numerators over mean of denominators, both known: clicks per impression, hits per second."""
    both = ~(np.isnan(numerators) | np.isnan(denominators))
    tops, bottoms = _resampled(numerators[both][:, None], denominators[both][:, None], rng, resamples)
    return _estimates(tops, bottoms, level)[0]


def _resampled(tops: Column, bottoms: Column, rng: np.random.Generator, resamples: int) -> tuple[Column, Column]:
    """Sums of the rows of [R, C], then the same of each resample: [1 + resamples, C]."""
    weights = chain([np.ones((1, len(tops)))], _weights(len(tops), resamples, rng))
    pieces = [(w @ tops, w @ bottoms) for w in weights]
    return np.concatenate([top for top, _ in pieces]), np.concatenate([bottom for _, bottom in pieces])


def _weights(R: int, resamples: int, rng: np.random.Generator) -> Iterator[Column]:
    """How often each of R requests was drawn, in pieces [n, R]."""
    step = max(1, PIECE // max(1, R))
    for start in range(0, resamples if R else 0, step):
        n = min(step, resamples - start)
        drawn = rng.integers(0, R, (n, R)) + np.arange(n)[:, None] * R
        yield np.bincount(drawn.ravel(), minlength=n * R).reshape(n, R).astype(np.float64)


def _estimates(tops: Column, bottoms: Column, level: float) -> list[Estimate]:
    draws = np.divide(tops, bottoms, out=np.full(tops.shape, np.nan), where=bottoms != 0)
    value, tail = draws[0], (1 - level) / 2
    # A resample of a sparse column may hold no known value: it says nothing, and stands at the estimate.
    rest = np.where(np.isnan(draws[1:]), value, draws[1:]) if len(draws) > 1 else draws
    low, high = np.quantile(rest, [tail, 1 - tail], axis=0)
    return [Estimate(float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)]
