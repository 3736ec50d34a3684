"""Joining what was served with what became of it: by hand, and whatever the order."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.candidates import Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.logged import Asked, Joined, LoggedData, Seen, join, served
from shortlist.errors import DataError
from shortlist.events.slates import Found, Writer
from shortlist.features.assemble import Assembler
from shortlist.features.base import Column, Rows
from shortlist.features.encoders import Encoders
from shortlist.schema import Catalogue, Field, Keys, Profiles, Schema

T = 1_767_225_600_000
MINUTE = 60_000
WINDOW = 30 * MINUTE
SCHEMA = Schema.parse(
    {
        "action": "action",
        "value": "value",
        "actions": {"impression": {"weight": 0}, "click": {}, "like": {"weight": 2}, "watch": {}},
        "context": {"device": "sparse"},
        "tasks": {
            "click": {"positive": "click"},
            "like": {"on": "click", "positive": "like"},
            "taken": {"on": {"sample": "mixed"}, "positive": "click"},
            "seconds": {"on": "click", "positive": "watch.value"},
        },
    }
)
END = ("zz", 99, 99, "impression", T + 600 * MINUTE)  # the log goes on for long


def slate(
    request: str, user: int, shown: list[int], rejected: Sequence[int] = (), at: int = 0, sampled: float = 0.5
) -> pl.DataFrame:
    items = [*shown, *rejected]
    n = len(shown) + len(rejected)
    return pl.DataFrame(
        {
            "request_id": [request] * n,
            "user": [user] * n,
            "user_id": [f"u{user}"] * n,
            "time_ms": [T + at * MINUTE] * n,
            "as_of_offset": [5] * n,
            "item": items,
            "shown": [True] * len(shown) + [False] * len(rejected),
            "position": pl.Series([*range(1, len(shown) + 1), *[0] * len(rejected)], dtype=pl.Int32),
            "sampled": pl.Series([1.0] * len(shown) + [sampled] * len(rejected), dtype=pl.Float32),
            "channel_rank.hot": pl.Series(range(1, n + 1), dtype=pl.Int32),
            "channel_score.hot": pl.Series([1.0] * n, dtype=pl.Float32),
            "score.merge": pl.Series([0.5] * n, dtype=pl.Float32),
            "context.device": ["phone"] * n,
            "feature.age": [float(i) for i in items],
            "feature.mood": ["good"] * n,
        }
    )


def events(*told: tuple[str | None, int, int, str, int] | tuple[str | None, int, int, str, int, float]) -> pl.DataFrame:
    """(request or None, user, item, action, time, value), in log order, each with an id of its own."""
    rows = [(*row, None) if len(row) == 5 else row for row in told]
    return pl.DataFrame(
        {
            "offset": range(1, len(rows) + 1),
            "event_id": [f"e{n}" for n in range(len(rows))],
            "request_id": [row[0] for row in rows],
            "user": [row[1] for row in rows],
            "item": [row[2] for row in rows],
            "action": [row[3] for row in rows],
            "time_ms": [row[4] for row in rows],
            "value": pl.Series([row[5] for row in rows], dtype=pl.Float32),
        },
        schema_overrides={"request_id": pl.String},
    )


def found(*slates: pl.DataFrame) -> Found:
    return Found(pl.concat(slates), 0, 0)


def labels(joined: Joined) -> dict[tuple[str, int], dict[str, float]]:
    """(request, item) -> its labels by task, those it carries."""
    out = {}
    for n, row in enumerate(joined.rows.iter_rows(named=True)):
        out[row["request_id"], row["item"]] = {
            task: float(joined.labels[n, t]) for t, task in enumerate(SCHEMA.tasks) if joined.valid[n, t]
        }
    return out


def at(minutes: float) -> int:
    return T + int(minutes * MINUTE)


def test_labels_and_where_they_are_valid() -> None:
    told = events(
        ("a", 1, 10, "impression", at(0)), ("a", 1, 10, "click", at(1)), ("a", 1, 10, "watch", at(2), 30.0),
        ("a", 1, 11, "impression", at(0)), ("a", 1, 11, "click", at(1)), ("a", 1, 11, "like", at(2)),
        ("a", 1, 12, "impression", at(0)), END,
    )  # fmt: skip
    joined = join(found(slate("a", 1, [10, 11, 12, 13], [14])), told, SCHEMA, WINDOW)
    assert labels(joined) == {
        ("a", 10): {"click": 1, "like": 0, "taken": 1, "seconds": 30},
        ("a", 11): {"click": 1, "like": 1, "taken": 1},  # clicked, and nobody said how long
        ("a", 12): {"click": 0, "taken": 0},
        ("a", 13): {"taken": 0},  # served and not seen
        ("a", 14): {"taken": 0},  # not shown: an example of what is drawn, and of nothing else
    }
    # half of those not shown were kept: this one stands for two
    assert joined.weights.tolist() == [1, 1, 1, 1, 2]
    report = joined.report
    assert (report.rows, report.shown, report.kept, report.requests) == (5, 4, 5, 1)
    assert (report.events, report.named, report.near, report.stray) == (8, 7, 0, 1)
    assert report.labels == {"click": (3, 2), "like": (2, 1), "taken": (5, 2), "seconds": (1, 1)}


def test_an_event_without_a_request_joins_the_latest_slate_before_it() -> None:
    slates = found(slate("a", 1, [10]), slate("b", 1, [10], at=20), slate("c", 2, [10], at=21))
    told = events(
        (None, 1, 10, "impression", at(5)),  # of a
        (None, 1, 10, "impression", at(20)),  # of b: the very moment counts
        (None, 1, 10, "click", at(50)),  # 30 minutes behind b
        (None, 1, 10, "click", at(50) + 1),  # and no more
        (None, 2, 10, "impression", at(20)),  # before c was served
        END,
    )
    joined = join(slates, told, SCHEMA, WINDOW)
    assert labels(joined) == {
        ("a", 10): {"click": 0, "taken": 0},
        ("b", 10): {"click": 1, "like": 0, "taken": 1},
        ("c", 10): {"taken": 0},
    }
    assert (joined.report.near, joined.report.named, joined.report.stray) == (3, 0, 3)


def test_an_event_belongs_to_the_request_it_names_and_to_no_other() -> None:
    slates = found(slate("a", 1, [10]), slate("b", 1, [10], at=10))
    told = events(
        ("a", 1, 10, "impression", at(11)),  # an older one than the latest
        ("b", 1, 10, "impression", at(10) - 200_000),  # a clock 200 s behind ours
        ("b", 1, 10, "click", at(10) - 400_000),  # more than 5 minutes: not believed
        ("a", 1, 10, "click", at(31)),  # the window of a has passed
        ("gone", 1, 10, "click", at(12)),  # a slate that was not logged: not given to another
        ("a", 1, 77, "click", at(1)),  # not on that page
        END,
    )
    joined = join(slates, told, SCHEMA, WINDOW)
    assert labels(joined) == {("a", 10): {"click": 0, "taken": 0}, ("b", 10): {"click": 0, "taken": 0}}
    assert (joined.report.named, joined.report.stray) == (2, 5)


def test_rows_whose_window_is_open_are_not_mature() -> None:
    slates = found(slate("a", 1, [10]), slate("b", 1, [11], at=1))
    told = events(("b", 1, 11, "impression", at(30) + 1))
    joined = join(slates, told, SCHEMA, WINDOW)
    assert list(labels(joined)) == [("a", 10)]  # its window ended 1 ms before the log did
    assert joined.report.young == 1
    assert list(labels(join(slates, told, SCHEMA, WINDOW, until=at(31) + 1))) == [("a", 10), ("b", 11)]


def test_a_young_slate_keeps_its_events_from_an_older_one() -> None:
    slates = found(slate("a", 1, [10]), slate("b", 1, [10], at=25))
    told = events((None, 1, 10, "impression", at(1)), (None, 1, 10, "click", at(29)), END)
    assert labels(join(slates, told, SCHEMA, WINDOW, until=at(40))) == {("a", 10): {"click": 0, "taken": 0}}


def test_outcomes_without_what_they_rest_on_are_dropped_and_counted() -> None:
    told = events(
        ("a", 1, 10, "impression", at(0)), ("a", 1, 10, "like", at(1)),  # liked, not clicked
        ("a", 1, 11, "click", at(1)),  # clicked, not seen
        ("a", 1, 12, "impression", at(0)), END,
    )  # fmt: skip
    joined = join(found(slate("a", 1, [10, 11, 12])), told, SCHEMA, WINDOW)
    assert list(labels(joined)) == [("a", 12)]
    assert joined.report.contradictory == {"click without impression": 1, "like without click": 1}
    assert joined.report.words() == (
        "1 of 3 logged rows (1 click without impression, 1 like without click); 4 of 5 events joined"
    )
    both = join(found(slate("a", 1, [10, 11, 12]), slate("b", 2, [10])), told, SCHEMA, WINDOW)
    assert data(both).outcomes.contradictory == joined.report.contradictory


def test_an_absence_is_no_contradiction() -> None:
    """`not click` is positive where nothing happened; that says nothing of a row nobody saw."""
    kind = Schema.parse(
        {"action": "action", "actions": {"impression": {"weight": 0}, "click": {}},
         "tasks": {"ignored": {"positive": "not click"}}}
    )  # fmt: skip
    joined = join(found(slate("a", 1, [10, 11])), events(("a", 1, 10, "impression", at(0)), END), kind, WINDOW)
    assert joined.labels[:, 0].tolist() == [1, 0]
    assert joined.valid[:, 0].tolist() == [True, False]


def test_what_the_user_took_all_the_same_is_no_negative() -> None:
    slates = found(slate("a", 1, [10], [11, 12, 13]))
    told = events(
        (None, 1, 11, "click", at(3)),
        (None, 1, 12, "impression", at(3)),
        (None, 1, 13, "click", at(31)),
        END,
    )
    joined = join(slates, told, SCHEMA, WINDOW)
    assert list(labels(joined)) == [("a", 10), ("a", 12), ("a", 13)]
    assert joined.report.met == 1


STORY = events(
    ("a", 1, 10, "impression", at(0)), (None, 1, 10, "click", at(3)), ("b", 1, 10, "impression", at(11)),
    ("b", 1, 10, "click", at(12)), ("b", 1, 10, "watch", at(13), 5.0), ("b", 1, 10, "watch", at(14), 9.0),
    (None, 2, 11, "impression", at(22)), (None, 2, 11, "click", at(23)), (None, 2, 12, "click", at(24)), END,
)  # fmt: skip
PAGES = (slate("a", 1, [10, 11], [12]), slate("b", 1, [10], at=10), slate("c", 2, [11, 12], [13], at=21))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(len(STORY))), st.lists(st.integers(0, len(STORY) - 1)), st.permutations(range(3)))
def test_order_lateness_and_doubles_change_nothing(order: list[int], again: list[int], pages: list[int]) -> None:
    """Events in any order of arrival, some twice (under another offset, as a source that repeats itself has them)."""
    expected = join(found(*PAGES), STORY, SCHEMA, WINDOW)
    shuffled = STORY[[*order, *again]].with_columns(offset=pl.arange(1, len(order) + len(again) + 1, eager=True))
    got = join(found(*(PAGES[p] for p in pages)), shuffled, SCHEMA, WINDOW)
    assert labels(got) == labels(expected)
    assert got.weights.tolist() == expected.weights.tolist()
    assert got.report.again == len(again)
    assert labels(got)["b", 10] == {"click": 1, "like": 0, "taken": 1, "seconds": 9}


def test_strangers_have_the_key_they_have_now(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append(pl.concat([slate("a", -1, [10]), slate("b", 0, [10])]).with_columns(user_id=pl.lit("new")), T)
    assert served(tmp_path, Keys(["old", "new"])).rows["user"].to_list() == [1, 0]
    assert served(tmp_path, Keys(["old"])).rows["user"].to_list() == [-1, 0]


def test_nothing_served_yet(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        served(tmp_path, Keys())
    hint = 'serve for a while, or set ranking.rows = "sampled"'
    assert str(error.value) == f"ranking.rows: no served slate is logged yet ({hint})"


# ------------------------------------------------------------------------------------------ as examples

FEATURES = {
    "age": Column("row", Field("dense")),
    "mood": Column("request", Field("sparse")),
    "fresh": Column("row", Field("dense")),  # nobody logged it: it is younger than the slates
}


class Answers:
    """Computes every column as -1, and remembers for how many rows it was asked."""

    def __init__(self) -> None:
        self.catalogue = Catalogue.empty()
        self.asked: list[int] = []

    def counts(self, counter: Any, rows: Rows) -> Any:
        return np.zeros((len(rows.owners), 1))

    def columns(self, rows: Rows) -> dict[str, Any]:
        self.asked.append(len(rows.owners))
        n = len(rows.owners)
        if rows.items is None:
            return {"mood": np.full(n, "computed", dtype=object)}
        return {"age": np.full(n, -1.0), "fresh": np.full(n, -1.0)}


def data(joined: Joined, known: Any = None, features: Any = None, **options: Any) -> LoggedData:
    def ask(asked: Asked) -> Requests:
        none = Ragged.empty(len(asked.users))
        return Requests(asked.users, asked.now, 3, none, none, none, asked.context, known=known)

    log = Interactions.of(np.array([1, 2]), np.array([10, 11]))
    rng = np.random.default_rng(0)
    return LoggedData.of(joined, ask, SCHEMA, ("hot", "later", "backfill"), 0.5, log, features or {}, rng, **options)


def assembler(made: LoggedData) -> Assembler:
    catalogue = Catalogue(Profiles(np.arange(3), {}), Profiles(np.arange(10, 15), {}))
    context = {"device": np.array(["phone"], dtype=object)}
    encoders = Encoders.fit(SCHEMA, catalogue, np.arange(3), np.arange(10, 15), context).scored(made.candidates)
    return Assembler(SCHEMA, encoders, catalogue, 5)


def joined_pages() -> Joined:
    return join(found(*PAGES), STORY, SCHEMA, WINDOW)


def test_units_are_requests_with_their_rows_labels_and_weights() -> None:
    made = data(joined_pages())
    units = made.some(np.ones(3, dtype=bool), assembler(made), 0)
    assert len(units) == len(units.at_epoch(3)) == 3
    batch = units.batch(np.array([2, 0]))
    assert len(batch.request) == 2
    assert batch.request_of.tolist() == [0, 0, 1, 1, 1]
    # c: 11 was clicked, 12 was clicked without being seen and is gone, 13 was not shown; a: 10, 11 and 12
    assert (batch.row["item.id"] + 8).tolist() == [11, 13, 10, 11, 12]
    assert batch.tasks == tuple(SCHEMA.tasks)
    assert batch.labels is not None
    assert batch.valid is not None
    assert batch.weights is not None
    assert batch.labels[:, 2].tolist() == [1, 0, 1, 0, 0]
    assert batch.valid[:, 0].tolist() == [True, False, True, False, False]
    assert batch.weights.tolist() == [1, 2, 1, 1, 2]
    assert batch.row["recall.hot"].tolist() == pytest.approx([1, 1 / 3, 1, 1 / 2, 1 / 3])
    assert batch.row["recall.later"].tolist() == [0] * 5  # a channel that came later brought nothing then
    assert batch.request["context.device"].tolist() == [2, 2]
    assert made.requests.as_of is not None
    assert made.requests.as_of.tolist() == [5, 5, 5]


def test_a_batch_of_one_equals_its_rows_of_many() -> None:
    made = data(joined_pages(), Answers(), FEATURES)
    units = made.some(np.ones(3, dtype=bool), assembler(made), 0)
    many = units.batch(np.arange(3))
    at = 0
    for n in range(3):
        one = units.batch(np.array([n]))
        assert one.row.dense.equal(many.row.dense[at : at + len(one)])
        assert one.row.sparse.equal(many.row.sparse[at : at + len(one)])
        at += len(one)


def test_the_place_on_the_page_is_a_feature_when_asked_for() -> None:
    made = data(joined_pages(), position=True)
    assembled = assembler(made)
    batch = made.some(np.ones(3, dtype=bool), assembled, 0).batch(np.array([0]))
    # places 1 and 2 are ids 2 and 3; what was not shown has none, like everything at serving
    assert batch.row["live.position"].tolist() == [2, 3, 0]
    layout = assembled.layout(("hot",), ("click",))
    assert layout.row.sparse["live.position"] == "live.position"
    assert layout.vocabularies["live.position"] == 15
    served_now = made.candidates.only(np.array([0]))
    fresh = replace(served_now, scores={})
    assert assembled.rows(fresh, made.requests)["live.position"].tolist() == [0]
    plain = data(joined_pages())
    assert "live.position" not in assembler(plain).layout(("hot",)).row.sparse


def test_features_are_those_that_were_seen_and_others_are_computed_as_of_then() -> None:
    answers = Answers()
    without = PAGES[1].drop("feature.age", "feature.mood")  # served before there were features
    joined = join(Found(pl.concat([PAGES[0], without, PAGES[2]], how="diagonal"), 0, 0), STORY, SCHEMA, WINDOW)
    seen = data(joined, answers, FEATURES).requests
    assert isinstance(seen.known, Seen)
    of_row = seen.known.columns(Rows(seen, np.array([0, 0, 1, 2, 0]), np.array([10, 12, 10, 13, 99])))
    assert of_row["age"].tolist() == [10, 12, -1, 13, -1]  # b has none, 99 was not on a's page
    assert of_row["fresh"].tolist() == [-1] * 5
    assert seen.known.columns(Rows(seen, np.arange(3), None))["mood"].tolist() == ["good", "computed", "good"]


def test_nothing_is_computed_where_everything_was_logged() -> None:
    answers = Answers()
    made = data(joined_pages(), answers, {name: FEATURES[name] for name in ("age", "mood")})
    units = made.some(np.ones(3, dtype=bool), assembler(made), 0)
    requests = units.examples(np.array([1])).requests
    assert requests.known.columns(Rows(requests, np.array([0]), np.array([10])))["age"].tolist() == [10]
    assert requests.known.columns(Rows(requests, np.array([0]), None))["mood"].tolist() == ["good"]
    assert answers.asked == []


def test_what_is_missing_to_learn_is_named() -> None:
    kind = Schema.parse({"tasks": {"click": {"on": "click", "positive": "click"}}})
    with pytest.raises(DataError) as error:
        data(join(found(PAGES[0]), events(END), kind, WINDOW))
    told = "no logged row has a label: 0 of 3 logged rows (3 not yet mature); 0 of 0 events joined"
    hint = "log impressions, check schema.tasks, or wait for the window to pass"
    assert str(error.value) == f"ranking.rows: {told} ({hint})"
    with pytest.raises(DataError) as error:
        data(join(found(PAGES[0]), STORY, SCHEMA, WINDOW))
    assert str(error.value) == "ranking.rows: rankers learn from at least 2 users' slates (serve more users)"
