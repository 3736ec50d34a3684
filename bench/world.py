"""The simulated world: how fast it runs under each policy, how fast a log is written, and how like MovieLens it is.

    [SHORTLIST_DATA=...] python -m bench.world [--size S] [--write L] [--days 30] [--like tiny S M] [--seed 0]
        [--out result.json]

Goals on two cores: a million impressions a minute under every policy; 500 thousand events a second into files at
size L. Likeness: the share of distinct (user, item) pairs on the top 1 % and 10 % of items, and EASE against hot
items, both on the same random fifth of each user's pairs, held out; ml-1m beside it where SHORTLIST_DATA is set.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from bench.report import data_folder, origin, peak_mb, table, write
from shortlist.config import catalogue
from shortlist.dataset.interactions import Interactions
from shortlist.evaluation.ranking import full_ranking
from shortlist.models.recall.ease import weights
from shortlist.simulation.events import Events
from shortlist.simulation.folder import save
from shortlist.simulation.policy import named
from shortlist.simulation.sizes import SIZES
from shortlist.simulation.truth import CLICK, IMPRESSION
from shortlist.simulation.world import World

LAMBDAS = (50.0, 150.0, 500.0)


def speed(size: str, name: str, seed: int) -> dict[str, Any]:
    """Impressions a minute of a world under a policy, nothing written."""
    world = World.generate(SIZES[size], np.random.default_rng(seed))
    rule = named(name, world.truth)
    clocks = time.perf_counter(), time.process_time()
    counts = np.zeros(6, dtype=np.int64)
    for events in world.simulate(rule, np.random.default_rng(seed)):
        counts += np.bincount(events.actions, minlength=len(counts))
    wall, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    shown = int(counts[IMPRESSION])
    return {
        "size": size, "policy": name, "impressions": shown, "clicks/impression": counts[CLICK] / shown,
        "impressions/min": 60 * shown / wall, "impressions/CPU min": 60 * shown / cpu,
        "events/s": counts.sum() / wall, "peak MB": peak_mb(),
    }  # fmt: skip


def written(size: str, days: int | None, seed: int) -> dict[str, Any]:
    """Events a second of a world made and written as `shortlist simulate` does, into a folder that is then removed."""
    config = SIZES[size] if days is None else replace(SIZES[size], days=days)
    with tempfile.TemporaryDirectory() as folder:
        clocks = time.perf_counter(), time.process_time()
        place = Path(folder) / "log"
        counts = save(place, config, lambda w: named("popularity", w.truth), seed, lambda done, total, what: None)
        wall, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
        stored = sum(file.stat().st_size for file in place.rglob("*.parquet"))
    events = sum(counts.values())
    return {
        "size": size, "days": config.days, "events": events, "seconds": wall, "events/s": events / wall,
        "events/CPU s": events / cpu, "bytes/event": stored / events, "peak MB": peak_mb(),
    }  # fmt: skip


def logs(sizes: list[str], seed: int) -> Iterator[tuple[str, Interactions]]:
    """Logs to compare: clicks of worlds under the popularity policy, and ml-1m where it is at hand."""
    if os.environ.get("SHORTLIST_DATA"):
        pairs = pl.read_parquet(data_folder() / "ml-1m" / "interactions.parquet").cast(pl.Int64)
        yield "ml-1m", Interactions.of(pairs["user_id"].to_numpy(), pairs["movie_id"].to_numpy())
    for size in sizes:
        world = World.generate(SIZES[size], np.random.default_rng(seed))
        blocks = world.simulate(named("popularity", world.truth), np.random.default_rng(seed))
        clicks = Events.joined([block.take(np.flatnonzero(block.actions == CLICK)) for block in blocks])
        yield size, clicks.interactions()


def distinct(log: Interactions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users and items of distinct pairs, places in 0..U-1 and 0..I-1."""
    _, rows = np.unique(log.users, return_inverse=True)
    items, columns = np.unique(log.items, return_inverse=True)
    pairs = np.unique(rows * len(items) + columns)
    return pairs // len(items), pairs % len(items)


def likeness(name: str, log: Interactions, seed: int) -> dict[str, Any]:
    """What is compared between logs. Users with fewer than 5 pairs hold nothing out."""
    users, items = distinct(log)
    counts = np.sort(np.bincount(items))[::-1]
    share = {f"top {part} %": float(counts[: max(1, len(counts) * part // 100)].sum() / len(items)) for part in (1, 10)}
    rng = np.random.default_rng(seed)
    held = (rng.random(len(users)) < 0.2) & (np.bincount(users)[users] >= 5)
    shape = (int(users.max()) + 1, int(items.max()) + 1)

    def matrix(mask: NDArray[np.bool_]) -> sparse.csr_array:
        return sparse.csr_array((np.ones(int(mask.sum()), np.float32), (users[mask], items[mask])), shape=shape)

    x_UI, y_UI = matrix(~held), matrix(held)
    hot = np.asarray(x_UI.sum(axis=0), dtype=np.float32).ravel()
    found = {"hot": _figures(lambda low, high: np.tile(hot, (high - low, 1)), x_UI, y_UI)}
    best = 0.0
    for lam in LAMBDAS:
        b_II = weights(x_UI, lam)
        figures = _figures(lambda low, high, b=b_II: x_UI[low:high] @ b, x_UI, y_UI)
        if figures["ndcg@10"] > best:
            best, found["ease"] = figures["ndcg@10"], figures
    row: dict[str, Any] = {
        "log": name,
        "users": shape[0],
        "items": shape[1],
        "pairs": len(users),
        **share,
    }
    for metric in ("ndcg@10", "recall@10"):
        hot_, ease = found["hot"][metric], found["ease"][metric]
        row |= {f"hot {metric}": hot_, f"ease {metric}": ease, f"ratio {metric}": ease / hot_}
    return row


def _figures(score: Any, x_UI: Any, y_UI: Any) -> dict[str, float]:
    return {name: float(np.nanmean(column)) for name, column in full_ranking(score, x_UI, y_UI, (10,)).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S", choices=list(SIZES), help="the size whose speed is measured")
    parser.add_argument("--write", default="L", choices=list(SIZES), help="the size that is written")
    parser.add_argument("--days", type=int, help="days that are written; all 30 by default")
    parser.add_argument("--like", nargs="*", default=["tiny", "S", "M"], choices=list(SIZES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    into_files = [written(args.write, args.days, args.seed)]
    print(table(into_files))
    speeds = [speed(args.size, name, args.seed) for name in catalogue("shortlist.simulation.policies")]
    print(table(speeds))
    alike = [likeness(name, log, args.seed) for name, log in logs(args.like, args.seed)]
    if alike:
        print(table(alike))
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    recipe = origin(command="python -m bench.world", **settings)
    write(args.out, {"origin": recipe, "written": into_files, "speed": speeds, "likeness": alike})


if __name__ == "__main__":
    main()
