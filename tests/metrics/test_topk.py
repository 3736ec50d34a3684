"""Accuracy of served lists: numbers a person can check, and the properties of the definitions."""

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.errors import DataError
from shortlist.metrics import topk

approx = pytest.approx
A, B, C, W, X, Y, Z = range(7)


def measure(lists: list[list[int]], labels: list[list[int]], k: int) -> dict[str, NDArray[np.float64]]:
    """Columns without their `@k`."""
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in labels])]).astype(np.int64)
    items = np.array([i for t in labels for i in t], dtype=np.int64)
    columns = topk.accuracy(np.array(lists, dtype=np.int64), offsets, items, [k])
    return {name.removesuffix(f"@{k}"): column for name, column in columns.items()}


def one(slate: list[int], labels: list[int], k: int) -> dict[str, float]:
    return {name: float(column[0]) for name, column in measure([slate], [labels], k).items()}


def test_first_hit_of_three_labels() -> None:
    # One hit at rank 1: DCG = 1. Three labels: IDCG = 1 + 1/log2(3) + 1/log2(4) = 2.1309. 1 / 2.1309 = 0.4693.
    m = one([C, X, Y, Z, W], [A, B, C], 5)
    assert m["ndcg"] == approx(0.4693, abs=5e-5)
    assert m["recall"] == approx(1 / 3)
    assert m["precision"] == approx(1 / 5)
    # Precision 1/5, recall 1/3: F1 = 2 * 1/15 / (8/15) = 1/4.
    assert m["f1"] == approx(1 / 4)
    assert m["mrr"] == m["hit_rate"] == 1
    # AP = (1/1) / min(3, 5)
    assert m["map"] == approx(1 / 3)


def test_last_hit_of_three_labels() -> None:
    # One hit at rank 5: DCG = 1/log2(6) = 0.3869; 0.3869 / 2.1309 = 0.1815.
    m = one([X, Y, Z, W, A], [A, B, C], 5)
    assert m["ndcg"] == approx(0.1815, abs=5e-5)
    assert m["mrr"] == approx(1 / 5)
    assert m["map"] == approx((1 / 5) / 3)


def test_hits_at_ranks_one_and_three() -> None:
    # Relevant at ranks 1 and 3 of 3: DCG = 1 + 1/2, IDCG = 1 + 1/log2(3); AP = (1/1 + 2/3) / 2.
    hits = np.array([[True, False, True]])
    assert topk.ndcg(hits, np.array([2]), 3)[0] == approx(1.5 / (1 + 1 / log2(3)))
    assert topk.average_precision(hits, np.array([2]), 3)[0] == approx(5 / 6)


def test_more_labels_than_places() -> None:
    # Both places hit, four labels: recall 2/4; the ideal of NDCG and AP holds 2 hits, so both are 1.
    m = one([A, B], [A, B, C, X], 2)
    assert m["recall"] == 0.5
    assert m["ndcg"] == m["map"] == m["precision"] == approx(1)


def test_short_list_keeps_its_denominator() -> None:
    # One hit in a list of two, cut at 5: precision 1/5, and the list counts as short.
    m = one([A, X, -1, -1, -1], [A], 5)
    assert m["precision"] == approx(0.2)
    assert m["recall"] == m["ndcg"] == 1
    assert topk.short(np.array([[A, X, -1], [A, X, Y]]), 3) == 1


def test_cut_deeper_than_the_list() -> None:
    m = one([X, A], [A, B], 10)
    assert m["precision"] == approx(0.1)
    assert m["recall"] == approx(0.5)
    # DCG = 1/log2(3); IDCG of two labels = 1 + 1/log2(3)
    assert m["ndcg"] == approx((1 / log2(3)) / (1 + 1 / log2(3)))


def test_request_without_label_is_nan_and_counted() -> None:
    columns = measure([[A, B], [A, B]], [[A], []], 2)
    assert all(np.isnan(column[1]) and not np.isnan(column[0]) for column in columns.values())
    assert topk.skipped(np.array([0, 1, 1])) == 1


