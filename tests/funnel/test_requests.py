"""How requests are made: what becomes history, what was shown, where the region comes from."""

import numpy as np
from tests.funnel.world import objects, profiles, ragged

from shortlist.candidates import Ragged
from shortlist.funnel.requests import make
from shortlist.schema import Catalogue, Profiles, Schema

SCHEMA = Schema.parse({
    "action": "action", "actions": {"impression": {"weight": 0.0}, "click": {}, "like": {"weight": 5.0}},
    "users": {"region": "sparse"}, "region": "region",
})  # fmt: skip
USERS = Profiles(np.array([3, 8]), {"region": objects(["north", None])})
CATALOGUE = Catalogue(USERS, profiles())
NOW = np.array([50, 60])


def events(actions: list[int]) -> Ragged:
    return Ragged(np.array([0, 2, 4]), np.array([5, 6, 7, 8]), np.arange(4), np.array(actions, dtype=np.int16))


def test_exposures_are_shown_and_the_rest_is_history() -> None:
    made = make(np.array([3, 9]), NOW, 10, events([0, 1, 2, 0]), SCHEMA, CATALOGUE)
    assert (made.history.offsets.tolist(), made.history.items.tolist()) == ([0, 1, 2], [6, 7])
    assert (made.shown.offsets.tolist(), made.shown.items.tolist()) == ([0, 1, 2], [5, 8])
    assert made.exclude.offsets.tolist() == [0, 0, 0]
    assert (made.n, made.where, made.prefix) == (10, None, None)


def test_the_region_comes_from_context_else_from_the_profile() -> None:
    nobody = make(np.array([-1, 8]), NOW, 10, Ragged.empty(2), SCHEMA, CATALOGUE)
    assert nobody.context["region"].tolist() == [None, None]
    known = make(np.array([3, 8]), NOW, 10, Ragged.empty(2), SCHEMA, CATALOGUE)
    assert known.context["region"].tolist() == ["north", None]
    said = {"region": objects(["south", "south"])}
    given = make(np.array([3, 8]), NOW, 10, Ragged.empty(2), SCHEMA, CATALOGUE, context=said)
    assert given.context["region"].tolist() == ["south", "south"]


def test_exclusions_and_earlier_pages_travel_with_their_request() -> None:
    made = make(
        np.array([3, 8]), NOW, 10, Ragged.empty(2), SCHEMA, CATALOGUE, exclude=ragged([1], [2]), prefix=ragged([], [4])
    )
    second = made.take(1, 2)
    assert second.prefix is not None
    assert (second.exclude.items.tolist(), second.prefix.items.tolist()) == ([2], [4])


def test_events_behind_events() -> None:
    both = ragged([1], [], [2, 3]).then(ragged([4], [5], []))
    assert both.offsets.tolist() == [0, 2, 3, 5]
    assert both.items.tolist() == [1, 4, 5, 2, 3]


def test_the_latest_event_of_each_item() -> None:
    events_ = ragged([1, 2, 1], [1, 3, 3], [])
    assert events_.latest().items.tolist() == [2, 1, 1, 3]
    assert events_.latest().offsets.tolist() == [0, 2, 4, 4]
    assert Ragged.empty(2).latest().offsets.tolist() == [0, 0, 0]
