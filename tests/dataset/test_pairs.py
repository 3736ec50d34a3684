"""Retrieval examples: history strictly before the event, whatever the log holds afterwards."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.dataset.interactions import Interactions
from shortlist.dataset.pairs import Pairs
from shortlist.errors import DataError
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.schema import Catalogue, Profiles, Schema

SCHEMA = Schema.parse(
    {
        "action": "what",
        "actions": {"seen": {"weight": 0}, "click": {"weight": 1}, "like": {"weight": 5}},
        "items": {"category": "sparse"},
        "context": {"region": "sparse"},
    }
)
ITEMS = Profiles.from_frame(pl.DataFrame({"key": range(10), "category": [f"c{n % 3}" for n in range(10)]}))
CATALOGUE = Catalogue(Catalogue.empty().users, ITEMS)


def log(events: list[tuple[int, int, int, int]]) -> Interactions:
    """(user, item, time, action) in log order."""
    table = np.array(events, dtype=np.int64).reshape(-1, 4)
    return Interactions.of(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.int16))


def assembler(events: Interactions, history: int = 50) -> Assembler:
    context = {"region": np.array(["north", "south"])}
    return Assembler(SCHEMA, Encoders.fit(SCHEMA, CATALOGUE, events.users, events.items, context), CATALOGUE, history)


SEEN, CLICK, LIKE = 0, 1, 2
# user 1 clicks 4, is shown 5, clicks 6 and likes it at the same moment, clicks 7; user 2 clicks 8, then 4
EVENTS = log(
    [
        (1, 4, 10, CLICK),
        (2, 8, 15, CLICK),
        (1, 5, 20, SEEN),
        (1, 6, 30, CLICK),
        (1, 6, 30, LIKE),
        (1, 7, 40, CLICK),
        (2, 4, 50, LIKE),
    ]
)
ALL = np.arange(4)


def test_hand_values() -> None:
    make = assembler(EVENTS)
    pairs = Pairs(EVENTS, make, last=2)
    batch = pairs.batch(np.arange(len(pairs)))
    asked = pairs.requests(np.arange(len(pairs)))
    # both events on 6 come from the page after 4; what was only shown is no history; firsts have none
    assert batch.row["item.id"].tolist() == make.encoders.items(np.array([6, 6, 7, 4])).tolist()
    assert asked.users.tolist() == [1, 1, 1, 2]
    assert asked.now.tolist() == [30, 30, 40, 50]
    history = [steps.tolist() for steps in np.split(asked.history.items, asked.history.offsets[1:-1])]
    assert history == [[4], [4], [6, 6], [8]]  # the last two of 4, 6, 6
    assert batch.weights is not None
    assert batch.weights.tolist() == [1, 5, 1, 5]
    assert batch.request_of.tolist() == [0, 1, 2, 3]
    group = batch.request.groups["history"]
    assert group.length.tolist() == [1, 1, 2, 1]
    assert group.channels["item"][2, :2].tolist() == make.encoders.items(np.array([6, 6])).tolist()
    # items of the log are 4..8, ids 2..6; examples: 6 twice, 7 and 4 once
    assert pairs.counts.tolist() == [1, 0, 2, 1, 0]


def test_a_log_without_times_has_its_order() -> None:
    pairs = Pairs(EVENTS, assembler(EVENTS), ties="log")
    assert pairs.requests(np.array([1])).history.items.tolist() == [4, 6]  # the click before the like
    still = Interactions.of(np.zeros(3, dtype=np.int64), np.arange(3))
    clicks = Interactions(still.users, still.items, still.times, np.ones(3, dtype=np.int16), still.values)
    with pytest.raises(DataError) as caught:
        Pairs(clicks, assembler(clicks))
    assert str(caught.value) == (
        "pairs: none of 3 events has 1 earlier ones and a known item "
        '(lower min_history, or set ties = "log" for a log without times)'
    )
    assert len(Pairs(clicks, assembler(clicks), ties="log")) == 2


def test_an_empty_history_is_allowed_and_has_no_steps() -> None:
    pairs = Pairs(EVENTS, assembler(EVENTS), min_history=0)
    assert len(pairs) == 6
    assert pairs.batch(np.array([0])).request.groups["history"].length.tolist() == [0]
    none = Pairs(EVENTS, assembler(EVENTS, history=0), last=0)
    group = none.batch(np.arange(4)).request.groups["history"]
    assert group.length.tolist() == [0] * 4
    assert {tuple(channel.shape) for channel in group.channels.values()} == {(4, 0)}


def test_only_events_asked_for_are_examples_and_an_unknown_item_never_is() -> None:
    late = EVENTS.times >= 40
    make = assembler(EVENTS.where(EVENTS.times < 50))  # 4 is known from user 1, 8 from user 2
    assert Pairs(EVENTS, make, where=late).batch(np.array([0, 1])).row["item.id"].tolist() == [5, 2]
    make = assembler(EVENTS.where(EVENTS.times < 40))  # 7 is not known
    assert len(Pairs(EVENTS, make, where=late)) == 1


def test_context_goes_with_its_event() -> None:
    region = np.array(["north", "south", "north", "north", "south", "north", "south"], dtype=object)
    pairs = Pairs(EVENTS, assembler(EVENTS), context={"region": region})
    # sorted: user 1 at 10, 20, 30, 30, 40, then user 2 at 15, 50; of these 2, 3, 4, 6 are examples; north is id 2
    assert pairs.batch(np.arange(4)).request["context.region"].tolist() == [2, 2, 3, 3]


EVENT = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 8), st.integers(0, 2))


@settings(deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=40), st.integers(0, 3), st.integers(0, 5))
def test_a_history_is_exactly_what_came_before(events: list[tuple[int, int, int, int]], least: int, last: int) -> None:
    try:
        pairs = Pairs(log(events), assembler(log(events)), last, least)
    except DataError:
        interest = [e for e in events if e[3]]
        assert all(sum(o[0] == e[0] and o[2] < e[2] for o in interest) < least for e in interest)
        return
    asked = pairs.requests(np.arange(len(pairs)))
    for r in range(len(asked)):
        user, now = asked.users[r], asked.now[r]
        before = sorted((t, n, i) for n, (u, i, t, a) in enumerate(events) if u == user and t < now and a)
        assert len(before) >= least
        mine = asked.history.items[asked.history.offsets[r] : asked.history.offsets[r + 1]]
        assert mine.tolist() == [item for _, _, item in before][len(before) - min(last, len(before)) :]


def test_a_batch_of_one_equals_its_row_of_many() -> None:
    pairs = Pairs(EVENTS, assembler(EVENTS))
    whole = pairs.batch(ALL)
    for n in ALL:
        alone, row = pairs.batch(np.array([n])), whole.take(torch.tensor([n]))
        assert torch.equal(alone.joined().sparse, row.joined().sparse)
        for name, group in alone.request.groups.items():
            for channel, steps in group.channels.items():
                assert torch.equal(steps, row.request.groups[name].channels[channel])
