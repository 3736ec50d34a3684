"""FlatIndex: exact search against float64 arithmetic."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.errors import ArtifactError, RequestError
from shortlist.forms import Metric, Vectors
from shortlist.index import flat as module
from shortlist.index.cut import Ints, cut
from shortlist.index.flat import FlatIndex


def points(rng: np.random.Generator, n: int, metric: Metric) -> Vectors:
    return Vectors(rng.permutation(10 * n)[:n], rng.standard_normal((n, 8)).astype(np.float32), metric)


def test_by_hand() -> None:
    form = Vectors(np.array([5, 3, 9]), np.array([[1, 0], [1, 0], [0, 2]], dtype=np.float32))
    keys, scores = FlatIndex(form).search(np.array([[1, 1]], dtype=np.float32), 5)
    assert keys.tolist() == [[9, 3, 5, -1, -1]]  # 2 > 1 = 1, the tie by smaller key, nothing behind
    assert scores.tolist() == [[2.0, 1.0, 1.0, -np.inf, -np.inf]]


def test_l2_is_negated_and_squared() -> None:
    form = Vectors(np.array([1, 2]), np.array([[3, 4], [0, 1]], dtype=np.float32), "l2")
    keys, scores = FlatIndex(form).search(np.zeros((1, 2), dtype=np.float32), 2)
    assert keys.tolist() == [[2, 1]]
    assert scores.tolist() == [[-1.0, -25.0]]


def test_cos_ignores_length_and_a_zero_vector_scores_zero() -> None:
    form = Vectors(np.array([1, 2]), np.array([[0, 0], [0, -3]], dtype=np.float32), "cos")
    keys, scores = FlatIndex(form).search(np.array([[0, 5], [0, 0]], dtype=np.float32), 2)
    assert keys.tolist() == [[1, 2], [1, 2]]
    assert scores.tolist() == [[0.0, -1.0], [0.0, 0.0]]


@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
@pytest.mark.parametrize("n", [1, 10, 200])
def test_equals_float64(rng: np.random.Generator, metric: Metric, n: int) -> None:
    form = points(rng, 200, metric)
    queries = rng.standard_normal((30, 8)).astype(np.float32)
    x, q = form.matrix.astype(np.float64), queries.astype(np.float64)
    if metric == "cos":
        x, q = x / np.linalg.norm(x, axis=1)[:, None], q / np.linalg.norm(q, axis=1)[:, None]
    exact = -np.square(q[:, None] - x[None]).sum(axis=2) if metric == "l2" else q @ x.T
    keys, scores = FlatIndex(form).search(queries, n)
    order = np.argsort(-exact, axis=1)[:, :n]
    assert keys.tolist() == form.keys[order].tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, axis=1), atol=1e-5)


def test_blocks_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    index = FlatIndex(points(rng, 100, "ip"))
    queries = rng.standard_normal((17, 8)).astype(np.float32)
    keys, scores = index.search(queries, 5)
    monkeypatch.setattr(module, "BLOCK_BYTES", 400)  # one query a block
    again, scores_again = index.search(queries, 5)
    assert again.tolist() == keys.tolist()
    np.testing.assert_allclose(scores_again, scores, atol=1e-6)


def test_an_empty_index_answers_nothing() -> None:
    index = FlatIndex(Vectors(np.zeros(0, dtype=np.int64), np.zeros((0, 4), dtype=np.float32)))
    keys, scores = index.search(np.ones((2, 4), dtype=np.float32), 3)
    assert keys.tolist() == [[-1] * 3] * 2
    assert np.isneginf(scores).all()


def test_a_query_of_another_width() -> None:
    index = FlatIndex(Vectors(np.array([1]), np.ones((1, 4), dtype=np.float32)))
    with pytest.raises(RequestError) as error:
        index.search(np.ones((2, 3), dtype=np.float32), 3)
    what = "queries of shape (2, 3) do not fit vectors of width 4"
    assert str(error.value) == f"flat: {what} (use the vectors of the same release)"


@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
def test_verify_passes_a_sound_index_and_finds_a_broken_one(
    rng: np.random.Generator, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = FlatIndex(points(rng, 100, metric))
    index.verify(np.random.default_rng(0))
    sound = index._scores
    monkeypatch.setattr(index, "_scores", lambda queries: sound(queries) + 1)
    with pytest.raises(ArtifactError, match=r"^flat: search differs from exact scores by 1 \(build the index again\)$"):
        index.verify(np.random.default_rng(0))


@pytest.mark.parametrize("share", [0.5, 0.02, 0.0])
def test_top_looks_until_enough_count(rng: np.random.Generator, share: float) -> None:
    """As `cut` over every score: items that do not count come along down to the n-th that does."""
    form = points(rng, 1000, "ip")
    index, queries = FlatIndex(form), rng.standard_normal((6, 8)).astype(np.float32)
    owners = np.array([0, 1, 4, 5, 7, 9])
    counted = set(form.keys[rng.random(1000) < share].tolist())
    asked: list[int] = []

    def keep(owner: Ints, items: Ints) -> NDArray[np.bool_]:
        assert np.isin(owner, owners).all()
        asked.append(len(items))
        return np.array([item in counted for item in items.tolist()], dtype=bool)

    keys, scores = index.search(queries, 1000)
    wanted = cut(np.repeat(owners, 1000), keys.ravel(), scores.ravel(), 4, keep)
    asked.clear()
    found = index.top(owners, queries, 4, keep)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    # the first look is 2 * 4 + 64 items a query, each next one four times as deep, the last at all 1000
    if share == 0.5:
        assert asked == [6 * 72]
    if share == 0.0:
        assert asked == [6 * 72, 6 * 288, 6 * 1000]


def test_top_without_a_judge_and_of_nothing(rng: np.random.Generator) -> None:
    index, queries = FlatIndex(points(rng, 50, "cos")), rng.standard_normal((3, 8)).astype(np.float32)
    owners, items, scores = index.top(np.arange(3), queries, 4)
    keys, best = index.search(queries, 4)
    assert owners.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert items.reshape(3, 4).tolist() == keys.tolist()
    np.testing.assert_array_equal(scores.reshape(3, 4), best)
    empty = FlatIndex(points(rng, 0, "ip"))
    for found in (index.top(np.arange(0), queries[:0], 4), empty.top(np.arange(3), queries, 4)):
        assert [len(column) for column in found] == [0, 0, 0]
