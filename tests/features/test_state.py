"""State by key: any batches make the same blobs, and blobs answer what replay answers."""

from dataclasses import replace

import numpy as np
import polars as pl
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
    Dict,
    Each,
    catalogue,
    log,
    recount,
    rows,
)

from shortlist.config import plain
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.features.base import SLACK_MS, Counter, Events
from shortlist.features.counters import Layout
from shortlist.features.replay import Replayed
from shortlist.features.state import EVENT, Caps, Service, max_bytes
from shortlist.features.stored import Stored
from shortlist.schema import Action, Catalogue

KNOWN = catalogue(4, 6)
WHOLE = tuple(c for c in (*COUNTERS, *CAPPED) if not c.half_life_ms)  # their values are whole numbers
SPANS = st.sampled_from([(2 * HOUR, 20 * MINUTE), (2 * DAY, 10 * HOUR), (45 * DAY, 12 * DAY)])


def follow(service: Service, events: Events, cuts: list[int]) -> Dict:
    blobs = Dict()
    for low, high in zip([0, *cuts], [*cuts, len(events)], strict=True):
        some = events.take(slice(low, high))
        if len(some):
            blobs.put(service.update(blobs.get, some, KNOWN, blobs.offset), int(some.offsets[-1]))
    return blobs


def loaded(service: Service, events: Events, block: int) -> Dict:
    blobs = Dict(spaces={"user": {99: b"old"}, "item": {}, "value": {99: b"old"}})
    for n, changes in enumerate(service.load(events, KNOWN, block)):
        blobs.put(changes, int(events.offsets.max(initial=0)), replace=n == 0)
    return blobs


def filled(blobs: Dict) -> dict[str, dict[int, bytes]]:
    return {name: space for name, space in blobs.spaces.items() if space}


@given(st.integers(0, 2**32), st.integers(0, 80), SPANS, st.lists(st.integers(0, 80), max_size=6))
@settings(max_examples=60)
def test_any_batches_and_a_backfill_make_the_same_blobs(
    seed: int, size: int, span: tuple[int, int], cuts: list[int]
) -> None:  # fmt: skip
    events = log(np.random.default_rng(seed), size, 4, 6, *span)
    service = Service(WHOLE, SCHEMA, Caps(5, 3))
    once = follow(service, events, [])
    assert follow(service, events, sorted(min(cut, size) for cut in cuts)).spaces == once.spaces
    assert filled(loaded(service, events, block=7)) == filled(once)


@given(st.integers(0, 2**32), st.integers(1, 80), SPANS, st.lists(st.integers(0, 80), max_size=4))
@settings(max_examples=60)
def test_a_store_answers_what_replay_answers(seed: int, size: int, span: tuple[int, int], cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    events = log(rng, size, 4, 6, *span)
    service = Service((*COUNTERS, *CAPPED), SCHEMA)
    blobs = follow(service, events, sorted(min(cut, size) for cut in cuts))
    n = 12
    users, items = rng.integers(-1, 5, n), rng.integers(-1, 7, n)
    # from just before the newest event on: minutes, hours, days, more than a month
    at = events.times.max() - SLACK_MS + rng.integers(0, rng.choice([10 * MINUTE, 5 * HOUR, 40 * DAY], n))
    question = rows(users, items, at, np.full(n, blobs.offset))
    stored = Stored(blobs, service, KNOWN, Each(()))
    replayed = Replayed(events, KNOWN, SCHEMA, Each(()))
    for counter in service.counters:
        found, wanted = stored.counts(counter, question), replayed.counts(counter, question)
        if counter.half_life_ms:
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12)
        else:
            np.testing.assert_array_equal(found, wanted)


