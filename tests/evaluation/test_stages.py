"""Figures of scoring stages against numbers a person can check: two requests, four candidates each."""

from dataclasses import dataclass, replace
from math import log

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.errors import ConfigError
from shortlist.evaluation.stages import Labelled, found, judge, sample, survival
from shortlist.expressions import Expression
from shortlist.funnel.filters.seen import Seen
from shortlist.funnel.mergers.snake import Snake
from shortlist.funnel.pipeline import Channel, Funnel, Keep, Recalled, Stage
from shortlist.funnel.selectors.top import Top
from shortlist.index.cut import cut
from shortlist.schema import Catalogue, Schema, Task


class Listed:
    """Items 0..5 for everybody, in this order."""

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        owners = np.repeat(np.arange(len(requests)), 6)
        items = np.tile(np.arange(6), len(requests))
        return cut(owners, items, np.tile(-np.arange(6, dtype=np.float32), len(requests)), n, keep)


class By:
    """A task's probability by item."""

    def __init__(self, *p: float) -> None:
        self.p = np.array(p, dtype=np.float32)

    def score(self, requests: Requests, candidates: Candidates) -> dict[str, NDArray[np.float32]]:
        return {"click": self.p[candidates.items]}


@dataclass(frozen=True)
class Told:
    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    labels: NDArray[np.float32]
    valid: NDArray[np.bool_]


def requests() -> Requests:
    """User 0 has seen item 0, user 1 nothing."""
    one = np.array([0, 1, 1], dtype=np.int64)
    history = Ragged(one, np.array([0]), np.array([5]), np.array([0], dtype=np.int16))
    return Requests(np.array([0, 1]), np.array([10, 10]), 1, history, Ragged.empty(2), Ragged.empty(2))


def funnel(stages: bool = True) -> Funnel:
    """Of 0..5 the merge keeps four: 1, 2, 3, 4 for user 0, and 0, 1, 2, 3 for user 1; the coarse stage two of them."""
    schema, items = Schema(), Catalogue.empty().items
    coarse = Stage("coarse", By(0.9, 0.8, 0.1, 0.2, 0.7, 0), Expression.parse("click"), 2)
    rank = Stage("rank", By(0.5, 0.2, 0.6, 0.1, 0.4, 0), Expression.parse("click"))
    return Funnel(
        channels=(Channel("a", Listed(), 6),),
        merger=Snake(Snake.Config(), ("a",)),
        filters={"seen": Seen(Seen.Config(), schema, items)},
        selector=Top(Top.Config(), schema, items),
        budget=4,
        stages=(coarse, rank) if stages else (),
    )


OFFSETS, LABELS = np.array([0, 1, 2]), np.array([2, 0])


def test_a_cut_is_judged_by_what_the_ranker_would_have_put_first() -> None:
    staged = judge(funnel(), requests(), OFFSETS, LABELS)
    assert staged is not None
    assert (staged.names, staged.requests, staged.rows, staged.keep) == (("coarse", "rank"), 2, 8, 2)
    page = next(s for s in staged.survivals if (s.by, s.depth) == ("coarse", 1))
    assert page.cuts.tolist() == [1, 2, 3, 4]
    # user 0: the ranker's best is 2 (0.6), coarse order 1, 4, 3, 2: it is last; user 1: 2 again, coarse 0, 1, 3, 2
    assert page.shares.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert page.at(2).tolist() == [0, 0]
    # all four are among the best 30: a cut at k keeps k of four
    assert next(s for s in staged.survivals if s.depth == 30).shares.tolist() == [[0.25, 0.5, 0.75, 1]] * 2


