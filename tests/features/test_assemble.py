"""Requests and candidates become a Batch: hand values, defaults, and one request alone equals its rows of many."""

import numpy as np
import polars as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from shortlist.batch import Batch
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
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


def tensors(made: Batch) -> list[torch.Tensor]:
    seen = made.expand()
    columns = (seen.request, seen.row)
    parts = [t for c in columns for t in (c.sparse, c.dense, *c.vecs.values())]
    return parts + [t for c in columns for g in c.groups.values() for t in (g.length, *g.channels.values())]


EVENT = st.tuples(st.integers(0, 9), st.integers(NOW - 10**9, NOW), st.integers(0, 1))
REQUEST = st.tuples(
    st.integers(-1, 5),
    st.lists(EVENT, max_size=5),
    st.sampled_from(["oslo", "bonn", "nowhere", None]),
    st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True),
)


@given(st.lists(REQUEST, min_size=1, max_size=5))
def test_one_request_alone_equals_its_rows_of_many(
    asked: list[tuple[int, list[tuple[int, int, int]], str | None, list[int]]],
) -> None:
    users, histories, regions, items = map(list, zip(*asked, strict=True))
    whole = ASSEMBLE(requests(users, histories, regions), candidates(items))
    alone = [ASSEMBLE(requests([u], [h], [c]), candidates([i])) for u, h, c, i in asked]
    for n, expected in enumerate(tensors(whole)):
        assert torch.equal(torch.cat([tensors(one)[n] for one in alone]), expected)


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
