"""Fresh items beside an index: as if the index had been built with them."""

import numpy as np
import pytest
from tests.index.world import METRICS, clustered

from shortlist.config import IndexConfig
from shortlist.errors import ArtifactError, RequestError
from shortlist.forms import Metric, Vectors
from shortlist.index.building import indexed
from shortlist.index.delta import Delta, Fresh
from shortlist.index.vectors import VectorIndex

HINT = "(give keys and vectors as the model of the release makes them)"


def ints(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def rows(*values: list[float]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


INDEX = VectorIndex(Vectors(ints(1, 2, 3), rows([1, 0], [0, 1], [1, 1])))


def test_by_hand() -> None:
    delta = Delta.empty(INDEX.fingerprint, 2).put(ints(9, 2), rows([3, 0], [2, 2])).drop(ints(3, 77))
    assert (delta.keys.tolist(), delta.gone.tolist()) == ([2, 9], [3, 77])
    fresh = Fresh(INDEX, delta)
    assert fresh.keys.tolist() == [1, 2, 9]
    keys, scores = fresh.search(rows([1, 0]), 4)
    assert keys.tolist() == [[9, 2, 1, -1]]  # 3, 2 (it was 0), 1; item 3 is gone
    assert scores.tolist() == [[3.0, 2.0, 1.0, -np.inf]]


def test_put_replaces_revives_and_takes_the_last() -> None:
    delta = Delta.empty("f", 1).put(ints(5, 4, 5), rows([1], [2], [3]))
    assert (delta.keys.tolist(), delta.matrix.tolist()) == ([4, 5], [[2], [3]])
    delta = delta.drop(ints(5))
    assert (delta.keys.tolist(), delta.gone.tolist()) == ([4], [5])
    delta = delta.put(ints(5), rows([7]))
    assert (delta.keys.tolist(), delta.matrix.tolist(), delta.gone.tolist()) == ([4, 5], [[2], [7]], [])


@pytest.mark.parametrize("use", ["flat", "ivf"])
@pytest.mark.parametrize("metric", METRICS)
def test_equals_an_index_built_anew(rng: np.random.Generator, use: str, metric: Metric) -> None:
    """Bit for bit, IVF with all its lists read."""
    form, queries = clustered(rng, 1500, metric)
    options = {} if use == "flat" else {"lists": 10, "probes": 10, "storage": "float32"}
    index = indexed(form, IndexConfig(use=use, options=options), "here").index
    assert index is not None
    more, _ = clustered(rng, 40, metric)
    keys = np.concatenate([10_000 + np.arange(30), form.keys[:10]])
    gone = np.concatenate([form.keys[50:300], keys[:3]])
    fresh = Fresh(index, Delta.empty(index.fingerprint, 18).put(keys, more.matrix).drop(gone))
    left = ~np.isin(form.keys, np.concatenate([keys, gone]))
    every = np.concatenate([form.keys[left], keys[3:]])
    anew = VectorIndex(Vectors(every, np.concatenate([form.matrix[left], more.matrix[3:]]), metric))
    assert fresh.keys.tolist() == anew.keys.tolist()
    mask = rng.random(len(every)) < 0.4
    for n in (1, 25, 2000):
        for allowed in (None, mask, anew.keys[mask]):
            for got, wanted in zip(fresh.search(queries, n, allowed), anew.search(queries, n, allowed), strict=True):
                np.testing.assert_array_equal(got, wanted)
    owners = np.repeat(np.arange(20), 3)
    for got, wanted in zip(fresh.top(owners, queries, 9), anew.top(owners, queries, 9), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_an_empty_delta_changes_nothing(rng: np.random.Generator) -> None:
    fresh = Fresh(INDEX, Delta.empty(INDEX.fingerprint, 2))
    queries = rng.standard_normal((5, 2)).astype(np.float32)
    for got, wanted in zip(fresh.search(queries, 3), INDEX.search(queries, 3), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_none_asked_for_and_more_than_there_are() -> None:
    empty = VectorIndex(Vectors(ints(), np.zeros((0, 2), dtype=np.float32)))
    for index in (INDEX, empty):
        nothing = Fresh(index, Delta.empty(index.fingerprint, 2))
        for fresh in (nothing, Fresh(index, nothing.delta.put(ints(9), rows([3, 0])))):
            keys, scores = fresh.search(rows([1, 0]), 0)
            assert keys.shape == scores.shape == (1, 0)
            keys, scores = fresh.search(rows([1, 0]), 10)
            assert sorted(keys[0, : len(fresh)].tolist()) == fresh.keys.tolist()
            assert keys[0, len(fresh) :].tolist() == [-1] * (10 - len(fresh))
            assert np.isneginf(scores[0, len(fresh) :]).all()
            assert [len(column) for column in fresh.top(ints(0), rows([1, 0]), 0)] == [0, 0, 0]


def test_everything_gone_and_everything_fresh() -> None:
    queries = rows([1, 0])
    nothing = Fresh(INDEX, Delta.empty(INDEX.fingerprint, 2).drop(ints(1, 2, 3)))
    assert nothing.search(queries, 2)[0].tolist() == [[-1, -1]]
    empty = VectorIndex(Vectors(ints(), np.zeros((0, 2), dtype=np.float32)))
    only = Fresh(empty, Delta.empty(empty.fingerprint, 2).put(ints(4), rows([2, 2])))
    assert only.search(queries, 2)[0].tolist() == [[4, -1]]


def test_a_delta_of_other_vectors_is_refused() -> None:
    other = VectorIndex(Vectors(ints(1, 2, 3), rows([1, 0], [0, 1], [1, 2])))
    assert other.fingerprint != INDEX.fingerprint
    with pytest.raises(ArtifactError) as caught:
        Fresh(INDEX, Delta.empty(other.fingerprint, 2))
    what = f"belongs to the vectors '{other.fingerprint[:12]}', the index to '{INDEX.fingerprint[:12]}'"
    assert str(caught.value) == f"delta: {what} (make the delta again for the current release)"


def test_the_fingerprint_is_of_keys_numbers_and_metric() -> None:
    def of(keys: list[int], metric: Metric = "ip", value: float = 1) -> str:
        return VectorIndex(Vectors(ints(*keys), rows([value, 0], [0, 1]), metric)).fingerprint

    assert of([1, 2]) == of([1, 2])
    assert len({of([1, 2]), of([1, 3]), of([1, 2], "cos"), of([1, 2], value=2)}) == 4


def test_what_is_no_delta() -> None:
    def said(keys: list[int], matrix: list[list[float]], gone: list[int]) -> str:
        with pytest.raises(ArtifactError) as caught:
            Delta("f", ints(*keys), rows(*matrix), ints(*gone))
        return str(caught.value)

    assert said([2, 1], [[1], [1]], []) == f"delta: keys must be ascending and distinct {HINT}"
    assert said([1], [[1]], [4, 4]) == f"delta: gone must be ascending and distinct {HINT}"
    assert said([1], [[1]], [1]) == f"delta: a key is both fresh and gone {HINT}"
    empty = Delta.empty("f", 2)
    with pytest.raises(ArtifactError) as caught:
        empty.put(ints(1, 2), rows([1], [2]))
    what = "2 keys and a matrix of shape (2, 1) do not fit vectors of width 2"
    assert str(caught.value) == f"delta: {what} {HINT}"
    with pytest.raises(ArtifactError) as caught:
        empty.put(ints(8, 3), rows([1, np.nan], [1, 1]))
    hint = "the file is corrupt or was made by another program; train and publish again"
    assert str(caught.value) == f"vectors: the matrix holds NaN or infinity for key 8 ({hint})"
    with pytest.raises(ArtifactError) as caught:
        Fresh(INDEX, Delta.empty(INDEX.fingerprint, 3))
    what = "vectors of width 3 do not fit an index of width 2"
    assert str(caught.value) == f"delta: {what} (make the delta again for the current release)"


def test_a_mask_is_over_all_items() -> None:
    fresh = Fresh(INDEX, Delta.empty(INDEX.fingerprint, 2).put(ints(9), rows([3, 0])))
    with pytest.raises(RequestError) as caught:
        fresh.search(rows([1, 0]), 1, np.ones(3, dtype=bool))
    what = "a mask of shape (3,) does not fit 4 items"
    assert str(caught.value) == f"index: {what} (give a mask over the index's own keys)"