def test_survival_of_two_of_four_by_hand() -> None:
    candidates = Candidates(
        np.array([0, 4]), np.arange(4), (), np.zeros((4, 0), np.int32), np.zeros((4, 0), np.float32),
        {"rank": np.array([4, 3, 2, 1], np.float32), "coarse": np.array([1, 4, 3, 2], np.float32)},
        np.zeros(4, np.int16),
    )  # fmt: skip
    # the ranker's two best are 0 and 1; coarse order 1, 2, 3, 0: one of two is kept until all are
    found = survival(candidates, "rank", "coarse", 2, np.array([1, 3, 4]))
    assert found.shares.tolist() == [[0.5, 0.5, 1.0]]


def test_scores_are_measured_against_what_is_relevant_where_no_task_says_the_same() -> None:
    staged = judge(funnel(), requests(), OFFSETS, LABELS)
    assert staged is not None
    found = {(j.score, j.label): j for j in staged.judged}
    assert set(found) == {("rank", "relevant"), ("coarse", "relevant"), ("merge", "relevant")}
    # rank: user 0's label 2 is above 1, 3, 4: 1; user 1's label 0 (0.5) is below 2 and above 1, 3: 2/3
    assert found["rank", "relevant"].metrics["gauc"] == pytest.approx((1 + 2 / 3) / 2)
    # coarse: 2 (0.1) is below all, 0 (0.9) above all; merge order 1, 2, 3, 4 and 0, 1, 2, 3: 2/3 and 1
    assert found["coarse", "relevant"].metrics["gauc"] == pytest.approx(0.5)
    assert found["merge", "relevant"].metrics["gauc"] == pytest.approx((2 / 3 + 1) / 2)
    assert set(found["merge", "relevant"].metrics) == {"auc", "gauc"}
    # of all 2 * 6 pairs, whosever: 0.6 wins 5 and ties 1, 0.5 wins 5: 10.5; by place in the merge, the second wins 4
    # and ties 1, the first wins 5 and ties 1: 10
    assert found["rank", "relevant"].metrics["auc"] == pytest.approx(10.5 / 12)
    assert found["merge", "relevant"].metrics["auc"] == pytest.approx(10 / 12)
    # RelaImpr: (10.5 / 12 - 1/2) / (10 / 12 - 1/2) - 1 = 4.5 / 4 - 1
    assert found["rank", "relevant"].metrics["relaimpr"] == pytest.approx(0.125)


def test_a_score_that_is_a_value_is_judged_by_its_order() -> None:
    told: Labelled = Told(OFFSETS, LABELS, np.ones((2, 1), np.float32), np.ones((2, 1), bool))
    tasks = {"click": Task("click", {"sample": "mixed"})}
    one = funnel()
    one.stages[1].scorer.values = frozenset({"click"})  # type: ignore[attr-defined]
    staged = judge(one, requests(), OFFSETS, LABELS, tasks, told)
    assert staged is not None
    found = {j.score: j for j in staged.judged}
    assert set(found["rank.click"].metrics) == {"auc", "gauc", "relaimpr"}
    assert found["rank.click"].curve is None
    assert found["coarse.click"].curve is not None


def test_a_sampled_task_is_judged_on_all_candidates_as_a_probability() -> None:
    told: Labelled = Told(OFFSETS, LABELS, np.ones((2, 1), np.float32), np.ones((2, 1), bool))
    tasks = {"click": Task("click", {"sample": "mixed"})}
    staged = judge(funnel(), requests(), OFFSETS, LABELS, tasks, told)
    assert staged is not None
    # the task's labels are what is relevant: not said twice
    assert [(j.score, j.label) for j in staged.judged] == [
        ("rank.click", "click"), ("coarse.click", "click"), ("merge", "click"),
    ]  # fmt: skip
    rank = staged.judged[0]
    # user 0 is told 0.2, 0.6, 0.1, 0.4, user 1 0.5, 0.2, 0.6, 0.1: 2.7 for two clicks among eight
    assert rank.metrics["calibration"] == pytest.approx(2.7 / 2)
    assert rank.metrics["base_rate"] == 0.25
    lost = -(log(0.6) + log(0.8) + log(0.9) + log(0.6)) - (log(0.5) + log(0.8) + log(0.4) + log(0.9))
    assert rank.metrics["logloss"] == pytest.approx(lost / 8)
    assert rank.curve is not None
    assert rank.curve.rows.sum() == 8
    assert staged.judged[2].curve is None


