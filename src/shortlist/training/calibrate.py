"""Scores as probabilities: undo negative down-sampling, or fit a map on later events held out (He et al., ADKDD 2014).

z logits, N examples. Negatives kept with rate alpha: p_true = alpha p / ((1 - p) + alpha p), in logits
z_true = z + ln alpha; positives of weight c shift by -ln c. Platt (1999) fits sigmoid(a z + b); isotonic regression a
step-wise increasing map (Zadrozny & Elkan, KDD 2002), or a falling one.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shortlist.errors import DataError

__all__ = ["undo_shift", "Platt", "platt", "Isotonic", "isotonic", "falling", "corners"]

Floats = NDArray[np.float64]


def undo_shift(alpha: float = 1.0, positive_weight: float = 1.0) -> float:
    """What to add, once, to a logit learned with a share `alpha` of the negatives and positives of this weight."""
    if not positive_weight > 0:
        what = f"positives of weight {positive_weight:g}"
        raise DataError(what, where="calibration", hint="a weight is above 0")
    if not 0 < alpha <= 1:
        what = f"a share of {alpha:g} of the negatives was kept"
        raise DataError(what, where="calibration", hint="the share is above 0 and at most 1")
    return math.log(alpha) - math.log(positive_weight)


@dataclass(frozen=True)
class Platt:
    """p = sigmoid(a z + b)."""

    a: float
    b: float

    def __call__(self, z: ArrayLike) -> Floats:
        """Probabilities of logits."""
        return _sigmoid(self.a * np.asarray(z, dtype=np.float64) + self.b)

    def inverse(self, p: ArrayLike) -> Floats:
        """Logits of probabilities inside 0..1."""
        p = np.asarray(p, dtype=np.float64)
        z: Floats = (np.log(p) - np.log1p(-p) - self.b) / self.a
        return z


def platt(z: ArrayLike, labels: ArrayLike, weights: ArrayLike = 1.0, steps: int = 100) -> Platt:
    """The likeliest map, by Newton's method on labels pulled from 0 and 1 as in Platt's paper.

    (n1 + 1) / (n1 + 2) stands for 1 and 1 / (n0 + 2) for 0, so that scores which part the classes have an answer too.
    An example counts as many times as its weight says.
    """
    z, y = _examples(z, labels)
    times = np.broadcast_to(np.asarray(weights, dtype=np.float64), y.shape)
    positives, negatives = float(times @ y), float(times @ (1 - y))
    target = np.where(y > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    x = np.stack([z, np.ones_like(z)], axis=1)
    w = np.array([0.0, math.log((positives + 1) / (negatives + 1))])
    loss = _log_loss(x @ w, target, times)
    for _ in range(steps):
        p = _sigmoid(x @ w)
        slope = x.T @ (times * (p - target))
        curve = x.T @ (x * (times * p * (1 - p))[:, None]) + 1e-12 * np.eye(2)
        move, length = np.linalg.solve(curve, slope), 1.0
        while (after := _log_loss(x @ (w - length * move), target, times)) > loss and length > 1e-10:
            length /= 2
        if loss - after <= 1e-12 * abs(loss):
            break
        w, loss = w - length * move, after
    return Platt(float(w[0]), float(w[1]))


@dataclass(frozen=True)
class Isotonic:
    """Scores `x`, ascending, and the probability `y` at each; straight between, level outside."""

    x: Floats
    y: Floats

    def __call__(self, scores: ArrayLike) -> Floats:
        out: Floats = np.interp(np.asarray(scores, dtype=np.float64), self.x, self.y)
        return out


def isotonic(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike = 1.0) -> Isotonic:
    """The nearest map in squares that never falls (pool adjacent violators); equal scores are one point. An example
    counts as many times as its weight says."""
    return _pooled(*_examples(scores, labels), weights)


def falling(x: ArrayLike, y: ArrayLike) -> Isotonic:
    """The same of any numbers y, never rising."""
    return _pooled(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), increasing=False)


def _pooled(x: Floats, y: Floats, weights: ArrayLike = 1.0, *, increasing: bool = True) -> Isotonic:
    from scipy.optimize import isotonic_regression

    at, place = np.unique(x, return_inverse=True)
    times = np.broadcast_to(np.asarray(weights, dtype=np.float64), y.shape)
    counts = np.bincount(place, weights=times)
    means = np.bincount(place, weights=times * y) / counts
    return Isotonic(at, np.asarray(isotonic_regression(means, weights=counts, increasing=increasing).x, dtype=float))


def corners(found: Isotonic) -> Floats:
    """The points [2, K] of a map between which it is straight: the ends of each level."""
    inner = np.zeros(len(found.y), dtype=bool)
    inner[1:-1] = (found.y[1:-1] == found.y[:-2]) & (found.y[1:-1] == found.y[2:])
    return np.stack([found.x[~inner], found.y[~inner]])


def _examples(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        what = f"scores {x.shape} and labels {y.shape} differ in shape"
        raise DataError(what, where="calibration", hint="give one of each per example")
    if not len(x):
        raise DataError("no example to fit on", where="calibration", hint="hold some events out")
    if not np.isfinite(x).all() or not np.isin(y, (0.0, 1.0)).all():
        what = "a score is not finite, or a label neither 0 nor 1"
        raise DataError(what, where="calibration", hint="drop such examples")
    return x, y


def _sigmoid(z: Floats) -> Floats:
    out: Floats = np.exp(-np.logaddexp(0, -z))
    return out


def _log_loss(z: Floats, target: Floats, times: Floats) -> float:
    return float((times * (np.logaddexp(0, z) - target * z)).sum())
