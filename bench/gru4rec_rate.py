"""How fast GRU4Rec learns: targets (steps that predict the next item) a second, on a generated log.

    python -m bench.gru4rec_rate [--events 1000000] [--threads 1] [--seed 0] [--out result.json]

Every step of every sequence, cut to its last 50, against items drawn for the whole batch, with logQ. The whole loop is
timed: gathering, padding, the step, the update. By the clock, and by the CPU's own (all threads together), which other
work on the machine disturbs less. Goal: at least 30,000 targets/s.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from bench.gru4rec_beauty import rows_of
from bench.report import origin, peak_mb, table, write
from shortlist.dataset.loader import Loader
from shortlist.dataset.sequences import Sequences
from shortlist.models.recall.gru4rec import GRU4Rec
from shortlist.simulation.toy import Toy
from shortlist.training.loop import Loop, train
from shortlist.training.objectives.softmax import Softmax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--drawn", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    log = Toy.draw(args.users, args.items, args.events, args.seed).interactions
    sequences = Sequences.lists(np.split(log.items, log.offsets[1:-1]))
    targets = int(sequences.counts.sum())
    model = GRU4Rec(GRU4Rec.Config(dim=args.dim), sequences.layout)
    config = Softmax.Config(negatives="sampled", n=args.drawn, beta=0.5, seed=args.seed)
    objective = Softmax(config, model.metric, counts=sequences.counts, catalogue=rows_of)
    batches = Loader(sequences, args.batch, args.seed)
    rows, losses = [], 0.0
    clocks = time.perf_counter(), time.process_time()
    for step in train(model, objective, batches, Loop.Config(lr=4e-3, epochs=args.epochs, seed=args.seed)):
        losses += step.loss
        if step.step % len(batches) == 0:
            now = time.perf_counter(), time.process_time()
            rates = [targets / (b - a) for a, b in zip(clocks, now, strict=True)]
            row = {"epoch": step.epoch, "targets": targets, "targets/s": rates[0], "targets/CPU s": rates[1]}
            rows.append({**row, "loss": losses / len(batches), "peak MB": peak_mb()})
            clocks, losses = now, 0.0
    print(table(rows))
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    recipe = origin(command="python -m bench.gru4rec_rate", torch=torch.__version__, **settings)
    write(args.out, {"origin": recipe, "rows": rows})


if __name__ == "__main__":
    main()