def test_a_task_on_an_action_is_judged_where_that_happened_and_a_value_not_at_all() -> None:
    # item 3 was shown too and not clicked; item 1 of user 1 has no answer
    offsets, items = np.array([0, 2, 4]), np.array([2, 3, 0, 1])
    labels = np.array([[1, 4], [0, 2], [1, 5], [0, 1]], np.float32)
    valid = np.array([[1, 1], [1, 1], [1, 1], [0, 1]], bool)
    tasks = {"click": Task("click", "impression"), "stars": Task("value", "impression")}
    staged = judge(funnel(), requests(), OFFSETS, LABELS, tasks, Told(offsets, items, labels, valid))
    assert staged is not None
    rank = next(j for j in staged.judged if j.score == "rank.click")
    assert rank.metrics["base_rate"] == pytest.approx(2 / 3)
    # 0.6 and 0.5 above 0.1
    assert rank.metrics["auc"] == 1.0
    assert {j.label for j in staged.judged} == {"click", "relevant"}


def test_a_funnel_without_stages_has_nothing_to_judge() -> None:
    assert judge(funnel(stages=False), requests(), OFFSETS, LABELS) is None


def test_a_sample_keeps_requests_with_what_is_theirs() -> None:
    asked = requests()
    some, offsets, labels = sample(asked, OFFSETS, LABELS, np.array([1]))
    assert (some.users.tolist(), some.history.offsets.tolist(), len(some.history.items)) == ([1], [0, 0], 0)
    assert (offsets.tolist(), labels.tolist()) == ([0, 1], [0])
    some, offsets, labels = sample(asked, OFFSETS, LABELS, np.array([0]))
    assert (some.history.items.tolist(), labels.tolist()) == ([0], [2])


def test_pairs_are_found_in_any_order_and_a_missing_key_never() -> None:
    candidates = Candidates.empty(2)
    assert found(candidates, np.array([0, 0, 0]), np.zeros(0, np.int64)).tolist() == []
    candidates = Candidates(
        np.array([0, 2, 3]), np.array([5, 7, 5]), (), np.zeros((3, 0), np.int32), np.zeros((3, 0), np.float32),
        {}, np.zeros(3, np.int16),
    )  # fmt: skip
    assert found(candidates, np.array([0, 2, 4]), np.array([7, 5, -1, 9])).tolist() == [1, 0, -1]


def test_an_expression_that_divides_by_zero_is_told_offline_and_named_online() -> None:
    one = funnel()
    rank = replace(one.stages[1], fuse=Expression.parse("1 / (click - click)"))
    broken = replace(one, stages=(rank,))
    with pytest.raises(ConfigError) as error:
        broken.run(requests())
    # two requests with four candidates in budget each
    what = "'1 / (click - click)' is not finite for 8 of 8 candidates"
    assert str(error.value) == f"rank.fuse: {what} (it divides by 0, or its numbers are too large)"
    slates = broken.run(requests(), strict=False)
    assert slates.notes(0) == ["nan:rank"]
    assert len(slates.picks) == 2


def test_a_stage_may_weigh_in_the_order_it_was_given() -> None:
    one = funnel()
    rank = replace(one.stages[1], fuse=Expression.parse("click + 10 * merge"))
    asked = requests()
    made = replace(one, stages=(rank,)).run(asked).candidates
    living = made.alive
    merge = made.scores["merge"][living].astype(np.float64)
    click = made.scores["rank.click"][living].astype(np.float64)
    np.testing.assert_allclose(made.scores["rank"][living], click + 10 * merge, rtol=1e-6)
