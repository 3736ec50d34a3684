"""One timed fit of iALS for `bench.ials_peer`, in a process of its own: PAIRS DIM EPOCHS OUT -> a line of JSON.

The half-steps are those of `IALS.solve`, on one thread. The first iteration, which loads what is loaded on first use,
is not counted. OUT gets the users' vectors for those of the items in PAIRS/start.npy.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from bench.report import peak_mb
from shortlist.dataset.interactions import Interactions
from shortlist.models.recall.ials import IALS, half_step, start


def main(pairs: Path, dim: int, epochs: int, out: Path) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one thread
    log = Interactions.of(np.load(pairs / "users.npy"), np.load(pairs / "items.npy"))
    config = IALS.Config(dim=dim, lam=2.1, nu=0.0)
    x_UI, q_ID = log.matrix, start(len(log.item_keys), config)
    x_IU = x_UI.T.tocsr()
    del log
    cpu, clock = [], []
    for _ in range(epochs + 1):
        cpu.append(time.process_time())
        clock.append(time.perf_counter())
        q_ID = half_step(x_IU, half_step(x_UI, q_ID, config), config)
    cpu.append(time.process_time())
    clock.append(time.perf_counter())
    seconds = {"cpu": np.diff(cpu)[1:].tolist(), "clock": np.diff(clock)[1:].tolist()}
    print(json.dumps({**seconds, "peak_mb": peak_mb(), "load": os.getloadavg()[0]}))
    np.save(out, half_step(x_UI, np.load(pairs / "start.npy"), config))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
