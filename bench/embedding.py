"""What each way of keeping embedding tables costs and brings: DeepFM on generated clicks whose best AUC is known.

    python -m bench.embedding --seeds 0 1 2

A click is drawn with a probability that the generator knows: `bayes` is the AUC of that probability on the test rows,
which no model can beat but by luck. Rows per id are skewed, most ids are rare. Each line trains one model on the same
rows, chooses its epoch on validation rows and is told on test rows; the mean over seeds and half the spread behind it.
`dense` rules move every row at every step, lazy and row-wise ones the rows of the batch alone. Rates are rows a second
of processor time.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.report import origin, peak_mb, table, write
from shortlist.batch import Batch, Columns, Layout, Side, Tables
from shortlist.dataset.loader import Loader
from shortlist.metrics.ctr import auc
from shortlist.models.blocks.embed import packed
from shortlist.models.rank.deepfm import DeepFM
from shortlist.training.loop import Loop, train
from shortlist.training.objectives.bce import Bce

COLUMNS, DENSE, TASK = 8, 4, "click"
EVERY = 1 << 40  # more numbers than a table has: its gradient is dense
Rule = Literal["adam", "adagrad"]
LINES: dict[str, tuple[Rule, Tables]] = {
    "adam, dense": ("adam", Tables(sparse_above=EVERY)),
    "adam, lazy": ("adam", Tables(sparse_above=0)),
    "adagrad, dense": ("adagrad", Tables(sparse_above=EVERY)),
    "adagrad, row-wise": ("adagrad", Tables(sparse_above=0)),
    "hashed by 2 to a tenth": ("adam", Tables(sparse_above=0, hash_above=0)),
    "hashed by 1 to a tenth": ("adam", Tables(sparse_above=0, hash_above=0, hashes=1)),
    "widths mixed": ("adam", Tables(sparse_above=0, widths="mixed", least=2)),
    "admitted from 3 on": ("adam", Tables(sparse_above=0, admit=3)),
    "served as int8": ("adam", Tables(sparse_above=0, serve="int8")),
}


@dataclass(frozen=True)
class Clicks:
    """Rows of a click log and the logits they were drawn from."""

    sizes: tuple[int, ...]
    sparse: NDArray[np.int64]
    dense: NDArray[np.float32]
    logits: NDArray[np.float64]
    labels: NDArray[np.float32]

    @classmethod
    def drawn(cls, rows: int, ids: int, rng: np.random.Generator) -> "Clicks":
        """An id adds an effect of its own, two columns an interaction of rank 4, a number its value."""
        shape = np.geomspace(20, ids / 2, COLUMNS)
        sizes = tuple(int(size) for size in np.maximum(20, shape * ids / shape.sum()))
        sparse = np.stack([(2 + (size - 2) * rng.random(rows) ** 4).astype(np.int64) for size in sizes], axis=1)
        dense = rng.normal(size=(rows, DENSE)).astype(np.float32)
        logits = dense @ np.array([0.5, -0.5, 0.25, 0.0]) - 1.5
        for n, size in enumerate(sizes):
            logits += 0.4 * rng.normal(size=size)[sparse[:, n]]
        left, right = (rng.normal(size=(sizes[n], 4))[sparse[:, n]] for n in (COLUMNS // 2, COLUMNS // 2 + 1))
        logits += 0.4 * (left * right).sum(axis=1)
        labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
        return cls(sizes, sparse, dense, logits, labels)

    def part(self, low: int, high: int) -> "Clicks":
        some = slice(low, high)
        return Clicks(self.sizes, self.sparse[some], self.dense[some], self.logits[some], self.labels[some])

    def layout(self, tables: Tables) -> Layout:
        row = Side({f"s{n}": f"s{n}" for n in range(COLUMNS)}, tuple(f"d{n}" for n in range(DENSE)))
        return Layout(Side(), row, {f"s{n}": size for n, size in enumerate(self.sizes)}, (TASK,), tables)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        names = tuple(f"s{n}" for n in range(COLUMNS)), tuple(f"d{n}" for n in range(DENSE))
        columns = Columns(torch.from_numpy(self.sparse[rows]), torch.from_numpy(self.dense[rows]), *names)
        made = Batch.of(Columns.of(1), columns, np.zeros(len(rows), dtype=np.int64))
        return replace(made, tasks=(TASK,), labels=torch.from_numpy(self.labels[rows])[:, None])


def scored(model: Any, clicks: Clicks) -> NDArray[np.float64]:
    with torch.inference_mode():
        parts = [
            model(clicks.batch(np.arange(at, min(at + 8192, len(clicks)))))[TASK] for at in range(0, len(clicks), 8192)
        ]
    return torch.cat(parts).double().numpy()


def one(name: str, clicks: Clicks, seed: int, options: argparse.Namespace) -> Mapping[str, float]:
    """Train one line of the table."""
    rule, tables = LINES[name]
    if tables.hash_above is not None:
        tables = replace(tables, hash_above=max(20, max(clicks.sizes) // 10))
    held = options.rows // 6
    first, second = len(clicks) - 2 * held, len(clicks) - held
    learned, valid, test = clicks.part(0, first), clicks.part(first, second), clicks.part(second, len(clicks))
    torch.manual_seed(seed)
    model = DeepFM(DeepFM.Config(dim=8, hidden=(64, 32)), clicks.layout(tables))
    lr = {"adam": 1e-3, "adagrad": 1e-2}[rule]
    rules = Loop.Config(optimizer=rule, lr=lr, lr_embedding=options.lr.get(rule), epochs=options.epochs, device="cpu")
    speed = 0.0
    batches = Loader(learned, options.batch, seed, drop_last=True)
    for step in train(
        model, Bce(Bce.Config()), batches, rules,
        validate=lambda made: {"auc": auc(scored(made, valid), valid.labels)}, clock=time.process_time,
    ):  # fmt: skip
        speed = step.rows_per_second
    found = auc(scored(model, test), test.labels)
    embed = model.embed
    stored = sum(value.numel() * value.element_size() for value in embed.state_dict().values())
    lost = 0.0
    if tables.serve == "int8":
        whole, layout = model.state_dict(), replace(clicks.layout(tables), packed=True)
        served = DeepFM(DeepFM.Config(dim=8, hidden=(64, 32)), layout).eval()
        whole["embed.table.bytes"], whole["embed.table.scale"] = packed(whole.pop("embed.table.weight"))
        served.load_state_dict(whole)
        before, after = scored(model, test), scored(served, test)
        lost, found = float(np.abs(before - after).max()), auc(after, test.labels)
        stored = sum(value.numel() * value.element_size() for value in served.embed.state_dict().values())
    return {
        "auc": found, "below bayes": auc(test.logits, test.labels) - found, "rows/cpu s": speed, "MB": stored / 1e6,
        "largest logit": lost,
    }  # fmt: skip


def lines(options: argparse.Namespace) -> Iterator[Mapping[str, Any]]:
    drawn = {seed: Clicks.drawn(options.rows, options.ids, np.random.default_rng(seed)) for seed in options.seeds}
    for name in options.only or LINES:
        found = [one(name, clicks, seed, options) for seed, clicks in drawn.items()]
        means: dict[str, Any] = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
        line = {"tables": name, **means, "auc +-": float(np.ptp([f["auc"] for f in found])) / 2}
        print(f"{name}: {line['auc']:.4f}", file=sys.stderr, flush=True)
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=360_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(LINES))
    parser.add_argument("--lr-adam", type=float)
    parser.add_argument("--lr-adagrad", type=float)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.lr = {"adam": options.lr_adam, "adagrad": options.lr_adagrad}
    torch.set_num_threads(options.threads)
    found = list(lines(options))
    print(table(found))
    print(f"{options.threads} threads, peak memory {peak_mb():.0f} MiB")
    write(options.out, {"lines": found, "origin": origin(**vars(options) | {"out": ""})})


if __name__ == "__main__":
    main()
