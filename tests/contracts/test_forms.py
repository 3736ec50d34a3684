"""Forms check themselves, and `Lists.ranked` sorts what comes in any order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.errors import ArtifactError
from shortlist.forms import Lists, Vectors

HINT = "(the file is corrupt or was made by another program; train and publish again)"


def ints(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


def test_ranked_lists() -> None:
    lists = Lists.ranked(ints(7, 3, 7, 7), ints(1, 2, 5, 4), floats(1, 2, 3, 3), keep=2)
    # owner 7 has (5: 3), (4: 3), (1: 1): the tie goes to the smaller item, the third is cut
    assert lists.keys.tolist() == [3, 7]
    assert lists.offsets.tolist() == [0, 1, 3]
    assert lists.items.tolist() == [2, 4, 5]
    items, scores = lists.of(7)
    assert (items.tolist(), scores.tolist()) == ([4, 5], [3.0, 3.0])
    assert len(lists.of(5)[0]) == len(lists.of(99)[0]) == 0
    named = Lists.ranked(ints(2, 0), ints(1, 1), floats(1, 1), labels=("a", "b", "c"))
    assert named.labels == ("a", "c")
    assert len(Lists.ranked(ints(), ints(), floats())) == 0


TRIPLES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0, -1.0])),
    max_size=40,
    unique_by=lambda t: (t[0], t[1]),
)


@given(TRIPLES, st.integers(1, 5))
def test_ranked_is_a_sort(triples: list[tuple[int, int, float]], keep: int) -> None:
    owners = [owner for owner, _, _ in triples]
    items = ints(*(item for _, item, _ in triples))
    lists = Lists.ranked(ints(*owners), items, floats(*(score for _, _, score in triples)), keep)
    assert lists.keys.tolist() == sorted(set(owners))
    for owner in range(5):
        brute = sorted((-score, item) for who, item, score in triples if who == owner)[:keep]
        got = lists.of(owner)
        assert got[0].tolist() == [item for _, item in brute]
        assert got[1].tolist() == [-score for score, _ in brute]


def test_ties_are_ties_in_the_precision_that_is_kept() -> None:
    # 1 + 1e-12 is 1 in float32: the smaller item comes first
    scores = np.array([1.0 + 1e-12, 1.0])
    assert Lists.ranked(ints(0, 0), ints(9, 2), scores.astype(np.float64)).items.tolist() == [2, 9]


def test_wrong_lists_are_refused() -> None:
    def message(
        keys: tuple[int, ...],
        offsets: tuple[int, ...],
        items: tuple[int, ...],
        scores: tuple[float, ...],
        labels: tuple[str, ...] = (),
    ) -> str:
        with pytest.raises(ArtifactError) as caught:
            Lists(ints(*keys), ints(*offsets), ints(*items), floats(*scores), labels)
        return str(caught.value)

    match = f"lists: offsets do not match keys and items {HINT}"
    assert message((1,), (0,), (), ()) == match
    assert message((1,), (1, 1), (5,), (1,)) == match
    assert message((1,), (0, 2), (5,), (1,)) == match
    differ = f"lists: items and scores differ in length, or offsets fall {HINT}"
    assert message((1,), (0, 1), (5,), (1, 2)) == differ
    assert message((1, 2), (0, 2, 1), (5,), (1,)) == differ
    assert message((2, 1), (0, 0, 0), (), ()) == f"lists: keys must be ascending and distinct {HINT}"
    assert message((1,), (0, 0), (), (), ("a", "b")) == f"lists: labels do not match keys {HINT}"
    assert message((1,), (0, 1), (5,), (np.nan,)) == f"lists: scores hold NaN or infinity {HINT}"
    assert message((1,), (0, 2), (5, 6), (1, 2)) == f"lists: scores must not rise inside a list {HINT}"
    # a rise from one list to the next is fine, past empty lists too
    Lists(ints(1, 2, 3, 4), ints(0, 0, 1, 1, 2), ints(5, 6), floats(1, 2))


def test_wrong_vectors_are_refused() -> None:
    def message(keys: tuple[int, ...], rows: list[list[float]]) -> str:
        with pytest.raises(ArtifactError) as caught:
            Vectors(ints(*keys), np.array(rows, dtype=np.float32))
        return str(caught.value)

    assert message((1,), [[1], [2]]) == f"vectors: keys (1,) do not match matrix (2, 1) {HINT}"
    assert message((1, 1), [[1], [2]]) == f"vectors: keys must be distinct and not negative {HINT}"
    assert message((-1, 1), [[1], [2]]) == f"vectors: keys must be distinct and not negative {HINT}"
    assert message((1,), [[np.inf]]) == f"vectors: the matrix holds NaN or infinity for key 1 {HINT}"
    some = message((9, 2, 5, 4, 8), [[np.inf], [0], [np.nan], [np.nan], [np.nan]])
    assert some == f"vectors: the matrix holds NaN or infinity for key 4, 5, 8 and 1 more {HINT}"
    assert Vectors(ints(), np.zeros((0, 3), dtype=np.float32)).metric == "ip"
