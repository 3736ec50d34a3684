"""Rows of a counter, by hand: which rings an event enters, what is kept, how two tables become one."""

from dataclasses import replace

import numpy as np
import pytest
from tests.features.counting import DAY, HOUR, MINUTE, column

from shortlist.features.base import Counter
from shortlist.features.counters import Layout, Parts, Table, Tally, fold, merge, read, tally
from shortlist.schema import Catalogue, Profiles

DAYS = 19_676  # 2023-11-15
NOON = DAYS * 1440 + 720  # the minute
VIEWS = Counter(("item",), ("view",))


def told(minutes: list[int], subs: list[int] | None = None, owners: list[int] | None = None) -> Tally:
    n = len(minutes)
    return Tally(
        np.array(owners or [0] * n), np.array(subs or [0] * n), np.array(minutes), np.ones(n, dtype=np.float64)
    )


def listed(table: Table) -> list[tuple[int, int, int, float]]:
    """(sub, ring, number, value) of every row."""
    return [
        (sub, slot >> 29, slot & ((1 << 29) - 1), value)
        for sub, slot, value in zip(table.subs.tolist(), table.slots.tolist(), table.values.tolist(), strict=True)
    ]


def test_an_event_is_a_minute_an_hour_and_a_day() -> None:
    """Two views at noon, one 70 minutes before: that minute is past the 65 that are kept, its hour and day are not."""
    table = tally(Layout(VIEWS), told([NOON, NOON - 70, NOON]), 1)
    assert listed(table) == [
        (0, 0, NOON, 2),
        (0, 1, DAYS * 24 + 10, 1),
        (0, 1, DAYS * 24 + 12, 2),
        (0, 2, DAYS, 3),
    ]


def test_rings_that_no_window_needs_are_not_kept() -> None:
    hour, day = replace(VIEWS, windows=("1h",)), replace(VIEWS, windows=("1d",))
    assert [ring for _, ring, _, _ in listed(tally(Layout(hour), told([NOON]), 1))] == [0]
    assert [ring for _, ring, _, _ in listed(tally(Layout(day), told([NOON]), 1))] == [0, 1]
    # of `1d` alone, minutes only from the start of the hour that n - 5 lies in: 11:00
    assert Layout(day).limits(np.array([NOON]))[0, 0] == NOON - 60
    # of all windows: minutes from 10:55, hours from 11:00 yesterday, days from thirty days ago
    assert Layout(VIEWS).limits(np.array([NOON]))[0, :3].tolist() == [NOON - 65, (DAYS - 1) * 24 + 11, DAYS - 30]


def test_merging_adds_up_and_forgets() -> None:
    """A view an hour later: noon's minute is gone from the ring of minutes only when 66 have passed since."""
    layout = Layout(replace(VIEWS, windows=("1h",)))
    noon = tally(layout, told([NOON]), 1)
    assert listed(merge(layout, noon, tally(layout, told([NOON, NOON + 65]), 1))) == [
        (0, 0, NOON, 2),
        (0, 0, NOON + 65, 1),
    ]
    assert listed(merge(layout, noon, tally(layout, told([NOON + 66]), 1))) == [(0, 0, NOON + 66, 1)]
    assert listed(merge(layout, tally(layout, told([NOON + 66]), 1), noon)) == [(0, 0, NOON + 66, 1)]


