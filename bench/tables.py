"""The same expressions on each engine, ml-100k: seconds of a fit, and how far lists and scores are apart.

    SHORTLIST_DATA=... python -m bench.tables [--events 100000] [--engines polars,duckdb,spark] [--out result.json]

Wall-clock seconds from events in memory to lists in memory, `loops` for the compiled ones, each after a fit of 1,000
events (code loaded, Spark started). `places` is what the lists hold, `other` on how many of them another item stands
than in the loops' lists, `apart` the largest difference of a score there (float32). An engine that this machine lacks
is left out.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.report import data_folder, origin, table, write
from shortlist.dataset.interactions import Interactions
from shortlist.forms import Built, Lists
from shortlist.models.recall.hot import Hot
from shortlist.models.recall.item_cf import ItemCF
from shortlist.models.recall.swing import Swing
from shortlist.models.recall.user_cf import UserCF
from shortlist.schema import Catalogue, Schema
from shortlist.tables.engine import missing

SCHEMA, NOBODY = Schema.parse({"value": "rating"}), Catalogue.empty()
METHODS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "hot": (Hot, {}),
    "ItemCF, binary": (ItemCF, {"weights": "binary"}),
    "ItemCF, sequence": (ItemCF, {}),
    "UserCF, iuf": (UserCF, {}),
    "UserCF, pearson": (UserCF, {"measure": "pearson"}),
    "Swing, 10 users an item": (Swing, {"cap": 10}),
}


def fitted(name: str, engine: str | None, log: Interactions, now: int) -> tuple[Lists, float]:
    solver, options = METHODS[name]
    start = time.perf_counter()
    made = solver(solver.Config(**options, engine=engine), SCHEMA).solve(log, NOBODY, now)
    took = time.perf_counter() - start
    form = made.form if isinstance(made, Built) else made
    assert isinstance(form, Lists)
    return form, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000, help="the first of the log")
    parser.add_argument("--engines", default="polars,duckdb,spark")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    frame = pl.read_parquet(data_folder() / "ml-100k" / "ratings.parquet").sort("timestamp", maintain_order=True)
    frame = frame.head(options.events)
    log = Interactions.of(
        frame["user_id"].to_numpy().astype(np.int64),
        frame["item_id"].to_numpy().astype(np.int64),
        frame["timestamp"].to_numpy().astype(np.int64) * 1000,
        values=frame["rating"].to_numpy().astype(np.float32),
    )
    now = int(log.times.max())
    small = log.where(np.arange(len(log)) < 1000)
    rows: list[dict[str, Any]] = []
    loops: dict[str, Lists] = {}
    for engine in (None, *options.engines.split(",")):
        if engine and (lacks := missing(engine)):
            print(f"{engine} is left out: {lacks}", file=sys.stderr)
            continue
        for name in METHODS:
            fitted(name, engine, small, now)
            lists, took = fitted(name, engine, log, now)
            want = loops.setdefault(name, lists)
            assert np.array_equal(want.offsets, lists.offsets), f"{name}: lists of other lengths"
            other = int((want.items != lists.items).sum())
            apart = float(np.abs(want.scores - lists.scores).max())
            told = {"method": name, "engine": engine or "loops", "seconds": took, "places": len(lists.items)}
            rows.append(told | {"other": other, "apart": apart})
            print(f"{name}, {engine or 'loops'}: {took:.2f} s", file=sys.stderr)
    print(table(rows))
    write(options.out, {"origin": origin(events=len(log)), "fits": rows})


if __name__ == "__main__":
    main()
