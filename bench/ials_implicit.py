"""One timed fit of implicit's AlternatingLeastSquares for `bench.ials_peer`: PAIRS DIM EPOCHS SOLVER OUT -> a line of
JSON.

Runs under an interpreter that has implicit, so it imports nothing of this project. SOLVER is `cg` (its default, three
steps of conjugate gradient from the vectors of the round before) or `cholesky` (exact). Confidence is chosen so that
an exact half-step with alpha0 0.3 and a penalty of 2.1 differs from ours by a factor alone; OUT gets the one of the
users from the vectors in PAIRS/start.npy, without that factor.
"""

import json
import os
import sys
import time

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse

ALPHA0, PENALTY = 0.3, 2.1


def main(pairs: str, dim: int, epochs: int, solver: str, out: str) -> None:
    users, items = np.load(f"{pairs}/users.npy"), np.load(f"{pairs}/items.npy")
    x = sparse.csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)))
    x.data[:] = 1  # building from pairs has summed the repeats
    del users, items
    model = AlternatingLeastSquares(
        dim,
        PENALTY / ALPHA0,
        1 + 1 / ALPHA0,
        use_cg=solver == "cg",
        iterations=epochs + 1,
        num_threads=1,
        random_state=0,
    )
    cpu, clock, at = [], [], [time.process_time(), time.perf_counter()]

    def done(*_: object) -> None:
        now = [time.process_time(), time.perf_counter()]
        cpu.append(now[0] - at[0])
        clock.append(now[1] - at[1])
        at[:] = now

    model.fit(x, show_progress=False, callback=done)
    with open("/proc/self/status", encoding="ascii") as file:  # not getrusage, which keeps what the parent held
        peak = int(file.read().split("VmHWM:")[1].split()[0]) / 1024
    # the first iteration, which turned the matrix round, warms up
    print(json.dumps({"cpu": cpu[1:], "clock": clock[1:], "peak_mb": peak, "load": os.getloadavg()[0]}))
    if solver == "cholesky":
        model.item_factors, model._YtY = np.load(f"{pairs}/start.npy"), None
        np.save(out, model.recalculate_user(np.arange(x.shape[0]), x) / (1 + ALPHA0))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
