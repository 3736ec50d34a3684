"""Content i2i: cosines by hand, against brute force, and what it says of bad vectors."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.config import IndexConfig
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, ConfigError, DataError
from shortlist.forms import Lists
from shortlist.models.recall.content import Content, whitened
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Profiles, Schema

SCHEMA = Schema.parse({"items": {"look": "vec", "published": "time", "name": "text"}, "published": "published"})
DECLARE = "declare a field of kind vec, or give a text field encode"
NOBODY = Interactions.of(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def catalogue(vectors: list[Any] | NDArray[Any], first: int = 0, **columns: list[Any]) -> Catalogue:
    """Items first, first + 1, ... with these vectors."""
    look = np.empty(len(vectors), dtype=object)
    look[:] = list(vectors)
    keys = np.arange(len(vectors)) + first
    rest = {name: np.array(column, dtype=np.float64) for name, column in columns.items()}
    return Catalogue(Catalogue.empty().users, Profiles(keys, {"look": look, **rest}))


def solve(vectors: list[Any] | NDArray[Any], log: Interactions = NOBODY, **options: Any) -> Lists:
    columns = options.pop("columns", {})
    return Content(Content.Config(**options), SCHEMA).solve(log, catalogue(vectors, **columns), 0)


def random(n: int, d: int = 8, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def cosines(vectors: NDArray[Any]) -> NDArray[np.float64]:
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    table: NDArray[np.float64] = unit @ unit.T
    return table


def test_it_is_a_solver() -> None:
    assert isinstance(Content(Content.Config(), SCHEMA), Solver)


def test_cosines_by_hand() -> None:
    # (3, 4) with (1, 0): 3/5; with (0, 2): 4/5; (1, 0) with (0, 2): 0
    lists = solve([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    assert [lists.of(key)[0].tolist() for key in range(3)] == [[2, 1], [0, 2], [0, 1]]
    assert lists.of(0)[1] == pytest.approx([0.8, 0.6])
    assert lists.of(1)[1] == pytest.approx([0.6, 0.0])


@pytest.mark.parametrize("use", ["auto", "flat", "hnsw", "ball_tree"])
def test_lists_are_the_exact_best_whatever_is_searched_with(use: str) -> None:
    if use == "ball_tree":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: no ball tree")
    vectors = random(1200)
    search = IndexConfig(use=use, recall=0.99) if use == "hnsw" else IndexConfig(use=use)
    lists = solve(vectors, keep=10, search=search)
    table = cosines(vectors)
    np.fill_diagonal(table, -2)
    best = -np.sort(-table, axis=1)[:, :10]
    found = lists.scores.reshape(-1, 10)
    if use == "hnsw":  # not exact: of the declared share
        assert (found >= best[:, -1:] - 1e-6).mean() >= 0.98
    else:
        np.testing.assert_allclose(found, best, atol=1e-6)
        np.testing.assert_allclose(np.take_along_axis(table, lists.items.reshape(-1, 10), axis=1), best, atol=1e-6)


def test_distance_orders_unit_vectors_as_the_cosine_does() -> None:
    vectors = random(60)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    lists = solve(vectors, keep=59)
    for key in range(60):
        far = np.square(unit.astype(np.float64) - unit[key]).sum(axis=1)
        far[key] = np.inf
        assert lists.of(key)[0].tolist() == np.argsort(far, kind="stable")[:59].tolist()
        # s = 1 - |v_i - v_j|^2 / 2
        np.testing.assert_allclose(lists.of(key)[1], 1 - np.sort(far)[:59] / 2, atol=1e-6)


def test_rescaling_changes_nothing() -> None:
    vectors = random(50)
    plain, scaled = solve(vectors), solve(vectors * np.exp2(np.arange(50) % 7 - 3)[:, None].astype(np.float32))
    np.testing.assert_array_equal(plain.items, scaled.items)
    np.testing.assert_array_equal(plain.scores, scaled.scores)
    far = solve(vectors.astype(np.float64) * 1e30)  # squares of these are beyond single precision
    np.testing.assert_array_equal(plain.items, far.items)


def test_an_item_is_never_in_its_own_list_not_even_among_its_twins() -> None:
    lists = solve(np.tile(random(1), (9, 1)), keep=3)
    for key in range(9):
        assert lists.of(key)[0].tolist() == [other for other in range(9) if other != key][:3]
        assert lists.of(key)[1] == pytest.approx([1, 1, 1])


def test_vectors_that_are_all_the_same() -> None:
    """Each list holds all others, by key, with cosine 1; as copies of one item they leave nothing to show."""
    for value in (1.0, -3.0, 1e-20):
        lists = solve(np.full((6, 4), value))
        for key in range(6):
            assert lists.of(key)[0].tolist() == [other for other in range(6) if other != key]
            assert lists.of(key)[1] == pytest.approx([1] * 5)
        assert len(solve(np.full((6, 4), value), copies=0.999)) == 0


def test_more_than_there_are_is_all_of_them() -> None:
    lists = solve(random(4), keep=1000)
    assert np.diff(lists.offsets).tolist() == [3, 3, 3, 3]
    assert len(solve(random(1))) == 0


def test_items_that_nobody_took_have_lists_and_are_in_others() -> None:
    log = Interactions.of(np.array([0]), np.array([0]))
    lists = solve([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], log)
    assert lists.keys.tolist() == [0, 1, 2]
    assert lists.of(0)[0].tolist() == [1, 2]
    assert Content.cold_items
    assert Content.cold_users


def test_zero_and_missing_vectors_have_no_list() -> None:
    lists = solve([[1.0, 0.0], [0.0, 0.0], None, float("nan"), [1.0, 1.0]])
    assert lists.keys.tolist() == [0, 4]
    assert lists.items.tolist() == [4, 0]


def test_vectors_that_are_no_numbers_are_refused_with_their_keys() -> None:
    vectors = [[1.0, 0.0], *[[1.0, float("nan")]] * 2, [float("inf"), 0.0], [0.0, float("nan")]]
    with pytest.raises(DataError) as caught:
        solve(vectors)
    assert caught.value.what == "vectors hold NaN or infinity: item key 1, 2, 3 and 1 more"
    assert caught.value.where == "content, item.look"
    assert caught.value.hint == "leave the vectors of these items out, or mend them"


def test_vectors_of_several_widths_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        solve([[1.0, 0.0], [1.0], [1.0, 2.0, 3.0]])
    assert caught.value.what == "vectors of different widths: 1, 2, 3"


@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        ([], "no item has a vector"),
        ([None, None], "no item has a vector"),
        ([None, [0.0, 0.0], [0.0, 0.0]], "every vector is zero"),
    ],
)
def test_no_vector_at_all_is_said(vectors: list[Any], what: str) -> None:
    with pytest.raises(DataError) as caught:
        solve(vectors)
    assert caught.value.what == what


def test_a_column_that_is_not_there_is_said() -> None:
    bare = Catalogue(Catalogue.empty().users, Profiles(np.arange(2), {}))
    with pytest.raises(DataError) as caught:
        Content(Content.Config(), SCHEMA).solve(NOBODY, bare, 0)
    assert caught.value.what == "the items have no column 'look'"


@pytest.mark.parametrize(
    ("items", "field", "what", "hint"),
    [
        ({"name": "text"}, None, "no field of items holds vectors", DECLARE),
        ({"a": "vec", "b": "vec"}, None, "several fields of items hold vectors: a, b", "set field to one of them"),
        ({"look": "vec"}, "lok", "no item field is called 'lok'", "did you mean look?"),
        ({"look": "vec", "name": "text"}, "name", "'name' is a text field, it holds no vectors", "give it encode"),
        ({"look": "vec", "age": "dense"}, "age", "'age' is a dense field, it holds no vectors", "known: look"),
    ],
)  # fmt: skip
def test_the_field_must_hold_vectors(items: dict[str, Any], field: str | None, what: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Content(Content.Config(field=field), Schema.parse({"items": items}))
    assert (caught.value.what, caught.value.where, caught.value.hint) == (what, "content.field", hint)


def test_a_text_with_an_encoder_is_a_vector() -> None:
    schema = Schema.parse({"items": {"title": {"kind": "text", "encode": "ngrams"}}})
    solver = Content(Content.Config(), schema)
    assert solver.field == "title"
    assert solver.reads == ("item.title",)


def test_too_much_is_refused_with_the_estimate() -> None:
    with pytest.raises(CapacityError) as caught:
        solve(random(8), budget_bytes=1)
    assert caught.value.what == "8 items need 0.3 GiB, the budget is 0.0 GiB"


def test_copies_stand_once_in_a_list_the_latest_for_all() -> None:
    # 0, 1 and 2 are one content, published at 10, 30 and 20; 3 is near them, 4 is not
    vectors = [[1.0, 0.0], [1.0, 0.001], [2.0, 0.0], [1.0, 0.5], [0.0, 1.0]]
    columns = {"published": [10.0, 30.0, 20.0, 5.0, 5.0]}
    lists = solve(vectors, copies=0.999, columns=columns)
    assert lists.of(3)[0].tolist() == [1, 4]
    assert lists.of(4)[0].tolist() == [3, 1]
    assert [lists.of(key)[0].tolist() for key in (0, 1, 2)] == [[3, 4], [3, 4], [3, 4]]
    # without times the smallest key stands for all, and the schema is not read for them
    bare = Schema.parse({"items": {"look": "vec"}})
    assert Content(Content.Config(copies=0.999), bare).solve(NOBODY, catalogue(vectors), 0).of(4)[0].tolist() == [3, 0]


def test_whitening_makes_directions_of_training_count_alike() -> None:
    # along x the items of training spread by 10, along y by 1: whitened, both by 1
    vectors = np.array([[10.0, 1.0], [10.0, -1.0], [-10.0, 1.0], [-10.0, -1.0], [50.0, 50.0]], dtype=np.float32)
    made = whitened(vectors, vectors[:4], 2)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(np.abs(made[:4]), half, atol=1e-6)
    # (50, 50) becomes (5, 50), at length 1
    np.testing.assert_allclose(np.sort(np.abs(made[4])), np.array([5, 50]) / np.hypot(5, 50), atol=1e-6)
    assert whitened(vectors, vectors[:4], 1).shape == (5, 1)
    assert whitened(vectors, vectors[:4], 9).shape == (5, 2)  # no more directions than there are


def test_whitening_is_fitted_on_items_of_training_alone() -> None:
    vectors = random(30, 4)
    log = Interactions.of(np.zeros(10, dtype=np.int64), np.arange(10))
    lists = solve(vectors, log, whiten=3, keep=5)
    other = vectors.copy()
    other[20:] = random(10, 4, seed=9)
    again = solve(other, log, whiten=3, keep=29)
    for key in range(20):  # items beyond training moved: the likeness of the others is the same
        mine = {int(i): s for i, s in zip(*again.of(key), strict=True)}
        for item, score in zip(*lists.of(key), strict=True):
            if item < 20:
                assert mine[int(item)] == pytest.approx(float(score), abs=1e-6)
    assert Content(Content.Config(whiten=3), SCHEMA).reads == ("actions", "item.look")


def test_whitening_needs_vectors_that_differ() -> None:
    with pytest.raises(DataError) as caught:
        solve(random(3), whiten=2)
    assert caught.value.what == "no item of training has a vector"
    log = Interactions.of(np.zeros(3, dtype=np.int64), np.arange(3))
    with pytest.raises(DataError) as caught:
        solve(np.ones((3, 4)), log, whiten=2)
    assert caught.value.what == "the vectors of all items of training are the same"
