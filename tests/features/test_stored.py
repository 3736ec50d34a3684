"""What serving reads of a store: blobs fetched once a request, answers mirrored for the running minute."""

import threading

import numpy as np
from tests.features.counting import COUNTERS, DAY, HOUR, MINUTE, SCHEMA, T0, Dict, Each, catalogue, log, rows

from shortlist.features.base import Counter, Events
from shortlist.features.state import Service
from shortlist.features.stored import Mirror, Stored

KNOWN = catalogue(4, 6)
VIEWS = COUNTERS[0]
NOON = 1_700_049_600_000


def store(events: Events) -> tuple[Dict, Service]:
    service, blobs = Service(COUNTERS, SCHEMA), Dict()
    blobs.put(service.update(blobs.get, events, KNOWN), int(events.offsets[-1]))
    return blobs, service


def viewed(offset: int, item: int, time: int) -> Events:
    one = np.array([offset])
    return Events(one, one * 0, one * 0 + item, one * 0 + time, np.zeros(1, np.int16), np.full(1, np.nan, np.float32))


def hour(stored: Stored, item: int, at: int) -> float:
    question = rows(np.zeros(1, dtype=np.int64), np.array([item]), np.array([at]), None)
    return float(stored.counts(VIEWS, question)[0, 0])


def test_a_mirror_holds_until_the_minute_is_over() -> None:
    """A view at 11:59:59.900 that comes at 12:00:30 is seen at once where nothing was mirrored, else from 12:01 on."""
    blobs, service = store(viewed(1, 3, NOON - HOUR // 2))
    mirrored, exact = (Stored(blobs, service, KNOWN, Each(()), slots=slots) for slots in (64, 0))
    assert hour(mirrored, 3, NOON + 20_000) == hour(exact, 3, NOON + 20_000) == 1
    blobs.put(service.update(blobs.get, viewed(2, 3, NOON - 100), KNOWN, 1), 2)
    assert hour(mirrored, 3, NOON + 40_000) == 1
    assert hour(exact, 3, NOON + 40_000) == 2
    assert hour(mirrored, 3, NOON + 60_000) == 2


def test_nothing_is_mirrored_while_a_minute_is_young() -> None:
    """Read 300 ms into 12:00, within the grace of a second; the view of 11:59:59.900 comes 100 ms later, and counts."""
    blobs, service = store(viewed(1, 3, NOON - HOUR // 2))
    stored = Stored(blobs, service, KNOWN, Each(()))
    assert hour(stored, 3, NOON + 300) == 1
    blobs.put(service.update(blobs.get, viewed(2, 3, NOON - 100), KNOWN, 1), 2)
    assert hour(stored, 3, NOON + 5_000) == 2


def test_an_event_of_the_running_minute_needs_no_mirror_to_end() -> None:
    """Counters know whole minutes: a view at 12:00:10 is not part of 12:00:50, mirrored or not."""
    blobs, service = store(viewed(1, 3, NOON - HOUR // 2))
    stored = Stored(blobs, service, KNOWN, Each(()))
    assert hour(stored, 3, NOON + 5_000) == 1
    blobs.put(service.update(blobs.get, viewed(2, 3, NOON + 10_000), KNOWN, 1), 2)
    assert hour(stored, 3, NOON + 50_000) == 1
    assert hour(stored, 3, NOON + 60_000) == 2


def test_mirrored_answers_are_the_same_and_fetch_nothing() -> None:
    events = log(np.random.default_rng(7), 400, 4, 6, DAY, 0)
    blobs, service = store(events)
    few, many, none = (Stored(blobs, service, KNOWN, Each(()), slots=slots) for slots in (3, 4096, 0))
    rng = np.random.default_rng(8)
    at = T0 + DAY + 30_000 + MINUTE * rng.integers(0, 2, 200)
    question = rows(rng.integers(-1, 5, 200), rng.integers(-1, 7, 200), at, None)
    for counter in service.counters:
        wanted = none.counts(counter, question)
        for stored in (few, many):
            np.testing.assert_array_equal(stored.counts(counter, question), wanted)
            np.testing.assert_array_equal(stored.counts(counter, question), wanted)
    question = rows(question.users, question.items, np.full(200, T0 + DAY + 30_000), None)  # two minutes share a slot
    many.counts(VIEWS, question)
    blobs.asked = 0
    many.counts(VIEWS, question)
    assert blobs.asked == 0
    none.counts(VIEWS, question)
    assert blobs.asked == 7  # each item once


def test_a_request_fetches_each_blob_once() -> None:
    blobs, service = store(log(np.random.default_rng(7), 400, 4, 6, DAY, 0))
    moment = Stored(blobs, service, KNOWN, Each(COUNTERS), slots=0).moment()
    one = np.zeros(3, dtype=np.int64)
    blobs.asked = 0
    moment.columns(rows(one[:1], None, one[:1] + T0 + DAY, None))
    assert blobs.asked == 1  # the user
    moment.columns(rows(one, np.array([1, 2, 5]), one + T0 + DAY, None))
    # items 1, 2, 5; categories c1, c2 and labels l0, l1, l2 of theirs; the user is here
    assert blobs.asked == 1 + 3 + 5
    assert moment.offset == blobs.offset
    assert not moment.moved
    blobs.offset += 1
    assert moment.moved


def test_columns_are_those_of_one_side() -> None:
    blobs, service = store(log(np.random.default_rng(7), 40, 4, 6, DAY, 0))
    stored = Stored(blobs, service, KNOWN, Each((VIEWS, COUNTERS[1])))
    one = np.ones(1, dtype=np.int64)
    assert list(stored.columns(rows(one, None, one * T0 + DAY, None))) == ["0.0"]
    assert list(stored.columns(rows(one, one, one * T0 + DAY, None))) == ["0.0", "0.1", "0.2", "0.3"]


def test_threads_never_see_half_an_answer() -> None:
    """Two minutes take turns in one slot; its two columns are always of the same minute."""
    mirror = Mirror(1, Counter(("item",), ("view",), ("1h", "1d")))
    key, sub = np.full(50, 4), np.zeros(50, dtype=np.int64)
    torn: list[bool] = []

    def write() -> None:
        for n in range(500):
            minute = np.full(50, n % 2)
            mirror.keep(key, sub, minute, np.stack([minute, minute], axis=1).astype(float))

    def look() -> None:
        for n in range(500):
            minute = np.full(50, n % 2)
            values, missing = mirror.find(key, sub, minute)
            found = np.delete(values, missing, axis=0)
            torn.append(bool((found != n % 2).any()))

    threads = [threading.Thread(target=target) for target in (write, look, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(torn) == 1000
    assert not any(torn)
