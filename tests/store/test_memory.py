"""How much a user and an item take: what the docstrings say, measured."""

import gc
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.store.servers import Server

from shortlist.features.base import Counter
from shortlist.features.state import Caps, Service, max_bytes
from shortlist.schema import Catalogue, Schema
from shortlist.store import States
from shortlist.store.lmdb import Lmdb
from shortlist.store.memory import Memory
from shortlist.store.redis import Redis

SCHEMA = Schema.parse({"action": "a", "actions": {"seen": {"weight": 0.0}, "click": {}}})
ENTRIES = 20_000
BLOB = 400


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


def entries() -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[bytes]]:
    return np.arange(ENTRIES, dtype=np.int64), [n.to_bytes(BLOB, "big") for n in range(ENTRIES)]


def test_state_stops_growing_at_the_caps() -> None:
    caps = Caps(history=20, shown=10)
    counters = (Counter(("item",), ("click",)), Counter(("user", "item"), ("click",), windows=("1h",), cap=8))
    store = States(Memory(), Service(counters, SCHEMA, caps), Catalogue.empty())
    users, step = 500, 500 * 40  # each batch is 40 events a user, 20 of each kind: every cap is full after the first
    sizes = []
    for n in range(8):
        store.apply(batch(n * step, users, step), (n + 1) * step)
        sizes.append(store.blobs.sizes())
    made = store.read(np.arange(users), 10**9)
    assert np.diff(made.history.offsets).tolist() == [20] * users
    assert np.diff(made.shown.offsets).tolist() == [10] * users
    # every user has full caps: 30 events of 30 bytes behind a head of 8 and two counts of 4, and the counter's rows
    assert sizes[0]["user"][1] >= users * (8 + 2 * 4 + 30 * 30)
    for kept in sizes:
        assert kept["user"][0] == users
        assert kept["user"][1] <= users * max_bytes(counters, caps, "user")
        assert kept["item"][1] <= 100 * max_bytes(counters, caps, "item")
    assert sizes[-1]["user"][1] < 1.05 * sizes[3]["user"][1]


def test_a_history_at_both_caps_takes_60_kilobytes() -> None:
    # 2,000 events of 30 bytes behind a head of 8 and one count of 4
    assert max_bytes((), Caps(), "user") == 60_012


def test_an_entry_in_memory_takes_its_blob_and_140_bytes() -> None:
    store = Memory()
    store.put({"user": entries()}, 1)
    store = Memory()
    gc.collect()
    tracemalloc.start()
    keys, blobs = entries()
    store.put({"user": (keys, blobs)}, 1)
    del keys, blobs
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert ENTRIES * BLOB < held < ENTRIES * (BLOB + 160)


def test_an_entry_in_lmdb_takes_its_blob_and_120_bytes(tmp_path: Path) -> None:
    with closing(Lmdb(tmp_path / "store", "f" * 64)) as store:
        store.put({"user": entries()}, 1)
    size = (tmp_path / "store" / "data.mdb").stat().st_blocks * 512
    # 8 to 9 of (400 + 18) bytes fit a page of 4,080, the tree above takes little
    assert ENTRIES * (BLOB + 18) < size < ENTRIES * (BLOB + 140)


def test_an_entry_in_redis_takes_its_blob_and_130_bytes(server: Server) -> None:
    import redis

    with closing(Redis(server.url, "e" * 64)) as store, closing(redis.Redis.from_url(server.url)) as client:
        before = client.info("memory")["used_memory"]
        store.put({"user": entries()}, 1)
        took = client.info("memory")["used_memory"] - before
        store.put({"user": (np.zeros(0, dtype=np.int64), [])}, 2, replace=True)
    assert ENTRIES * BLOB < took < ENTRIES * (BLOB + 160)


@pytest.mark.parametrize("updates", [30])
def test_lmdb_stops_growing_when_what_it_holds_does(tmp_path: Path, updates: int) -> None:
    """Pages that were overwritten are used again: a store that is written for ever stays as large as it is."""
    rng = np.random.default_rng(3)
    with closing(Lmdb(tmp_path / "store", "f" * 64, sync=False)) as store:
        sizes = []
        for n in range(updates):
            keys = rng.permutation(5000)[:2000].astype(np.int64)
            store.put({"user": (keys, [rng.bytes(BLOB) for _ in range(2000)])}, n)
            sizes.append((tmp_path / "store" / "data.mdb").stat().st_blocks)
    assert sizes[-1] <= 1.1 * sizes[updates // 2]
