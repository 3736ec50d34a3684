"""AUC and its kin against pair counts and hand values; calibration."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pytest import approx

from shortlist.metrics.calibration import curve, ece, ratio, ratios
from shortlist.metrics.ctr import (
    Grouped,
    Histogram,
    auc,
    gauc,
    logloss,
    measure,
    normalized_entropy,
    permutation_importance,
    rate,
    relative_improvement,
)

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=40)


def by_pairs(s: NDArray[Any], y: NDArray[Any]) -> float:
    positive, negative = s[y == 1], s[y == 0]
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a in positive for b in negative]
    return float(np.mean(won)) if won else float("nan")


def split(rows: list[tuple[int, int, int]]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    s, y, u = (np.array(column) for column in zip(*rows, strict=True))
    return s / 6, y, u


def test_auc_by_hand() -> None:
    # positives 0.8, 0.4 against negatives 0.4, 0.1: three pairs right, one tie
    assert auc(np.array([0.8, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0])) == 3.5 / 4


@given(ROWS)
def test_auc_is_the_count_of_pairs(rows: list[tuple[int, int, int]]) -> None:
    s, y, _ = split(rows)
    assert auc(s, y) == approx(by_pairs(s, y), nan_ok=True)


@given(ROWS)
def test_auc_minds_only_order_and_turns_with_it(rows: list[tuple[int, int, int]]) -> None:
    s, y, _ = split(rows)
    assert auc(np.exp(3 * s), y) == approx(auc(s, y), nan_ok=True)
    assert auc(-s, y) == approx(1 - auc(s, y), nan_ok=True)


def test_a_monotone_transform_changes_logloss() -> None:
    p, y = np.array([0.9, 0.6, 0.2]), np.array([1, 0, 0])
    assert auc(p**2, y) == auc(p, y)
    assert logloss(p**2, y) != approx(logloss(p, y))


def test_the_base_rate_for_all_knows_nothing() -> None:
    y = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    p = np.full(8, 0.25)
    assert auc(p, y) == 0.5
    assert normalized_entropy(p, y) == approx(1.0)
    assert ratio(p, y) == approx(1.0)
    assert ece(p, y) == approx(0.0)


def test_nothing_to_rank_is_not_a_number() -> None:
    none, ones = np.zeros(0), np.ones(3)
    assert np.isnan([auc(none, none), auc(ones, ones), logloss(none, none), normalized_entropy(ones, ones)]).all()
    assert np.isnan([ratio(none, none), ece(none, none), rate(0, 0), relative_improvement(0.7, 0.5)]).all()
    assert np.isnan(normalized_entropy(none, none))
    assert np.isnan(Histogram(4).auc)
    assert gauc(none, none, none).groups == 0


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^scores hold NaN$"):
        auc(np.array([0.1, np.nan]), np.array([0, 1]))


def test_gauc_by_hand() -> None:
    # user 7: one pair, right: AUC 1, 2 rows. user 8: pairs right and wrong: AUC 1/2, 3 rows. user 9: clicks only
    users = np.array([7, 8, 7, 8, 8, 9])
    s = np.array([0.9, 0.5, 0.1, 0.8, 0.2, 0.3])
    y = np.array([1, 1, 0, 0, 0, 1])
    assert gauc(s, y, users) == Grouped((2 * 1 + 3 * 0.5) / 5, groups=2, skipped=1)


@given(ROWS)
def test_gauc_is_the_weighted_mean_of_pair_counts(rows: list[tuple[int, int, int]]) -> None:
    s, y, u = split(rows)
    each = {g: (by_pairs(s[u == g], y[u == g]), int((u == g).sum())) for g in set(u.tolist())}
    known = [(value, n) for value, n in each.values() if not np.isnan(value)]
    value = sum(v * n for v, n in known) / sum(n for _, n in known) if known else float("nan")
    found = gauc(s, y, u)
    assert found.value == approx(value, nan_ok=True)
    assert (found.groups, found.skipped) == (len(known), len(each) - len(known))


@given(ROWS)
def test_one_user_alone_has_gauc_auc(rows: list[tuple[int, int, int]]) -> None:
    s, y, _ = split(rows)
    assert gauc(s, y, np.full(len(s), "ann")).value == approx(auc(s, y), nan_ok=True)


@given(ROWS)
def test_a_constant_per_user_leaves_gauc(rows: list[tuple[int, int, int]]) -> None:
    s, y, u = split(rows)
    assert gauc(s * 6 + 10 * u, y, u).value == approx(gauc(s * 6, y, u).value, nan_ok=True)


def test_a_constant_per_user_can_change_auc() -> None:
    s, y, u = np.array([0.9, 0.1, 0.8, 0.2]), np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])
    assert auc(s, y) == 1.0
    assert auc(s + u, y) == 0.75  # 0.9 now stands below 1.2


def test_logloss_by_hand_and_clipped() -> None:
    assert logloss(np.array([0.8, 0.3]), np.array([1, 0])) == approx(-(np.log(0.8) + np.log(0.7)) / 2)
    assert logloss(np.array([0.0]), np.array([1])) == approx(-np.log(1e-7))
    assert logloss(np.array([1.0], dtype=np.float32), np.array([0])) == approx(-np.log(1e-7), rel=1e-6)


def test_normalized_entropy_by_hand() -> None:
    p, y = np.array([0.8, 0.3]), np.array([1, 0])
    assert normalized_entropy(p, y) == approx(logloss(p, y) / np.log(2))


def test_relative_improvement_by_hand() -> None:
    assert relative_improvement(0.65, 0.6) == approx(0.5)
    assert rate(3, 12) == 0.25


@given(ROWS, st.integers(1, 8))
def test_the_histogram_is_within_its_bound(rows: list[tuple[int, int, int]], bins: int) -> None:
    s, y, _ = split(rows)
    first, second = Histogram(bins), Histogram(bins)
    first.add(s[::2], y[::2])
    second.add(s[1::2], y[1::2])
    both = first + second
    if np.isnan(auc(s, y)):
        assert np.isnan(both.auc)
        return
    assert abs(both.auc - auc(s, y)) <= both.bound + 1e-12


def test_the_histogram_is_exact_where_bins_part_what_differs() -> None:
    counts = Histogram(10)
    counts.add(np.array([0.85, 0.45, 0.46, 0.15]), np.array([1, 1, 0, 0]))
    # 0.45 and 0.46 fall together: half a pair of four, where the exact value is 3 of 4
    assert counts.auc == 3.5 / 4
    assert counts.bound == 0.5 / 4


def test_the_histogram_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"^probabilities outside 0\.\.1$"):
        Histogram(10).add(np.array([1.5]), np.array([1]))


def test_a_mean_of_batches_is_not_the_auc() -> None:
    """Two batches, each ranked perfectly, on different levels."""
    s, y = np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 0, 1, 0])
    counts = Histogram(10)
    counts.add(s[:2], y[:2])
    counts.add(s[2:], y[2:])
    assert (auc(s[:2], y[:2]) + auc(s[2:], y[2:])) / 2 == 1.0
    assert counts.auc == auc(s, y) == 0.75


def test_what_is_used_loses_auc_when_it_is_shuffled() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    columns = {"told": y + rng.normal(size=400) * 0.1, "noise": rng.normal(size=400), "unread": y.astype(float)}

    def score(given: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return given["told"] + 0.01 * given["noise"]

    lost = permutation_importance(score, columns, y, np.random.default_rng(1))
    assert len(lost["told"].auc) == 3
    assert lost["told"].auc.mean() == approx(0.5, abs=0.05)  # from 1 to chance
    assert abs(lost["noise"].auc).max() < 0.01
    assert lost["unread"].auc.tolist() == [0.0, 0.0, 0.0]
    again = permutation_importance(score, columns, y, np.random.default_rng(1))
    assert all(lost[name].auc.tolist() == again[name].auc.tolist() for name in columns)
    assert lost["told"].by_group.tolist() == approx([lost["told"].auc.mean()])  # all rows are one group
    assert lost["told"].rows.tolist() == [400]


def test_what_groups_lose_is_weighted_by_their_rows() -> None:
    """Reversing is the only other order of two rows: a fixed permutation makes the numbers plain."""
    y, groups = np.array([1, 0, 1, 0, 1]), np.array([7, 7, 9, 9, 9])

    class Reverse:
        def permutation(self, n: int) -> NDArray[Any]:
            return np.arange(n)[::-1]

    dice: Any = Reverse()
    s = np.array([2.0, 1.0, 5.0, 4.0, 6.0])
    lost = permutation_importance(lambda given: given["s"], {"s": s}, y, dice, 1, groups)["s"]
    # reversed: 6 4 | 5 1 2; the first group stays in order, of the second both positives stay above: nothing is lost
    assert lost.by_group.tolist() == [0.0, 0.0]
    lost = permutation_importance(lambda given: given["s"], {"s": s[::-1]}, y, dice, 1, groups)["s"]
    assert lost.by_group.tolist() == [0.0, 0.0]
    y = np.array([1, 0, 0, 0, 1])
    lost = permutation_importance(lambda given: given["s"], {"s": s}, y, dice, 1, groups)["s"]
    # second group: 5 4 6 with the 6 a positive is 1; shuffled 5 1 2 it beats one of two: 1/2 lost, of rows 2 and 3
    assert lost.by_group.tolist() == [0.0, 0.5]
    assert lost.rows.tolist() == [2, 3]


def test_a_report_has_all_of_a_task() -> None:
    p, y, users = np.array([0.8, 0.4, 0.3, 0.1]), np.array([1, 0, 1, 0]), np.array([1, 1, 2, 2])
    found = measure(p, y, users, bins=2)
    assert list(found) == ["auc", "gauc", "logloss", "ne", "ece", "calibration", "base_rate"]
    assert (found["auc"], found["gauc"], found["base_rate"]) == (0.75, 1.0, 0.5)
    assert found["calibration"] == approx(1.6 / 2)
    # bins {0.1, 0.3} with half positive and {0.4, 0.8} with half positive: |0.2 - 0.5| and |0.6 - 0.5|
    assert found["ece"] == approx((0.3 + 0.1) / 2)


def test_the_curve_by_hand() -> None:
    p, y = np.array([0.1, 0.9, 0.3, 0.7]), np.array([0, 1, 1, 1])
    found = curve(p, y, bins=2)
    assert found.predicted == approx([0.2, 0.8])
    assert found.observed == approx([0.5, 1.0])
    assert found.rows.tolist() == [2, 2]
    # Wilson at 2 of 2: from 2 / (2 + z²) = 0.3424 to 1
    assert found.low[1] == approx(2 / (2 + 1.959964**2), abs=1e-6)
    assert found.high[1] == approx(1.0)


@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 6))
def test_the_curve_does_not_mind_the_order_of_rows(rows: list[tuple[int, int, int]], random: Any, bins: int) -> None:
    s, y, _ = split(rows)
    turned = rows.copy()
    random.shuffle(turned)
    t, z, _ = split(turned)
    assert ece(s, y, bins) == approx(ece(t, z, bins))
    found = curve(s, y, bins)
    assert found.rows.sum() == len(rows)
    assert (np.diff(found.predicted) > 0).all()
    assert ((found.low <= found.observed + 1e-12) & (found.observed <= found.high + 1e-12)).all()


def test_distinct_predictions_fill_bins_alike() -> None:
    p = np.random.default_rng(0).permutation(100) / 100
    assert curve(p, p > 0.5, bins=20).rows.tolist() == [5] * 20


def test_calibration_by_slice() -> None:
    p, y = np.array([0.5, 0.5, 0.2, 0.2, 0.9]), np.array([1, 0, 1, 0, 0])
    found = ratios(p, y, np.array([0, 0, 1, 1, 2]))
    assert found == approx([1.0, 0.4, np.nan], nan_ok=True)
