"""Drift by hand values, and against scipy; coverage of feature columns."""

from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pytest import approx
from scipy import stats

from shortlist.features.coverage import covered
from shortlist.features.drift import FLOOR, drift, drifts, histogram, ks, psi


def column(*values: Any) -> NDArray[Any]:
    return np.fromiter(values, dtype=object, count=len(values))


def test_the_index_of_three_bins() -> None:
    # shares 0.5, 0.3, 0.2 become 0.25, 0.3, 0.45: -0.25 ln(0.5) + 0 + 0.25 ln(2.25) = 0.25 (ln 2 + ln 2.25)
    assert psi(np.array([50.0, 30, 20]), np.array([25.0, 30, 45])) == approx(0.25 * (log(2) + log(2.25)))
    assert psi(np.array([5.0, 3, 2]), np.array([500.0, 300, 200])) == approx(0)


def test_a_bin_that_is_empty_on_one_side_counts_with_a_floor() -> None:
    # half of it moves into a bin that was empty: (0.5 - 1) ln 0.5 + (0.5 - floor) ln(0.5 / floor)
    expected = 0.5 * log(2) + (0.5 - FLOOR) * log(0.5 / FLOOR)
    assert psi(np.array([4.0, 0]), np.array([2.0, 2])) == approx(expected)
    assert np.isnan(psi(np.array([4.0, 0]), np.zeros(2)))


def test_the_index_is_the_same_both_ways() -> None:
    a, b = np.array([9.0, 1, 4]), np.array([2.0, 5, 5])
    assert psi(a, b) == approx(psi(b, a))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the test that goes with the distance
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_the_distance_is_that_of_scipy(a: list[int], b: list[int]) -> None:
    before, after = np.array(a, dtype=np.float64), np.array(b, dtype=np.float64)
    assert ks(before, after) == approx(stats.ks_2samp(before, after, method="asymp").statistic, abs=1e-12)


def test_the_distance_by_hand() -> None:
    # below 2: two of four against none: 1/2; at 3 all of four against one of two: 1/2
    assert ks(np.array([1.0, 1, 3, 3, np.nan]), np.array([3.0, 4])) == 0.5
    assert np.isnan(ks(np.array([np.nan]), np.array([1.0])))


def test_few_numbers_are_bins_of_their_own() -> None:
    words, before, after = histogram(np.array([0.0, 0, 1, 2, np.nan]), np.array([2.0, 5, -1, 0]))
    assert words == ("below 1", "from 1", "from 2", "missing")
    assert before.tolist() == [2, 1, 1, 1]
    assert after.tolist() == [2, 0, 2, 0]


def test_many_numbers_fall_into_bins_of_equal_size() -> None:
    words, before, after = histogram(np.arange(100.0), np.full(7, 95.0))
    assert before.tolist() == [10] * 10
    assert after.tolist() == [0] * 9 + [7]
    assert words[:2] == ("below 9.9", "from 9.9")
    # mostly zeros, as counts are: up to the 0.7 quantile it is 0, then 0.2 (between 0 and 1), then 10.1
    words, before, after = histogram(np.array([0.0] * 80 + list(range(1, 21))), np.zeros(5))
    assert words == ("below 0.2", "from 0.2", "from 10.1")
    assert (before.tolist(), after.tolist()) == ([80, 10, 10], [5, 0, 0])


def test_words_are_bins_by_value_and_lists_count_each() -> None:
    words, before, after = histogram(column("b", "a", "a", None, "c"), column("z", "a", "c"), bins=2)
    assert words == ("a", "b", "other", "missing")
    assert before.tolist() == [2, 1, 1, 1]
    assert after.tolist() == [1, 0, 2, 0]
    words, before, after = histogram(column(["x", "y"], []), column(["x"]))
    assert (words, before.tolist(), after.tolist()) == (("x", "y", "missing"), [1, 1, 1], [1, 0, 0])


def test_a_column_that_moved() -> None:
    rng = np.random.default_rng(0)
    same = drift("a", rng.normal(size=5000), rng.normal(size=5000))
    moved = drift("b", rng.normal(size=5000), rng.normal(1, 1, 5000))
    # ks of two unit normals one apart: 2 Phi(1/2) - 1 = 0.383
    assert moved.ks == approx(2 * stats.norm.cdf(0.5) - 1, abs=0.03)
    assert (same.verdict, moved.verdict) == ("steady", "moved")
    assert same.before.sum() == approx(1)
    word = drift("c", column("a", "b"), column("a", "a"))
    assert np.isnan(word.ks)
    assert drift("d", column(None), column()).verdict == "unknown"


def test_the_one_that_moved_most_comes_first() -> None:
    before = {"still": np.arange(50.0), "off": np.arange(50.0), "gone": np.arange(50.0), "empty": np.zeros(0)}
    after = {"still": np.arange(50.0), "off": np.arange(50.0) + 30, "empty": np.zeros(0)}
    assert [d.name for d in drifts(before, after)] == ["off", "still", "empty"]


def test_coverage_is_the_share_of_other_values_than_the_default() -> None:
    columns = {
        "count": np.array([0.0, 2.0, np.nan, 1.0]),  # two of four
        "word": column("a", None, "", "b"),  # three: an empty text is a text
        "list": column([], ["a"], None, ["b", "c"]),
        "none": np.zeros(0),
    }
    assert covered(columns) == {"count": 0.5, "word": 0.75, "list": 0.5, "none": 0.0}


def test_coverage_before_and_after() -> None:
    found = drift("a", np.array([0.0, 1.0]), np.array([1.0, 1.0, np.nan, 3.0]))
    assert (found.covered_before, found.covered_after) == (0.5, 0.75)


@pytest.mark.parametrize("bins", [1, 3, 50])
def test_every_value_is_in_one_bin(bins: int) -> None:
    rng = np.random.default_rng(1)
    before, after = rng.integers(0, 30, 200).astype(np.float64), rng.integers(0, 60, 100).astype(np.float64)
    before[:20] = np.nan
    words, p, q = histogram(before, after, bins)
    assert (p.sum(), q.sum()) == (200, 100)
    assert len(words) == len(p) == len(q)
