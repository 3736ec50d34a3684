"""Replay equals going through the log by hand, and nothing in it sees the future."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.counting import (
    CAPPED,
    COUNTERS,
    DAY,
    HOUR,
    MINUTE,
    SCHEMA,
    T0,
    Each,
    Ints,
    catalogue,
    log,
    recount,
    rows,
)

from shortlist.errors import ConfigError
from shortlist.features.base import Counter, Events
from shortlist.features.replay import Replayed
from shortlist.schema import Catalogue

KNOWN = catalogue(4, 6)
SPANS = st.sampled_from([(2 * HOUR, 20 * MINUTE), (2 * DAY, 10 * HOUR), (45 * DAY, 12 * DAY)])


def asked(seed: int, span: int, count: int, offsets: bool) -> tuple[Ints, Ints, Ints, Ints | None]:
    """Users, items, moments and offsets known by then; some of each are none of the log's."""
    rng = np.random.default_rng(seed)
    at = T0 + rng.integers(-span // 8, span + span // 2, count)
    as_of = rng.integers(0, 90, count) if offsets else None
    return rng.integers(-1, 5, count), rng.integers(-1, 7, count), at, as_of


@given(st.integers(0, 2**32), st.integers(0, 60), SPANS, st.booleans())
@settings(max_examples=60)
def test_windows_and_decayed_sums_equal_a_recount(seed: int, size: int, span: tuple[int, int], offsets: bool) -> None:
    events = log(np.random.default_rng(seed), size, 4, 6, *span)
    users, items, at, as_of = asked(seed, span[0], 12, offsets)
    replayed = Replayed(events, KNOWN, SCHEMA, Each(COUNTERS))
    for counter in (*COUNTERS, *CAPPED):
        found = replayed.counts(counter, rows(users, items, at, as_of))
        wanted = [
            recount(counter, events, KNOWN, *one, None if as_of is None else as_of[n])
            for n, one in enumerate(zip(users.tolist(), items.tolist(), at.tolist(), strict=True))
        ]
        if counter.half_life_ms:
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
        else:
            np.testing.assert_array_equal(found, wanted)


@given(st.integers(0, 2**32), st.integers(1, 60), SPANS, st.booleans())
@settings(max_examples=40)
def test_what_is_not_known_yet_changes_nothing(seed: int, size: int, span: tuple[int, int], offsets: bool) -> None:
    events = log(np.random.default_rng(seed), size, 4, 6, *span)
    users, items, at, as_of = asked(seed, span[0], 1, offsets)
    known = events.times < at[0]
    if as_of is not None:
        known &= events.offsets <= as_of[0]
    # By log order a cap may push out for an event that is ahead of its time: the store cannot take that back.
    counters = COUNTERS if offsets else (*COUNTERS, *CAPPED)
    for counter in counters:
        question = rows(users, items, at, as_of)
        whole = Replayed(events, KNOWN, SCHEMA, Each(COUNTERS)).counts(counter, question)
        less = Replayed(events.take(known), KNOWN, SCHEMA, Each(COUNTERS)).counts(counter, question)
        np.testing.assert_array_equal(whole, less)


def test_an_hour_a_day_and_what_came_late() -> None:
    """Item 1 is viewed at minutes 0, 30 and, told last, 10 after 12:00; asked at 13:05 and a day later."""
    noon = 1_700_049_600_000  # 2023-11-15 12:00:00
    times = noon + np.array([0, 30, 10]) * MINUTE
    zeros = np.zeros(3, dtype=np.int64)
    events = Events(
        np.array([5, 6, 7]), zeros, zeros + 1, times, zeros.astype(np.int16), np.full(3, np.nan, dtype=np.float32)
    )  # fmt: skip
    counter = Counter(("item",), ("view",), ("1h", "1d"))
    replayed = Replayed(events, Catalogue.empty(), SCHEMA, Each((counter,)))
    at = noon + np.array([65, 65, 30, 31, 24 * 60 + 5, 25 * 60]) * MINUTE
    as_of = np.array([7, 6, 7, 7, 7, 7])
    found = replayed.counts(counter, rows(zeros.repeat(2), np.ones(6, dtype=np.int64), at, as_of))
    # 13:05: the hour from 12:05 has minutes 10 and 30 (as of 6 only 30), the day from 13:00 yesterday all known.
    # 12:30: minute 30 itself is not over. 12:05 next day: the day from 12:00 has all. 13:00 next day: from 13:00, none.
    assert found.tolist() == [[2, 3], [1, 2], [2, 2], [3, 3], [0, 3], [0, 0]]


def test_a_decayed_sum_by_hand() -> None:
    """Clicks at minutes 0 and 60, half-life an hour; at minute 120: 2^-2 + 2^-1; in minute 60 only the first counts."""
    start = T0 // MINUTE * MINUTE
    zeros = np.zeros(2, dtype=np.int64)
    events = Events(
        np.array([1, 2]), zeros, zeros, start + np.array([0, HOUR]), np.ones(2, dtype=np.int16),
        np.full(2, np.nan, dtype=np.float32),
    )  # fmt: skip
    counter = Counter(("user",), ("click",), half_life_ms=HOUR)
    replayed = Replayed(events, Catalogue.empty(), SCHEMA, Each((counter,)))
    at = start + np.array([2 * HOUR, HOUR + 59_999])
    assert replayed.counts(counter, rows(zeros, None, at, None)).ravel().tolist() == [0.75, 0.5]


def test_columns_go_through_the_features() -> None:
    events = log(np.random.default_rng(3), 40, 4, 6, DAY, HOUR)
    replayed = Replayed(events, KNOWN, SCHEMA, Each(COUNTERS))
    at = np.full(2, T0 + DAY)
    users = np.array([0, 1])
    assert list(replayed.columns(rows(users, None, at, None))) == ["0.0", "1.0"]  # of two counters by user alone
    row = replayed.columns(rows(users, np.array([2, 3]), at, None))
    wanted = replayed.counts(COUNTERS[0], rows(users, np.array([2, 3]), at, None))
    np.testing.assert_array_equal(row["0.2"], wanted[:, 2])


@pytest.mark.parametrize(
    ("counter", "message"),
    [
        (Counter(("item",), ("clik",)), "a counter by item: no action is called 'clik' (did you mean click?)"),
        (Counter(("item",), ("click",), ("2h",)), "a counter by item: no window is called '2h' (did you mean 1h?)"),
        (
            Counter(("item",), ("click",), ()),
            "a counter by item: it has neither windows nor a half-life (windows = ['1h', '1d', '7d', '30d'])",
        ),
        (
            Counter(("user", "item.colour"), ("click",)),
            "a counter by user, item.colour: nothing is called 'item.colour' (did you mean item.category?)",
        ),
    ],
)
def test_a_counter_of_nothing_is_refused(counter: Counter, message: str) -> None:
    events = log(np.random.default_rng(3), 4, 4, 6, DAY, HOUR)
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(ConfigError) as error:
        Replayed(events, KNOWN, SCHEMA, Each(())).counts(counter, rows(one, one, one + T0, None))
    assert str(error.value) == message
