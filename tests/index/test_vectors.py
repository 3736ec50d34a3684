"""VectorIndex, exact: against float64 arithmetic, by hand, and what it refuses."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.errors import ArtifactError, RequestError
from shortlist.forms import Metric, Vectors
from shortlist.index import points as module
from shortlist.index.cut import Ints, cut
from shortlist.index.vectors import VectorIndex


def points(rng: np.random.Generator, n: int, metric: Metric) -> Vectors:
    return Vectors(rng.permutation(10 * n)[:n], rng.standard_normal((n, 8)).astype(np.float32), metric)


def test_by_hand() -> None:
    form = Vectors(np.array([5, 3, 9]), np.array([[1, 0], [1, 0], [0, 2]], dtype=np.float32))
    keys, scores = VectorIndex(form).search(np.array([[1, 1]], dtype=np.float32), 5)
    assert keys.tolist() == [[9, 3, 5, -1, -1]]  # 2 > 1 = 1, the tie by smaller key, nothing behind
    assert scores.tolist() == [[2.0, 1.0, 1.0, -np.inf, -np.inf]]


def test_l2_is_negated_and_squared() -> None:
    form = Vectors(np.array([1, 2]), np.array([[3, 4], [0, 1]], dtype=np.float32), "l2")
    keys, scores = VectorIndex(form).search(np.zeros((1, 2), dtype=np.float32), 2)
    assert keys.tolist() == [[2, 1]]
    assert scores.tolist() == [[-1.0, -25.0]]


def test_cos_ignores_length_and_a_zero_vector_scores_zero() -> None:
    form = Vectors(np.array([1, 2]), np.array([[0, 0], [0, -3]], dtype=np.float32), "cos")
    keys, scores = VectorIndex(form).search(np.array([[0, 5], [0, 0]], dtype=np.float32), 2)
    assert keys.tolist() == [[1, 2], [1, 2]]
    assert scores.tolist() == [[0.0, -1.0], [0.0, 0.0]]


@pytest.mark.parametrize("length", [1e-30, 1e-21, 1.0, 1e25])
def test_a_cosine_is_of_vectors_of_any_length(length: float) -> None:
    """(3, 4) and (4, 3): 24 / 25; their squares are beyond a float32."""
    matrix = np.array([[3, 4], [0, 2]], dtype=np.float32) * np.float32(length)
    keys, scores = VectorIndex(Vectors(np.array([1, 2]), matrix, "cos")).search(matrix[:1, ::-1], 2)
    assert keys.tolist() == [[1, 2]]
    np.testing.assert_allclose(scores, [[24 / 25, 3 / 5]], rtol=1e-6)


@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
@pytest.mark.parametrize("n", [1, 10, 200])
def test_equals_float64(rng: np.random.Generator, metric: Metric, n: int) -> None:
    form = points(rng, 200, metric)
    queries = rng.standard_normal((30, 8)).astype(np.float32)
    x, q = form.matrix.astype(np.float64), queries.astype(np.float64)
    if metric == "cos":
        x, q = x / np.linalg.norm(x, axis=1)[:, None], q / np.linalg.norm(q, axis=1)[:, None]
    exact = -np.square(q[:, None] - x[None]).sum(axis=2) if metric == "l2" else q @ x.T
    keys, scores = VectorIndex(form).search(queries, n)
    order = np.argsort(-exact, axis=1)[:, :n]
    assert keys.tolist() == form.keys[order].tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, axis=1), atol=1e-5)


def test_blocks_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    index = VectorIndex(points(rng, 100, "ip"))
    queries = rng.standard_normal((17, 8)).astype(np.float32)
    whole = {n: index.search(queries, n) for n in (5, 60)}
    monkeypatch.setattr(module, "BLOCK_BYTES", 400)  # one query a block
    monkeypatch.setattr(module, "PAIRS", 7)  # and few pairs at once
    for n, (keys, scores) in whole.items():
        again, scores_again = index.search(queries, n)
        np.testing.assert_array_equal(again, keys)
        np.testing.assert_array_equal(scores_again, scores)


def test_an_empty_index_answers_nothing() -> None:
    index = VectorIndex(Vectors(np.zeros(0, dtype=np.int64), np.zeros((0, 4), dtype=np.float32)))
    keys, scores = index.search(np.ones((2, 4), dtype=np.float32), 3)
    assert keys.tolist() == [[-1] * 3] * 2
    assert np.isneginf(scores).all()


def test_a_query_of_another_width() -> None:
    index = VectorIndex(Vectors(np.array([1]), np.ones((1, 4), dtype=np.float32)))
    with pytest.raises(RequestError) as error:
        index.search(np.ones((2, 3), dtype=np.float32), 3)
    what = "queries of shape (2, 3) do not fit vectors of width 4"
    assert str(error.value) == f"index: {what} (use the vectors of the same release)"


@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
def test_verify_passes_a_sound_index_and_finds_a_broken_one(
    rng: np.random.Generator, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = VectorIndex(points(rng, 100, metric))
    index.verify(np.random.default_rng(0))
    sound = index.points.score
    monkeypatch.setattr(index.points, "score", lambda *given: sound(*given) + 1)
    with pytest.raises(
        ArtifactError, match=r"^index: search differs from exact scores by 1 \(build the index again\)$"
    ):
        index.verify(np.random.default_rng(0))


@pytest.mark.parametrize("share", [0.5, 0.02, 0.0])
def test_top_looks_until_enough_count(rng: np.random.Generator, share: float) -> None:
    """As `cut` over every score: items that do not count come along down to the n-th that does."""
    form = points(rng, 1000, "ip")
    index, queries = VectorIndex(form), rng.standard_normal((6, 8)).astype(np.float32)
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
    index, queries = VectorIndex(points(rng, 50, "cos")), rng.standard_normal((3, 8)).astype(np.float32)
    owners, items, scores = index.top(np.arange(3), queries, 4)
    keys, best = index.search(queries, 4)
    assert owners.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert items.reshape(3, 4).tolist() == keys.tolist()
    np.testing.assert_array_equal(scores.reshape(3, 4), best)
    empty = VectorIndex(points(rng, 0, "ip"))
    for found in (index.top(np.arange(0), queries[:0], 4), empty.top(np.arange(3), queries, 4)):
        assert [len(column) for column in found] == [0, 0, 0]


@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
def test_one_query_has_the_same_bits_as_among_many(rng: np.random.Generator, metric: Metric) -> None:
    """And a score is the same however deep it is looked for, and among however few items."""
    form = Vectors(np.arange(500), rng.standard_normal((500, 37)).astype(np.float32), metric)
    index, queries = VectorIndex(form), rng.standard_normal((40, 37)).astype(np.float32)
    keys, scores = index.search(queries, 10)
    for q in range(40):
        alone, score = index.search(queries[q : q + 1], 10)
        np.testing.assert_array_equal(alone[0], keys[q])
        np.testing.assert_array_equal(score[0], scores[q])
        np.testing.assert_array_equal(index.search(queries[q : q + 1], 500)[1][0, :10], scores[q])
        np.testing.assert_array_equal(index.search(queries[q : q + 1], 10, keys[q])[1][0], scores[q])


def test_keys_that_ascend_are_used_where_they_lie(rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((6, 4)).astype(np.float32)
    assert np.shares_memory(VectorIndex(Vectors(np.arange(6), matrix)).points.matrix, matrix)
    turned = VectorIndex(Vectors(np.arange(6)[::-1].copy(), matrix))
    np.testing.assert_array_equal(turned.points.matrix, matrix[::-1])


def test_equal_vectors_stand_by_key() -> None:
    form = Vectors(np.array([9, 4, 7, 1, 3]), np.ones((5, 3), dtype=np.float32), "l2")
    keys, scores = VectorIndex(form).search(np.zeros((2, 3), dtype=np.float32), 3)
    assert keys.tolist() == [[1, 3, 4]] * 2
    assert scores.tolist() == [[-3.0] * 3] * 2


def test_a_vector_is_at_distance_0_from_itself(rng: np.random.Generator) -> None:
    """Far from the origin: |x|^2 + |q|^2 - 2 <x, q> would lose it to rounding."""
    matrix = (1000 + rng.standard_normal((200, 16))).astype(np.float32)
    keys, scores = VectorIndex(Vectors(np.arange(200), matrix, "l2")).search(matrix, 1)
    assert keys[:, 0].tolist() == list(range(200))
    assert not scores.any()


def test_none_and_less_than_none() -> None:
    index = VectorIndex(Vectors(np.array([1]), np.ones((1, 4), dtype=np.float32)))
    keys, scores = index.search(np.ones((2, 4), dtype=np.float32), 0)
    assert keys.shape == scores.shape == (2, 0)
    assert [len(column) for column in index.top(np.arange(2), np.ones((2, 4), dtype=np.float32), 0)] == [0, 0, 0]
    with pytest.raises(RequestError) as error:
        index.search(np.ones((2, 4), dtype=np.float32), -1)
    assert str(error.value) == "index: cannot find -1 items (ask for 0 or more)"


def test_a_query_that_is_no_number() -> None:
    index = VectorIndex(Vectors(np.array([1]), np.ones((1, 2), dtype=np.float32)))
    with pytest.raises(RequestError) as error:
        index.search(np.array([[1, 1], [np.nan, 1], [1, np.inf]], dtype=np.float32), 1)
    what = "2 of 3 queries hold NaN or infinity, the first is number 1"
    assert str(error.value) == f"index: {what} (look at the model that made them)"


def test_a_mask_of_another_length() -> None:
    index = VectorIndex(Vectors(np.array([1, 2]), np.ones((2, 2), dtype=np.float32)))
    with pytest.raises(RequestError) as error:
        index.search(np.ones((1, 2), dtype=np.float32), 1, np.ones(3, dtype=bool))
    what = "a mask of shape (3,) does not fit 2 items"
    assert str(error.value) == f"index: {what} (give a mask over the index's own keys)"


@pytest.mark.parametrize("share", [0.9, 0.5, 0.02, 0.0])
@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
def test_a_filter_before_the_search_equals_one_after_it(rng: np.random.Generator, metric: Metric, share: float) -> None:
    form = points(rng, 1000, metric)
    index, queries = VectorIndex(form), rng.standard_normal((9, 8)).astype(np.float32)
    mask = rng.random(1000) < share
    keys, scores = index.search(queries, 1000)
    for n in (1, 20, 1000):
        found, score = index.search(queries, n, mask)
        for q in range(9):
            kept = np.isin(keys[q], index.keys[mask])
            wanted = keys[q][kept][:n].tolist()
            assert found[q].tolist() == wanted + [-1] * (n - len(wanted))
            np.testing.assert_array_equal(score[q, : len(wanted)], scores[q][kept][:n])
        # the same items as keys, shuffled, twice, and one that is nobody's
        named = rng.permutation(np.append(np.repeat(index.keys[mask], 2), 10**9))
        np.testing.assert_array_equal(index.search(queries, n, named)[0], found)


def test_several_vectors_of_one_request_are_merged_by_their_best(rng: np.random.Generator) -> None:
    """Interests east and north: item 3 is near both and stands once, with the better score."""
    form = Vectors(np.array([1, 2, 3, 4]), np.array([[5, 0], [0, 4], [3, 2], [1, 1]], dtype=np.float32))
    east_north = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    owners, items, scores = VectorIndex(form).top(np.array([0, 0, 2]), east_north, 3)
    assert owners.tolist() == [0, 0, 0, 2, 2, 2]
    assert items.tolist() == [1, 2, 3, 2, 3, 4]
    assert scores.tolist() == [5.0, 4.0, 3.0, 4.0, 2.0, 1.0]


@pytest.mark.parametrize("share", [1.0, 0.3, 0.01, 0.0])
def test_several_vectors_equal_brute_force(rng: np.random.Generator, share: float) -> None:
    form = Vectors(np.arange(800), rng.integers(-2, 3, (800, 6)).astype(np.float32))  # many ties
    index = VectorIndex(form)
    owners = np.array([0, 0, 0, 3, 4, 4])
    queries = rng.integers(-2, 3, (6, 6)).astype(np.float32)
    counted = rng.random(800) < share
    found = index.top(owners, queries, 7, lambda owner, items: counted[items])
    table = queries @ form.matrix.T
    for request in (0, 3, 4):
        best = table[owners == request].max(axis=0)
        wanted = cut(np.full(800, request), np.arange(800), best, 7, lambda owner, items: counted[items])
        for a, b in zip((column[found[0] == request] for column in found), wanted, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
def test_distances_of_lifted_rows_order_as_scores_do(rng: np.random.Generator, metric: Metric) -> None:
    """||q' - e'||^2 = ||q||^2 + M^2 - 2 <q, e> for inner products: a constant less twice the score."""
    form = points(rng, 300, metric)
    own = VectorIndex(form).points
    queries = own.asked(rng.standard_normal((5, 8)).astype(np.float32))
    lifted, asked = own.lifted(), own.lift(queries)
    distance = np.square(asked[:, None] - lifted[None]).sum(axis=2)
    q = np.square(queries.astype(np.float64)).sum(axis=1)[:, None]
    longest = float(np.square(lifted).sum(axis=1).max())
    of, rows = np.repeat(np.arange(5), 300), np.tile(np.arange(300), 5)
    score = own.score(queries, of, rows).reshape(5, 300)
    wanted = {"ip": q + longest - 2 * score, "cos": 2 - 2 * score, "l2": -score}[metric]
    np.testing.assert_allclose(distance, wanted, atol=1e-4)
