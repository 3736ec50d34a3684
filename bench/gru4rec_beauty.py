"""GRU4Rec on Amazon Beauty (the S3-Rec sequences): Recall@10 and NDCG@10 among all items, in expectation over orders
of tied scores; what a user has taken stays in the ranking, as in the published figures.

    SHORTLIST_DATA=... python -m bench.gru4rec_beauty [--seed 0] [--threads 1] [--out result.json]

The last item of a user is the test, the one before it validation, the rest training, where every step predicts the
next by a softmax over all items. The weights of the highest validation Recall@10 + NDCG@10 are measured once on the
test. Goal: Recall@10 of at least 0.055.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.report import data_folder, origin, peak_mb, table, write
from shortlist.batch import Columns
from shortlist.dataset.loader import Loader
from shortlist.dataset.sequences import LeftOut, Sequences
from shortlist.metrics.expected import accuracy, positive_ranks
from shortlist.models.recall.gru4rec import GRU4Rec
from shortlist.schema import FIRST
from shortlist.training.loop import Loop, train
from shortlist.training.objectives.softmax import Softmax


def rows_of(ids: Tensor) -> Columns:
    """Row columns of catalogue items."""
    return Columns.of(len(ids), {"item.id": ids.numpy()})


def measure(model: GRU4Rec, left: LeftOut, items: int) -> dict[str, float]:
    """Recall@10 (of one wanted item: the hit rate), NDCG@10, and their sum."""
    model.eval()
    found: dict[str, list[NDArray[Any]]] = {}
    with torch.no_grad():
        table_ND = model.candidate(rows_of(torch.arange(FIRST, FIRST + items)))
        for at in range(0, len(left), 1024):
            rows = np.arange(at, min(at + 1024, len(left)))
            scores = (model.query(left.batch(rows).request) @ table_ND.T).numpy()
            place = (np.arange(len(rows)), left.answers[rows] - FIRST)
            own = scores[place]
            scores[place] = -np.inf
            ranks = positive_ranks(np.concatenate([own[:, None], scores], axis=1))
            for name, values in accuracy(ranks, (10,), ("hit_rate", "ndcg")).items():
                found.setdefault(name, []).append(values)
    means = {name: float(np.mean(np.concatenate(values))) for name, values in found.items()}
    return {**means, "sum": sum(means.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.4)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    lists = pl.read_parquet(data_folder() / "s3rec-sequences" / "Beauty.sequences.parquet")["item_seq"]
    sequences = Sequences.lists([row.to_numpy() for row in lists], length=50, hold=2)
    items = sequences.layout.vocabularies["item.id"] - FIRST
    model = GRU4Rec(GRU4Rec.Config(dim=args.dim, dropout=args.dropout), sequences.layout)
    config = Softmax.Config(negatives="full", seed=args.seed)
    objective = Softmax(config, model.metric, counts=sequences.counts, catalogue=rows_of)
    valid, test = sequences.left_out(2), sequences.left_out(1)
    run = train(
        model,
        objective,
        Loader(sequences, args.batch, args.seed),
        Loop.Config(lr=args.lr, epochs=args.epochs, patience=args.patience, metric="sum", seed=args.seed),
        validate=lambda trained: measure(trained, valid, items),
    )
    log: list[dict[str, Any]] = []
    started = time.perf_counter()
    for step in run:
        if step.metrics:
            seconds = time.perf_counter() - started
            log.append({"epoch": step.epoch, "loss": step.loss, "seconds": seconds, **step.metrics})
            print(log[-1], file=sys.stderr, flush=True)
    best = max(log, key=lambda row: float(row["sum"]))
    seconds = time.perf_counter() - started
    found = [{"epoch": best["epoch"], "seconds": seconds, "peak MB": peak_mb(), **measure(model, test, items)}]
    print("validation\n" + table(log))
    print("test\n" + table(found))
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    recipe = origin(command="python -m bench.gru4rec_beauty", torch=torch.__version__, **settings)
    write(args.out, {"origin": recipe, "validation": log, "test": found})


if __name__ == "__main__":
    main()
