"""Expectation over ties: against every order of small cases, by hand, and against lists where nothing ties."""

from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.errors import DataError
from shortlist.metrics import expected, topk
from shortlist.metrics.expected import UNRANKED, positive_ranks, tied_ranks

approx = pytest.approx
METRICS = ("recall", "precision", "f1", "hit_rate", "ndcg", "mrr", "map")


def plainly(found: list[int], relevant: int, k: int) -> dict[str, float]:
    """The definitions in plain Python for 0/1 hits by rank."""
    found = found[:k]
    ranks = [r for r, h in enumerate(found, 1) if h]
    ideal = sum(1 / log2(r + 1) for r in range(1, min(relevant, k) + 1))
    return {
        "recall": len(ranks) / relevant,
        "precision": len(ranks) / k,
        "f1": 2 * len(ranks) / (k + relevant),
        "hit_rate": float(bool(ranks)),
        "ndcg": sum(1 / log2(r + 1) for r in ranks) / ideal,
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum(n / r for n, r in enumerate(ranks, 1)) / min(relevant, k),
    }


def over_all_orders(scores: list[float], candidates: list[bool], labels: set[int], k: int) -> dict[str, float]:
    """Mean over every shuffle followed by a stable sort: each order of tied items equally often."""
    orders = list(permutations([i for i, c in enumerate(candidates) if c]))
    total = dict.fromkeys(METRICS, 0.0)
    for order in orders:
        ranked = sorted(order, key=lambda i: -scores[i])
        for name, value in plainly([int(i in labels) for i in ranked], len(labels), k).items():
            total[name] += value / len(orders)
    return total


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], list[bool], list[int], int]:
    n = draw(st.integers(1, 6))
    scores = draw(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0]), min_size=n, max_size=n))
    candidates = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
    return scores, candidates, labels, draw(st.integers(1, n + 1))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_equals_the_mean_over_all_orders(case: tuple[list[float], list[bool], list[int], int]) -> None:
    scores, candidates, labels, k = case
    want = over_all_orders(scores, candidates, set(labels), k)
    matrix, mask, offsets = np.array([scores]), np.array([candidates]), np.array([0, len(labels)])
    for depth in {None, k, len(scores)}:
        ranks = tied_ranks(matrix, offsets, np.array(labels), candidates=mask, depth=depth)
        got = expected.accuracy(ranks, [k])
        assert {name: float(got[f"{name}@{k}"][0]) for name in METRICS} == approx(want, abs=1e-12)


def test_constant_scorer_by_hand() -> None:
    # Two labels among four equal items, cut at 2. Hits by order: C(4,2) = 6 placements of the labels on ranks.
    # Recall: each label is in the first two with 2/4; F1 = 2 * 1 / (2 + 2). Hit rate: 1 - C(2,2)/C(4,2) = 5/6.
    # MRR: label first in 3 of 6 placements, not first but second in 2 of 6: 3/6 + 2/6 * 1/2 = 2/3.
    # NDCG: each rank holds a label half the time: (1 + 1/log2(3)) / 2 of an ideal 1 + 1/log2(3): 1/2.
    # AP: {1,2} gives (1+1)/2, {1,3},{1,4} 1/2 each, {2,3},{2,4} 1/4 each, {3,4} 0: (1 + 1 + 1/2) / 6 = 5/12.
    got = expected.accuracy(tied_ranks(np.zeros((1, 4)), np.array([0, 2]), np.array([1, 3])), [2])
    assert {name: float(column[0]) for name, column in got.items()} == approx(
        {
            "recall@2": 1 / 2, "precision@2": 1 / 2, "f1@2": 1 / 2, "hit_rate@2": 5 / 6, "ndcg@2": 1 / 2,
            "mrr@2": 2 / 3, "map@2": 5 / 12,
        }
    )  # fmt: skip


@pytest.mark.parametrize("positive", [0, 57, 99])
def test_constant_scorer_over_a_hundred_candidates(positive: int) -> None:
    # The positive is uniform on ranks 1..100: HR@10 = 10/100; its mid-rank 50.5 would give 0.
    got = expected.accuracy(positive_ranks(np.zeros((3, 100)), positive), [10])
    assert got["hit_rate@10"] == approx([0.10, 0.10, 0.10], abs=1e-15)
    assert got["recall@10"] == approx([0.10, 0.10, 0.10], abs=1e-15)
    # NDCG@10 = Σ_{r=1..10} 1/log2(r+1) / 100 = 4.5436 / 100
    assert got["ndcg@10"] == approx([0.045436, 0.045436, 0.045436], abs=1e-6)


