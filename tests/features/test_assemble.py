"""Requests and candidates become a Batch: hand values, defaults, and one request alone equals its rows of many."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from shortlist.batch import Batch
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.pairs import Pairs
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders, Scale
from shortlist.schema import Catalogue, Profiles, Schema

HOUR = 3_600_000
NOW = 1_700_000_000_000
SCHEMA = Schema.parse(
    {
        "actions": {"click": {}, "like": {}},
        "action": "action",
        "users": {"city": {"kind": "sparse", "vocab": "place"}, "likes": {"kind": "varlen", "vocab": "tag"}},
        "items": {
            "category": "sparse",
            "tags": {"kind": "varlen", "vocab": "tag"},
            "price": "dense",
            "words": {"kind": "dense", "buckets": 2},
            "look": "vec",
            "published": "time",
            "title": "text",
        },
        "context": {"region": {"kind": "sparse", "vocab": "place"}},
        "published": "published",
    }
)
USERS = Profiles.from_frame(pl.DataFrame({"key": [0, 3], "city": ["oslo", "rome"], "likes": [["a"], None]}))
ITEMS = Profiles.from_frame(
    pl.DataFrame(
        {
            "key": [0, 1, 2, 4],
            "category": ["war", "war", "love", None],
            "tags": [["a", "b"], [], ["b"], None],
            "price": [10.0, 30.0, None, 20.0],
            "words": [100, 300, 200, None],
            "look": [[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0]],
            "published": [NOW, NOW - 2 * HOUR, NOW - 30 * HOUR, None],
            "title": ["p", "q", "r", "s"],
        }
    )
)
CATALOGUE = Catalogue(USERS, ITEMS)
ENCODERS = Encoders.fit(
    SCHEMA, CATALOGUE, np.array([0, 3]), np.array([0, 1, 2, 4]), {"region": np.array(["oslo", "bonn"])}
)
ASSEMBLE = Assembler(SCHEMA, ENCODERS, CATALOGUE, history=3)


def ragged(rows: list[list[tuple[int, int, int]]]) -> Ragged:
    flat = np.array([event for row in rows for event in row], dtype=np.int64).reshape(-1, 3)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Ragged(offsets, flat[:, 0], flat[:, 1], flat[:, 2].astype(np.int16))


def requests(users: list[int], histories: list[list[tuple[int, int, int]]], regions: list[str | None]) -> Requests:
    r = len(users)
    region = np.fromiter(regions, dtype=object, count=r)
    none = Ragged.empty(r)
    return Requests(np.array(users), np.full(r, NOW), 5, ragged(histories), none, none, {"region": region})


def candidates(rows: list[list[int]]) -> Candidates:
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    rank = np.stack([items % 3, np.ones_like(items)], axis=1).astype(np.int32)
    return Candidates(
        offsets, items, ("near", "hot"), rank, rank.astype(np.float32), {}, np.zeros(len(items), np.int16)
    )


def test_hand_values() -> None:
    histories = [[(9, 0, 0), (1, NOW - 25 * HOUR, 1), (0, NOW - HOUR // 2, 0), (4, NOW, 0)], []]
    made = ASSEMBLE(requests([3, 77], histories, ["bonn", None]), candidates([[0, 1], [4, 8]]))
    request, row = made.request, made.row
    assert made.request_of.tolist() == [0, 0, 1, 1]

    # users known in training: 0 -> 2, 3 -> 3. Places: oslo twice, then bonn, rome -> 2, 3, 4
    assert request["user.id"].tolist() == [3, 1]
    assert request["user.city"].tolist() == [4, 1]
    assert request["context.region"].tolist() == [3, 1]
    assert request.groups["user.likes"].length.tolist() == [0, 0]
    history = request.groups["history"]
    assert history.length.tolist() == [3, 0]  # the oldest of four is cut
    assert history.channels["item"].tolist() == [[3, 2, 5], [0, 0, 0]]  # items 1, 0, 4 of 0, 1, 2, 4
    assert history.channels["action"].tolist() == [[3, 2, 2], [0, 0, 0]]  # like, click, click
    assert history.channels["age"].tolist() == [[5, 2, 2], [0, 0, 0]]  # 25 h: a day to three; below an hour
    assert history.channels["item.category"].tolist() == [[2, 2, 1], [0, 0, 0]]  # war, war, none known

    assert row["item.id"].tolist() == [2, 3, 5, 1]
    assert row["item.category"].tolist() == [2, 2, 1, 1]
    # tags b twice (items 0 and 2), a twice (item 0 and a user): equal counts by value, so a -> 2, b -> 3
    assert row.groups["item.tags"].length.tolist() == [2, 0, 0, 0]
    assert row.groups["item.tags"].channels["value"].tolist() == [[2, 3], [0, 0], [0, 0], [0, 0]]
    # prices 10, 20, 30: mean 20, deviation sqrt(200/3); an unknown item has the mean
    spread = (200 / 3) ** 0.5
    torch.testing.assert_close(row["item.price"], torch.tensor([-10 / spread, 10 / spread, 0.0, 0.0]))
    assert row["item.words"].tolist() == [2, 3, 1, 1]  # the median of 100, 200, 300 is 200
    assert row["item.published"].tolist() == [2, 3, 1, 1]  # now, two hours ago, not known
    assert row.vecs["item.look"].tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [0.0, 0.0]]
    # channel near brought items by rank item % 3: 0 (not), 1, 1, 2; hot brought all first
    assert row["recall.near"].tolist() == [0.0, 1.0, 1.0, 0.5]
    assert row["recall.hot"].tolist() == [1.0] * 4
    # scores are not scaled where training has not seen candidates; what near did not bring has none
    assert row["recall_score.near"].tolist() == [0.0, 1.0, 1.0, 2.0]


def test_channel_scores_are_scaled_as_in_training() -> None:
    rank = np.array([[1, 0], [2, 0], [0, 0]], dtype=np.int32)
    score = np.array([[10.0, 9.0], [30.0, 9.0], [999.0, 9.0]], dtype=np.float32)
    seen = Candidates(
        np.array([0, 3]), np.array([0, 1, 2]), ("near", "hot"), rank, score, {}, np.zeros(3, dtype=np.int16)
    )
    scored = ENCODERS.scored(seen)
    make = Assembler(SCHEMA, scored, CATALOGUE)
    row = make(requests([0], [[]], ["oslo"]), seen).row
    # 10 and 30 were brought: mean 20, deviation 10; what a channel did not bring is 0, whatever its score says
    assert row["recall_score.near"].tolist() == [-1.0, 1.0, 0.0]
    assert row["recall_score.hot"].tolist() == [0.0] * 3
    assert scored.fingerprint != ENCODERS.fingerprint
    odd = replace(seen, score=np.full((3, 2), np.nan, dtype=np.float32))
    assert make(requests([0], [[]], ["oslo"]), odd).row["recall_score.near"].tolist() == [0.0] * 3


def test_the_layout_is_that_of_the_batches() -> None:
    layout = ASSEMBLE.layout(channels=("near", "hot"), tasks=("click",))
    made = ASSEMBLE(requests([3, 77], [[], []], ["bonn", None]), candidates([[0, 1], [4]]))
    for side, columns in ((layout.request, made.request), (layout.row, made.row)):
        assert tuple(side.sparse) == columns.sparse_names
        assert tuple(side.dense) == columns.dense_names
        assert {n: list(g) for n, g in side.groups.items()} == {n: list(g.channels) for n, g in columns.groups.items()}
        assert side.vecs == {name: vec.shape[1] for name, vec in columns.vecs.items()}
    assert layout.tasks == ("click",)
    # two reserved ids and: 2 users, 4 items, places oslo bonn rome, tags a b, 2 actions, 9 ages, war love, 2 buckets
    assert layout.vocabularies == {
        "user.id": 4, "place": 5, "tag": 4, "item.id": 6, "history.action": 4, "history.age": 11,
        "item.category": 4, "item.words": 4, "item.published.age": 11,
    }  # fmt: skip
    assert layout.request.groups["history"]["item"] == layout.row.sparse["item.id"] == "item.id"
    assert layout.request.sparse["context.region"] == layout.request.sparse["user.city"] == "place"
    assert ASSEMBLE.layout().row.dense == ("item.price",)


@given(st.lists(st.integers(-1, 9), min_size=1, max_size=6, unique=True), st.integers(-1, 5))
def test_ids_fit_their_vocabularies(items: list[int], user: int) -> None:
    layout = ASSEMBLE.layout(channels=("near", "hot"))
    made = ASSEMBLE(requests([user], [[(i, NOW - 10**i, i % 2) for i in range(3)]], ["x"]), candidates([items]))
    for side, columns in ((layout.request, made.request), (layout.row, made.row)):
        for name, word in side.sparse.items():
            assert 1 <= int(columns[name].min()) <= int(columns[name].max()) < layout.vocabularies[word]
        for name, words in side.groups.items():
            for channel, word in words.items():
                steps = columns.groups[name].channels[channel]
                assert int(steps.max() if steps.numel() else 0) < layout.vocabularies[word]


def test_bare_rows_and_side_tables_are_the_whole() -> None:
    asked, among = requests([3, 77], [[(0, NOW, 0)], []], ["bonn", None]), candidates([[0, 4], [8]])
    whole, bare, sides = ASSEMBLE(asked, among), ASSEMBLE.bare(asked, among), ASSEMBLE.sides()
    assert bare.row.sparse_names == ("item.id", "item.row", "item.published")
    assert bare.row["item.row"].tolist() == [0, 3, 4]  # items 0 and 4 of 0, 1, 2, 4; the last line has the defaults
    found = sides["item.row"].take(bare.row["item.row"])
    for name in (*found.sparse_names, *found.dense_names):
        assert torch.equal(found[name], whole.row[name])
    assert torch.equal(sides["user.row"].take(bare.request["user.row"])["user.city"], whole.request["user.city"])


def test_no_history_is_kept_where_none_is_asked_for() -> None:
    make = Assembler(SCHEMA, ENCODERS, CATALOGUE, history=0)
    group = make(requests([3], [[(0, NOW, 0)]], ["oslo"]), candidates([[0]])).request.groups["history"]
    assert group.length.tolist() == [0]
    assert {tuple(steps.shape) for steps in group.channels.values()} == {(1, 0)}
    assert group.mask.shape == (1, 0)


def tensors(made: Batch) -> list[torch.Tensor]:
    seen = made.expand()
    columns = (seen.request, seen.row)
    parts = [t for c in columns for t in (c.sparse, c.dense, *c.vecs.values())]
    return parts + [t for c in columns for g in c.groups.values() for t in (g.length, *g.channels.values())]


EVENT = st.tuples(st.integers(0, 9), st.integers(NOW - 10**9, NOW), st.integers(0, 1))
BROUGHT = st.tuples(st.integers(0, 9), st.integers(0, 5), st.floats(-1e6, 1e6, width=32))
REQUEST = st.tuples(
    st.integers(-1, 5),
    st.lists(EVENT, max_size=5),
    st.sampled_from(["oslo", "bonn", "nowhere", None]),
    st.lists(BROUGHT, min_size=1, max_size=5, unique_by=lambda brought: brought[0]),
)
Asked = tuple[int, list[tuple[int, int, int]], str | None, list[tuple[int, int, float]]]


def batch_of(asked: list[Asked]) -> Batch:
    """With ranks (0: not brought) and scores of two channels, the second one always first with the score's half."""
    users, histories, regions, brought = map(list, zip(*asked, strict=True))
    flat = [row for rows in brought for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in brought])]).astype(np.int64)
    score = np.array([[s, s / 2] for _, _, s in flat], dtype=np.float32)
    rank = np.array([[r, 1] for _, r, _ in flat], dtype=np.int32)
    items, fate = np.array([i for i, _, _ in flat]), np.zeros(len(flat), dtype=np.int16)
    made = Candidates(offsets, items, ("near", "hot"), rank, score, {}, fate)
    return SCALED(requests(users, histories, regions), made)


