"""Durable events a second: batches from 1, 4 and 16 writers, each batch on disk before it is answered.

    python -m bench.log [--events 1000000] [--batch 100] [--seconds 3] [--out result.json]

The log holds a million events before anything is measured, of 100,000 users and 20,000 items (Zipf), so that its trees
are as deep as those of a log in use; every event has an id of its own. Writers are threads of one process, as those of
a server: batches that wait together share a sync. What a sync costs is measured first, as it is the disk's. Then the
same for what a request does: the tail of a user behind a store that has caught up, and behind one that is a sealed day
late; and how fast a day is sealed. Where the machine is shared, rates of processor time say more than those of the
clock. Goal: at least 20,000 events a second in batches of 100.
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.report import origin, table, write
from shortlist.config import load
from shortlist.events.compact import compact
from shortlist.events.log import Event, EventLog

GOAL = 20_000
NOW, DAY = 1_767_225_600_000, 86_400_000
USERS, ITEMS = 100_000, 20_000


def batches(rng: np.random.Generator, name: str, count: int, size: int, now: int = NOW) -> list[list[Event]]:
    """Events as clients send them at a moment."""
    users = np.minimum(rng.zipf(1.2, (count, size)), USERS).tolist()
    items = np.minimum(rng.zipf(1.2, (count, size)), ITEMS).tolist()
    return [
        [
            Event(f"user{u}", f"item{i}", "click", now, event_id=f"{name}-{n}-{k}")
            for k, (u, i) in enumerate(zip(users[n], items[n], strict=True))
        ]
        for n in range(count)
    ]


def sync_ms(folder: Path) -> float:
    """Median time of a sync after a write of 100 kB."""
    took = []
    with (folder / "sync").open("wb") as file:
        for _ in range(50):
            file.write(os.urandom(100_000))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - started)
    return float(np.median(took)) * 1000


def rate(log: EventLog, writers: int, size: int, seconds: float, seed: int) -> dict[str, Any]:
    """All writers for some seconds."""
    rng = np.random.default_rng(seed)
    work = [batches(rng, f"{seed}.{w}", int(seconds * 100_000 / size / writers) + 1, size) for w in range(writers)]
    took: list[float] = []
    until = time.perf_counter() + seconds

    def run(mine: list[list[Event]]) -> None:
        for batch in mine:
            started = time.perf_counter()
            if started > until:
                return
            log.append(batch, ("click",), NOW)
            took.append(time.perf_counter() - started)

    threads = [threading.Thread(target=run, args=(mine,)) for mine in work]
    started, worked = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent, worked = time.perf_counter() - started, time.process_time() - worked
    return {
        "writers": writers,
        "events_per_second": len(took) * size / spent,
        "events_per_cpu_second": len(took) * size / worked,
        "batch_p50_ms": float(np.median(took)) * 1000,
        "batch_p99_ms": float(np.quantile(took, 0.99)) * 1000,
    }


def tail_us(log: EventLog, after: int, count: int) -> float:
    users = np.random.default_rng(1).integers(0, 1000, count).tolist()
    log.tail(0, after)
    started = time.perf_counter()
    for user in users:
        log.tail(user, after)
    return (time.perf_counter() - started) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shortlist.toml").write_text("", encoding="utf-8")
        log = EventLog(folder / "var" / "log.db")
        rng = np.random.default_rng(options.seed)
        for n in range(options.events // 10_000):
            (batch,) = batches(rng, f"first {n}", 1, 10_000, NOW - 5 * DAY)
            log.append(batch, ("click",), NOW - 5 * DAY)
        sync = sync_ms(folder)
        rows = [rate(log, w, options.batch, options.seconds, options.seed + w) for w in (1, 4, 16)]
        end = log.last_offset
        tails = {"caught up": tail_us(log, end, 2000), "1,000 events behind": tail_us(log, end - 1000, 2000)}
        started = time.perf_counter()
        sealed = compact(load(folder), NOW).sealed
        seal = sealed / (time.perf_counter() - started)
        tails["a sealed day behind"] = tail_us(log, 0, 5)
        started = time.perf_counter()
        read = len(pl.concat(log.frames(("offset", "user", "item", "time_ms"))).collect())
        scan = read / (time.perf_counter() - started)
        log.close()
    print(table(rows))
    for where, us in tails.items():
        print(f"tail of a user, {where}: {us:,.0f} us")
    print(f"sealed {sealed:,} events at {seal:,.0f} a second; all {read:,} read at {scan:,.0f} a second")
    slowest = min(row["events_per_second"] for row in rows)
    print(f"slowest {slowest:,.0f} events/s, {slowest / GOAL:.1f} times the goal of {GOAL:,}; a sync {sync:.2f} ms")
    recipe = origin(command="python -m bench.log", seed=options.seed, batch=options.batch, events=options.events)
    figures = {"rows": rows, "slowest_events_per_second": slowest, "goal": GOAL, "sync_ms": sync}
    write(options.out, {"origin": recipe, **figures, "tail_us": tails, "sealed_per_second": seal})


if __name__ == "__main__":
    main()