@given(st.integers(0, 2**32), st.integers(1, 60), SPANS)
@settings(max_examples=30)
def test_the_order_of_the_log_does_not_matter(seed: int, size: int, span: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    events = log(rng, size, 4, 6, *span)
    mixed = replace(events.take(rng.permutation(size)), offsets=events.offsets)
    service = Service([c for c in COUNTERS if not c.half_life_ms], SCHEMA)
    ordered, shuffled = follow(service, events, [size // 2]), follow(service, mixed, [size // 3])
    assert shuffled.spaces.get("item") == ordered.spaces.get("item")
    assert shuffled.spaces.get("value") == ordered.spaces.get("value")


@given(st.integers(0, 2**32), st.integers(1, 80), SPANS, st.lists(st.integers(0, 80), max_size=4))
@settings(max_examples=30)
def test_histories_are_the_latest_events(seed: int, size: int, span: tuple[int, int], cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    events = log(rng, size, 4, 6, *span)
    blobs = follow(Service((), SCHEMA, Caps(4, 2)), events, sorted(min(cut, size) for cut in cuts))
    users, now = rng.integers(-1, 5, 6), T0 + rng.integers(0, span[0], 6)
    history, shown = Service((), SCHEMA, Caps(4, 2)).histories(blobs.get, users, now, last=3)
    for n, user in enumerate(users.tolist()):
        mine = sorted(
            (time, offset, item, action)
            for offset, who, item, time, action, _ in zip(*vars(events).values(), strict=True)
            if who == user
        )
        for ragged, interest, cap in ((history, True, 4), (shown, False, 2)):
            wanted = [e for e in mine if (e[3] > 0) == interest][-cap:]
            wanted = [e for e in wanted if e[0] <= now[n]][-3:]
            low, high = ragged.offsets[n : n + 2]
            assert ragged.times[low:high].tolist() == [e[0] for e in wanted]
            assert ragged.items[low:high].tolist() == [e[2] for e in wanted]
            assert ragged.actions[low:high].tolist() == [e[3] for e in wanted]


def test_numpy_equals_plain_python_event_by_event() -> None:
    """The whole path, twenty events one by one, against a count by hand over the log so far."""
    events = log(np.random.default_rng(11), 20, 3, 4, 3 * HOUR, HOUR)
    counters = (*COUNTERS[:6], *CAPPED)
    service, blobs = Service(counters, SCHEMA), Dict()
    for n in range(len(events)):
        one = events.take(slice(n, n + 1))
        blobs.put(service.update(blobs.get, one, KNOWN, blobs.offset), int(one.offsets[0]))
        at = int(events.times[: n + 1].max()) + 7 * MINUTE
        for counter in counters:
            for user, item in ((0, 1), (1, 3), (2, 2)):
                question = rows(np.array([user]), np.array([item]), np.array([at]), None)
                found = Stored(blobs, service, KNOWN, Each(()), slots=0).counts(counter, question)
                wanted = recount(counter, events.take(slice(0, n + 1)), KNOWN, user, item, at, blobs.offset)
                assert found[0].tolist() == pytest.approx(wanted, rel=1e-9), (counter, user, item)


def test_what_is_read_twice_changes_nothing() -> None:
    events = log(np.random.default_rng(5), 50, 4, 6, DAY, HOUR)
    service = Service(COUNTERS, SCHEMA)
    blobs = follow(service, events, [20])
    assert service.update(blobs.get, events, KNOWN, blobs.offset) == {}
    late = service.update(blobs.get, events, KNOWN, int(events.offsets[-2]))
    assert set(late["user"][0].tolist()) == {int(events.users[-1])}  # only what lies behind is taken in


def test_a_double_of_an_event_is_one_event() -> None:
    """Two rows of event `a` in one batch; the later offset is left out, as is an action nobody declared."""
    frame = pl.DataFrame(
        {
            "offset": [3, 1, 2, 4], "user": [0, 0, 0, 0], "item": [1, 1, 1, 1], "event_id": ["a", "a", "b", None],
            "action": ["click", "click", "click", "hover"], "time_ms": [T0, T0, T0, T0],
        }
    )  # fmt: skip
    events = Events.of(frame, SCHEMA)
    assert events.offsets.tolist() == [1, 2]
    assert np.isnan(events.values).all()
    with pytest.raises(DataError) as error:
        Events.of(frame.rename({"time_ms": "time"}), SCHEMA)
    assert str(error.value) == "events: no column is called 'time_ms' (did you mean time?)"
    with pytest.raises(DataError) as error:
        Events.of(frame.with_columns(time_ms=pl.lit(T0) * 1_000_000), SCHEMA)
    what = "events: the time_ms of offset 1 is 1700000000123000000 (times are UTC milliseconds, from 1970 to 2990)"
    assert str(error.value) == what


def test_at_most_cap_subs_are_kept_and_the_latest_stay() -> None:
    """User 0 views items 1, 2, 3 in this order, a minute apart: with a cap of 2, item 1 is out, and begins anew."""
    counter = Counter(("user", "item"), ("view",), ("1d",), cap=2)
    service, blobs = Service((counter,), SCHEMA), Dict()
    for offset, item in enumerate((1, 2, 3, 1), 1):
        one = np.array([offset])
        event = Events(
            one, one * 0, np.array([item]), T0 + one * MINUTE, np.zeros(1, np.int16), np.full(1, np.nan, np.float32)
        )  # fmt: skip
        blobs.put(service.update(blobs.get, event, KNOWN, blobs.offset), offset)
    question = rows(np.zeros(3, dtype=np.int64), np.array([1, 2, 3]), np.full(3, T0 + 9 * MINUTE), None)
    found = Stored(blobs, service, KNOWN, Each(())).counts(counter, question)
    assert found.ravel().tolist() == [1, 0, 1]  # 3 pushed out 1, which had been seen once; 1 again pushed out 2


def test_who_is_unknown_counts_nothing() -> None:
    service = Service(COUNTERS, SCHEMA)
    blobs = follow(service, log(np.random.default_rng(5), 50, 4, 6, DAY, HOUR), [])
    question = rows(np.array([-1, 77, 0]), np.array([2, -1, 99]), np.full(3, T0 + DAY), None)
    stored = Stored(blobs, service, KNOWN, Each(()))
    assert not stored.counts(COUNTERS[4], question).any()  # by item and gender: nobody, no item, no such item
    assert not stored.counts(COUNTERS[5], question).any()
    nobody = service.histories(blobs.get, np.array([-1, 77]), T0 + DAY)
    assert nobody.history.offsets.tolist() == [0, 0, 0]
    assert not Stored(Dict(), service, KNOWN, Each(())).counts(COUNTERS[0], question).any()


def test_a_damaged_blob_names_its_key() -> None:
    service = Service(COUNTERS, SCHEMA)
    blobs = follow(service, log(np.random.default_rng(5), 50, 4, 6, DAY, HOUR), [])
    whole = blobs.spaces["item"][2]
    question = rows(np.zeros(6, dtype=np.int64), np.arange(6), np.full(6, T0 + DAY), None)
    for blob, what in [
        (whole[:-4], "its checksum differs"),
        (whole[:9], "9 bytes are less than its head"),
        (whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], "its checksum differs"),
        (b"\x07" + whole[1:], "it has version 7, not 1"),
    ]:
        blobs.spaces["item"][2] = blob
        with pytest.raises(ArtifactError) as error:
            Stored(blobs, service, KNOWN, Each(())).counts(COUNTERS[0], question)
        assert str(error.value) == f"state: the blob of item 2 is damaged: {what} (backfill the store again)"
    blobs.spaces["user"][0] = b"user"
    with pytest.raises(ArtifactError, match="the blob of user 0 is damaged: 4 bytes are less than its head"):
        service.histories(blobs.get, np.array([1, 0]), T0)


def test_a_blob_of_other_sections_is_seen_by_its_length() -> None:
    few, more = Service(COUNTERS[:1], SCHEMA), Service(COUNTERS, SCHEMA)
    blobs = follow(few, log(np.random.default_rng(5), 50, 4, 6, DAY, HOUR), [])
    question = rows(np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64), np.full(1, T0 + DAY), None)
    with pytest.raises(ArtifactError, match="the blob of item 1 is damaged: its rows take"):
        Stored(blobs, more, KNOWN, Each(())).counts(COUNTERS[0], question)


def test_a_fingerprint_says_what_blobs_mean() -> None:
    service = Service(COUNTERS, SCHEMA)
    assert service.fingerprint == Service(COUNTERS, SCHEMA).fingerprint
    others = [
        Service(COUNTERS[:-1], SCHEMA),
        Service(COUNTERS[::-1], SCHEMA),
        Service(COUNTERS, SCHEMA, Caps(history=10)),
        Service(COUNTERS, replace(SCHEMA, actions={**SCHEMA.actions, "share": Action(1)})),
    ]
    assert len({service.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert service.namespaces == ("user", "item", "value")
    assert Service((), SCHEMA).namespaces == ("user",)
    assert plain(service.caps) == {"history": 1000, "shown": 1000}
    with pytest.raises(ConfigError, match="no action is called 'clik'"):
        Service([Counter(("item",), ("clik",))], SCHEMA)


def test_bytes_of_full_rings() -> None:
    """An event in every minute for two months: the rings are as long as they get at some moment of a day.

    Minutes: from 60 before n - 5 up to n, 66. Hours: from p's hour - 24 up to n's hour, 26 where n - 5 lies in the hour
    before. Days: from p's day - 30 up to today, 32 where n - 5 lies in yesterday. 124 rows of 8 bytes.
    """
    counter = Counter(("item",), ("view",))
    layout = Layout(counter)
    assert layout.dtype.itemsize == 8
    assert layout.rows() == 66 + 26 + 32
    assert Layout(replace(counter, by=("user", "item.category"))).dtype.itemsize == 16
    assert Layout(replace(counter, half_life_ms=HOUR)).dtype.itemsize == 12
    assert EVENT.itemsize == 30
    # head 8, a count 4, rows 992
    assert max_bytes([counter], Caps(), "item") == 8 + 4 + 992
    # head 8, two counts 8, two thousand events of 30, 64 categories of 125 rows of 16: 188,016 bytes at the very most
    by_category = replace(counter, by=("user", "item.category"))
    assert max_bytes([by_category], Caps(), "user") == 8 + 8 + 2000 * 30 + 64 * 125 * 16

    start = T0 // DAY * DAY
    minutes = np.arange(60 * 1440 + 5)  # the last minute is 00:04
    zeros = np.zeros(len(minutes), dtype=np.int64)
    events = Events(
        minutes + 1, zeros, zeros, start + minutes * MINUTE, zeros.astype(np.int16),
        np.full(len(minutes), np.nan, dtype=np.float32),
    )  # fmt: skip
    blobs = follow(Service([counter], SCHEMA), events, [50_000])
    assert len(blobs.spaces["item"][0]) == max_bytes([counter], Caps(), "item")
    assert len(blobs.spaces["user"][0]) == 8 + 4 + 1000 * 30  # every one an exposure

    # The same of a pair: item 7 has labels l0, l1 and l2, a cap of 3 holds all. 125 rows each, a newest minute too.
    by_label = Counter(("user", "item.labels"), ("view",), cap=3)
    known = catalogue(1, 8)
    blobs = Dict()
    for low in (0, 50_000):
        some = replace(events, items=zeros + 7).take(slice(low, low + 50_000))
        blobs.put(Service([by_label], SCHEMA, Caps(1, 1)).update(blobs.get, some, known, low), low + len(some))
    assert max_bytes([by_label], Caps(1, 1), "user") == 8 + 8 + 2 * 30 + 3 * 125 * 16
    assert len(blobs.spaces["user"][0]) == 8 + 8 + 30 + 3 * 125 * 16  # no interaction, one exposure


def test_a_part_of_a_backfill_names_what_it_is_of() -> None:
    """Of items a, b, c, ... by blocks of one event: those that are never bought have no blob, their parts are there."""
    events = log(np.random.default_rng(5), 30, 4, 6, DAY, HOUR)
    service = Service([Counter(("item",), ("buy",))], SCHEMA)
    parts = list(service.load(events, KNOWN, block=1, names=("item",)))
    assert [list(part) for part in parts] == [["item"]] * len(np.unique(events.items))
    bought = np.unique(events.items[events.actions == 2])
    assert np.concatenate([part["item"][0] for part in parts]).tolist() == bought.tolist()
    assert 0 < len(bought) < len(parts)


def test_no_rows_are_no_answers() -> None:
    events = log(np.random.default_rng(5), 50, 4, 6, DAY, HOUR)
    service = Service((*COUNTERS, *CAPPED), SCHEMA)
    none = np.zeros(0, dtype=np.int64)
    stored, replayed = (
        Stored(follow(service, events, []), service, KNOWN, Each(())),
        Replayed(events, KNOWN, SCHEMA, Each(())),
    )
    for counter in service.counters:
        wide = 1 if counter.half_life_ms else len(counter.windows)
        for known in (stored, replayed):
            assert known.counts(counter, rows(none, none, none, none)).shape == (0, wide)
    assert service.histories(Dict().get, none, T0).history.offsets.tolist() == [0]


def test_an_empty_catalogue_and_an_empty_log() -> None:
    service = Service(COUNTERS, SCHEMA)
    nothing = log(np.random.default_rng(0), 0, 4, 6, DAY, HOUR)
    assert service.update(Dict().get, nothing, Catalogue.empty()) == {}
    first, *rest = service.load(nothing, Catalogue.empty())
    assert {name: len(keys) for name, (keys, _) in first.items()} == {"user": 0, "item": 0, "value": 0}
    assert not rest
