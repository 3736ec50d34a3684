"""How alike two sets are, from counts of what they share: one column of pairs in, one out. N pairs.

Plain array code: solvers compile it (`blocks/alike.py`), a source calls it as it stands, so that both say the same.
"""

__all__ = ["jaccard", "cosine", "pearson", "shrunk"]

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]

FLAT = 1e-10  # ratings whose variance is a smaller part of their mean square are all the same
NOISE = 1e-12  # a correlation below is what sums leave of a zero


def jaccard(common: Real, own: float, other: Real) -> Real:
    """|A and B| / |A or B|: `common` [N] of `own` and `other` [N]."""
    return common / (own + other - common)


def cosine(shared: Real, own: float, other: Real) -> Real:
    """What is shared over sqrt(|A| |B|): a count of common members, or the sum of their weights [N]."""
    return shared / np.sqrt(own * other)


def pearson(common: Real, x: Real, y: Real, xy: Real, xx: Real, yy: Real) -> Real:
    """Correlation from sums over the common members [N]; 0 where either side is constant. With x and y all 0 the values
    are taken as deviations already."""
    own, other = common * xx - x * x, common * yy - y * y
    sound = (own > FLAT * common * xx) & (other > FLAT * common * yy)
    score = np.where(sound, (common * xy - x * y) / np.sqrt(np.where(sound, own * other, 1.0)), 0.0)
    return np.where(np.abs(score) > NOISE, score, 0.0)


def shrunk(score: Real, common: Real, lam: float) -> Real:
    """Less of it, the less it rests on: times n / (n + lam) (Herlocker et al., 1999)."""
    return score * (common / (common + lam))
