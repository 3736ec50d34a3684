"""Filters: a request, three candidates, the mask."""

import numpy as np
import pytest
from tests.funnel.world import NOW, SCHEMA, ask, objects, profiles, ragged

from shortlist.candidates import Ragged, Requests
from shortlist.errors import ConfigError
from shortlist.funnel.filters.available import Available
from shortlist.funnel.filters.excluded import Excluded
from shortlist.funnel.filters.seen import Seen
from shortlist.funnel.pipeline import Filter
from shortlist.schema import Profiles, Schema

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NONE = profiles()


def kept(part: Filter, requests: Requests, *items: int, owner: int = 0) -> list[bool]:
    owners = np.full(len(items), owner, dtype=np.int64)
    mask = part.keep(requests, owners, np.array(items, dtype=np.int64))
    assert mask.dtype == bool
    return list(mask.tolist())


def test_seen_drops_what_the_user_interacted_with() -> None:
    seen = Seen(Seen.Config(), SCHEMA, NONE)
    assert kept(seen, ask([4, 5], [6]), 4, 5, 6) == [False, False, True]
    assert kept(seen, ask([4, 5], [6]), 4, 5, 6, owner=1) == [True, True, False]


def test_seen_within_days() -> None:
    seen = Seen(Seen.Config(days=2), SCHEMA, NONE)
    # 4 was met exactly two days ago (no longer counts), 5 a millisecond less
    times = np.array([NOW - 2 * DAY_MS, NOW - 2 * DAY_MS + 1])
    history = Ragged(np.array([0, 2]), np.array([4, 5]), times, np.zeros(2, dtype=np.int16))
    requests = Requests(np.array([0]), np.array([NOW]), 3, history, Ragged.empty(1), Ragged.empty(1))
    assert kept(seen, requests, 4, 5, 6) == [True, False, True]


def test_seen_counts_what_was_shown_of_late() -> None:
    # shown within the hour: 4 twice, 5 once, 6 twice but one of them earlier
    items = np.array([6, 4, 4, 5, 6])
    times = np.array([NOW - HOUR_MS, NOW - 4, NOW - 3, NOW - 2, NOW - 1])
    shown = Ragged(np.array([0, 5]), items, times, np.zeros(5, dtype=np.int16))
    requests = ask([], shown=shown)
    assert kept(Seen(Seen.Config(shown_hours=1, shown_cap=2), SCHEMA, NONE), requests, 4, 5, 6) == [False, True, True]
    assert kept(Seen(Seen.Config(shown_hours=1, shown_cap=1), SCHEMA, NONE), requests, 4, 5, 7) == [False, False, True]
    assert kept(Seen(Seen.Config(), SCHEMA, NONE), requests, 4, 5, 6) == [True, True, True]


def test_the_shown_cap_counts_each_request_by_itself() -> None:
    seen = Seen(Seen.Config(shown_hours=1, shown_cap=2), SCHEMA, NONE)
    requests = ask([], [], shown=ragged([4], [4, 4]))
    assert kept(seen, requests, 4, 5, 6) == [True, True, True]
    assert kept(seen, requests, 4, 5, 6, owner=1) == [False, True, True]


def test_available_drops_what_is_not_in_the_catalogue() -> None:
    assert kept(Available(Available.Config(), SCHEMA, profiles(None, ["x"])), ask([]), 0, 1, 2) == [True, True, False]


def test_available_from_is_inclusive_and_to_exclusive() -> None:
    schema = Schema.parse({
        "items": {"start": "time", "stop": "time"}, "available_from": "start", "available_to": "stop",
    })  # fmt: skip
    start, stop = [NOW, NOW + 1, None, np.nan], [None, None, NOW, NOW + 1]
    items = Profiles(np.arange(4), {"start": objects(start), "stop": np.array(stop, dtype=np.float64)})
    assert kept(Available(Available.Config(), schema, items), ask([]), 0, 1, 2, 3) == [True, False, False, True]
    assert kept(Available(Available.Config(), schema, items), ask([]), 4) == [False]


def test_available_refuses_what_is_no_time() -> None:
    schema = Schema.parse({"items": {"start": "time"}, "available_from": "start"})
    with pytest.raises(ConfigError) as caught:
        Available(Available.Config(), schema, Profiles(np.arange(1), {"start": objects(["1995-01-01"])}))
    assert str(caught.value) == (
        "schema.items.start: holds '1995-01-01', which is not a time (write milliseconds since 1970, UTC)"
    )


def test_excluded_drops_what_the_caller_rules_out_and_what_earlier_pages_hold() -> None:
    excluded = Excluded(Excluded.Config(), SCHEMA, NONE)
    requests = ask([], [], exclude=ragged([4], []), prefix=ragged([6], [5]))
    assert kept(excluded, requests, 4, 5, 6) == [False, True, False]
    assert kept(excluded, requests, 4, 5, 6, owner=1) == [True, False, True]


def test_excluded_keeps_what_satisfies_the_condition() -> None:
    items = profiles(["war", "drama"], ["love"], None)
    excluded = Excluded(Excluded.Config(), SCHEMA, items)
    assert kept(excluded, ask([], where="genre in ['war']"), 0, 1, 2) == [True, False, False]
    assert kept(excluded, ask([], where="genre != 'war'"), 0, 1, 2) == [False, True, True]
    assert kept(excluded, ask([], where="genre != 'war'"), 3) == [False]  # no profile satisfies nothing
    assert kept(excluded, ask([], exclude=ragged([1]), where="genre != 'war'"), 0, 1, 2) == [False, False, True]


def test_excluded_evaluates_a_condition_once() -> None:
    columns = {"price": np.array([1.0, 9.0])}
    excluded = Excluded(Excluded.Config(), SCHEMA, Profiles(np.arange(2), columns))
    requests = ask([], where="price < 5")
    assert kept(excluded, requests, 0, 1) == [True, False]
    columns["price"][:] = 0.0  # a second evaluation would see it
    assert kept(excluded, requests, 0, 1) == [True, False]


def test_a_value_is_no_condition() -> None:
    # an item without a price would be kept: NaN is not zero
    excluded = Excluded(Excluded.Config(), SCHEMA, Profiles(np.arange(2), {"price": np.array([np.nan, 9.0])}))
    assert kept(excluded, ask([], where="price < 30"), 0, 1) == [False, True]
    with pytest.raises(ConfigError) as caught:
        kept(excluded, ask([], where="price"), 0, 1)
    assert str(caught.value) == "price: 'price' is a value, not a condition (write a condition, e.g. price < 30)"


def test_a_condition_on_an_unknown_field_is_the_callers_error() -> None:
    with pytest.raises(ConfigError) as caught:
        kept(Excluded(Excluded.Config(), SCHEMA, profiles(["war"])), ask([], where="gener == 'war'"), 0)
    assert str(caught.value) == "gener == 'war': unknown column 'gener' (did you mean genre?)"
