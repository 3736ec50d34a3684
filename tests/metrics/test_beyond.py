"""Coverage, novelty, Gini, head share and diversity, by hand."""

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.errors import DataError
from shortlist.metrics import beyond

approx = pytest.approx
KEYS = np.array([10, 11, 12, 20])


def test_exposure_counts_every_item_of_the_catalogue() -> None:
    slates = np.array([[10, 20, -1], [20, 11, 10]])
    assert beyond.exposure(slates, KEYS).tolist() == [2, 1, 0, 2]
    assert beyond.coverage(beyond.exposure(slates, KEYS)) == 3 / 4


def test_item_outside_the_catalogue_is_refused() -> None:
    with pytest.raises(DataError) as error:
        beyond.exposure(np.array([[10, 13]]), KEYS)
    hint = "give the catalogue that the lists were made from"
    assert str(error.value) == f"beyond accuracy: item key 13 is not in the catalogue ({hint})"


def test_every_item_once_is_full_coverage() -> None:
    assert beyond.coverage(beyond.exposure(np.array([[10, 11], [12, 20]]), KEYS)) == 1


@pytest.mark.parametrize(
    ("exposures", "gini"),
    [
        ([5, 5, 5], 0),
        # (2·4 - 4 - 1) · 4 / (4 · 4) = 3 · 4 / 16
        ([0, 0, 0, 4], 0.75),
        # (-3·1 - 1·2 + 1·3 + 3·4) / (4 · 10) = 10 / 40
        ([1, 2, 3, 4], 0.25),
        ([4, 1, 3, 2], 0.25),
    ],
)
def test_gini(exposures: list[int], gini: float) -> None:
    assert beyond.gini(np.array(exposures)) == approx(gini)


def test_nothing_shown_has_no_gini() -> None:
    nothing = np.zeros(3, dtype=np.int64)
    assert np.isnan(beyond.gini(nothing))
    assert np.isnan(beyond.head_share(nothing, nothing))
    assert np.isnan(beyond.lorenz(nothing)).all()
    assert beyond.coverage(nothing) == 0
    assert np.isnan(beyond.coverage(nothing[:0]))


def test_lorenz_curve() -> None:
    # The lower half of (1, 2, 3, 4) holds 3 of 10.
    assert beyond.lorenz(np.array([4, 3, 2, 1]), points=3) == approx([0, 0.3, 1])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(any))
def test_gini_is_twice_the_area_above_the_lorenz_curve(exposures: list[int]) -> None:
    curve = beyond.lorenz(np.array(exposures), points=len(exposures) + 1)
    assert beyond.gini(np.array(exposures)) == approx(1 - 2 * np.trapezoid(curve, dx=1 / len(exposures)))


def test_head_share() -> None:
    # 200 items: the head is two of them, the most popular two, which take 30 + 20 of 100 exposures.
    popularity, exposures = np.zeros(200, dtype=np.int64), np.zeros(200, dtype=np.int64)
    popularity[[7, 9]] = 5
    exposures[[7, 9, 100]] = [30, 20, 50]
    assert beyond.head_share(exposures, popularity) == approx(0.5)
    # One item at least: of equally popular ones the smaller key.
    assert beyond.head_share(np.array([1, 3]), np.array([4, 4])) == approx(1 / 4)


def test_novelty_by_hand() -> None:
    slates, popularity = np.array([[10, 11], [12, -1], [-1, -1]]), np.array([8, 2, 0, 1])
    # (8 + 2) / 2; 0; an empty list has none
    assert beyond.mean_popularity(slates, KEYS, popularity) == approx([5, 0, np.nan], nan_ok=True)
    # 16 users: -log2(8/16) = 1 bit, -log2(2/16) = 3 bits, mean 2; an item nobody took: -log2(0.5/16) = 5
    assert beyond.self_information(slates, KEYS, popularity, users=16) == approx([2, 5, np.nan], nan_ok=True)


