"""The item map: the same dice give the same map, groups stay groups, lines stay with their items."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from pytest import approx

from shortlist.evaluation.tsne import (
    affinities,
    chance,
    item_map,
    neighbours,
    picture,
    principal,
    purity,
    repulsion,
    scaled,
    tsne,
    write,
)
from shortlist.forms import Vectors

SVG = "{http://www.w3.org/2000/svg}"


def blobs(n: int = 120, width: int = 8, spread: float = 0.3) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Three groups of Gaussians, far from one another."""
    rng = np.random.default_rng(1)
    labels = np.arange(n) % 3
    centres = np.eye(3, width) * 10
    return (centres[labels] + spread * rng.normal(size=(n, width))).astype(np.float32), labels


def places(x: NDArray[Any], seed: int = 0, iterations: int = 1000) -> NDArray[np.float64]:
    return tsne(x, np.random.default_rng(seed), perplexity=10, iterations=iterations)


def test_the_same_dice_give_the_same_places() -> None:
    x, _ = blobs()
    assert np.array_equal(places(x), places(x))
    assert not np.array_equal(places(x), places(x, seed=1))


def test_three_groups_are_pure_in_both_spaces() -> None:
    x, labels = blobs()
    found = places(x)
    assert purity(x, labels) == 1.0
    assert purity(found, labels) == 1.0
    assert chance(labels) == approx(39 / 119)  # 39 others of 119 in one's group of 40


