"""How old items are at the moment of a request, and a channel that is kept to fresh ones."""

import numpy as np
import pytest
from tests.funnel.test_queries import NEAR, every
from tests.funnel.world import ask

from shortlist.candidates import Requests
from shortlist.errors import ConfigError
from shortlist.funnel.ages import Ages
from shortlist.funnel.sources.neighbours import Neighbours
from shortlist.schema import Profiles, Schema

HOUR = 3_600_000
NOW = 1_000_000  # of `ask`
SCHEMA = Schema.parse({"items": {"out": "time"}, "published": "out"})


def items(*hours: float | None) -> Profiles:
    """Published so many hours before NOW."""
    times = np.array([None if hour is None else NOW - hour * HOUR for hour in hours], dtype=object)
    return Profiles(np.arange(len(hours)), {"out": times})


def moments(requests: Requests, *hours: float) -> Requests:
    now = NOW + (np.array(hours) * HOUR).astype(np.int64)
    return Requests(requests.users, now, 3, requests.history, requests.shown, requests.exclude)


def test_bounds_count_and_what_is_unknown_does_not() -> None:
    ages = Ages(items(0, 2, 2.001, -0.001, None), SCHEMA, 2.0, "here")
    pairs = np.zeros(6, dtype=np.int64), np.array([0, 1, 2, 3, 4, 99])
    assert ages.within(ask([]), *pairs).tolist() == [True, True, False, False, False, False]
    assert Ages(items(0), SCHEMA, None, "here", later=True).within(ask([]), *pairs).tolist() == [True] * 6
    assert not Ages(None, SCHEMA, 2.0, "here").within(ask([]), *pairs).any()


def test_every_request_has_its_own_moment() -> None:
    ages = Ages(items(0, 3), SCHEMA, 2.0, "here")
    asked = moments(ask([], []), 0, -2)
    assert ages.within(asked, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])).tolist() == [True, False, False, True]
    assert ages.some(asked, np.array([0, 1, 5])).tolist() == [True, True, False]


def test_neighbours_within_an_age_fill_the_quota() -> None:
    # the history's items are near 6 (3/4) and 5 (1/2); 6 came out 5 hours ago, 5 an hour ago
    known = items(9, 9, 9, 9, 9, 1, 5, 9)
    near = Neighbours(Neighbours.Config(max_age_hours=2.0), NEAR, SCHEMA, known)
    owners, found, scores = near.recall(moments(ask([0, 1], [0, 1]), 0, 0.5), 1, every)
    assert (owners.tolist(), found.tolist(), scores.tolist()) == ([0, 1], [5, 5], [0.5, 0.5])
    whole = Neighbours(Neighbours.Config(), NEAR, SCHEMA, known).recall(ask([0, 1]), 10, every)
    assert whole[1].tolist() == [6, 5]


def test_ages_need_times() -> None:
    with pytest.raises(ConfigError) as caught:
        Neighbours(Neighbours.Config(max_age_hours=2.0), NEAR, Schema(), items(0))
    assert caught.value.what == "ages need a time of publication"
    assert caught.value.where == "max_age_hours"
    assert caught.value.hint == "set schema.published to a time field of [schema.items]"
