"""Calibration (He X. et al. 2014)."""

from math import log

import numpy as np
import pytest

from shortlist.errors import DataError
from shortlist.metrics.ctr import auc
from shortlist.training.calibrate import Platt, falling, isotonic, platt, undo_shift

Z = np.linspace(-4, 4, 25)


def kept(alpha: float) -> Platt:
    """What is served of logits learned with this share of the negatives."""
    return Platt(1.0, undo_shift(alpha))


def odds(p: float) -> float:
    return log(p / (1 - p))


def test_all_negatives_kept_is_the_identity() -> None:
    assert undo_shift() == 0
    assert kept(1.0)(Z) == pytest.approx(1 / (1 + np.exp(-Z)))


def test_by_hand() -> None:
    # 10 positives, 90 negatives of which 9 are kept: p = 10 / 19 is 1 / 10 of all
    assert kept(0.1)(odds(10 / 19)) == pytest.approx(0.1)


def test_it_is_the_formula_of_the_paper() -> None:
    # alpha p / ((1 - p) + alpha p)
    p = 1 / (1 + np.exp(-Z))
    assert kept(0.2)(Z) == pytest.approx(0.2 * p / ((1 - p) + 0.2 * p))


def test_order_stays_and_the_way_back_is_the_inverse() -> None:
    there = kept(0.05)(Z)
    assert (np.diff(there) > 0).all()
    assert kept(0.05).inverse(there) == pytest.approx(Z)
    labels = np.arange(25) % 3 == 0
    assert auc(there, labels) == auc(Z, labels)


def test_weights_of_positives_shift_the_other_way() -> None:
    # positives of weight 4 look 4 times as likely
    assert undo_shift(positive_weight=4.0) == pytest.approx(-log(4))
    assert undo_shift(0.25, 0.25) == pytest.approx(0)


def test_a_constant_model_predicts_the_base_rate(rng: np.random.Generator) -> None:
    labels = (rng.random(4000) < 0.03).astype(float)
    stayed = (labels == 1) | (rng.random(4000) < 0.25)
    # a constant fitted on the kept rows; n0 / 4 negatives are expected among them, so the error is the draw's
    constant = float(labels[stayed].mean())
    alpha = float((stayed & (labels == 0)).sum() / (labels == 0).sum())
    assert kept(alpha)(odds(constant)) == pytest.approx(labels.mean())


def test_platt_finds_the_map_that_made_the_labels(rng: np.random.Generator) -> None:
    z = rng.normal(size=40_000)
    labels = (rng.random(40_000) < 1 / (1 + np.exp(-(0.6 * z - 1.5)))).astype(float)
    fitted = platt(z, labels)
    assert fitted.a == pytest.approx(0.6, abs=0.05)
    assert fitted.b == pytest.approx(-1.5, abs=0.05)
    # at the optimum the mean prediction is the mean of the targets, which are the labels but for 1 / n
    assert fitted(z).mean() == pytest.approx(labels.mean(), abs=1e-4)
    assert fitted.inverse(fitted(z)) == pytest.approx(z)


def test_platt_of_a_constant_is_the_smoothed_rate() -> None:
    # 1 of 4: targets (1 + 1) / (1 + 2) = 2/3 and 1 / (3 + 2) = 1/5: mean (2/3 + 3/5) / 4
    fitted = platt(np.zeros(4), [1, 0, 0, 0])
    assert fitted(0.0) == pytest.approx((2 / 3 + 3 / 5) / 4)


def test_platt_of_classes_that_scores_part_is_finite() -> None:
    fitted = platt([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1])
    assert np.isfinite([fitted.a, fitted.b]).all()
    # 3/4 and 1/4 are the targets
    assert fitted([1.5, -1.5]) == pytest.approx([0.75, 0.25], abs=0.05)


def test_isotonic_by_hand() -> None:
    # labels by score 0 1 0 1 1: the violators 1, 0 at scores 2, 3 become 1/2 each
    fitted = isotonic([5.0, 1.0, 2.0, 3.0, 4.0], [1, 0, 1, 0, 1])
    assert fitted.y.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]
    assert fitted([0.0, 1.5, 2.5, 9.0]).tolist() == [0.0, 0.25, 0.5, 1.0]


def test_isotonic_never_falls_keeps_the_mean_and_joins_equal_scores(rng: np.random.Generator) -> None:
    scores = np.round(rng.random(2000), 2)
    labels = (rng.random(2000) < scores**2).astype(float)
    fitted = isotonic(scores, labels)
    assert len(fitted.x) == len(np.unique(scores))
    assert (np.diff(fitted.y) >= 0).all()
    assert fitted(scores).mean() == pytest.approx(labels.mean())


def test_falling_is_the_same_upside_down() -> None:
    # 0.9 0.5 0.7 0.1 at 1 2 3 4: the violators 0.5, 0.7 become 0.6 each
    fitted = falling([4.0, 1.0, 2.0, 3.0], [0.1, 0.9, 0.5, 0.7])
    assert fitted.y.tolist() == pytest.approx([0.9, 0.6, 0.6, 0.1])
    assert fitted([0.0, 3.5]) == pytest.approx([0.9, 0.35])


def test_far_logits_do_not_overflow() -> None:
    with np.errstate(over="raise"):
        assert Platt(1.0, 0.0)([-1000.0, 1000.0]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: undo_shift(0.0),
            "calibration: a share of 0 of the negatives was kept (the share is above 0 and at most 1)",
        ),
        (lambda: undo_shift(positive_weight=0), "calibration: positives of weight 0 (a weight is above 0)"),
        (lambda: platt([], []), "calibration: no example to fit on (hold some events out)"),
        (
            lambda: isotonic([1.0], [0, 1]),
            "calibration: scores (1,) and labels (2,) differ in shape (give one of each per example)",
        ),
        (
            lambda: platt([float("nan")], [1]),
            "calibration: a score is not finite, or a label neither 0 nor 1 (drop such examples)",
        ),
    ],
)
def test_what_cannot_be_is_refused(call: object, message: str) -> None:
    with pytest.raises(DataError) as error:
        call()  # type: ignore[operator]
    assert str(error.value) == message