def test_a_rarer_item_is_newer() -> None:
    popularity = np.array([8, 2, 0, 1])
    slates = np.array([[10, 11], [10, 20], [10, 12]])  # second item taken by 2, 1, 0 users
    assert (np.diff(beyond.self_information(slates, KEYS, popularity, users=16)) > 0).all()
    assert (np.diff(beyond.mean_popularity(slates, KEYS, popularity)) < 0).all()


def test_ild_of_identical_and_orthogonal_items() -> None:
    vectors = np.array([[1, 0], [2, 0], [0, 3], [-1, 0]], dtype=np.float32)
    similar = beyond.cosine(KEYS, vectors)
    slates = np.array([[10, 11, -1], [10, 12, -1], [10, 20, -1], [10, 11, 12], [10, -1, -1]])
    # Same direction 0; orthogonal 1; opposite is clipped, 1; pairs 0, 1, 1 give 2/3; one item has no pair.
    assert beyond.ild(slates, similar) == approx([0, 1, 1, 2 / 3, np.nan], nan_ok=True)


def test_zero_vector_is_like_itself_alone() -> None:
    similar = beyond.cosine(KEYS, np.zeros((4, 2), dtype=np.float32))
    assert similar(np.array([10, 10]), np.array([10, 11])).tolist() == [1, 0]


def test_ild_by_attributes() -> None:
    # Levels (category 1, category 2, brand), weights 0.5 0.3 0.2; -1 is missing.
    codes = np.array([[1, 1, 1], [1, 2, 1], [3, -1, -1], [4, -1, -1]])
    similar = beyond.attributes(KEYS, codes)
    # Equal on levels 1 and 3: 0.7. Missing never equals missing. An item equals itself.
    assert similar(np.array([10, 12, 12]), np.array([11, 20, 12])) == approx([0.7, 0, 1])
    assert beyond.ild(np.array([[10, 11]]), similar) == approx([0.3])


def test_attribute_weights_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match=r"2 levels need as many weights that sum to 1, got \(0.5, 0.6\)"):
        beyond.attributes(KEYS, np.zeros((4, 2), dtype=np.int64), (0.5, 0.6))


def test_ild_by_matrix() -> None:
    matrix = np.eye(4)
    matrix[0, 3] = matrix[3, 0] = 0.25
    assert beyond.ild(np.array([[20, 10]]), beyond.of_matrix(KEYS, matrix)) == approx([0.75])


def test_ild_of_narrow_and_empty_input() -> None:
    similar = beyond.of_matrix(KEYS, np.eye(4))
    assert np.isnan(beyond.ild(np.array([[10]]), similar)).all()
    assert len(beyond.ild(np.zeros((0, 5), dtype=np.int64), similar)) == 0


@given(st.permutations([10, 11, 12, 20, -1]))
def test_order_of_a_list_is_irrelevant(slate: list[int]) -> None:
    ordered, shuffled = np.array([[10, 11, 12, 20, -1]]), np.array([slate])
    popularity, similar = np.array([8, 2, 0, 1]), beyond.cosine(KEYS, np.eye(4, 3, dtype=np.float32) + 1)
    for measure in (
        lambda s: beyond.exposure(s, KEYS),
        lambda s: beyond.mean_popularity(s, KEYS, popularity),
        lambda s: beyond.self_information(s, KEYS, popularity, users=16),
        lambda s: beyond.ild(s, similar),
    ):
        assert measure(shuffled) == approx(measure(ordered))


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    slates = rng.permuted(np.tile(KEYS, (50, 1)), axis=1)[:, :3]
    similar = beyond.cosine(KEYS, rng.standard_normal((4, 3)).astype(np.float32))
    whole = beyond.ild(slates, similar)
    monkeypatch.setattr(beyond, "PIECE", 7)
    assert beyond.ild(slates, similar).tolist() == whole.tolist()


def test_log2_of_the_example() -> None:
    # One user of three took it: log2(3) bits.
    got = beyond.self_information(np.array([[10]]), np.array([10]), np.array([1]), users=3)
    assert got == approx([log2(3)])
