"""What runs a ranker fastest: forward passes of one request in torch, ONNX Runtime and AOTInductor, and what each costs
to make and to load.

    python -m bench.runtimes --candidates 500 --history 50
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shortlist.batch import Layout, Side
from shortlist.models import runtimes
from shortlist.models.coarse.three_tower import ThreeTower
from shortlist.models.learned import Learned
from shortlist.models.rank.deepfm import DeepFM
from shortlist.models.rank.din import DIN

LAYOUT = Layout(
    request=Side(
        sparse={"user.id": "user.id", "user.city": "place"},
        groups={"history": {"item": "item.id", "action": "action", "age": "age", "item.category": "category"}},
    ),
    row=Side(
        sparse={"item.id": "item.id", "item.category": "category"},
        dense=("item.price", "recall.similar", "recall_score.similar", "recall.hot", "recall_score.hot"),
        groups={"item.tags": {"value": "tag"}},
    ),
    vocabularies={
        "user.id": 10_000,
        "place": 50,
        "item.id": 10_000,
        "action": 6,
        "age": 12,
        "category": 40,
        "tag": 200,
    },
    tasks=("click",),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    made: tuple[tuple[str, Callable[[], nn.Module]], ...] = (
        ("deepfm", lambda: DeepFM(DeepFM.Config(), LAYOUT)),
        ("din", lambda: DIN(DIN.Config(), LAYOUT)),
        ("din, width 8", lambda: DIN(DIN.Config(dim=8, hidden=(64, 32)), LAYOUT)),
        ("three_tower", lambda: ThreeTower(ThreeTower.Config(), LAYOUT)),
    )
    assembler: Any = None  # the batches are random
    for name, model in made:
        report(name, Learned(model().eval(), assembler, LAYOUT), options)


def report(name: str, learned: Learned, options: argparse.Namespace) -> None:
    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        started = time.perf_counter()
        done = work()
        return time.perf_counter() - started, done

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "compiled" / "model.pt2"
        export_s, content = timed(lambda: runtimes.graph(learned))
        compile_s, _ = timed(lambda: runtimes.library(learned, place))
        onnx_s, onnx = timed(lambda: runtimes.Onnx(content, LAYOUT))
        aot_s, aot = timed(lambda: runtimes.Aot(place, LAYOUT))
        size = place.stat().st_size
    engines: dict[str, runtimes.Runtime] = {"torch": runtimes.Eager(learned.model), "onnx": onnx, "aot": aot}
    rng = np.random.default_rng(0)
    test_s, _ = timed(lambda: runtimes.difference(learned, onnx, rng))
    batch = runtimes.example(LAYOUT, 1, options.candidates, rng, options.history)
    batch.request.groups["history"].length.fill_(options.history)
    took: dict[str, list[float]] = {engine: [] for engine in engines}
    with torch.inference_mode():
        for turn in range(options.rounds + 5):
            for engine in rng.permutation(list(engines)).tolist():
                seconds, _ = timed(lambda run=engines[engine]: run(batch))  # type: ignore[misc]
                if turn >= 5:
                    took[engine].append(1000 * seconds)
    for engine, times in took.items():
        low, high = np.quantile(times, [0.1, 0.9])
        print(f"{name:14} {engine:6} p50 {statistics.median(times):7.2f} ms, 10-90% {low:.2f}-{high:.2f}")
    print(f"{name:14} made in: onnx {export_s:.1f} s, aot {compile_s:.1f} s; bytes: {len(content):,} and {size:,}")
    print(f"{name:14} loaded in: onnx {1000 * onnx_s:.0f} ms, aot {1000 * aot_s:.0f} ms; test {1000 * test_s:.0f} ms")


if __name__ == "__main__":
    main()
