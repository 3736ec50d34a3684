"""A generated day is followed as it comes, asked as it goes, and asked again from the log: no answer differs."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.features.counting import CAPPED, COUNTERS, DAY, MINUTE, SCHEMA, Dict, Each, Ints, catalogue, log, rows

from shortlist.features.base import Counter, Known
from shortlist.features.replay import Replayed
from shortlist.features.state import Service
from shortlist.features.stored import Stored

USERS, ITEMS, EVENTS, TURNS, ASKED = 300, 200, 20_000, 200, 25


@pytest.mark.parametrize(("days", "late", "slots"), [(1, 120, 0), (40, 120, 0), (1, 0, 4096)])
def test_online_rows_equal_offline_rows(days: int, late: int, slots: int) -> None:
    """Events come up to `late` minutes late, 100 at a time. Every turn asks 25 (user, item) pairs, at a moment after
    the newest event: 5,000 rows of 15 counters. Then the log answers the same (user, item, at, as_of). Where nothing
    comes late, a mirror changes nothing."""
    rng = np.random.default_rng(days)
    known = catalogue(USERS, ITEMS)
    events = log(rng, EVENTS, USERS, ITEMS, days * DAY, late * MINUTE)
    features = Each((*COUNTERS, *CAPPED))
    service, blobs = Service(features.counters, SCHEMA), Dict()
    stored = Stored(blobs, service, known, features, slots)
    asked, online = [], []
    for turn in range(TURNS):
        some = events.take(slice(turn * EVENTS // TURNS, (turn + 1) * EVENTS // TURNS))
        blobs.put(service.update(blobs.get, some, known, blobs.offset), int(some.offsets[-1]))
        newest = int(events.times[events.offsets <= blobs.offset].max())
        now = newest + int(rng.integers(0, 10 * MINUTE if late else 2))
        question = (
            rng.integers(0, USERS, ASKED), rng.integers(0, ITEMS, ASKED), np.full(ASKED, now),
            np.full(ASKED, stored.moment().offset),
        )  # fmt: skip
        asked.append(question)
        online.append(both(stored, *question))
    users, items, at, as_of = (np.concatenate(parts) for parts in zip(*asked, strict=True))
    offline = both(Replayed(events, known, SCHEMA, features), users, items, at, as_of)

    of_rows = [c for c in features.counters if any(part.startswith("item") for part in c.by)]
    sides = {"row": of_rows, "request": [c for c in features.counters if c not in of_rows]}
    kinds = {f"{side}.{n}": c for side, counters in sides.items() for n, c in enumerate(counters)}
    assert len(kinds) == 15
    assert set(offline) == {f"{name}.{w}" for name, c in kinds.items() for w in range(width(c))}
    counted = 0.0
    for name, column in offline.items():
        found = np.concatenate([turn[name] for turn in online])
        assert len(found) == TURNS * ASKED
        if kinds[name.rpartition(".")[0]].half_life_ms:
            np.testing.assert_allclose(found, column, rtol=1e-6, atol=1e-9, err_msg=name)
        else:
            assert int((found != column).sum()) == 0, name
            counted += float(found.sum())
    assert counted > 100_000  # the questions are about something


def both(known: Known, users: Ints, items: Ints, at: Ints, as_of: Ints) -> dict[str, NDArray[Any]]:
    """Columns of both sides."""
    request, row = known.columns(rows(users, None, at, as_of)), known.columns(rows(users, items, at, as_of))
    return {f"request.{name}": c for name, c in request.items()} | {f"row.{name}": c for name, c in row.items()}


def width(counter: Counter) -> int:
    return 1 if counter.half_life_ms else len(counter.windows)
