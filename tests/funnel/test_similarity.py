"""Similarity by attributes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.funnel.world import SCHEMA, objects, profiles

from shortlist.errors import ConfigError
from shortlist.funnel import kinds
from shortlist.funnel.kinds import Kinds
from shortlist.funnel.similarity import Similarity
from shortlist.schema import Profiles

GENRES = st.none() | st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=4)
BRAND = st.sampled_from([None, "x", "y"])
ITEMS = st.lists(st.tuples(GENRES, BRAND), min_size=1, max_size=8)


def matrix(items: Profiles, **weights: float) -> NDArray[np.float64]:
    """Every item with every other [N, N]."""
    compared = Similarity.of(weights, SCHEMA, items, "levels").start(items.keys[None, :])
    return np.stack([compared.to(np.array([n]))[0] for n in range(len(items))])


@given(ITEMS, st.sampled_from([0.0, 0.3, 1.0]))
def test_symmetric_in_range_one_on_the_diagonal_and_positive_semidefinite(
    rows: list[tuple[Any, Any]], weight: float
) -> None:
    sim = matrix(profiles(*(g for g, _ in rows), brand=[b for _, b in rows]), genre=1.0, brand=weight)
    np.testing.assert_array_equal(sim, sim.T)
    np.testing.assert_array_equal(np.diag(sim), 1.0)
    assert sim.min() >= 0
    assert sim.max() <= 1 + 1e-12
    assert np.linalg.eigvalsh(sim).min() >= -1e-8


def test_one_level_says_equal_or_not() -> None:
    # the example of the field: football clip with football clip 1, with a cooking clip 0, two cooking clips 1
    sim = matrix(profiles("football", "football", "cooking", "cooking"), genre=1.0)
    assert [sim[0, 1], sim[0, 2], sim[2, 3]] == [1.0, 0.0, 1.0]


def test_levels_add_up_by_weight() -> None:
    items = profiles(["a", "b"], ["a"], ["c"], brand=["x", "x", "x"])
    sim = matrix(items, genre=3.0, brand=1.0)
    # one of two genres common with a list of one: 1 / sqrt(2 * 1); weights 3/4 and 1/4
    assert sim[0, 1] == pytest.approx(0.75 / np.sqrt(2) + 0.25)
    assert sim[0, 2] == pytest.approx(0.25)


@pytest.mark.parametrize("missing", [None, [], [None], np.nan])
def test_missing_is_like_nothing_else(missing: Any) -> None:
    sim = matrix(profiles(missing, missing, ["a"]), genre=1.0)
    assert sim.tolist() == np.eye(3).tolist()


def test_an_item_out_of_the_catalogue_is_like_nothing() -> None:
    compared = Similarity.of({"genre": 1.0}, SCHEMA, profiles(["a"], ["a"]), "levels").start(np.array([[0, 1, 7, -1]]))
    assert compared.to(np.array([0])).tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_a_declared_field_without_a_column_makes_all_items_different() -> None:
    assert matrix(profiles(["a"], ["a"]), brand=1.0).tolist() == np.eye(2).tolist()


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"gener": 1.0}, "rerank.levels: no item field is called 'gener' (did you mean genre?)"),
        ({"vector": 1.0}, "rerank.levels: 'vector' is a vector (name a field of single values or lists)"),
    ],
)
def test_fields_that_cannot_be_compared(levels: dict[str, float], message: str) -> None:
    items = Profiles(np.arange(2), {"genre": objects([["a"], ["b"]]), "vector": np.eye(2)})
    with pytest.raises(ConfigError) as caught:
        Similarity.of(levels, SCHEMA, items, "rerank.levels")
    assert str(caught.value) == message


# ---------------------------------------------------------------------------------------------- kinds


def rows_of(kinds_: Kinds, keys: Sequence[int]) -> list[set[str]]:
    """Values by item, for kinds with a table."""
    dense = kinds_.dense(np.array(keys))
    return [{kinds_.values[c] for c in np.flatnonzero(row)} for row in dense]


def test_kinds_of_text_lists_numbers_and_truths() -> None:
    items = profiles(
        ["a", "b", "a"], "b", None,
        year=[1995, 1995.0, None], price=[1.5, np.nan, None], new=[True, False, None],
    )  # fmt: skip
    assert rows_of(Kinds.of(items, SCHEMA, "genre", "w"), [0, 1, 2, 9]) == [{"a", "b"}, {"b"}, set(), set()]
    assert rows_of(Kinds.of(items, SCHEMA, "year", "w"), [0, 1, 2]) == [{"1995"}, {"1995"}, set()]
    assert rows_of(Kinds.of(items, SCHEMA, "price", "w"), [0, 1, 2]) == [{"1.5"}, set(), set()]
    assert rows_of(Kinds.of(items, SCHEMA, "new", "w"), [0, 1, 2]) == [{"true"}, {"false"}, set()]
    assert rows_of(Kinds.of(items, SCHEMA, "genre", "w", "b"), [0, 1, 2]) == [{"b"}, {"b"}, set()]
    assert Kinds.of(items, SCHEMA, "genre", "w", "no such").dense(np.arange(3)).tolist() == [[0.0], [0.0], [0.0]]


@given(ITEMS, st.lists(st.integers(-1, 9), max_size=6))
def test_many_values_compare_as_few_do(rows: list[tuple[Any, Any]], keys: list[int]) -> None:
    items = profiles(*(g for g, _ in rows))
    small = Kinds.of(items, SCHEMA, "genre", "w").dense(np.array([keys], dtype=np.int64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "_TABLE", 0)
        large = Kinds.of(items, SCHEMA, "genre", "w")
    assert large.table is None
    dense = large.dense(np.array([keys], dtype=np.int64))
    # which columns there are differs, what items have in common does not
    np.testing.assert_array_equal(dense @ dense.transpose(0, 2, 1), small @ small.transpose(0, 2, 1))
