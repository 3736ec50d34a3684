"""UserCF and Swing: time and memory of a fit, and of a request for 200 items of UserCF's channel.

    python -m bench.similar [--size EVENTS] [--caps 500 100] [--asked 200] [--seed 0] [--out result.json]

All 999,721 pairs of ml-1m (SHORTLIST_DATA), or with --size a generated log of so many clicks, by users of 145 each on
27,000 items. Default options but for Swing's `cap`, one fit for each of --caps (0: no bound). A fit has a process of
its own, and loops are loaded by a fit of two events first; it runs on the cores it may use (`taskset -c 0` for one).
Requests come one at a time from users of the log, with stored similar users and with those of the history at hand
(`fresh`).
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.report import data_folder, origin, peak_mb, resident_mb, table, write
from shortlist.candidates import Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.forms import Built, Lists
from shortlist.funnel.sources.similar_users import SimilarUsers
from shortlist.models.recall.swing import Swing
from shortlist.models.recall.user_cf import UserCF
from shortlist.schema import Catalogue, Schema
from shortlist.simulation.toy import Toy

SCHEMA, NOBODY = Schema.parse({}), Catalogue.empty()
N = 200


def fitted(solve: Callable[[Interactions], Any], log: Interactions) -> tuple[Any, dict[str, Any]]:
    solve(Interactions.of(np.zeros(2, dtype=np.int64), np.arange(2)))
    load, loaded, start, began = os.getloadavg()[0], resident_mb(), time.process_time(), time.perf_counter()
    made = solve(log)
    took = {"CPU s": time.process_time() - start, "clock s": time.perf_counter() - began, "load": load}
    return made, {**took, "MB above loaded": peak_mb() - loaded, "peak MB": peak_mb()}


def user_cf(folder: Path, asked: int, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A fit and its requests."""
    log, model = read(folder), UserCF(UserCF.Config(), SCHEMA)
    built, fit = fitted(lambda events: model.solve(events, NOBODY, 0), log)
    options = {name: value for name, value in asdict(model.config).items() if name in ("keep", "cap")}
    found = {"what": "fit user_cf", **options, "longest": "", "full lists": full(built.form, model.config.keep), **fit}
    return found, [requests(built, log, asked, fresh, seed) for fresh in (False, True)]


def swing(folder: Path, cap: int | None) -> dict[str, Any]:
    log, model = read(folder), Swing(Swing.Config(cap=cap), SCHEMA)
    lists, fit = fitted(lambda events: model.solve(events, NOBODY, 0), log)
    options = {name: value for name, value in asdict(model.config).items() if name in ("keep", "cap", "longest")}
    return {"what": "fit swing", **options, "full lists": full(lists, model.config.keep), **fit}


def full(lists: Lists, keep: int) -> int:
    """Lists that `keep` cut or filled."""
    return int((np.diff(lists.offsets) == keep).sum())


def drawn(folder: Path, size: int, seed: int) -> None:
    """The log as files: fits do not hold what its making took."""
    if size:
        log = Toy.draw(size // 145, 27_000, size, seed, categories=50).interactions
    else:
        frame = pl.read_parquet(data_folder() / "ml-1m" / "interactions.parquet").cast(pl.Int64)
        log = Interactions.of(frame["user_id"].to_numpy(), frame["movie_id"].to_numpy())
    np.save(folder / "users.npy", log.users)
    np.save(folder / "items.npy", log.items)


def read(folder: Path) -> Interactions:
    users, items = np.load(folder / "users.npy"), np.load(folder / "items.npy")
    none = np.broadcast_to(np.int16(0), len(users)), np.broadcast_to(np.float32(np.nan), len(users))
    return Interactions(users, items, np.broadcast_to(np.int64(0), len(users)), *none)


def requests(built: Built, log: Interactions, asked: int, fresh: bool, seed: int) -> dict[str, Any]:
    """Milliseconds of processor time by request; the first five are not counted."""
    assert isinstance(built.form, Lists)
    source = SimilarUsers(SimilarUsers.Config(fresh=fresh), built.form, SCHEMA, built.beside, NOBODY.users)
    took = []
    for user in np.random.default_rng(seed).choice(log.user_keys, asked + 5):
        key, none = np.array([user]), Ragged.empty(1)
        history = log.histories(key)
        request = Requests(key, np.zeros(1, dtype=np.int64), N, history, none, none)
        start = time.process_time()
        source.recall(request, N, lambda owners, items, met=history: ~met.contains(owners, items))  # type: ignore[misc]
        took.append(1000 * (time.process_time() - start))
    p50, p99 = np.percentile(took[5:], [50, 99])
    return {"what": f"request, {'fresh' if fresh else 'stored'}", "p50 ms": float(p50), "p99 ms": float(p99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--caps", type=int, nargs="+", default=[500])
    parser.add_argument("--asked", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        alone(drawn, Path(name), options.size, options.seed)
        fit, asked = alone(user_cf, Path(name), options.asked, options.seed)
        print(fit, asked, sep="\n", file=sys.stderr, flush=True)
        fits = [fit]
        for cap in options.caps:
            fits.append(alone(swing, Path(name), cap or None))
            print(fits[-1], file=sys.stderr, flush=True)
    print(table(fits), table(asked), sep="\n")
    write(options.out, {"origin": origin(seed=options.seed, size=options.size), "fits": fits, "requests": asked})


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """`work(*given)` in a process that has done nothing before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


if __name__ == "__main__":
    main()