SCALED = Assembler(
    SCHEMA,
    replace(ENCODERS, scales={**ENCODERS.scales, "recall_score.near": Scale(False, 3.0, 7.0)}),
    CATALOGUE,
    history=3,
)


@given(st.lists(REQUEST, min_size=1, max_size=5))
def test_one_request_alone_equals_its_rows_of_many(asked: list[Asked]) -> None:
    """A batch of one, as online, is its rows of the batch, as offline: ids, numbers, history, context, scores."""
    whole = tensors(batch_of(asked))
    alone = [tensors(batch_of([one])) for one in asked]
    for n, expected in enumerate(whole):
        assert torch.equal(torch.cat([one[n] for one in alone]), expected)


def test_a_log_row_equals_the_request_that_made_it() -> None:
    """History and context gathered from the log, as training does, are those a request then carried."""
    history, regions = [(0, NOW - 9 * HOUR, 0), (4, NOW - 5 * HOUR, 1), (1, NOW - HOUR, 0)], ["bonn", "oslo", None, "x"]
    log = Interactions.of(
        np.full(4, 3),
        np.array([0, 4, 1, 2]),
        np.array([t for _, t, _ in history] + [NOW]),
        np.array([0, 1, 0, 1], dtype=np.int16),
    )
    region = np.fromiter(regions, dtype=object, count=4)
    trained = Pairs(log, ASSEMBLE, context={"region": region}).batch(np.array([2]))
    none = Candidates.empty(1)
    row = replace(
        none, offsets=np.array([0, 1]), items=np.array([2]), rank=np.zeros((1, 0), np.int32),
        score=np.zeros((1, 0), np.float32), fate=np.zeros(1, np.int16),
    )  # fmt: skip
    online = ASSEMBLE(requests([3], [history], ["x"]), row)
    for expected, found in zip(tensors(online), tensors(trained), strict=True):
        assert torch.equal(expected, found)