def test_label_outside_the_catalogue_is_a_miss() -> None:
    # -1 twice and A, all distinct labels: recall 1/3. The -1 behind the end of the list is no hit, and
    # a -1 of request 1 must not look like the largest key of request 0.
    columns = measure([[A, Z, -1], [X, -1, -1]], [[A, -1, -1], [-1]], 3)
    assert columns["recall"].tolist() == [approx(1 / 3), 0]


def test_no_labels_at_all() -> None:
    assert np.isnan(measure([[A], [B]], [[], []], 1)["recall"]).all()


def test_repeated_item_is_refused() -> None:
    with pytest.raises(DataError) as error:
        measure([[A, B], [C, C]], [[A], [B]], 2)
    assert str(error.value) == "request 1: a list holds an item twice (drop the repeats)"
    with pytest.raises(DataError) as error:
        measure([[A, B], [C, X]], [[A, A], [B]], 2)
    assert str(error.value) == "request 0: a label set holds an item twice (drop the repeats)"


def test_lengths_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="1 lists, 3 offsets, 2 labels do not fit together"):
        topk.hits(np.array([[A]]), np.array([0, 1, 2]), np.array([A, B]))


@st.composite
def lists_and_labels(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    slate = draw(st.permutations(range(12)))[: draw(st.integers(1, 8))]
    labels = draw(st.permutations(range(12)))[: draw(st.integers(1, 8))]
    return slate, labels, draw(st.integers(1, 10))


@given(lists_and_labels())
def test_perfect_list(case: tuple[list[int], list[int], int]) -> None:
    _, labels, k = case
    rest = [i for i in range(12) if i not in labels]
    m = one([*labels, *rest], labels, k)
    assert m["recall"] == approx(min(k, len(labels)) / len(labels))
    assert m["ndcg"] == approx(1)
    assert m["map"] == approx(1)
    assert m["mrr"] == 1


@given(lists_and_labels(), st.randoms())
def test_order_of_labels_changes_nothing(case: tuple[list[int], list[int], int], random: object) -> None:
    slate, labels, k = case
    assert one(slate, labels[::-1], k) == one(slate, labels, k) == one(slate, sorted(labels), k)


@given(lists_and_labels(), st.data())
def test_moving_a_hit_up_never_lowers(case: tuple[list[int], list[int], int], data: st.DataObject) -> None:
    slate, labels, k = case
    hits = [r for r, item in enumerate(slate) if item in labels and r > 0]
    if not hits:
        return
    rank = data.draw(st.sampled_from(hits))
    moved = slate.copy()
    moved[rank - 1], moved[rank] = moved[rank], moved[rank - 1]
    before, after = one(slate, labels, k), one(moved, labels, k)
    for name in ("ndcg", "mrr", "map"):
        assert after[name] >= before[name] - 1e-12


@given(lists_and_labels())
def test_one_label(case: tuple[list[int], list[int], int]) -> None:
    slate, labels, k = case
    m = one(slate, labels[:1], k)
    assert m["recall"] == m["hit_rate"]
    assert m["map"] == m["mrr"]


def test_random_lists_find_k_of_n() -> None:
    # 20,000 random lists of 5 out of 50 items: E[recall@5] = 5/50 = 0.1, standard error about 0.0015 with
    # two labels, so 0.008 is more than five of them.
    rng = np.random.default_rng(7)
    slates = rng.permuted(np.tile(np.arange(50), (20_000, 1)), axis=1)[:, :5]
    labels = rng.permuted(np.tile(np.arange(50), (20_000, 1)), axis=1)[:, :2]
    columns = topk.accuracy(slates, np.arange(0, 40_001, 2), labels.ravel(), [5])
    assert columns["recall@5"].mean() == approx(0.1, abs=0.008)
    assert columns["precision@5"].mean() == approx(2 / 50, abs=0.004)


def test_columns_are_named_by_metric_and_cut() -> None:
    columns = topk.accuracy(np.array([[A, B]]), np.array([0, 1]), np.array([B]), [1, 2], ["recall", "mrr"])
    assert {name: column.tolist() for name, column in columns.items()} == {
        "recall@1": [0.0],
        "recall@2": [1.0],
        "mrr@1": [0.0],
        "mrr@2": [0.5],
    }
