"""Events a second from the log through `follow`, and through a backfill, into LMDB, one thread.

    python -m bench.nearline --events 200000

The log is generated: users and items by a falling power, a third of the events clicks, the others impressions, over
seven days. Features: clicks and impressions by item, clicks by item and region, by user and genre, and by genre. Prints
what writing state costs; reading the log is in it.
"""

import argparse
import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl

from bench.report import origin, table, write
from shortlist.events.log import Event, EventLog
from shortlist.features.base import Counter
from shortlist.features.state import Service
from shortlist.feedback.backfill import backfill
from shortlist.feedback.follow import follow
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.store.lmdb import Lmdb
from shortlist.store.states import States

NOW = 1_767_225_600_000
DAYS_MS = 7 * 86_400_000
SCHEMA = Schema.parse({
    "action": "action", "actions": {"seen": {"weight": 0.0}, "click": {}},
    "users": {"region": "sparse"}, "items": {"genre": "sparse"},
})  # fmt: skip
COUNTERS = (
    Counter(("item",), ("click",)),
    Counter(("item",), ("seen",)),
    Counter(("item", "user.region"), ("click",), windows=("1d", "7d")),
    Counter(("user", "item.genre"), ("click",), windows=("1d", "30d")),
    Counter(("item.genre",), ("click",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--limit", type=int, default=10_000, help="events of one transaction")
    parser.add_argument("--bare", action="store_true", help="histories alone, no feature")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-nearline-"))
    service = Service(() if options.bare else COUNTERS, SCHEMA)
    known = catalogue(options.users, options.items)
    rows = []
    try:
        with closing(log_of(folder / "log.db", options)) as log:
            for name in ("follow", "backfill"):
                with closing(Lmdb(folder / name, service.fingerprint)) as blobs:
                    store = States(blobs, service, known)
                    clock, cpu = time.perf_counter(), time.process_time()
                    if name == "follow":
                        while follow(log, store, options.limit):
                            pass
                    else:
                        backfill(log, store)
                    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
                    size = sum(size for _, size in blobs.sizes().values())
                    disk = (folder / name / "data.mdb").stat().st_blocks * 512
                rows.append({
                    "way": name, "seconds": clock, "cpu": cpu, "events/s": options.events / clock,
                    "MB of blobs": size / 1e6, "MB on disk": disk / 1e6,
                })  # fmt: skip
    finally:
        shutil.rmtree(folder)
    print(table(rows))
    given = {name: getattr(options, name) for name in ("events", "users", "items", "limit", "bare")}
    write(options.out, {"rows": rows, **origin(command="bench.nearline", seed=options.seed, **given)})


def catalogue(users: int, items: int) -> Catalogue:
    region = np.array([f"r{n % 20}" for n in range(users)], dtype=object)
    genre = np.array([f"g{n % 50}" for n in range(items)], dtype=object)
    return Catalogue(Profiles(np.arange(users), {"region": region}), Profiles(np.arange(items), {"genre": genre}))


def log_of(path: Path, options: argparse.Namespace) -> EventLog:
    rng = np.random.default_rng(options.seed)
    log = EventLog(path)
    log.register("user", pl.Series([f"u{n}" for n in range(options.users)]))
    log.register("item", pl.Series([f"i{n}" for n in range(options.items)]))
    users = (options.users * rng.random(options.events) ** 2).astype(np.int64)
    items = (options.items * rng.random(options.events) ** 3).astype(np.int64)
    times = NOW - DAYS_MS + np.sort(rng.integers(0, DAYS_MS, options.events))
    clicks = rng.random(options.events) < 1 / 3
    for start in range(0, options.events, 20_000):
        some = slice(start, start + 20_000)
        columns = (column[some].tolist() for column in (users, items, times, clicks))
        events = [Event(f"u{u}", f"i{i}", "click" if c else "seen", t) for u, i, t, c in zip(*columns, strict=True)]
        log.append(events, SCHEMA.action_names, NOW)
    return log


if __name__ == "__main__":
    main()
