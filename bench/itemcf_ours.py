"""One timed fit of ItemCF for `bench.itemcf`, in a process of its own: PAIRS WEIGHTS OUT -> one line of JSON.

PAIRS holds users.npy and items.npy [E] in order of user; the fit starts at the log, not at a matrix.
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
    before = resident_mb()
    start = time.perf_counter()
    lists = ItemCF(ItemCF.Config(weights="binary", keep=keep, last=None), Schema.parse({})).solve(
        log, Catalogue.empty(), 0
    )
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "loaded_mb": before}))
    np.savez(out, owners=np.repeat(lists.keys, np.diff(lists.offsets)), items=lists.items, scores=lists.scores)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
