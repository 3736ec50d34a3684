"""A small log with every kind of counter over it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shortlist.events.log import Event, EventLog
from shortlist.features.base import Counter
from shortlist.features.state import Caps, Service, namespace
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.store import Blobs, States
from shortlist.store.states import ABOUT

__all__ = ["COUNTERS", "NOW", "SCHEMA", "catalogue", "dump", "events", "fill", "same", "service", "states"]

NOW = 1_767_225_600_000
SCHEMA = Schema.parse({
    "action": "a", "value": "v", "actions": {"seen": {"weight": 0.0}, "click": {}},
    "users": {"region": "sparse"}, "items": {"genre": "varlen"},
})  # fmt: skip
COUNTERS = (
    Counter(("item",), ("click",)),
    Counter(("item", "user.region"), ("seen", "click"), windows=("1d",)),
    Counter(("item.genre",), ("click",), windows=("1h", "7d")),
    Counter(("user", "item.genre"), ("click",), windows=("30d",)),
    Counter(("user",), ("click",), half_life_ms=3_600_000, sum=True),
)
USERS, ITEMS = 60, 25


def catalogue() -> Catalogue:
    regions = np.array([f"r{n % 4}" for n in range(USERS)], dtype=object)
    genres = np.empty(ITEMS, dtype=object)
    genres[:] = [[f"g{n % 5}", f"g{n % 3 + 5}"] for n in range(ITEMS)]
    return Catalogue(
        Profiles(np.arange(USERS), {"region": regions}), Profiles(np.arange(ITEMS), {"genre": genres})
    )  # fmt: skip


def service(caps: Caps | None = None) -> Service:
    return Service(COUNTERS, SCHEMA, caps or Caps(history=20, shown=20))


def states(blobs: Blobs) -> States:
    return States(blobs, service(), catalogue())


def events(start: int, count: int) -> list[Event]:
    """Events of four days before NOW, out of order; their numbers make them what they are."""
    rng = np.random.default_rng(start)
    users, items = rng.integers(0, USERS, count).tolist(), rng.integers(0, ITEMS, count).tolist()
    ages, clicks = rng.integers(0, 4 * 86_400_000, count).tolist(), rng.integers(0, 2, count).tolist()
    return [
        Event(f"u{u}", f"i{i}", "click" if c else "seen", NOW - age, value=float(n % 7))
        for n, (u, i, age, c) in enumerate(zip(users, items, ages, clicks, strict=True))
    ]


def fill(path: Path, count: int, *, size: int = 500) -> EventLog:
    """A log of `count` events; user `u3` has key 3, item `i3` key 3."""
    import polars as pl

    log = EventLog(path)
    log.register("user", pl.Series([f"u{n}" for n in range(USERS)]))
    log.register("item", pl.Series([f"i{n}" for n in range(ITEMS)]))
    for start in range(0, count, size):
        log.append(events(start, min(size, count - start)), SCHEMA.action_names, NOW)
    return log


def same(left: States, right: States) -> None:
    """The same state: histories and counts exactly, decayed sums, which depend on the batches, to 1e-9."""
    sizes = [{k: v for k, v in s.blobs.sizes().items() if k != ABOUT} for s in (left, right)]
    assert sizes[0] == sizes[1]
    users = np.arange(USERS)
    for a, b in zip(left.read(users, NOW)[:2], right.read(users, NOW)[:2], strict=True):
        for name in ("offsets", "items", "times", "actions"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for counter in COUNTERS:
        space = namespace(counter)
        keys = left.blobs.keys(space)
        np.testing.assert_array_equal(keys, right.blobs.keys(space))
        one, other = (s.service.tables([counter], keys, s.blobs.get(space, keys))[0] for s in (left, right))
        assert len(one)
        for name in ("offsets", "subs", "slots"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_allclose(one.values, other.values, rtol=1e-9 if counter.half_life_ms else 0)


def dump(blobs: Blobs, names: Sequence[str] = ("user", "item", "value")) -> dict[str, dict[int, bytes | None]]:
    """Every blob of a store."""
    out = {}
    for name in names:
        keys = blobs.keys(name)
        out[name] = dict(zip(keys.tolist(), blobs.get(name, keys), strict=True))
    return out