def test_nonsense_in_a_request_is_missing_not_an_error() -> None:
    schema = Schema.parse({"context": {"hour": "dense", "size": {"kind": "dense", "buckets": 2}, "since": "time"}})
    context: dict[str, Any] = {n: np.array([1.0, 2.0]) for n in ("hour", "size", "since")}
    none = np.zeros(0, dtype=np.int64)
    make = Assembler(schema, Encoders.fit(schema, Catalogue.empty(), none, none, context), Catalogue.empty())
    for value in (np.nan, None, "noon", "", [1], float("inf"), 10**400):
        column = np.fromiter([value], dtype=object, count=1)
        asked = replace(requests([0], [[]], [None]), context={"hour": column, "since": column, "size": column})
        made = make.requests(asked)
        assert made["context.hour"].tolist() == [0.0]
        assert made["context.size"].tolist() == [3 if value == float("inf") else 1]
        assert bool(torch.isfinite(made.dense).all())


def test_what_was_never_seen_gets_defaults() -> None:
    empty = Catalogue.empty()
    bare = Encoders.fit(SCHEMA, empty, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    made = Assembler(SCHEMA, bare, empty)(requests([-1], [[(5, NOW, 0)]], ["oslo"]), candidates([[5, 6]]))
    assert made.request.sparse.tolist() == [[1, 1, 1]]
    ids = ("item.id", "item.category", "item.words", "item.published")
    assert {name: made.row[name].tolist() for name in ids} == {name: [1, 1] for name in ids}
    assert made.row["item.price"].tolist() == [0.0, 0.0]
    assert made.row.vecs["item.look"].shape == (2, 0)


def test_no_candidates_and_no_context() -> None:
    none = Ragged.empty(1)
    nobody = Requests(np.array([0]), np.array([NOW]), 5, none, none, none)
    made = ASSEMBLE(nobody, Candidates.empty(1, ("near", "hot")))
    assert len(made) == 0
    assert made.request["context.region"].tolist() == [1]