def test_decayed_minutes_settle_into_one_row() -> None:
    """Half-life ten minutes. Views at 0, 10 and 20: the first two settle at minute 10 as 1/2 + 1, the third stands."""
    layout = Layout(replace(VIEWS, half_life_ms=10 * MINUTE))
    table = tally(layout, told([NOON, NOON + 10, NOON + 20]), 1)
    assert listed(table) == [(0, 0, NOON + 20, 1.0), (0, 3, NOON + 10, 1.5)]
    nobody = np.zeros(1, dtype=np.int64)
    # at minute 30: 1.5 * 2^-2 + 2^-1 = 0.875; within minute 20 the third is not known: 1.5 * 2^-1 = 0.75
    assert read(layout, table, nobody, nobody, np.array([NOON + 30]) * MINUTE).tolist() == [[0.875]]
    assert read(layout, table, nobody, nobody, np.array([NOON + 20]) * MINUTE + 59_999).tolist() == [[0.75]]
    # 64 half-lives and five minutes after minute 10 it is nothing
    later = merge(layout, table, tally(layout, told([NOON + 10 + 645]), 1))
    assert [row[2] for row in listed(later)] == [NOON + 655, NOON + 20]
    assert [row[2] for row in listed(merge(layout, later, tally(layout, told([NOON + 666]), 1)))] == [
        NOON + 666,
        NOON + 655,
    ]


def test_a_cap_keeps_the_latest_and_ties_fall_to_the_smaller_sub() -> None:
    layout = Layout(Counter(("user", "item"), ("view",), ("1h",), cap=2))
    none = Table.empty(layout, 2)
    # user 0 sees 5, 6, 7 in one minute: 5, the smallest, goes. User 1 sees 5, 6 and keeps them.
    table = fold(layout, none, told([NOON] * 5, [6, 5, 7, 5, 6], [0, 0, 0, 1, 1]))
    assert [(row[0], row[1]) for row in listed(table)] == [
        (6, 0),
        (6, 3),
        (7, 0),
        (7, 3),
        (5, 0),
        (5, 3),
        (6, 0),
        (6, 3),
    ]
    # what comes late and is older than both goes at once; what both are too old for takes their places
    assert listed(fold(layout, table, told([NOON - 1], [9]))) == listed(table)
    after = fold(layout, table, told([NOON + 200, NOON + 201], [1, 2]))
    assert {row[0] for row in listed(after.where(after.owners == 0))} == {1, 2}


def test_keys_of_fields_with_one_value_several_or_none() -> None:
    """A number and its text are one value, a value counts once, a missing one not at all."""
    known = Catalogue(
        Profiles(np.array([3, 4]), {"age": np.array([5.0, np.nan])}),
        Profiles(np.array([0, 1, 2]), {"tags": column([["5", "a"], [], ["a", "a"]]), "year": column(["5", 5, None])}),
    )
    parts = Parts(known)
    users, items = np.array([3, 4, 3, -1]), np.array([0, 1, 2, 7])
    at, tags, zeros = parts.keys(("item.tags",), users, items)
    assert at is not None
    assert at.tolist() == [0, 0, 2]
    assert tags[1] == tags[2] != tags[0]
    assert zeros.tolist() == [0, 0, 0]
    assert (tags >= 0).all()
    at, ages, rows = parts.keys(("user.age", "item"), users, items)
    assert at is not None
    assert at.tolist() == [0, 2]
    assert rows.tolist() == [0, 2]
    at, years, _ = parts.keys(("item.year",), users, items)
    assert at is not None
    assert at.tolist() == [0, 1]
    assert years[0] == years[1]
    assert years[0] != tags[0] != ages[0]  # the same text of another field is another value
    at, whole, pair = parts.keys(("user", "item"), users[:3], items[:3])
    assert at is None
    assert whole.tolist() == [3, 4, 3]
    assert pair.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"a counter by item\.tags is asked without items"):
        parts.keys(("item.tags",), users, None)


def test_windows_begin_at_whole_steps() -> None:
    """One view in every hour of eight days; read at 15:07. `1d`: hours 15 (yesterday) to 15, 25 views at minute 0.
    `7d`: seven days of 24, and today 0 to 15, 16 views."""
    layout = Layout(replace(VIEWS, windows=("1h", "1d", "7d")))
    table = tally(layout, told([(DAYS - 7) * 1440 + 60 * n for n in range(7 * 24 + 16)]), 1)
    at = np.array([DAYS * DAY + 15 * HOUR + 7 * MINUTE])
    zero = np.zeros(1, dtype=np.int64)
    assert read(layout, table, zero, zero, at).tolist() == [[1, 25, 7 * 24 + 16]]
