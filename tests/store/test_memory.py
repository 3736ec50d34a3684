"""What only the memory store promises: its size."""

import gc
import tracemalloc

import numpy as np
import polars as pl

from shortlist.schema import Schema
from shortlist.store.memory import Memory

SCHEMA = Schema.parse({"action": "a", "actions": {"seen": {"weight": 0.0}, "click": {}}})


def batch(start: int, users: int, events: int) -> pl.DataFrame:
    rng = np.random.default_rng(start)
    return pl.DataFrame(
        {
            "offset": np.arange(start + 1, start + events + 1),
            "user": np.arange(events) % users,
            "item": rng.integers(0, 100, events),
            "action": np.where(np.arange(events) // users % 2 == 0, "seen", "click"),
            "time_ms": np.arange(start, start + events),
        }
    )


def test_state_stops_growing_at_the_caps() -> None:
    store = Memory(Memory.Config(history=20, shown=10), SCHEMA)
    users, step = 500, 500 * 40  # each batch is 40 events a user, 20 of each kind: every cap is full after the first
    Memory(Memory.Config(), SCHEMA).apply(batch(0, users, step), step)  # what the first call of all sets up
    tracemalloc.start()
    sizes = []
    for n in range(8):
        store.apply(batch(n * step, users, step), (n + 1) * step)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    made = store.read(np.arange(users), 10**9)
    assert np.diff(made.history.offsets).tolist() == [20] * users
    assert np.diff(made.shown.offsets).tolist() == [10] * users
    # 30 events of 34 bytes and some 730 bytes around them
    assert sizes[-1] < users * (30 * 34 + 1000)
    assert sizes[-1] < 1.05 * sizes[3]


def test_a_loaded_event_takes_34_bytes() -> None:
    store = Memory(Memory.Config(), SCHEMA)
    history = batch(0, 500, 100_000)
    store.load(history)  # what polars itself keeps is taken by the first call
    tracemalloc.start()
    store.load(history)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # user, item, time, offset of 8 bytes and an action of 2; tracemalloc sees numpy's arrays, not polars'
    assert held < 100_000 * 34 * 1.01
