"""Rows a second of DeepFM in training: 1M ids, 26 sparse and 13 dense generated columns, batches of 4096.

    python -m bench.deepfm_rate --threads 2

One line per part of a step, from a batch that is already there, then with the loader, then the whole loop with its
checks. The table has a sparse gradient, so that rules touch the rows of the batch alone; in the last line of a rule it
is dense and they touch all of them. On a machine with other work read the rows a second of processor time. The goal is
30,000 rows a second end to end.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.report import origin, peak_mb, table, write
from shortlist.batch import Batch, Columns, Layout, Side, Tables
from shortlist.dataset.loader import Loader
from shortlist.models.rank.deepfm import DeepFM
from shortlist.training.loop import Loop, train
from shortlist.training.loss import Objective
from shortlist.training.objectives.bce import Bce
from shortlist.training.optimizers import Optimizer, build

SPARSE, DENSE, TASK = 26, 13, "click"
SWITCHES: tuple[tuple[Literal["float32", "bf16"], bool], ...] = (
    ("float32", False), ("bf16", False), ("float32", True), ("bf16", True),
)  # fmt: skip
RULES: tuple[Literal["adagrad", "adam"], ...] = ("adagrad", "adam")


class Generated:
    """Rows of a click log: ids of skewed frequency, `ids` of them in all columns together; labels that follow some."""

    def __init__(self, rows: int, ids: int, rng: np.random.Generator) -> None:
        self.sizes = sizes(ids)
        self.sparse = np.empty((rows, SPARSE), dtype=np.int64)
        for n, size in enumerate(self.sizes):
            self.sparse[:, n] = 1 + (size - 1) * rng.random(rows) ** 3
        self.dense = rng.normal(size=(rows, DENSE)).astype(np.float32)
        logit = self.dense[:, 0] + (self.sparse[:, 0] % 2) - 2
        self.labels = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)[:, None]

    def __len__(self) -> int:
        return len(self.sparse)

    def layout(self) -> Layout:
        row = Side({f"s{n}": f"s{n}" for n in range(SPARSE)}, tuple(f"d{n}" for n in range(DENSE)))
        return Layout(Side(), row, {f"s{n}": size for n, size in enumerate(self.sizes)}, (TASK,))

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        sparse, dense = torch.from_numpy(self.sparse[rows]), torch.from_numpy(self.dense[rows])
        names = tuple(f"s{n}" for n in range(SPARSE)), tuple(f"d{n}" for n in range(DENSE))
        made = Batch.of(Columns.of(1), Columns(sparse, dense, *names), np.zeros(len(rows), dtype=np.int64))
        return replace(made, tasks=(TASK,), labels=torch.from_numpy(self.labels[rows]))


def sizes(ids: int) -> list[int]:
    """Vocabularies from 10 ids to a quarter of all, evenly on a logarithm, `ids` together."""
    shape = np.geomspace(10, ids / 4, SPARSE)
    found = np.maximum(10, shape * ids / shape.sum()).astype(int)
    found[-1] += ids - found.sum()
    return [int(size) for size in found]


def timed(step: Callable[[], object], rows: int, steps: int) -> dict[str, float]:
    """Rows a second and milliseconds of the median step, rows of the fastest, and rows a second of processor time."""
    for _ in range(5):
        step()
    seconds, busy = [], time.process_time()
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    busy, middle = time.process_time() - busy, float(np.median(seconds))
    return {
        "rows/s": rows / middle,
        "ms": middle * 1e3,
        "fastest rows/s": rows / min(seconds),
        "rows/cpu s": rows * steps / busy,
    }


def forward(model: DeepFM, given: Iterator[Batch]) -> None:
    with torch.no_grad():
        model(next(given))


def look_up(model: DeepFM, given: Iterator[Batch]) -> None:
    with torch.no_grad():
        model.row(model.embed, next(given).row)


def backward(model: DeepFM, objective: Objective, given: Iterator[Batch]) -> None:
    model.zero_grad()
    objective(model, next(given)).loss.backward()


def update(model: DeepFM, objective: Objective, optimizer: Optimizer, given: Iterator[Batch]) -> None:
    optimizer.zero_grad()
    objective(model, next(given)).loss.backward()
    if optimizer.step() is not None:
        raise SystemExit("a gradient is not finite")


def measure(source: Generated, config: DeepFM.Config, options: argparse.Namespace) -> Iterator[Mapping[str, Any]]:
    """One line per part; what updates has a model of its own."""
    rows, objective = options.batch, Bce(Bce.Config())
    order = np.random.default_rng(options.seed).permutation(len(source))
    given = cycle([source.batch(order[n * rows : (n + 1) * rows]) for n in range(8)])

    def fresh() -> DeepFM:
        torch.manual_seed(options.seed)
        return DeepFM(config, source.layout()).train()

    def dense() -> DeepFM:
        torch.manual_seed(options.seed)
        return DeepFM(config, replace(source.layout(), tables=Tables(sparse_above=1 << 40))).train()

    def loader() -> Loader:
        return Loader(source, rows, options.seed, drop_last=True)

    def line(part: str, work: Callable[..., object], *given: Any) -> Mapping[str, Any]:
        return {"part": part, **timed(partial(work, *given), rows, options.steps)}

    model = fresh()
    yield line("gather a batch", source.batch, order[:rows])
    yield line("look up", look_up, model, given)
    yield line("forward", forward, model, given)
    yield line("forward and backward", backward, model, objective, given)
    for rule in RULES:
        rules = Loop.Config(optimizer=rule, epochs=1, seed=options.seed, device="cpu")
        for part, batches in (("given batches", given), ("loader", iter(loader()))):
            learner = fresh()
            yield line(f"{rule}, {part}", update, learner, objective, build(learner, rules), batches)
        yield line(f"{rule}, the whole loop", next, train(fresh(), objective, loader(), rules))
        yield line(f"{rule}, all rows of the table", next, train(dense(), objective, loader(), rules))
    for precision, compiled in SWITCHES if options.switches else ():
        rules = Loop.Config(epochs=1, seed=options.seed, device="cpu", precision=precision, compile=compiled)
        part = f"adam, {precision}{', compiled' if compiled else ''}"
        yield line(part, next, train(fresh(), objective, loader(), rules))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--switches", action="store_true", help="bf16 and torch.compile too, which takes a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = Generated(options.rows, options.ids, np.random.default_rng(options.seed))
    config = DeepFM.Config(dim=options.dim, hidden=(256, 128, 64))
    lines = list(measure(source, config, options))
    print(table(lines))
    print(f"{options.threads} threads, peak memory {peak_mb():.0f} MiB")
    write(options.out, {"lines": lines, "peak_mb": peak_mb(), "origin": origin(**vars(options) | {"out": ""})})


if __name__ == "__main__":
    main()
