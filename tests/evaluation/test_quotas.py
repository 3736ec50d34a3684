"""Quotas chosen by what they find: hand-made lists, and the best of all quotas by trying them."""

from dataclasses import replace
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


def test_candidates_of_all_channels_with_what_was_looked_for() -> None:
    seen = found(funnel(), requests(), OFFSETS, LABELS, 4)
    # user 0, without 0: a has 1, 2, 3; b has 4, 1, 5, 6. User 1: a has 0, 1, 2, 3, b the same four
    rows = sorted(zip(seen.ranks.tolist(), seen.weights.tolist(), strict=True))
    user0 = [([1, 2], 0.0), ([2, 0], 0.5), ([3, 0], 0.0), ([0, 1], 0.5), ([0, 3], 0.0), ([0, 4], 0.0)]
    user1 = [([1, 0], 0.0), ([2, 2], 1.0), ([3, 0], 0.0), ([4, 0], 0.0), ([0, 1], 0.0), ([0, 3], 0.0), ([0, 4], 0.0)]
    assert rows == sorted(user0 + user1)
    assert seen.requests == 2


def test_lists_deeper_than_two_bytes_hold_are_ranked_to_the_end() -> None:
    long = Listed(*range(40_000))
    both = replace(funnel(), channels=(Channel("a", long, 1), Channel("b", Listed(7), 1)), filters={})
    seen = found(both, requests(), OFFSETS, LABELS, 40_000)
    assert seen.ranks[:, 0].max() == 40_000
    assert (seen.ranks >= 0).all()
    assert equal(seen, 39_999).tolist() == [39_999, 39_999]


def test_the_piece_that_finds_most_for_each_new_candidate_comes_first() -> None:
    # one request, two labels of weight 1/2. a brings x, L, y; b brings x, z, M
    ranks = np.array([[1, 1], [2, 0], [3, 0], [0, 2], [0, 3]], dtype=np.int16)
    seen = Found(ranks, np.array([0, 0.5, 0, 0, 0.5]), 1)
    # two of a: 0.5 for 2 candidates; three of b: 0.5 for 3. Then b's other two cost 2 more, x is there: 4 in all
    assert chosen(seen, 2, 1).tolist() == [2, 1]  # b's first is x too: it costs nothing
    assert chosen(seen, 4, 1).tolist() == [2, 3]
    assert chosen(seen, 5, 1).tolist() == [3, 3]  # nothing more to find: the rest goes to whom has more
    assert equal(seen, 5).tolist() == [3, 3]
    assert equal(seen, 4).tolist() == [2, 2]  # of 3 each there would be 5
    assert equal(seen, 1).tolist() == [1, 1]


def test_greedy_is_near_the_best_of_all_quotas() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        ranks = np.zeros((30, 3), dtype=np.int16)
        for c in range(3):  # each channel ranks twelve of thirty items
            ranks[rng.permutation(30)[:12], c] = np.arange(1, 13)
        seen = Found(ranks, (rng.random(30) < 0.4).astype(np.float64), 1)

        def finds(quotas: tuple[int, ...] | np.ndarray, seen: Found = seen) -> tuple[float, int]:
            within = ((seen.ranks > 0) & (seen.ranks <= np.array(quotas))).any(axis=1)
            return float(seen.weights[within].sum()), int(within.sum())

        every = [finds(q) for q in product(range(13), repeat=3)]
        best = max(hits for hits, cost in every if cost <= 12)
        hits, cost = finds(chosen(seen, 12, 1))
        assert cost <= 12
        assert hits >= (1 - 1 / np.e) * best


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


def test_a_budget_that_holds_nothing_is_refused() -> None:
    seen = found(funnel(), requests(), OFFSETS, LABELS, 4)
    with pytest.raises(ConfigError) as caught:
        equal(seen, 1)
    assert str(caught.value) == "budget: a budget of 1 for 2 channels (give room for an item of each)"
