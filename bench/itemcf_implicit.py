"""One timed fit of implicit's CosineRecommender for `bench.itemcf`: PAIRS KEEP OUT -> one line of JSON.

Runs under an interpreter that has implicit, so it imports nothing of this project. The clock of `fit_seconds`
starts at the finished matrix, the best case for it; `seconds` includes making the matrix from the pairs.
"""

import json
import os
import resource
import sys
import time

import numpy as np
from implicit.nearest_neighbours import CosineRecommender
from scipy import sparse


def main(pairs: str, keep: int, out: str) -> None:
    users, items = np.load(f"{pairs}/users.npy"), np.load(f"{pairs}/items.npy")
    with open("/proc/self/statm", encoding="ascii") as file:
        before = int(file.read().split()[1]) * resource.getpagesize() / 2**20
    start = time.perf_counter()
    x = sparse.csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)))
    x.data[:] = 1  # building from pairs has summed the repeats
    del users, items
    fit = time.perf_counter()
    # it counts an item among its own neighbours
    model = CosineRecommender(K=keep + 1, num_threads=len(os.sched_getaffinity(0)))
    model.fit(x, show_progress=False)
    end = time.perf_counter()
    # not getrusage, which keeps what the parent held before exec
    with open("/proc/self/status", encoding="ascii") as file:
        peak = int(file.read().split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"seconds": end - start, "fit_seconds": end - fit, "peak_mb": peak, "loaded_mb": before}))
    lists = model.similarity.tocoo()
    other = lists.row != lists.col
    np.savez(out, owners=lists.row[other], items=lists.col[other], scores=lists.data[other])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
