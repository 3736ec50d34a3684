"""MMR with a sliding window against its definition, pick by pick."""

from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.funnel.world import SCHEMA, ask, profiles

from shortlist.candidates import Candidates, Ragged
from shortlist.errors import ConfigError
from shortlist.funnel.selectors import mmr
from shortlist.funnel.selectors.mmr import Mmr, scaled
from shortlist.schema import Profiles

GENRES = st.none() | st.lists(st.sampled_from("abcd"), max_size=3, unique=True)
SCORE = st.integers(0, 16).map(lambda n: n / 8)
POOL = st.lists(st.tuples(GENRES, SCORE), min_size=1, max_size=9)
WINDOW = st.none() | st.integers(1, 4)
Rows = list[tuple[Any, float]]


def page_of(items: Profiles, scores: list[float], n: int, prefix: list[int] | None = None, **config: Any) -> list[int]:
    """Keys that MMR chooses for one request among items 0, 1, ... with these scores."""
    column = np.array(scores, dtype=np.float32)
    candidates = alive(len(column))
    earlier = None if prefix is None else Ragged.of(np.array([0, len(prefix)]), np.array(prefix, dtype=np.int64))
    selector = Mmr(Mmr.Config(**config), SCHEMA, items)
    offsets, picks, relaxed = selector.select(ask([], n=n, prefix=earlier), candidates, column)
    assert offsets.tolist() == [0, len(picks)]
    assert not any(hit.any() for hit in relaxed.values())
    return [int(key) for key in candidates.items[picks]]


def alive(*sizes: int) -> Candidates:
    """Items 0, 1, ... of each request."""
    n = sum(sizes)
    items = np.concatenate([np.arange(size) for size in sizes])
    wide = np.zeros((n, 1), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Candidates(offsets, items, ("a",), wide, wide.astype(np.float32), {}, np.zeros(n, dtype=np.int16))


def alike(a: Any, b: Any) -> float:
    a, b = set(a or ()), set(b or ())
    return len(a & b) / sqrt(max(len(a), 1) * max(len(b), 1))


def definition(rows: Rows, theta: float, window: int | None, n: int, prefix: list[int]) -> list[int]:
    """i* = argmax theta * r_i - (1 - theta) * max over the window of sim(i, j); ties by score, then by key."""
    genres, scores = [g for g, _ in rows], [s for _, s in rows]
    low, span = min(scores), (max(scores) - min(scores)) or 1.0
    left = sorted(range(len(rows)), key=lambda i: (-scores[i], i))
    chosen = list(prefix)
    while left and len(chosen) < len(prefix) + n:
        recent = chosen if window is None else chosen[-window:]

        def worth(i: int, recent: list[int] = recent) -> float:
            penalty = max((alike(genres[i], genres[j]) for j in recent), default=0.0)
            return theta * ((scores[i] - low) / span) - (1 - theta) * penalty

        best = max(left, key=worth)
        chosen.append(best)
        left.remove(best)
    return chosen[len(prefix) :]


@given(
    POOL, st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]), WINDOW, st.integers(0, 9), st.lists(st.integers(0, 8), max_size=4)
)
@settings(max_examples=300)
def test_mmr_is_its_definition(rows: Rows, theta: float, window: int | None, n: int, prefix: list[int]) -> None:
    prefix = [i for i in prefix if i < len(rows)]
    page = page_of(profiles(*(g for g, _ in rows)), [s for _, s in rows], n, prefix, theta=theta, window=window)
    assert page == definition(rows, theta, window, n, prefix)


def order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@given(POOL)
def test_theta_one_sorts_by_score(rows: Rows) -> None:
    scores = [s for _, s in rows]
    assert page_of(profiles(*(g for g, _ in rows)), scores, 9, theta=1.0) == order(scores)


@given(POOL)
def test_without_anything_in_common_it_sorts_by_score(rows: Rows) -> None:
    scores = [s for _, s in rows]
    assert page_of(profiles(*([f"g{n}"] for n in range(len(rows)))), scores, 9, theta=0.3) == order(scores)


@given(POOL, WINDOW)
def test_theta_zero_takes_the_least_similar_each_time(rows: Rows, window: int | None) -> None:
    genres = [g for g, _ in rows]
    page = page_of(profiles(*genres), [s for _, s in rows], 9, theta=0.0, window=window)
    for place in range(1, len(page)):
        recent = page[:place] if window is None else page[max(place - window, 0) : place]
        likeness = {i: max(alike(genres[i], genres[j]) for j in recent) for i in page[place:]}
        assert likeness[page[place]] == min(likeness.values())


