"""Whether probabilities are what they say: points of the curve, ECE, and ratios (He X. et al., ADKDD 2014).

N rows with prediction p and label y (0 or 1), in bins of about equal numbers of rows. Equal predictions share a bin,
so nothing depends on the order of rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "curve", "ratio", "ratios", "ece"]

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Points [K], K at most the bins asked for: mean prediction, share of positives with its 95 % interval (Wilson,
    JASA 1927), and rows."""

    predicted: Real
    observed: Real
    low: Real
    high: Real
    rows: NDArray[np.int64]


def curve(p: NDArray[Any], y: NDArray[Any], bins: int = 20) -> Curve:
    """One point per bin, ascending in p. A distinct prediction belongs to the bin of the middle of its rows."""
    _, value_of, sizes = np.unique(p, return_inverse=True, return_counts=True)
    middle = np.cumsum(sizes) - sizes / 2
    bin_of = np.floor(bins * middle / max(len(p), 1)).astype(np.int64)[value_of]
    rows = np.bincount(bin_of, minlength=bins)
    kept = rows > 0
    n = rows[kept]
    predicted = np.bincount(bin_of, p, bins)[kept] / n
    observed = np.bincount(bin_of, y, bins)[kept] / n
    z = 1.959963984540054  # the normal quantile of 0.975
    centre = (observed + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(observed * (1 - observed) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Curve(predicted, observed, centre - half, centre + half, n)


def ratio(p: NDArray[Any], y: NDArray[Any]) -> float:
    """Σp / Σy: 1 where as many positives came as were predicted, NaN without any."""
    positives = float(np.sum(y, dtype=np.float64))
    return float(np.sum(p, dtype=np.float64)) / positives if positives else float("nan")


def ratios(p: NDArray[Any], y: NDArray[Any], slices: NDArray[np.int64]) -> Real:
    """Σp / Σy of each slice [S], `slices` [N] naming 0..S-1; NaN for one without a positive."""
    predicted, positives = np.bincount(slices, p), np.bincount(slices, y)
    each: Real = np.divide(predicted, positives, out=np.full(len(positives), np.nan), where=positives > 0)
    return each


def ece(p: NDArray[Any], y: NDArray[Any], bins: int = 20) -> float:
    """Expected calibration error: |predicted - observed| of the curve's points, weighted by rows. NaN without rows."""
    points = curve(p, y, bins)
    gaps = np.abs(points.predicted - points.observed)
    return float(np.average(gaps, weights=points.rows)) if len(points.rows) else float("nan")
