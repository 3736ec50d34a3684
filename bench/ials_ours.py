"""One timed fit of iALS for `bench.ials_peer`, in a process of its own: PAIRS DIM EPOCHS SOLVER OUT -> a line of JSON.

The half-steps are those of `IALS.solve`, on one thread; SOLVER is `exact` or `cg`, of three steps. The first iteration,
which loads what is loaded on first use, is not counted. OUT gets the users' vectors for those of the items in
PAIRS/start.npy, solved exactly.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import peak_mb
from shortlist.dataset.interactions import Interactions
from shortlist.models.recall.ials import IALS, half_step, start


def main(pairs: Path, dim: int, epochs: int, solver: Any, out: Path) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one thread
    log = Interactions.of(np.load(pairs / "users.npy"), np.load(pairs / "items.npy"))
    config = IALS.Config(dim=dim, lam=2.1, nu=0.0, solver=solver)
    x_UI, q_ID = log.matrix, start(len(log.item_keys), config)
    x_IU, p_UD = x_UI.T.tocsr(), None
    del log
    cpu, clock = [], []
    for _ in range(epochs + 1):
        cpu.append(time.process_time())
        clock.append(time.perf_counter())
        p_UD = half_step(x_UI, q_ID, config, p_UD)
        q_ID = half_step(x_IU, p_UD, config, q_ID)
    cpu.append(time.process_time())
    clock.append(time.perf_counter())
    seconds = {"cpu": np.diff(cpu)[1:].tolist(), "clock": np.diff(clock)[1:].tolist()}
    print(json.dumps({**seconds, "peak_mb": peak_mb(), "load": os.getloadavg()[0]}))
    np.save(out, half_step(x_UI, np.load(pairs / "start.npy"), replace(config, solver="exact")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
