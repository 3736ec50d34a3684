"""Recall merge: every merger keeps the same promises."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.funnel.world import ask, funnel, pages, ranked

from shortlist.candidates import Candidates
from shortlist.errors import ConfigError
from shortlist.funnel.mergers.rrf import Rrf
from shortlist.funnel.mergers.snake import Snake
from shortlist.funnel.pipeline import Merger

MERGERS = {
    "snake": lambda names: Snake(Snake.Config(), names),
    "rrf": lambda names: Rrf(Rrf.Config(), names),
}
both = pytest.mark.parametrize("make", MERGERS.values(), ids=list(MERGERS))
NAMES = ("a", "b", "c")


def of(ranks: NDArray[np.int32]) -> Candidates:
    """One request's candidates with these ranks [N, C], the fallback's column behind them."""
    n = len(ranks)
    rank = np.concatenate([ranks, np.zeros((n, 1), dtype=np.int32)], axis=1)
    none = np.full(rank.shape, np.nan, dtype=np.float32)
    fate = np.zeros(n, dtype=np.int16)
    return Candidates(np.array([0, n]), np.arange(n), (*NAMES, "backfill"), rank, none, {}, fate)


def score(merger: Merger, ranks: Any, quotas: tuple[float, ...] = (4, 4, 4)) -> NDArray[np.float64]:
    values = merger.score(ask([]), of(np.array(ranks, dtype=np.int32)), np.array(quotas, dtype=np.float64))
    return np.asarray(values, dtype=np.float64)


@both
def test_no_item_twice_and_every_item_from_a_channel(make: Any) -> None:
    one = funnel(ranked(3, 1, 2), ranked(1, 4), quota=2, merger=make(("a", "b")))
    candidates = one.run(ask([], [], n=2)).candidates
    for a, b in pairwise(candidates.offsets.tolist()):
        assert sorted(candidates.items[a:b].tolist()) == [1, 3, 4]
    assert bool((candidates.rank > 0).any(axis=1).all())


@both
def test_one_channel_gives_its_own_order(make: Any) -> None:
    assert pages(funnel(ranked(3, 1, 2, 0), merger=make(("a",))).run(ask([], n=4))) == [[3, 1, 2, 0]]


@both
def test_without_a_channel_the_others_keep_rank_and_score(make: Any) -> None:
    merger = make(NAMES)
    whole = score(merger, [[1, 0, 0], [0, 0, 2], [2, 0, 1]])
    dead = score(merger, [[1, 0, 0], [0, 0, 2], [2, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(whole, dead[:3])


@both
@given(
    ranks=st.lists(st.tuples(*[st.integers(0, 4)] * 3).filter(any), min_size=1, max_size=6),
    channel=st.integers(0, 2),
    better=st.integers(1, 4),
    quotas=st.tuples(*[st.sampled_from([4.0, 5.0, 9.0])] * 3),
)
def test_a_better_rank_never_lowers_the_score(
    make: Any, ranks: list[tuple[int, ...]], channel: int, better: int, quotas: tuple[float, ...]
) -> None:
    table = np.array(ranks, dtype=np.int32)
    before = score(make(NAMES), table, quotas)
    if not table[0, channel] or better < table[0, channel]:
        table[0, channel] = better
    after = score(make(NAMES), table, quotas)
    assert after[0] >= before[0]
    np.testing.assert_array_equal(after[1:], before[1:])
    assert (before > 0).all()  # so that a boost may multiply


def test_snake_alternates_equal_quotas_and_takes_turns_by_quota() -> None:
    snake = Snake(Snake.Config(), ("a", "b"))
    one = funnel(ranked(0, 1, 2), ranked(7, 6, 5), quota=3, merger=snake)
    assert pages(one.run(ask([], n=6))) == [[0, 7, 1, 6, 2, 5]]
    # quotas 4 and 2: turns (rank - 1/2) / quota are 1/8 3/8 5/8 7/8 for a, 1/4 3/4 for b
    wide, narrow = funnel(ranked(0, 1, 2, 3)).channels[0], funnel(ranked(7, 6)).channels[0]
    channels = (replace(wide, name="a", quota=4), replace(narrow, name="b", quota=2))
    assert pages(replace(one, channels=channels).run(ask([], n=6))) == [[0, 7, 1, 2, 6, 3]]


def test_snake_by_hand() -> None:
    # the earlier of (2 - 1/2) / 4 and (1 - 1/2 + a thousandth) / 4: 1 - 0.501 / 4
    assert score(Snake(Snake.Config(), NAMES), [[2, 1, 0]]).tolist() == [1 - 0.501 / 4]


def test_rrf_by_hand() -> None:
    rrf = Rrf(Rrf.Config(kappa=60, weights={"b": 2.0}), NAMES)
    # a at rank 1, b (weight 2) at rank 3: 1/61 + 2/63
    assert score(rrf, [[1, 3, 0]])[0] == pytest.approx(1 / 61 + 2 / 63, abs=1e-12)
    assert score(Rrf(Rrf.Config(kappa=0), NAMES), [[2, 0, 4]])[0] == pytest.approx(1 / 2 + 1 / 4)


def test_rrf_refuses_a_weight_of_no_channel() -> None:
    with pytest.raises(ConfigError) as caught:
        Rrf(Rrf.Config(weights={"item_fc": 1.0}), ("item_cf", "hot"))
    assert str(caught.value) == "merge.weights: no channel is called 'item_fc' (did you mean item_cf?)"
