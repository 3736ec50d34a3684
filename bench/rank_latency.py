"""Milliseconds of one request's ranking on one thread: 500 candidates of 40 fields and 50 behaviours, 2,000 for the
coarse ranker, whose items are kept; by model and runtime, p50 and p99, runtimes in turns.

    python -m bench.rank_latency [--only din mmoe] [--rounds 200] [--runtimes torch onnx aot] [--out F.json]

Batches are random and of their full length; models are as configured by default. Goals (p50 of the best runtime):
DeepFM 5 ms, DIN 15, MMoE over DIN 20, the coarse ranker 5. `cpu ms` is the p50 of the process's own time: what p50 is
on a machine that has nothing else to do.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.report import origin, table, write
from shortlist.batch import Batch, Layout, Side
from shortlist.models import runtimes
from shortlist.models.coarse.three_tower import ThreeTower
from shortlist.models.learned import Learned
from shortlist.models.rank.deepfm import DeepFM
from shortlist.models.rank.din import DIN
from shortlist.models.rank.dnn import DNN
from shortlist.models.rank.lambdamart import LambdaMART
from shortlist.models.rank.lr import LR
from shortlist.models.tabular import Tabular

STEPS, CANDIDATES, MANY = 50, 500, 2_000
# 12 + 2 ids, 4 numbers and the history's 4 channels of a request; 9 ids, 8 numbers and a list of a candidate: 40
LAYOUT = Layout(
    request=Side(
        sparse={
            "user.id": "user.id", **{f"user.{n}": f"user.{n}" for n in range(11)}, "context.0": "c0", "context.1": "c1",
        },
        dense=tuple(f"live.user.{n}" for n in range(4)),
        groups={"history": {"item": "item.id", "action": "action", "age": "age", "item.category": "category"}},
    ),
    row=Side(
        sparse={"item.id": "item.id", "item.category": "category", **{f"item.{n}": f"item.{n}" for n in range(7)}},
        dense=(*(f"live.item.{n}" for n in range(4)), "recall.a", "recall_score.a", "recall.b", "recall_score.b"),
        groups={"item.tags": {"value": "tag"}},
    ),
    vocabularies={
        "user.id": 100_000, **{f"user.{n}": 50 for n in range(11)}, "c0": 10, "c1": 24,
        "item.id": 50_000, "category": 200, **{f"item.{n}": 100 for n in range(7)}, "action": 6, "age": 12, "tag": 1000,
    },
    tasks=("click", "like"),
)  # fmt: skip
GOALS = {"deepfm": 5.0, "din": 15.0, "mmoe over din": 20.0, "three_tower": 5.0}
MMOE = {"use": "mmoe"}
MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "deepfm": lambda: DeepFM(DeepFM.Config(), LAYOUT),
    "dnn": lambda: DNN(DNN.Config(), LAYOUT),
    "din": lambda: DIN(DIN.Config(), LAYOUT),
    "mmoe over din": lambda: DIN(DIN.Config(heads=MMOE), LAYOUT),
    "three_tower": lambda: ThreeTower(ThreeTower.Config(), LAYOUT),
    "lr": lambda: Tabular(fitted(LR(LR.Config(), LAYOUT))),
    "lambdamart": lambda: Tabular(fitted(LambdaMART(LambdaMART.Config(trees=200, patience=200), LAYOUT))),
}


class Drawn:
    """Random batches with labels, the same each time they are asked for."""

    def __init__(self, seed: int, batches: int = 20) -> None:
        self.seed, self.batches = seed, batches

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng(self.seed)
        for _ in range(self.batches):
            made = runtimes.example(LAYOUT, 10, 500, rng, STEPS)
            labels = torch.from_numpy(rng.integers(0, 2, (500, len(LAYOUT.tasks))).astype(np.float32))
            yield replace(made, tasks=LAYOUT.tasks, labels=labels, valid=torch.ones_like(labels, dtype=torch.bool))


def fitted(ranker: Any) -> Any:
    """A table ranker that has learned from noise: as large as one that has learned something."""
    ranker.fit(Drawn(0), Drawn(1, 4), seed=0, threads=1)
    return ranker


def engines(learned: Learned, wanted: list[str], folder: Path) -> tuple[dict[str, runtimes.Runtime], dict[str, str]]:
    """Runtimes of a ranker that can be had here and agree with torch, and why the others cannot."""
    out: dict[str, runtimes.Runtime] = {"torch": runtimes.Eager(learned.model)}
    missing: dict[str, str] = {}
    for name in wanted if not isinstance(learned.model, Tabular) else ():
        try:
            if name == "onnx":
                out[name] = runtimes.tested(learned, runtimes.Onnx(runtimes.graph(learned), LAYOUT))
            elif name == "aot":
                runtimes.library(learned, folder / "compiled" / "model.pt2")
                out[name] = runtimes.tested(learned, runtimes.Aot(folder / "compiled" / "model.pt2", LAYOUT))
        except runtimes.NotOfferedError as error:
            missing[name] = str(error)
    return out, missing


def measured(name: str, rounds: int, wanted: list[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A line for each runtime."""
    torch.manual_seed(0)
    assembler: Any = None  # the batches are there
    learned = Learned(MODELS[name]().eval(), assembler, LAYOUT)
    many = MANY if name == "three_tower" else CANDIDATES
    rng = np.random.default_rng(0)
    batch = runtimes.example(LAYOUT, 1, many, rng, STEPS)
    for columns in (batch.request, batch.row):
        for group in columns.groups.values():
            group.length.fill_(STEPS if group is batch.request.groups.get("history") else 5)
    kept: Tensor | None = None
    with torch.inference_mode():
        if hasattr(learned.model, "item"):
            kept = learned.model.item(batch.row).contiguous()
            learned = replace(learned, items=kept)
    with tempfile.TemporaryDirectory() as folder:
        found, missing = engines(learned, wanted, Path(folder))
        took: dict[str, list[tuple[float, float]]] = {engine: [] for engine in found}
        with torch.inference_mode():
            for turn in range(rounds + 10):
                for engine in rng.permutation(list(found)).tolist():
                    started = time.perf_counter(), time.process_time()
                    found[engine](batch, kept)
                    ended = time.perf_counter(), time.process_time()
                    if turn >= 10:
                        took[engine].append((1000 * (ended[0] - started[0]), 1000 * (ended[1] - started[1])))
    rows = []
    for engine, times in took.items():
        wall, own = np.array(times).T
        p50, p99 = np.percentile(wall, [50, 99])
        rows.append({
            "model": name, "candidates": many, "runtime": engine,
            "p50 ms": float(p50), "p99 ms": float(p99), "cpu ms": float(np.median(own)),
            "goal ms": GOALS.get(name, ""),
        })  # fmt: skip
    return rows, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS), metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--runtimes", nargs="*", choices=["onnx", "aot"], default=["onnx", "aot"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in options.only:
        found, missing = measured(name, options.rounds, options.runtimes)
        rows += found
        print(table(found), flush=True)
        for engine, why in missing.items():
            print(f"{name}: no {engine}: {why}")
    words = origin(command="python -m bench.rank_latency", rounds=options.rounds, load=os.getloadavg()[0], threads=1)
    write(options.out, {"rows": rows, **words})


if __name__ == "__main__":
    main()
