"""ListIndex: weighted sums of lists, one request or many, dense or sparse; and the cut."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.forms import Lists
from shortlist.index import lists as module
from shortlist.index.cut import Floats, Ints, cut
from shortlist.index.lists import KeptIndex, LargeLists, ListIndex, searchable


def lists(rows: dict[int, dict[int, float]]) -> Lists:
    triples = [(key, item, score) for key, row in rows.items() for item, score in row.items()]
    owners, items, scores = zip(*triples, strict=True)
    return Lists.ranked(np.array(owners), np.array(items), np.array(scores, dtype=np.float32))


def random_lists(rng: np.random.Generator, keys: int, items: int, share: float) -> Lists:
    owner, item = np.nonzero(rng.random((keys, items)) < share)
    return Lists.ranked(owner * 3, item * 5 + 1, rng.standard_normal(len(owner)).astype(np.float32))


def plain(rows: Iterable[NDArray[Any]]) -> list[list[Any]]:
    return [column.tolist() for column in rows]


def asked(rng: np.random.Generator, requests: int, keys: int) -> tuple[Ints, Ints, Floats]:
    owners = np.repeat(np.arange(requests), rng.integers(0, 9, requests))
    return owners, rng.integers(0, keys * 3, len(owners)), rng.random(len(owners)).astype(np.float32)


def test_sums_by_hand() -> None:
    index = ListIndex(lists({1: {7: 0.5, 8: 0.25}, 2: {8: 1.0, 9: -1.0}}))
    # request 0 asks 1 (weight 1) and 2 (weight 0.5): 7: 0.5, 8: 0.25 + 0.5, 9: -0.5
    # request 2 asks 2 and an unknown key
    owners, items, scores = index.gather(
        np.array([0, 0, 2, 2]), np.array([1, 2, 2, 99]), np.array([1, 0.5, 1, 1], dtype=np.float32)
    )
    assert owners.tolist() == [0, 0, 0, 2, 2]
    assert items.tolist() == [7, 8, 9, 8, 9]
    assert scores.tolist() == [0.5, 0.75, -0.5, 1.0, -1.0]


def test_keys_far_apart_are_searched_like_near_ones(rng: np.random.Generator) -> None:
    """Near keys are looked up in a table, far ones are sorted: item 5 n + 1 against item 10^12 n + 1."""
    near = random_lists(rng, 40, 60, 0.3)
    far = Lists(near.keys, near.offsets, (near.items - 1) // 5 * 10**12 + 1, near.scores)
    what = asked(rng, 25, 40)
    owners, items, scores = ListIndex(near).top(*what, 7)
    found = ListIndex(far).top(*what, 7)
    assert plain(found) == plain((owners, (items - 1) // 5 * 10**12 + 1, scores))


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_equals_the_dense_product(rng: np.random.Generator, share: float) -> None:
    form = random_lists(rng, 40, 60, share)
    table = np.zeros((120, 301))
    table[np.repeat(form.keys, np.diff(form.offsets)), form.items] = form.scores
    owners, keys, weights = asked(rng, 25, 40)
    wanted = np.zeros((25, 301))
    for owner, key, weight in zip(owners, keys, weights, strict=True):
        wanted[owner] += weight * table[key]
    got = np.zeros((25, 301))
    row, items, scores = ListIndex(form).gather(owners, keys, weights)
    got[row, items] = scores
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_one_request_equals_the_same_among_many(
    rng: np.random.Generator, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = random_lists(rng, 40, 60, share)
    index = ListIndex(form)
    owners, keys, weights = asked(rng, 25, 40)
    many = index.gather(owners, keys, weights)
    monkeypatch.setattr(module, "BLOCK_BYTES", 20 * len(index.items) * 4)  # four requests a block
    rows = [index.gather(*(column[owners == r] for column in (owners, keys, weights))) for r in np.unique(owners)]
    alone = tuple(np.concatenate(column) for column in zip(*rows, strict=True))
    for blocks in (index.gather(owners, keys, weights), alone):
        assert plain(blocks) == plain(many)


def test_nothing_asked_or_nothing_known() -> None:
    none, empty = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    index = ListIndex(lists({1: {7: 0.5}}))
    assert [len(c) for c in index.gather(none, none, empty)] == [0, 0, 0]
    assert [len(c) for c in index.top(np.array([0]), np.array([5]), np.ones(1, dtype=np.float32), 3)] == [0, 0, 0]
    bare = ListIndex(Lists(none, np.zeros(1, dtype=np.int64), none, empty))
    assert [len(c) for c in bare.gather(np.array([0]), np.array([5]), np.ones(1, dtype=np.float32))] == [0, 0, 0]


def test_top_is_gather_and_cut(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ListIndex(random_lists(rng, 40, 60, 0.5))
    owners, keys, weights = asked(rng, 25, 40)

    def odd(_: Ints, items: Ints) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = items % 2 == 1
        return mask

    wanted = cut(*index.gather(owners, keys, weights), 5, odd)
    monkeypatch.setattr(module, "BLOCK_BYTES", 20 * len(index.items) * 4)
    assert plain(index.top(owners, keys, weights, 5, odd)) == plain(wanted)


def test_cut_by_hand() -> None:
    owners, items = np.array([0, 0, 0, 0, 4]), np.array([9, 5, 3, 2, 1])
    scores = np.array([1, 2, 2, 0.5, 7], dtype=np.float32)
    # falling score, the tie of 5 and 3 by smaller key: 3 5 9 2
    got = cut(owners, items, scores, 2)
    assert got[0].tolist() == [0, 0, 4]
    assert got[1].tolist() == [3, 5, 1]
    # 3 does not count, so 9 is the second that does; 3 stays, above the cut
    got = cut(owners, items, scores, 2, lambda _, i: i != 3)
    assert got[1].tolist() == [3, 5, 9, 1]
    # fewer than n count: every row stays
    assert cut(owners, items, scores, 4, lambda _, i: i != 3)[1].tolist() == [3, 5, 9, 2, 1]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 1))
def test_cut_equals_sorting_everything(seed: int, n: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 400, 6)
    owners = np.repeat(np.array([1, 2, 5, 6, 8, 11]), sizes)
    items = np.concatenate([rng.permutation(400)[:size] for size in sizes])
    scores = rng.integers(0, 30, len(items)).astype(np.float32)
    good = rng.random(400) < share
    mixed = rng.permutation(len(items))
    got = cut(owners[mixed], items[mixed], scores[mixed], n, lambda _, i: good[i])
    wanted: list[tuple[int, int]] = []
    for owner in np.unique(owners):
        mine = np.flatnonzero(owners == owner)
        found = 0
        for row in mine[np.lexsort((items[mine], -scores[mine]))]:
            if found == n:
                break
            wanted.append((int(owner), int(items[row])))
            found += int(good[items[row]])
    assert list(zip(got[0].tolist(), got[1].tolist(), strict=True)) == wanted


def test_lists_that_stay_mapped_answer_the_same(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what lists in memory answer, though only those asked for are read."""
    owners, items = np.repeat(np.arange(0, 200, 2), 12), rng.integers(0, 300, 1200)
    owners, items = np.unique(np.stack([owners, items]), axis=1)
    form = Lists.ranked(owners, items, rng.random(len(items)).astype(np.float32))
    asked = (np.sort(rng.integers(0, 9, 60)), rng.integers(-1, 205, 60), rng.random(60).astype(np.float32))
    small = searchable(form)
    assert isinstance(small, ListIndex)
    monkeypatch.setattr(module, "MAPPED_ABOVE", 100)
    large = searchable(form)
    assert isinstance(large, KeptIndex)
    for got, wanted in zip(large.top(*asked, 20), small.top(*asked, 20), strict=True):
        np.testing.assert_array_equal(got, wanted)
    for got, wanted in zip(large.gather(*asked), small.gather(*asked), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_lists_are_cut_by_key() -> None:
    form = Lists.ranked(
        np.array([0, 0, 0, 1]), np.array([5, 6, 7, 8]), np.array([3, 2, 1, 9], dtype=np.float32), labels=("a", "b")
    )
    large = LargeLists(form, most=2)
    taken = large.take(np.array([1, 0, 7, 0]))
    assert (taken.keys.tolist(), taken.offsets.tolist(), taken.items.tolist()) == ([0, 1], [0, 2, 3], [5, 6, 8])
    named = large.named(["b", "nobody"])
    assert (named.labels, named.items.tolist(), named.scores.tolist()) == (("b",), [8], [9.0])
    assert len(LargeLists(Lists.ranked(form.keys[:0], form.keys[:0], form.scores[:0])).take(np.array([3]))) == 0
