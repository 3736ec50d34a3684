"""Bootstrap intervals: they cover the truth about as often as they say, and pairing is kept."""

import numpy as np
import pytest

from shortlist.metrics import bootstrap
from shortlist.metrics.bootstrap import Estimate

approx = pytest.approx


def dice() -> np.random.Generator:
    return np.random.default_rng(11)


def test_interval_covers_the_mean() -> None:
    # 300 simulated samples of 80 skewed values (exponential, mean 1). A 95 % interval covers about 94 % at
    # this size; 90..99 % allows more than three standard errors of 300 trials (1.4 %) below.
    rng, covered = dice(), 0
    for _ in range(300):
        estimate = bootstrap.mean(rng.exponential(1, 80), rng, resamples=400)
        covered += estimate.low <= 1 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.99


def test_interval_covers_the_ratio() -> None:
    # Clicks out of 1..9 impressions at a rate of 0.2, per request.
    rng, covered = dice(), 0
    for _ in range(300):
        shown = rng.integers(1, 10, 100)
        estimate = bootstrap.ratio(rng.binomial(shown, 0.2), shown, rng, resamples=400)
        covered += estimate.low <= 0.2 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.99


def test_width_agrees_with_the_normal_interval() -> None:
    # 2,500 values of standard deviation 1: half width 1.96 / 50 = 0.0392.
    values = dice().standard_normal(2500)
    estimate = bootstrap.mean((values - values.mean()) / values.std(), dice(), resamples=4000)
    assert estimate.value == approx(0, abs=1e-12)
    assert (estimate.high - estimate.low) / 2 == approx(0.0392, rel=0.05)


def test_same_seed_same_interval_and_shared_resamples() -> None:
    values = dice().random(200)
    one, both = bootstrap.mean(values, dice()), bootstrap.means({"a": values, "b": 2 * values}, dice())
    assert one == bootstrap.mean(values, dice())
    assert (both["a"].low, both["a"].high) == approx((one.low, one.high))
    assert (both["b"].low, both["b"].high) == approx((2 * one.low, 2 * one.high))


def test_missing_values_are_left_out() -> None:
    # Column b knows two of the requests of column a, which itself misses the first.
    columns = {"a": np.array([np.nan, 1, 2, 3, 4]), "b": np.array([np.nan, np.nan, 5, np.nan, 7])}
    estimates = bootstrap.means(columns, dice())
    assert estimates["a"].value == 2.5
    assert estimates["b"].value == 6
    assert 5 <= estimates["b"].low <= 6 <= estimates["b"].high <= 7


def test_nothing_measured_is_nan() -> None:
    for nothing in (np.array([]), np.array([np.nan, np.nan])):
        estimate = bootstrap.mean(nothing, dice())
        assert np.isnan([estimate.value, estimate.low, estimate.high]).all()
    assert bootstrap.means({}, dice()) == {}


def test_one_column_of_nothing_beside_another() -> None:
    estimates = bootstrap.means({"a": np.array([1.0, 1.0]), "b": np.array([np.nan, np.nan])}, dice())
    assert estimates["a"] == Estimate(1, 1, 1)
    assert np.isnan(estimates["b"].low)


def test_paired_difference_is_tighter() -> None:
    # b is a plus a constant 0.1: every resample says exactly -0.1.
    a = dice().random(100)
    estimate = bootstrap.difference(a, a + 0.1, dice())
    assert (estimate.value, estimate.low, estimate.high) == approx((-0.1, -0.1, -0.1))


def test_difference_needs_both() -> None:
    # Pairs (1, 0) and (4, 2) are whole: mean difference (1 + 2) / 2.
    estimate = bootstrap.difference(np.array([1, 3, np.nan, 4]), np.array([0, np.nan, 9, 2]), dice())
    assert estimate.value == 1.5


def test_ratio_of_means_is_not_the_mean_of_ratios() -> None:
    # 1/1 and 0/3: sum 1 of 4 = 0.25, though the mean of the ratios is 0.5. Two requests, four resamples:
    # the ends are (0/3, 1/1).
    estimate = bootstrap.ratio(np.array([1.0, 0.0]), np.array([1.0, 3.0]), dice())
    assert estimate == Estimate(0.25, 0, 1)


def test_ratio_over_nothing_is_nan() -> None:
    assert np.isnan(bootstrap.ratio(np.array([0.0]), np.array([0.0]), dice()).value)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = dice().random(50)
    whole = bootstrap.mean(values, dice(), resamples=100)
    monkeypatch.setattr(bootstrap, "PIECE", 120)
    pieces = bootstrap.mean(values, dice(), resamples=100)
    assert (pieces.low, pieces.high) == approx((whole.low, whole.high))


def test_level() -> None:
    values = dice().random(400)
    wide, narrow = (bootstrap.mean(values, dice(), level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
