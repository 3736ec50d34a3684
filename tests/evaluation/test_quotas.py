"""Quotas chosen by what they find: hand-made lists, and the best of all quotas by trying them."""

from itertools import product

import numpy as np
import pytest
from tests.evaluation.test_funnel import Listed, requests

from shortlist.errors import ConfigError
from shortlist.evaluation.quotas import Found, chosen, equal, found, reached
from shortlist.funnel.filters.seen import Seen
from shortlist.funnel.mergers.snake import Snake
from shortlist.funnel.pipeline import Channel, Funnel
from shortlist.funnel.selectors.top import Top
from shortlist.schema import Catalogue, Schema


def funnel() -> Funnel:
    schema, items = Schema(), Catalogue.empty().items
    return Funnel(
        channels=(Channel("a", Listed(0, 1, 2, 3), 1), Channel("b", Listed(4, 1, 5, 6), 1)),
        merger=Snake(Snake.Config(), ("a", "b")),
        filters={"seen": Seen(Seen.Config(), schema, items)},
        selector=Top(Top.Config(), schema, items),
        budget=3,
        block=1,
    )


# user 0, who has seen 0, wants 2 and 4; user 1 wants 1
OFFSETS, LABELS = np.array([0, 2, 3]), np.array([2, 4, 1])


def test_where_channels_rank_what_is_looked_for() -> None:
    seen = found(funnel(), requests(), OFFSETS, LABELS, 4)
    # user 0: of 1, 2, 3 item 2 is second of a; 4 is first of b. User 1: 1 is second of both
    assert seen.ranks.tolist() == [[2, 0], [0, 1], [2, 2]]
    assert seen.weights.tolist() == [0.5, 0.5, 1.0]


def test_the_piece_that_finds_most_per_candidate_comes_first() -> None:
    seen = found(funnel(), requests(), OFFSETS, LABELS, 4)
    # two of a find 0.5 + 1 = 0.75 each, one of b 0.5, two of b 0.75 each: a is named first; then one of b finds 0.5
    assert chosen(seen, 3, 1).tolist() == [2, 1]
    # one candidate: one of b; two: two of a
    assert chosen(seen, 1, 1).tolist() == [0, 1]
    assert chosen(seen, 2, 1).tolist() == [2, 0]
    # all is found by three: the rest is spread evenly
    assert chosen(seen, 7, 1).tolist() == [4, 3]


def test_greedy_is_near_the_best_of_all_quotas() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        ranks = rng.integers(1, 13, (60, 3)) * (rng.random((60, 3)) < 0.5)
        seen = Found(ranks.astype(np.int32), np.ones(60))

        def finds(quotas: tuple[int, ...] | np.ndarray, ranks: np.ndarray = ranks) -> int:
            return int(((ranks > 0) & (ranks <= np.array(quotas))).any(axis=1).sum())

        best = max(finds(q) for q in product(range(13), repeat=3) if sum(q) == 12)
        mine = chosen(seen, 12, 1)
        assert mine.sum() == 12
        assert finds(mine) >= (1 - 1 / np.e) * best


def test_what_quotas_reach_and_a_merge_of_as_many() -> None:
    quotas = {"equal": np.array([1, 1]), "tuned": np.array([2, 1])}
    ways = reached(funnel(), requests(), OFFSETS, LABELS, quotas)
    # equal: user 0 gets 1 and 4, user 1 gets 0 and 4; tuned: user 0 gets 1, 2, 4, user 1 gets 0, 1, 4
    assert ways["equal"].recall.tolist() == [0.5, 0.0]
    assert ways["tuned"].recall.tolist() == [1.0, 1.0]
    assert (ways["equal"].candidates, ways["tuned"].candidates) == (2.0, 3.0)
    # merged, user 0: 1 is first and second, then 4 (first), then 2 and, third of both, none; user 1: 1, then 0 and 4
    assert ways["rrf"].recall.tolist() == [1.0, 1.0]
    assert ways["rrf"].candidates == 3.0


def test_equal_quotas() -> None:
    assert equal(3, 10).tolist() == [4, 3, 3]
    with pytest.raises(ConfigError) as caught:
        equal(3, 2)
    assert str(caught.value) == "budget: a budget of 2 for 3 channels (give at least one candidate to each)"
