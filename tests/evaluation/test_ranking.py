"""Full and sampled ranking: blocks, seen items, ties, cold labels, and agreement with plain sorting."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from shortlist.errors import DataError
from shortlist.evaluation import ranking
from shortlist.metrics import topk as served

approx = pytest.approx
ScoreBlock = Callable[[int, int], NDArray[Any]]


def rows_of(scores: NDArray[Any]) -> ScoreBlock:
    return lambda start, stop: scores[start:stop]


def csr(rows: list[list[int]], width: int) -> sparse.csr_array:
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    columns = np.array([c for r in rows for c in r], dtype=np.int64)
    return sparse.csr_array((np.ones(len(columns)), columns, offsets), shape=(len(rows), width))


def world(
    decimals: int | None, users: int = 60, items: int = 200
) -> tuple[NDArray[np.float32], sparse.csr_array, sparse.csr_array]:
    """Random scores, seen and relevant items; few decimals make ties."""
    rng = np.random.default_rng(5)
    scores = rng.standard_normal((users, items)).astype(np.float32)
    if decimals is not None:
        scores = np.round(scores, decimals)
    parts = [rng.permutation(items) for _ in range(users)]
    seen = csr([list(p[: n % 40]) for n, p in enumerate(parts)], items)
    relevant = csr([list(p[40 : 40 + n % 7]) for n, p in enumerate(parts)], items)
    return scores, seen, relevant


def plain_lists(
    scores: NDArray[np.float32], seen: sparse.csr_array, k: int, keys: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sort everything: falling score, then smaller key."""
    out = np.full((len(scores), k), -1)
    for u in range(len(scores)):
        allowed = np.setdiff1d(np.arange(scores.shape[1]), seen[[u]].indices)
        best = allowed[np.lexsort((keys[allowed], -scores[u, allowed]))][:k]
        out[u, : len(best)] = keys[best]
    return out


@pytest.mark.parametrize("block", [None, 1, 7, 60])
@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_lists_equal_plain_sorting(decimals: int | None, block: int | None) -> None:
    scores, seen, _ = world(decimals)
    keys = np.arange(200) * 3 + 5
    got = ranking.topk(rows_of(scores), seen, 20, keys=keys, block=block)
    np.testing.assert_array_equal(got, plain_lists(scores, seen, 20, keys))


@pytest.mark.parametrize("block", [None, 1, 7])
def test_accuracy_without_ties_equals_that_of_the_lists(block: int | None) -> None:
    scores, seen, relevant = world(None)
    lists = ranking.topk(rows_of(scores), seen, 30)
    want = served.accuracy(lists, relevant.indptr.astype(np.int64), relevant.indices.astype(np.int64), [5, 30])
    got = ranking.full_ranking(rows_of(scores), seen, relevant, [5, 30], block=block)
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-12)


def test_ties_are_the_mean_over_orders_of_the_items() -> None:
    # Expectation over ties = mean over random renamings of the items with ties by smaller key. The mean over
    # 60 users of one renaming strays by less than 0.05, that of 300 by less than 0.003.
    scores, seen, relevant = world(0)
    got = ranking.full_ranking(rows_of(scores), seen, relevant, [10])
    rng, total = np.random.default_rng(2), dict.fromkeys(got, 0.0)
    offsets = relevant.indptr.astype(np.int64)
    for _ in range(300):
        order = rng.permutation(200)
        name_of = np.argsort(order)
        lists = ranking.topk(rows_of(scores[:, order]), sparse.csr_array(seen[:, order]), 10)
        columns = served.accuracy(lists, offsets, name_of[relevant.indices], [10])
        for name, column in columns.items():
            total[name] += float(np.nanmean(column)) / 300
    assert {name: float(np.nanmean(column)) for name, column in got.items()} == approx(total, abs=0.01)


def test_random_scores_find_k_of_n() -> None:
    # One label among 100 unseen items, 4,000 users: recall@10 = 0.1, standard error sqrt(0.09 / 4000) = 0.0047.
    scores = np.random.default_rng(1).random((4000, 100))
    relevant = csr([[u % 100] for u in range(4000)], 100)
    got = ranking.full_ranking(rows_of(scores), csr([[]] * 4000, 100), relevant, [10])
    assert got["recall@10"].mean() == approx(0.1, abs=0.02)


def test_constant_scores_over_the_unseen() -> None:
    # 2 of 12 items seen: the label is among 10 equal ones, recall@4 = 4/10.
    got = ranking.full_ranking(rows_of(np.zeros((1, 12))), csr([[0, 1]], 12), csr([[5]], 12), [4])
    assert got["recall@4"] == approx([0.4])