@given(POOL, st.integers(0, 9))
def test_a_window_of_one_depends_on_the_last_pick_only(rows: Rows, n: int) -> None:
    items, scores = profiles(*(g for g, _ in rows)), [s for _, s in rows]
    page = page_of(items, scores, 9, theta=0.4, window=1)
    for place in range(1, len(page)):
        # the rest of the page does not change when all but the last pick is forgotten
        rest = [i for i in range(len(rows)) if i not in page[:place]]
        low, span = min(scores), (max(scores) - min(scores)) or 1.0
        worth = {i: 0.4 * (scores[i] - low) / span - 0.6 * alike(rows[i][0], rows[page[place - 1]][0]) for i in rest}
        assert worth[page[place]] == pytest.approx(max(worth.values()), abs=1e-12)


@given(POOL, st.integers(-64, 64), WINDOW)
def test_a_constant_added_to_all_scores_changes_nothing(rows: Rows, shift: int, window: int | None) -> None:
    items, scores = profiles(*(g for g, _ in rows)), [s for _, s in rows]
    page = page_of(items, scores, 5, theta=0.6, window=window)
    assert page_of(items, [s + shift for s in scores], 5, theta=0.6, window=window) == page


@given(POOL, st.integers(0, 12), WINDOW)
def test_the_page_is_the_beginning_of_a_permutation(rows: Rows, n: int, window: int | None) -> None:
    items, scores = profiles(*(g for g, _ in rows)), [s for _, s in rows]
    page = page_of(items, scores, n, theta=0.5, window=window)
    assert len(page) == min(n, len(rows)) == len(set(page))
    whole = page_of(items, scores, len(rows), theta=0.5, window=window)
    assert page == whole[:n]


def test_only_the_pool_is_looked_at_and_a_larger_page_widens_it() -> None:
    items = profiles(["a"], ["a"], ["b"])
    assert page_of(items, [3, 2, 1], 2, theta=0.0, pool=2) == [0, 1]
    assert page_of(items, [3, 2, 1], 2, theta=0.0, pool=3) == [0, 2]
    assert page_of(items, [3, 2, 1], 3, theta=0.0, pool=1) == [0, 2, 1]


def test_a_candidate_without_a_score_comes_last() -> None:
    items = profiles(["a"], ["a"], ["b"], ["c"])
    assert page_of(items, [3, 2, np.nan, 1], 4, theta=0.0) == [0, 3, 1, 2]


def test_the_default_level_is_the_category_and_levels_replace_it() -> None:
    items = profiles(["a"], ["a"], ["b"], brand=["x", "y", "x"])
    assert page_of(items, [3, 2, 1], 2, theta=0.1) == [0, 2]
    assert page_of(items, [3, 2, 1], 2, theta=0.1, levels={"brand": 1.0}) == [0, 1]
    with pytest.raises(ConfigError) as caught:
        Mmr(Mmr.Config(levels={"brnad": 1.0}), SCHEMA, items)
    assert str(caught.value) == "rerank.levels: no item field is called 'brnad' (did you mean brand?)"


@given(st.lists(POOL, min_size=1, max_size=5), st.integers(1, 6), WINDOW)
def test_requests_together_are_requests_alone_also_in_small_blocks(
    pools: list[Rows], n: int, window: int | None
) -> None:
    catalogue = max(pools, key=len)  # the same items for all, scores of their own
    items = profiles(*(g for g, _ in catalogue))
    selector = Mmr(Mmr.Config(theta=0.5, window=window), SCHEMA, items)
    scores = np.array([s for rows in pools for _, s in rows], dtype=np.float32)
    candidates, requests = alive(*map(len, pools)), ask(*([] for _ in pools), n=n)

    def lists() -> list[list[int]]:
        offsets, picks, _ = selector.select(requests, candidates, scores)
        parts: list[NDArray[np.int64]] = np.split(candidates.items[picks], offsets[1:-1])
        return [part.tolist() for part in parts]

    together = lists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmr, "_CELLS", 1)
        assert lists() == together
    alone = [page_of(items, [s for _, s in rows], n, theta=0.5, window=window) for rows in pools]
    assert together == alone


def test_scaled_by_hand() -> None:
    rows = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, np.nan], [np.nan, np.inf, 4.0], [np.nan] * 3])
    np.testing.assert_array_equal(
        scaled(rows), [[0, 1, 0.5], [0, 0, np.nan], [np.nan, np.nan, 0], [np.nan, np.nan, np.nan]]
    )
