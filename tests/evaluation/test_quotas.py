"""Quotas chosen by what they find: hand-made lists, and the best of all quotas by trying them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from tests.evaluation.test_funnel import Listed, requests

from shortlist.errors import ConfigError
from shortlist.evaluation.quotas import Found, Reached, chosen, equal, found, reached
from shortlist.evaluation.tuning import Tuned
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
    # user 0: [1, 2] [2, 0] [3, 0] [0, 1] [0, 3] [0, 4], wants the second and the fourth, a half each
    # user 1: [1, 0] [2, 2] [3, 0] [4, 0] [0, 1] [0, 3] [0, 4], wants the second
    rows = list(zip(seen.ranks.tolist(), seen.counts.tolist(), seen.weights.tolist(), strict=True))
    assert rows == [
        ([0, 1], 2, 0.5), ([0, 3], 2, 0.0), ([0, 4], 2, 0.0), ([1, 0], 1, 0.0), ([1, 2], 1, 0.0), ([2, 0], 1, 0.5),
        ([2, 2], 1, 1.0), ([3, 0], 2, 0.0), ([4, 0], 1, 0.0),
    ]  # fmt: skip
    assert seen.first.tolist() == [0, 4, 2, 4, 3]
    assert seen.requests == 2


def test_steps_hold_fewer_rows_and_quotas_are_the_same() -> None:
    rng = np.random.default_rng(5)
    ranks = np.zeros((400, 3), dtype=np.int16)
    for c in range(3):
        ranks[rng.permutation(400)[:200], c] = np.arange(1, 201)
    ranks = ranks[(ranks > 0).any(axis=1)]
    weights = (rng.random(len(ranks)) < 0.1).astype(np.float64)
    seen = Found.of(ranks, weights, 1, 10)
    assert seen.ranks.max() == 20  # 200 ranks in steps of 10
    assert len(seen.ranks) < len(ranks) == seen.counts.sum() == seen.first.sum()
    for budget in (20, 60, 150, len(ranks)):
        quotas = chosen(seen, budget)
        assert (quotas % 10 == 0).all()
        within = ((ranks > 0) & (ranks <= quotas)).any(axis=1)
        assert within.sum() <= budget
        # as the rows one by one, never together, would have it
        apart = replace(seen, ranks=-(-ranks // 10), counts=np.ones(len(ranks), dtype=np.int64), weights=weights)
        assert chosen(apart, budget).tolist() == quotas.tolist()


def test_requests_are_asked_in_rounds_until_no_more_rows_may_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(funnel(), requests(), OFFSETS, LABELS, 4)
    told: list[tuple[int, int]] = []
    # two requests of 4 candidates of 2 channels are 16 rows at most: with 32, 8 a round, so a request a round
    monkeypatch.setattr("shortlist.evaluation.quotas.SEEN", 32)
    parts = found(funnel(), requests(), OFFSETS, LABELS, 4, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    for mine, theirs in ((parts.ranks, whole.ranks), (parts.counts, whole.counts), (parts.first, whole.first)):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_allclose(parts.weights, whole.weights)
    assert parts.requests == 2
    # with 6, a request a round again: the first holds 6 rows, and another round might bring more
    monkeypatch.setattr("shortlist.evaluation.quotas.SEEN", 6)
    assert found(funnel(), requests(), OFFSETS, LABELS, 4).requests == 1


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
    seen = Found.of(ranks, np.array([0, 0.5, 0, 0, 0.5]), 1)
    # two of a: 0.5 for 2 candidates; three of b: 0.5 for 3. Then b's other two cost 2 more, x is there: 4 in all
    assert chosen(seen, 2).tolist() == [2, 1]  # b's first is x too: it costs nothing
    assert chosen(seen, 4).tolist() == [2, 3]
    assert chosen(seen, 5).tolist() == [3, 3]  # nothing more to find: the rest goes to whom has more
    assert equal(seen, 5).tolist() == [3, 3]
    assert equal(seen, 4).tolist() == [2, 2]  # of 3 each there would be 5
    assert equal(seen, 1).tolist() == [1, 1]


def test_greedy_is_near_the_best_of_all_quotas() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        ranks = np.zeros((30, 3), dtype=np.int16)
        for c in range(3):  # each channel ranks twelve of thirty items
            ranks[rng.permutation(30)[:12], c] = np.arange(1, 13)
        ranks = ranks[(ranks > 0).any(axis=1)]
        weights = (rng.random(len(ranks)) < 0.4).astype(np.float64)
        seen = Found.of(ranks, weights, 1)

        def finds(
            quotas: tuple[int, ...] | np.ndarray, ranks: np.ndarray = ranks, weights: np.ndarray = weights
        ) -> tuple[float, int]:
            within = ((ranks > 0) & (ranks <= np.array(quotas))).any(axis=1)
            return float(weights[within].sum()), int(within.sum())

        every = [finds(q) for q in product(range(13), repeat=3)]
        best = max(hits for hits, cost in every if cost <= 12)
        hits, cost = finds(chosen(seen, 12))
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


def test_ways_that_spend_unlike_numbers_of_candidates_are_told() -> None:
    recall, q = np.array([0.5, 0.5, 0.5]), np.array([3])
    test = {"now": Reached(recall, 99.5), "equal": Reached(recall, 80.0), "tuned": Reached(recall + 0.25, 100.0)}
    tuned = Tuned(("a",), 100, 3, 3, {"now": q, "equal": q, "tuned": q}, {**test, "rrf": Reached(recall, 100.0)})
    more = "recall +0.2500 [+0.2500, +0.2500]"
    assert tuned.said(0) == [
        f"tuned finds more than equal quotas: {more}, of 100.0 candidates a request on the test part against 80.0",
        f"tuned finds more than a reciprocal-rank merge of as many: {more}",
        f"tuned finds more than the quotas as they are: {more}",  # 100 are within 1 % of 99.5
        "quota of each [[recall]]: a = 3",
    ]
