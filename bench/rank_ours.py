"""One run of ours for `bench.rank_speed`, on the same columns: prints one JSON line.

    python -m bench.rank_ours FOLDER RULE MODEL ROWS BATCH DIM THREADS SEED

RULE is `adagrad` or `lazy_adam` (row-sparse gradients of the table) or `dense_adam` (every row of the table, each
step, as the peers do). The whole loop of `training/loop.py`, its checks and its loader included; MODEL, ROWS and what
is printed are as in `bench/rank_peer.py`.
"""

import json
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.rank_peer import CROSSES, HIDDEN
from shortlist.batch import Batch, Columns, Layout, Side, Tables
from shortlist.dataset.loader import Loader
from shortlist.metrics.ctr import auc
from shortlist.models.rank.dcn_v2 import DCNv2
from shortlist.models.rank.deepfm import DeepFM
from shortlist.training.loop import Loop, train
from shortlist.training.objectives.bce import Bce

RULES = {"adagrad": ("adagrad", 0.01), "lazy_adam": ("adam", 1e-3), "dense_adam": ("adam", 1e-3)}
DENSE = 1 << 40  # no table is above it: all gradients are dense
TASK = "click"


class Part:
    """The columns of a part as a source of batches."""

    def __init__(self, folder: Path, part: str, rows: int) -> None:
        self.sparse = torch.from_numpy(np.load(folder / f"{part}_sparse.npy")[:rows] + 2)  # values begin at 2
        self.dense = torch.from_numpy(np.load(folder / f"{part}_dense.npy")[:rows])
        self.labels = torch.from_numpy(np.load(folder / f"{part}_labels.npy")[:rows, None])
        self.names = names(self.sparse.shape[1], self.dense.shape[1])

    def __len__(self) -> int:
        return len(self.sparse)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        index = torch.from_numpy(rows)
        row = Columns(self.sparse[index], self.dense[index], *self.names)
        made = Batch.of(Columns.of(1), row, np.zeros(len(rows), dtype=np.int64))
        return replace(made, tasks=(TASK,), labels=self.labels[index])


def names(sparse: int, dense: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(f"s{n}" for n in range(sparse)), tuple(f"d{n}" for n in range(dense))


def main() -> None:
    folder, rule, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    rows, batch, dim, threads, seed = map(int, sys.argv[4:9])
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    learned_on, test = Part(folder, "train", rows), Part(folder, "test", rows)
    sizes = [int(size) + 2 for size in np.load(folder / "sizes.npy")]
    sparse, dense = learned_on.names
    side = Side(dict(zip(sparse, sparse, strict=True)), dense)
    tables = Tables(sparse_above=DENSE if rule == "dense_adam" else 0)
    layout = Layout(Side(), side, dict(zip(sparse, sizes, strict=True)), (TASK,), tables)
    model: DeepFM | DCNv2
    if name == "deepfm":
        model = DeepFM(DeepFM.Config(dim=dim, hidden=tuple(HIDDEN)), layout)
    else:
        model = DCNv2(DCNv2.Config(dim=dim, layers=CROSSES, hidden=tuple(HIDDEN)), layout)
    optimizer, lr = RULES[rule]
    config = Loop.Config(optimizer=optimizer, lr=lr, epochs=1, seed=seed, device="cpu")  # type: ignore[arg-type]
    steps = train(model, Bce(Bce.Config()), Loader(learned_on, batch, seed), config)
    start, busy = time.perf_counter(), time.process_time()
    deque(steps, maxlen=0)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    start, worked = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        blocks = np.array_split(np.arange(len(test)), -(-len(test) // batch))
        z = torch.cat([model(test.batch(index))[TASK] for index in blocks]).numpy()
    inference, worked = time.perf_counter() - start, time.process_time() - worked
    speed = {"rows/s": rows / seconds, "rows/cpu s": rows / busy}
    speed |= {"inference rows/s": len(test) / inference, "inference rows/cpu s": len(test) / worked}
    print(json.dumps({"auc": auc(z, test.labels[:, 0].numpy()), **speed}))


if __name__ == "__main__":
    main()
