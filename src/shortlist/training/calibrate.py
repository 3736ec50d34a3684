"""Scores as probabilities: undo negative down-sampling, or fit a map on later events held out (He et al., ADKDD 2014).

p in 0..1, z logits, N examples. Negatives kept with rate alpha: p_true = alpha p / ((1 - p) + alpha p), in logits
z_true = z + ln alpha; positives of weight c shift by -ln c. Platt (1999) fits sigmoid(a z + b); isotonic regression a
step-wise increasing map (Zadrozny & Elkan, KDD 2002).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shortlist.errors import DataError

__all__ = ["undo_sampling", "redo_sampling", "undo_shift", "Platt", "platt", "Isotonic", "isotonic"]

Floats = NDArray[np.float64]


def undo_sampling(p: ArrayLike, alpha: float) -> Floats:
    """Probabilities among all examples, from those learned where a share `alpha` of the negatives was kept."""
    p = np.asarray(p, dtype=np.float64)
    kept = _kept(alpha) * p
    out: Floats = kept / ((1 - p) + kept)
    return out


def redo_sampling(p: ArrayLike, alpha: float) -> Floats:
    """The inverse of `undo_sampling`."""
    p = np.asarray(p, dtype=np.float64)
    dropped = _kept(alpha) * (1 - p)
    out: Floats = p / (p + dropped)
    return out


def undo_shift(alpha: float = 1.0, positive_weight: float = 1.0) -> float:
    """What to add, once, to a logit learned with a share `alpha` of the negatives and positives of this weight."""
    if not positive_weight > 0:
        what = f"positives of weight {positive_weight:g}"
        raise DataError(what, where="calibration", hint="a weight is above 0")
    return math.log(_kept(alpha)) - math.log(positive_weight)


def _kept(alpha: float) -> float:
    if not 0 < alpha <= 1:
        what = f"a share of {alpha:g} of the negatives was kept"
        raise DataError(what, where="calibration", hint="the share is above 0 and at most 1")
    return alpha


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


def platt(z: ArrayLike, labels: ArrayLike, steps: int = 100) -> Platt:
    """The likeliest map, by Newton's method on labels pulled from 0 and 1 as in Platt's paper.

    (n1 + 1) / (n1 + 2) stands for 1 and 1 / (n0 + 2) for 0, so that scores which part the classes have an answer too.
    """
    z, y = _examples(z, labels)
    positives = float(y.sum())
    target = np.where(y > 0, (positives + 1) / (positives + 2), 1 / (len(y) - positives + 2))
    x = np.stack([z, np.ones_like(z)], axis=1)
    w = np.array([0.0, math.log((positives + 1) / (len(y) - positives + 1))])
    loss = _log_loss(x @ w, target)
    for _ in range(steps):
        p = _sigmoid(x @ w)
        slope = x.T @ (p - target)
        curve = x.T @ (x * (p * (1 - p))[:, None]) + 1e-12 * np.eye(2)
        move, length = np.linalg.solve(curve, slope), 1.0
        while (after := _log_loss(x @ (w - length * move), target)) > loss and length > 1e-10:
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


def isotonic(scores: ArrayLike, labels: ArrayLike) -> Isotonic:
    """The nearest map in squares that never falls (pool adjacent violators); equal scores are one point."""
    from scipy.optimize import isotonic_regression

    scores, y = _examples(scores, labels)
    x, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=y) / counts
    return Isotonic(x, np.asarray(isotonic_regression(means, weights=counts).x, dtype=np.float64))


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


def _log_loss(z: Floats, target: Floats) -> float:
    return float((np.logaddexp(0, z) - target * z).sum())
