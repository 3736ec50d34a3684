"""One timed fit of ItemCF for `bench.itemcf`, in a process of its own: PAIRS KEEP OUT -> one line of JSON.

PAIRS holds users.npy and items.npy [E] in order of user; the clock starts at the log, not at a matrix. A first
solve of two events loads the compiled loops, as an import loads an extension module; `load_seconds` says how
long that took.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from bench.report import peak_mb, resident_mb
from shortlist.dataset.interactions import Interactions
from shortlist.models.recall.item_cf import ItemCF
from shortlist.schema import Catalogue, Schema


def main(pairs: Path, keep: int, out: Path) -> None:
    users, items = np.load(pairs / "users.npy"), np.load(pairs / "items.npy")
    n = len(users)
    none = np.broadcast_to(np.int16(0), n), np.broadcast_to(np.float32(np.nan), n)
    log = Interactions(users, items, np.broadcast_to(np.int64(0), n), *none)
    model = ItemCF(ItemCF.Config(weights="binary", keep=keep, cap=None), Schema.parse({}))
    start = time.perf_counter()
    model.solve(Interactions.of(np.zeros(2, dtype=np.int64), np.arange(2)), Catalogue.empty(), 0)
    loaded = time.perf_counter()
    before = resident_mb()
    lists = model.solve(log, Catalogue.empty(), 0)
    end = time.perf_counter()
    seconds = {"seconds": end - loaded, "fit_seconds": end - loaded, "load_seconds": loaded - start}
    print(json.dumps({**seconds, "peak_mb": peak_mb(), "loaded_mb": before}))
    np.savez(out, owners=np.repeat(lists.keys, np.diff(lists.offsets)), items=lists.items, scores=lists.scores)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