def test_positive_per_request() -> None:
    scores = np.array([[1, 2, 3], [1, 2, 3], [2, 2, 1]], dtype=np.int64)
    # Rank 3; rank 1; tied for ranks 1 and 2: (1 + 1/2) / 2 = 3/4.
    got = expected.mrr(positive_ranks(scores, np.array([0, 2, 1])), 3)
    assert got.tolist() == approx([1 / 3, 1, 3 / 4])


def random_case(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    scores = rng.standard_normal((40, 300)).astype(np.float32)
    counts = rng.integers(0, 30, 40)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    columns = np.concatenate([rng.choice(300, c, replace=False) for c in counts])
    return scores, offsets, columns


def test_without_ties_equals_the_served_list() -> None:
    scores, offsets, columns = random_case(np.random.default_rng(3))
    slates = np.argsort(-scores, axis=1)[:, :50].astype(np.int64)
    want = topk.accuracy(slates, offsets, columns, [1, 10, 50])
    got = expected.accuracy(tied_ranks(scores, offsets, columns, depth=50), [1, 10, 50])
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-12)


def test_depth_changes_nothing_above_it() -> None:
    scores, offsets, columns = random_case(np.random.default_rng(4))
    scores = np.round(scores, 1)
    scores[:5] = 0
    whole = expected.accuracy(tied_ranks(scores, offsets, columns), [1, 7, 20])
    cut = expected.accuracy(tied_ranks(scores, offsets, columns, depth=20), [1, 7, 20])
    for name in whole:
        np.testing.assert_allclose(cut[name], whole[name], atol=1e-12)


def test_many_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, offsets, columns = random_case(np.random.default_rng(5))
    scores = np.round(scores, 1)
    want = expected.accuracy(tied_ranks(scores, offsets, columns), [10])
    monkeypatch.setattr(expected, "PIECE", 25)
    got = expected.accuracy(tied_ranks(scores, offsets, columns), [10])
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


def test_above_and_tied() -> None:
    # Scores 5 4 4 4 1: column 0 stands alone; 1 and 3 share places 2..4; 4 lies below depth 3.
    ranks = tied_ranks(np.array([[5, 4, 4, 4, 1]]), np.array([0, 4]), np.array([0, 1, 3, 4]), depth=3)
    assert ranks.above.tolist() == [0, 1, 1, UNRANKED]
    assert ranks.tied.tolist() == [1, 3, 3, 1]
    assert ranks.depth == 3


def test_minus_infinity_and_missing_columns_are_never_found() -> None:
    scores = np.array([[-np.inf, -np.inf, 1.0]])
    got = expected.accuracy(tied_ranks(scores, np.array([0, 3]), np.array([0, 2, -1])), [3])
    # Three labels, one ranked, at rank 1.
    assert got["recall@3"][0] == approx(1 / 3)
    assert got["mrr@3"][0] == 1


def test_scores_are_left_alone_unless_offered() -> None:
    scores = np.array([[3.0, 1.0, 2.0]])
    tied_ranks(scores, np.array([0, 1]), np.array([1]), candidates=np.array([[True, True, False]]), depth=1)
    assert scores.tolist() == [[3, 1, 2]]


def test_nan_is_refused() -> None:
    with pytest.raises(DataError) as error:
        tied_ranks(np.array([[1.0, 2.0], [np.nan, 2.0]]), np.array([0, 1, 2]), np.array([0, 1]))
    assert str(error.value) == "row 1: a score is NaN (check the model; -inf rules an item out)"


def test_cut_below_the_depth_is_refused() -> None:
    ranks = tied_ranks(np.zeros((1, 9)), np.array([0, 1]), np.array([0]), depth=3)
    with pytest.raises(ValueError, match=r"cut 4 is outside 1\.\.3"):
        expected.recall(ranks, 4)


def test_request_without_label_and_without_candidates() -> None:
    ranks = tied_ranks(np.zeros((2, 3)), np.array([0, 0, 1]), np.array([2]))
    assert np.isnan(expected.ndcg(ranks, 2)).tolist() == [True, False]
    none = tied_ranks(np.zeros((1, 0)), np.array([0, 1]), np.array([-1]))
    assert expected.recall(none, 5).tolist() == [0]