def test_seen_and_cold_labels_count_and_are_never_found() -> None:
    # Labels: item 0 (ranked first among the unseen), item 1 (seen), one without a column: recall 1/3.
    scores = np.array([[3.0, 9.0, 1.0]])
    got = ranking.full_ranking(rows_of(scores), csr([[1]], 3), csr([[0, 1]], 3), [1, 3], cold=np.array([1]))
    assert got["recall@1"] == approx([1 / 3])
    assert got["recall@3"] == approx([1 / 3])
    # A user with only a cold label is measured, a user without any label is not.
    got = ranking.full_ranking(
        rows_of(np.zeros((2, 3))), csr([[], []], 3), csr([[], []], 3), [1], cold=np.array([1, 0])
    )
    np.testing.assert_array_equal(got["recall@1"], [0, np.nan])


def test_fewer_items_than_the_cut() -> None:
    scores, seen = np.array([[1.0, 3.0, 2.0], [1.0, -np.inf, 2.0]]), csr([[1], []], 3)
    assert ranking.topk(rows_of(scores), seen, 5).tolist() == [[2, 0, -1, -1, -1], [2, 0, -1, -1, -1]]
    got = ranking.full_ranking(rows_of(scores), seen, csr([[0], [1]], 3), [5])
    # Second of two; ruled out by its score.
    assert got["mrr@5"] == approx([1 / 2, 0])
    assert ranking.topk(lambda a, b: np.zeros((b - a, 0)), csr([[]], 0), 2).tolist() == [[-1, -1]]


def test_repeated_entries_count_once() -> None:
    relevant = sparse.csr_array((np.ones(2), np.array([1, 1]), np.array([0, 2])), shape=(1, 3))
    got = ranking.full_ranking(rows_of(np.array([[1.0, 3.0, 2.0]])), csr([[]], 3), relevant, [1])
    assert got["recall@1"] == approx([1])
    assert relevant.nnz == 2  # the caller's matrix stays as it was


def test_scores_of_the_caller_stay_as_they_were() -> None:
    scores, seen, relevant = world(1)
    before = scores.copy()
    ranking.full_ranking(rows_of(scores), seen, relevant, [10])
    ranking.topk(rows_of(scores), seen, 10)
    np.testing.assert_array_equal(scores, before)


def test_integer_scores() -> None:
    scores = np.array([[5, 7, 7]], dtype=np.int32)
    assert ranking.topk(rows_of(scores), csr([[]], 3), 2).tolist() == [[1, 2]]


def test_leave_one_out_by_hand() -> None:
    scores = np.zeros((2, 100))
    scores[1, 0] = 1
    got = ranking.candidates_ranking(scores, 0, [10])
    # All equal: uniform on 1..100. Alone on top: rank 1.
    assert got["hit_rate@10"] == approx([0.10, 1])
    assert got["ndcg@10"][1] == 1


def test_nan_names_the_user() -> None:
    scores = np.zeros((5, 4))
    scores[3, 2] = np.nan
    empty, one = csr([[]] * 5, 4), csr([[0]] * 5, 4)
    with pytest.raises(DataError) as error:
        ranking.topk(rows_of(scores), empty, 2, block=2)
    assert str(error.value) == "user 3: a score is NaN (check the model; -inf rules an item out)"
    with pytest.raises(DataError) as error:
        ranking.full_ranking(rows_of(scores), empty, one, [2], block=2)
    message = "users 2..3, row 1: a score is NaN (check the model; -inf rules an item out)"
    assert str(error.value) == message
    # Seen items may hold anything.
    seen = csr([[], [], [], [2], []], 4)
    assert ranking.topk(rows_of(scores), seen, 2, block=2)[3].tolist() == [0, 1]


def test_shapes_that_do_not_fit() -> None:
    scores, seen, relevant = world(None)
    with pytest.raises(ValueError, match=r"users 0\.\.59 got scores \(60, 199\), not \(60, 200\)"):
        ranking.topk(rows_of(scores[:, :-1]), seen, 3)
    with pytest.raises(ValueError, match=r"seen is \(60, 200\), relevant \(59, 200\)"):
        ranking.full_ranking(rows_of(scores), seen, sparse.csr_array(relevant[:59]), [3])
    with pytest.raises(ValueError, match="200 columns need as many ascending distinct keys"):
        ranking.topk(rows_of(scores), seen, 3, keys=np.arange(200)[::-1])