def test_a_constant_axis_divides_nothing_by_zero() -> None:
    x = np.zeros((30, 4), dtype=np.float32)
    x[:, 1] = np.arange(30)
    assert np.isfinite(places(x)).all()
    assert np.isfinite(places(np.zeros((30, 4)))).all()
    assert scaled(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist() == [[0.0, 0.5], [1.0, 0.5]]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_few_items_have_places(n: int) -> None:
    found = places(np.random.default_rng(0).normal(size=(n, 3)), iterations=50)
    assert found.shape == (n, 2)
    assert np.isfinite(found).all()
    assert scaled(found).shape == (n, 2)


def test_narrow_vectors_have_places() -> None:
    found = places(np.random.default_rng(0).normal(size=(40, 1)), iterations=50)
    assert np.isfinite(found).all()


def test_places_stay_with_their_items() -> None:
    """Items of one group stand together whatever the order in which they come."""
    x, labels = blobs()
    order = np.random.default_rng(2).permutation(len(x))
    form = Vectors((np.arange(len(x)) + 1000)[order], x[order])
    found = item_map(form, np.random.default_rng(0), perplexity=10)
    assert found.keys.tolist() == list(range(1000, 1120))
    assert purity(found.places, labels) == 1.0
    assert (found.places.min(axis=0), found.places.max(axis=0)) == (approx([0, 0]), approx([1, 1]))
    near = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert found.vectors == approx(near)


def test_a_sample_is_of_the_items_and_l2_keeps_lengths() -> None:
    x, _ = blobs()
    found = item_map(Vectors(np.arange(120) * 7, x, "l2"), np.random.default_rng(0), sample=20, iterations=10)
    assert len(found.keys) == 20
    assert (np.diff(found.keys) > 0).all()
    assert np.array_equal(found.vectors, x[found.keys // 7])


def test_a_vector_of_zeros_stays_zero() -> None:
    x = np.array([[0.0, 0.0], [3.0, 4.0]], dtype=np.float32)
    found = item_map(Vectors(np.array([4, 9]), x), np.random.default_rng(0), iterations=5)
    assert found.vectors == approx(np.array([[0, 0], [0.6, 0.8]]))


def test_repulsion_is_the_sum_over_pairs() -> None:
    y = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    gap = y[:, None] - y[None]
    q = 1 / (1 + (gap**2).sum(axis=2))
    np.fill_diagonal(q, 0)
    expected = (q[:, :, None] ** 2 * gap).sum(axis=1) / q.sum()
    assert repulsion(y) == approx(expected, abs=1e-6)


def test_every_row_has_the_perplexity_asked_for() -> None:
    x = np.random.default_rng(0).normal(size=(60, 5))
    near, squared = neighbours(x, 30)
    p = affinities(squared, 10)
    assert p.sum(axis=1) == approx(np.ones(60))
    assert np.exp(-(p * np.log(p)).sum(axis=1)) == approx(np.full(60, 10.0))
    assert not (near == np.arange(60)[:, None]).any()


def test_neighbours_by_hand() -> None:
    near, squared = neighbours(np.array([[0.0], [1.0], [3.0], [-1.0]]), 2)
    assert near.tolist() == [[1, 3], [0, 2], [1, 0], [0, 1]]  # ties of 0 by the smaller row
    assert squared == approx(np.array([[1, 1], [1, 4], [4, 9], [1, 4]]))


def test_main_axes_keep_distances_and_their_sign() -> None:
    x = np.random.default_rng(0).normal(size=(20, 4))
    found = principal(x, 50)
    assert found.shape == (20, 4)
    before, after = (np.linalg.norm(v[:, None] - v[None], axis=2) for v in (x, found))
    assert after == approx(before)
    assert (np.diff(found.var(axis=0)) <= 1e-12).all()
    assert principal(-x, 50) == approx(-found)


def test_purity_by_hand() -> None:
    x, labels = np.array([[0.0], [1.0], [5.0], [6.0], [100.0]]), np.array([0, 0, 0, 1, -1])
    # nearest: 1 (same), 0 (same), 6 (other), 5 (other); the last is of no known category
    assert purity(x, labels, k=1) == 0.5
    assert chance(labels) == approx(6 / 12)  # three others of 3 x 2 pairs among 4 x 3
    assert np.isnan(purity(x, np.full(5, -1)))
    assert np.isnan(chance(np.full(5, -1)))


def test_the_picture_names_every_item_and_escapes_it() -> None:
    titles = ["Heat & Dust", "<script>alert(1)</script>", "bad \x00 byte"]
    svg = picture(np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]), titles, ["drama", None, 'a"b'])
    root = ET.fromstring(svg)
    dots = [dot for dot in root.iter(f"{SVG}circle") if dot.find(f"{SVG}title") is not None]
    assert [dot.findtext(f"{SVG}title") for dot in dots] == [
        "Heat & Dust (drama)",
        "<script>alert(1)</script>",
        'bad   byte (a"b)',
    ]
    # the origin is at the lower left
    assert [(dot.get("cx"), dot.get("cy")) for dot in dots] == [
        ("12.0", "548.0"),
        ("628.0", "12.0"),
        ("320.0", "280.0"),
    ]
    assert [text.text for text in root.iter(f"{SVG}text")] == ['a"b', "drama", "other"]
    assert "<script" not in svg


def test_only_the_ten_largest_categories_have_colours() -> None:
    names: list[str | None] = [*(f"c{n:02}" for n in range(12)), "c11"]
    root = ET.fromstring(picture(np.zeros((13, 2)), ["t"] * 13, names))
    assert [text.text for text in root.iter(f"{SVG}text")] == ["c11", *(f"c{n:02}" for n in range(9)), "other"]


def test_an_empty_map_is_a_picture() -> None:
    assert ET.fromstring(picture(np.zeros((0, 2)), [], [])).tag == f"{SVG}svg"


def test_files_hold_the_same_items_line_by_line(tmp_path: Path) -> None:
    x, labels = blobs(12)
    found = item_map(Vectors(np.arange(12) + 5, x), np.random.default_rng(0), iterations=20)
    names: list[str | None] = [None if label == 2 else f"group {label}" for label in labels]
    write(tmp_path / "map", found, [f"item {key}" for key in found.keys], names)
    table = pl.read_csv(tmp_path / "map" / "item_map.csv")
    assert table["key"].to_list() == list(range(5, 17))
    assert table["title"].to_list() == [f"item {key}" for key in range(5, 17)]
    assert table["category"].to_list() == names
    assert table.select("x", "y").to_numpy() == approx(found.places)
    assert (tmp_path / "map" / "item_map.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "map" / "item_map.svg").read_text(encoding="utf-8").count("<title>item ") == 12
