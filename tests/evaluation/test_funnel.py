"""Whole-funnel figures against numbers a person can check: two users, two channels, labels by hand."""

from math import log2

import numpy as np
import pytest

from shortlist.candidates import Ragged, Requests
from shortlist.evaluation.funnel import Measured, measure
from shortlist.evaluation.outcome import verdicts
from shortlist.funnel.filters.seen import Seen
from shortlist.funnel.mergers.snake import Snake
from shortlist.funnel.pipeline import Channel, Funnel, Keep, Recalled
from shortlist.funnel.selectors.top import Top
from shortlist.index.cut import cut
from shortlist.schema import Catalogue, Schema

ITEMS = np.arange(8)


class Listed:
    """The same list for everybody, first is best."""

    def __init__(self, *items: int) -> None:
        self.items = np.array(items, dtype=np.int64)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        owners = np.repeat(np.arange(len(requests)), len(self.items))
        scores = np.tile(-np.arange(len(self.items), dtype=np.float32), len(requests))
        return cut(owners, np.tile(self.items, len(requests)), scores, n, keep)


def requests() -> Requests:
    """User 0 has seen item 0, user 1 nothing."""
    one = np.array([0, 1, 1], dtype=np.int64)
    history = Ragged(one, np.array([0]), np.array([5]), np.array([0], dtype=np.int16))
    users = np.array([0, 1], dtype=np.int64)
    return Requests(users, np.array([10, 10]), 2, history, Ragged.empty(2), Ragged.empty(2))


@pytest.fixture
def measured() -> Measured:
    schema, items = Schema(), Catalogue.empty().items
    names = ("a", "b")
    funnel = Funnel(
        channels=(Channel("a", Listed(0, 1, 2, 3), 2), Channel("b", Listed(4, 1, 5, 6), 2)),
        merger=Snake(Snake.Config(), names),
        filters={"seen": Seen(Seen.Config(), schema, items)},
        selector=Top(Top.Config(), schema, items),
        budget=3,
        block=1,
    )
    # relevant: user 0 wants 2 and 4, user 1 wants 1
    offsets, labels = np.array([0, 2, 3]), np.array([2, 4, 1])
    return measure(funnel, requests(), offsets, labels, ITEMS, np.ones(8, dtype=np.int64), 2, ks=(1, 2, 3))


def test_a_channel_alone_is_cut_at_its_quota_and_leaves_seen_items_out(measured: Measured) -> None:
    # user 0 has seen 0: channel a gives 1, 2; user 1 gets 0, 1
    assert measured.of("a").lists.tolist() == [[1, 2], [0, 1]]
    assert measured.of("b").lists.tolist() == [[4, 1], [4, 1]]
    # a: user 0 finds one of two in two places, user 1 its only one
    assert measured.of("a").columns["recall@2"].tolist() == [0.5, 1.0]
    assert measured.of("a").columns["recall@1"].tolist() == [0.0, 0.0]


def test_nothing_is_said_of_a_channel_beyond_its_quota(measured: Measured) -> None:
    assert "recall@3" not in measured.of("a").columns
    assert "recall@3" in measured.of("merged").columns
    assert measured.deepest == 2


def test_the_merge_takes_turns_and_the_page_is_its_head(measured: Measured) -> None:
    # turns, user 0: 1 is first of a (and second of b), 4 first of b, 2 second of a; user 1: 0, 4, then 1
    assert measured.of("merged").lists.tolist() == [[1, 4, 2], [0, 4, 1]]
    assert measured.of("page").lists.tolist() == [[1, 4], [0, 4]]
    assert measured.of("merged").columns["recall@3"].tolist() == [1.0, 1.0]
    assert "recall@3" not in measured.of("page").columns
    # page, user 0: relevant at rank 2 of two labels: (1/log2 3) / (1 + 1/log2 3)
    gain = 1 / log2(3)
    assert measured.of("page").columns["ndcg@2"] == pytest.approx([gain / (1 + gain), 0.0])


def test_what_a_channel_adds_is_what_the_merge_loses_without_it(measured: Measured) -> None:
    # without b user 0 gets 1, 2 and user 1 gets 0, 1; without a both get 4, 1
    assert measured.left_out["b"].tolist() == [0.5, 1.0]
    assert measured.left_out["a"].tolist() == [0.5, 1.0]


def test_what_a_channel_adds_is_told_with_its_sign(measured: Measured) -> None:
    # with both user 0 finds a half and user 1 nothing in two places: 0 and -1 to without, -1/2 in the mean
    said = [line for line in verdicts(measured, 0) if "without" in line]
    assert said == [
        "merged recall@2 with a minus without it: -0.5000 [-1.0000, +0.0000]",
        "merged recall@2 with b minus without it: -0.5000 [-1.0000, +0.0000]",
    ]


def test_overlap_counts_items_that_both_brought(measured: Measured) -> None:
    # a brings 1,2 | 0,1, b brings 4,1 | 4,1: two of a's four are b's too
    assert measured.overlap.tolist() == [[1.0, 0.5], [0.5, 1.0]]
    assert measured.alone == (0.5, 0.5)


def test_every_candidate_ends_once(measured: Measured) -> None:
    # user 0: 0 (seen), 1, 2, 4; user 1: 0, 1, 4 -> seven; four are shown, one is seen, two fit the budget, none is over
    assert measured.fates == {"selected": 4, "seen": 1, "not_selected": 2}


def test_coverage_counts_the_whole_catalogue(measured: Measured) -> None:
    # the page shows 0, 1 and 4 of eight items
    assert measured.of("page").coverage[2] == pytest.approx(3 / 8)


def test_best_channel_and_comparison(measured: Measured) -> None:
    # recall@1: a finds nothing; b finds 4 for user 0: (1/2 + 0) / 2
    assert measured.best_channel("recall@1").name == "b"
    gap, times = measured.compare("merged", "a", "recall@2", seed=0)
    # merged@2: user 0 has one of two, user 1 none of one; a: 0.5 and 1
    assert gap.value == pytest.approx((0.5 + 0.0) / 2 - (0.5 + 1.0) / 2)
    assert times.value == pytest.approx(0.25 / 0.75)
