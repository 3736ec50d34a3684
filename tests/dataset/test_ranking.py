"""Ranking examples: every pair kept, negatives that are none of the user's, drawn anew in each epoch, repeatably."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.loader import Loader
from shortlist.dataset.ranking import OBSERVED, RECALLED, UNIFORM, Outcomes, Ranking
from shortlist.errors import ConfigError, DataError
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.schema import Catalogue, Profiles, Schema

NOW = 1_000
ITEMS = Profiles.from_frame(pl.DataFrame({"key": range(100), "category": [f"c{n % 5}" for n in range(100)]}))
CATALOGUE = Catalogue(Catalogue.empty().users, ITEMS)
RATED = {"click": {"on": {"sample": "mixed", "per": 4}, "positive": "value >= 4"}}
SHOWN = {
    "click": {"on": "impression", "positive": "click"},
    "like": {"on": "click", "positive": "like"},
    "watch": {"on": "click", "positive": "watch.value / 60"},
}


def schema(tasks: dict[str, Any]) -> Schema:
    actions = {"impression": {"weight": 0}, "click": {}, "like": {"weight": 5}, "watch": {}}
    return Schema.parse({"action": "what", "actions": actions, "items": {"category": "sparse"}, "tasks": tasks})


IMPRESSION, CLICK, LIKE, WATCH = range(4)


def log(events: list[tuple[int, int, int, int, float]]) -> Interactions:
    """(user, item, time, action, value) in log order."""
    users, items, times, actions, values = zip(*events, strict=True)
    return Interactions.of(
        np.array(users), np.array(items), np.array(times), np.array(actions, dtype=np.int16),
        np.array(values, dtype=np.float32),
    )  # fmt: skip


def requests(users: list[int], histories: list[list[int]] | None = None) -> Requests:
    r = len(users)
    rows = histories or [[]] * r
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    none = Ragged.empty(r)
    return Requests(np.array(users), np.full(r, NOW), 5, Ragged.of(offsets, items), none, none)


def candidates(rows: list[list[int]], dead: tuple[int, ...] = ()) -> Candidates:
    """One channel: rank by place, score 1 / rank."""
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    rank = np.array([[place + 1] for row in rows for place in range(len(row))], dtype=np.int32).reshape(-1, 1)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    made = Candidates(
        offsets, items, ("near",), rank, (1 / rank).astype(np.float32), {}, np.zeros(len(items), np.int16)
    )
    return made.drop(np.isin(items, dead), "seen")


def assembler(kind: Schema) -> Assembler:
    return Assembler(kind, Encoders.fit(kind, CATALOGUE, np.arange(5), np.arange(100)), CATALOGUE, history=3)


def build(tasks: dict[str, Any], asked: Requests, among: Candidates, events: Interactions, **options: Any) -> Ranking:
    kind = schema(tasks)
    return Ranking(asked, among, Outcomes.of(events, asked, kind), assembler(kind), **options)


# ------------------------------------------------------------------------------------------- outcomes


def test_labels_of_a_log_with_impressions() -> None:
    events = log(
        [
            (1, 7, NOW - 1, CLICK, np.nan),  # before the request
            (1, 9, NOW, IMPRESSION, np.nan),
            (1, 8, NOW, IMPRESSION, np.nan),
            (1, 9, NOW + 5, CLICK, np.nan),
            (1, 9, NOW + 6, WATCH, 30.0),
            (1, 9, NOW + 7, WATCH, 90.0),  # the last value counts
            (1, 6, NOW + 8, CLICK, np.nan),  # clicked without an impression: no label at all
            (2, 3, NOW + 1, IMPRESSION, np.nan),
            (1, 8, NOW + 99, LIKE, np.nan),  # nor where liked without a click
        ]
    )
    made = Outcomes.of(events, requests([1, 2, 3]), schema(SHOWN))
    assert made.offsets.tolist() == [0, 3, 4, 4]
    assert made.items.tolist() == [6, 8, 9, 3]
    # click, like, watch; 90 seconds are 1.5 minutes; 6 was never watched: no label
    assert made.labels.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 1.5], [0, 0, 0]]
    assert made.valid.tolist() == [[False] * 3, [False] * 3, [True] * 3, [True, False, False]]
    assert made.contradictory == {"click without impression": 1, "like without click": 1}
    near = Outcomes.of(events, requests([1, 2, 3]), schema(SHOWN), window_ms=6)
    assert near.items.tolist() == [8, 9, 3]  # up to NOW + 5
    assert near.labels[1].tolist() == [1, 0, 0]
    assert near.valid[0].tolist() == [True, False, False]  # nobody liked 8 by then
    assert near.contradictory == {}


def test_what_an_outcome_rests_on_may_lie_before_the_moment() -> None:
    """Item 9 was shown before the request, item 8 never: both have no label, and one contradicts the funnel."""
    events = log(
        [
            (1, 9, NOW - 5, IMPRESSION, np.nan), (1, 9, NOW + 1, CLICK, np.nan), (1, 8, NOW + 2, CLICK, np.nan),
            (1, 7, NOW + 3, IMPRESSION, np.nan), (2, 8, NOW + 3, IMPRESSION, np.nan),
        ]
    )  # fmt: skip
    made = Outcomes.of(events, requests([1, 2]), schema(SHOWN))
    assert made.items.tolist() == [7, 8, 9, 8]
    assert made.valid[:, 0].tolist() == [True, False, False, True]
    assert not made.valid[:, 1:].any()
    assert made.contradictory == {"click without impression": 1}
    later = events.where(events.times >= NOW)
    assert Outcomes.of(later, requests([1, 2]), schema(SHOWN)).contradictory == {"click without impression": 2}
    assert Outcomes.of(later, requests([1, 2]), schema(SHOWN), log=events).contradictory == made.contradictory


def test_a_task_may_rest_on_another_one() -> None:
    """Kept long is of what was liked well, a rating of 4 and more, and that of what was shown."""
    actions = {"impression": {"weight": 0}, "rate": {}, "keep": {}}
    kind = Schema.parse(
        {
            "action": "what", "actions": actions, "items": {"category": "sparse"},
            "tasks": {
                "long": {"on": "well", "positive": "keep.value > 30"},
                "well": {"on": "impression", "positive": "rate.value >= 4"},
            },
        }
    )  # fmt: skip
    rate, keep = 1, 2
    events = log([
        *((1, item, NOW, IMPRESSION, np.nan) for item in (1, 2, 3, 4)),
        (1, 1, NOW + 1, rate, 5.0), (1, 1, NOW + 2, keep, 40.0),
        (1, 2, NOW + 1, rate, 4.0), (1, 2, NOW + 2, keep, 20.0),
        (1, 3, NOW + 1, rate, 2.0), (1, 3, NOW + 2, keep, 40.0),  # kept long what was not liked
        (1, 4, NOW + 1, rate, 2.0), (1, 4, NOW + 2, keep, 20.0),
        (1, 5, NOW + 1, rate, 5.0), (1, 5, NOW + 2, keep, 40.0),  # never shown
    ])  # fmt: skip
    made = Outcomes.of(events, requests([1]), kind)
    assert made.labels.tolist() == [[1, 1], [0, 1], [0, 0], [0, 0], [0, 0]]
    assert made.valid.tolist() == [[True, True], [True, True], [False, False], [False, True], [False, False]]
    assert made.contradictory == {"long without well": 2, "well without impression": 1}


def test_rows_of_impressions_are_all_there_is() -> None:
    events = log([(1, 9, NOW, IMPRESSION, np.nan), (1, 8, NOW, IMPRESSION, np.nan), (1, 9, NOW + 5, CLICK, np.nan)])
    made = build(SHOWN, requests([2, 1]), candidates([[], [9, 5]]), events)
    assert len(made) == 1  # nothing happened after the other request
    batch = made.batch(np.array([0]))
    assert batch.tasks == ("click", "like", "watch")
    assert batch.labels is not None and batch.valid is not None  # noqa: PT018 -- both are optional
    assert batch.labels.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert batch.valid.tolist() == [[True, False, False], [True, True, False]]
    assert batch.row["recall.near"].tolist() == [0, 1]
    assert made.keep() == {"recalled": 0.0, "catalogue": 0.0}


# ------------------------------------------------------------------------------------------ negatives

# user 1 rates 50 with 5 and 51 with 2 and knows 1, 2, 3; user 2 rates 60, 61 with 4
RATINGS = log(
    [
        (1, 50, NOW, CLICK, 5.0),
        (1, 51, NOW + 1, CLICK, 2.0),
        (2, 60, NOW, CLICK, 4.0),
        (2, 61, NOW, CLICK, 4.0),
    ]
)
ASKED = requests([1, 2], [[1, 2, 3], []])
POOL = candidates([[1, 50, 10, 11, 12, 13, 14, 15], [60, 20, 21, 22, 23, 24, 25, 26]], dead=(15, 26))


def test_mixed_negatives() -> None:
    made = build(RATED, ASKED, POOL, RATINGS)
    rows = made.examples(np.array([0, 1]))
    batch = made.batch(np.array([0, 1]))
    # user 1: two pairs and 4 negatives of its one positive; user 2: two pairs and 8
    assert rows.candidates.offsets.tolist() == [0, 6, 16]
    assert batch.request_of.tolist() == [0] * 6 + [1] * 10
    assert len(batch.request) == 2
    items, origin = rows.candidates.items, rows.origin
    assert items[origin == OBSERVED].tolist() == [50, 51, 60, 61]
    assert batch.labels is not None and batch.valid is not None  # noqa: PT018
    assert batch.labels[:, 0].tolist() == [1, 0, 0, 0, 0, 0, 1, 1] + [0] * 8
    assert bool(batch.valid.all())
    # half from the candidates: 2 of user 1's, 4 of user 2's; alive, not known, no pair
    assert np.bincount(origin[:6], minlength=3).tolist() == [2, 2, 2]
    assert np.bincount(origin[6:], minlength=3).tolist() == [2, 4, 4]
    assert set(items[:6][origin[:6] == RECALLED]) <= {10, 11, 12, 13, 14}
    assert set(items[6:][origin[6:] == RECALLED]) <= {20, 21, 22, 23, 24, 25}
    assert not set(items[:6][origin[:6] == UNIFORM]) & {1, 2, 3, 50, 51}
    for start, stop in ((0, 6), (6, 16)):
        assert len(set(items[start:stop])) == stop - start
    # 51 and 61 were recalled by nothing and are there all the same
    assert rows.recalled[origin == OBSERVED].tolist() == [True, False, True, False]
    assert batch.row["recall.near"][:2].tolist() == [0.5, 0.0]
    assert batch.row["recall_score.near"][:2].tolist() == [0.5, 0.0]
    # of 5 + 6 possible among the candidates 6 are kept; of (100 - 5) + (100 - 2) in the catalogue 6
    assert made.keep() == {"recalled": 6 / 11, "catalogue": 6 / 193}


@pytest.mark.parametrize(
    ("sample", "expected"), [("recalled", [2, 4, 0]), ("uniform", [2, 0, 4]), ("mixed", [2, 2, 2])]
)
def test_where_negatives_come_from(sample: str, expected: list[int]) -> None:
    tasks = {"click": {"on": {"sample": sample, "per": 4}, "positive": "value >= 4"}}
    made = build(tasks, ASKED, POOL, RATINGS)
    assert np.bincount(made.examples(np.array([0])).origin, minlength=3).tolist() == expected


def test_an_exhausted_pool() -> None:
    small = candidates([[10], []])
    made = build(RATED, ASKED, small, RATINGS)
    # what the candidates cannot give comes from the catalogue
    assert np.bincount(made.examples(np.array([0, 1])).origin, minlength=3).tolist() == [4, 1, 11]
    tight = build(RATED, ASKED, small, RATINGS, items=np.array([1, 2, 50, 70, 71]))
    rows = tight.examples(np.array([0]))
    assert sorted(rows.candidates.items[rows.origin == UNIFORM].tolist()) == [70, 71]  # and there are no more
    only = {"click": {"on": {"sample": "recalled", "per": 4}, "positive": "value >= 4"}}
    assert len(build(only, ASKED, small, RATINGS).examples(np.array([1])).origin) == 2


def test_negatives_are_drawn_anew_each_epoch_and_do_not_depend_on_the_batch() -> None:
    made = build(RATED, ASKED, POOL, RATINGS, seed=3)

    def items(ranking: Ranking, rows: list[int]) -> list[int]:
        found: list[int] = ranking.examples(np.array(rows)).candidates.items.tolist()
        return found

    together = items(made, [0, 1])
    assert items(made, [0]) + items(made, [1]) == together
    assert items(made.at_epoch(1), [0, 1]) != together
    assert items(build(RATED, ASKED, POOL, RATINGS, seed=4), [0, 1]) != together
    assert items(made.at_epoch(1).at_epoch(0), [0, 1]) == together
    loader = Loader(made, 2, seed=0, shuffle=False)
    epochs = [[batch.row["item.id"].tolist() for batch in loader] for _ in range(2)]
    again = Loader(made, 2, seed=0, shuffle=False)
    assert epochs[0] != epochs[1]
    assert [[batch.row["item.id"].tolist() for batch in again] for _ in range(2)] == epochs


def test_uniform_negatives_are_uniform() -> None:
    # one user with one positive, four uniform negatives in each of 5,000 epochs over 50 items, one of them the positive
    tasks = {"click": {"on": {"sample": "uniform", "per": 4}, "positive": "value >= 4"}}
    made = build(tasks, requests([1]), candidates([[]]), log([(1, 0, NOW, CLICK, 5.0)]), items=np.arange(50))
    counts = np.zeros(100)
    for epoch in range(5000):
        rows = made.at_epoch(epoch).examples(np.array([0]))
        counts[rows.candidates.items[rows.origin == UNIFORM]] += 1
    assert counts[0] == counts[50:].sum() == 0
    expected = 20_000 / 49
    # chi-square of 48 degrees of freedom exceeds 84 once in a thousand; drawing without repeats only lowers it
    assert ((counts[1:50] - expected) ** 2 / expected).sum() < 84


def test_recalled_negatives_are_equally_likely() -> None:
    tasks = {"click": {"on": {"sample": "recalled", "per": 2}, "positive": "value >= 4"}}
    made = build(tasks, requests([1]), candidates([[*range(10, 20)]]), log([(1, 0, NOW, CLICK, 5.0)]))
    counts = np.zeros(20)
    for epoch in range(5000):
        counts[made.at_epoch(epoch).examples(np.array([0])).candidates.items[1:]] += 1
    # two of ten, 5,000 times: 1,000 each, deviation sqrt(5000 * 0.2 * 0.8) = 28
    assert np.abs(counts[10:] - 1000).max() < 4.5 * 28


def test_a_batch_of_one_equals_its_rows_of_many() -> None:
    made = build(RATED, ASKED, POOL, RATINGS)
    whole = made.batch(np.array([1, 0]))
    for n, unit in enumerate([1, 0]):
        alone, rows = made.batch(np.array([unit])), whole.take(torch.nonzero(whole.request_of == n).ravel())
        assert torch.equal(alone.joined().sparse, rows.joined().sparse)
        assert torch.equal(alone.joined().dense, rows.joined().dense)
        assert alone.labels is not None and rows.labels is not None  # noqa: PT018
        assert torch.equal(alone.labels, rows.labels)


# ------------------------------------------------------------------------------------------- messages


def test_tasks_that_do_not_go_together() -> None:
    two = {**RATED, "like": {"on": {"sample": "mixed", "per": 2}, "positive": "like"}}
    other = {"click": {"on": {"smple": "mixed"}, "positive": "value >= 4"}}
    for tasks, message in (
        ({}, 'schema.tasks: no task is declared (add tasks.click = { on = "impression", positive = "click" })'),
        (two, "schema.tasks.like.on: draws other negatives than click (tasks of one ranker share their rows)"),
        (other, "schema.tasks.click.on: unknown key 'smple' (did you mean sample?)"),
        (
            {"click": {"on": {"per": 0}, "positive": "value >= 4"}},
            "schema.tasks.click.on.per: should be at least 1, got 0 (correct the value)",
        ),
        (
            {"click": {"on": "impression", "positive": "clik"}},
            "schema.tasks.click.positive: unknown column 'clik' (did you mean click?)",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            build(tasks, ASKED, POOL, RATINGS)
        assert str(caught.value) == message


def test_nothing_to_learn_from() -> None:
    with pytest.raises(DataError) as caught:
        build(RATED, replace(ASKED, now=ASKED.now + 10), POOL, RATINGS)
    assert str(caught.value) == (
        "ranking: no event after 2 requests has a label (check schema.tasks and the moments of the requests)"
    )


def test_requests_and_candidates_belong_together() -> None:
    with pytest.raises(ValueError, match=r"requests, candidates and outcomes are of \(2, 1, 2\) requests"):
        build(RATED, ASKED, candidates([[]]), RATINGS)
