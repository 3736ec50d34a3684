"""MF by logistic gradient steps under the NCF protocol on ml-1m: HR@10 and NDCG@10 among 100 candidates, in
expectation over orders of tied scores.

    SHORTLIST_DATA=... python -m bench.mf_ncf [--seed 0] [--dim 64] [--epochs 96 128 192 256] [--lr ...] [--reg ...]

As in `bench.ials_ncf`: the log has no times, so the step, the penalty and the number of epochs are chosen on a random
train item of each user, held out, among 99 random items the user lacks, by the sum of both metrics; then the whole
train set is fitted once and the published test file is scored once. `--out` is written after every setting, and a run
with the same arguments goes on where it was stopped. Goals: 0.725 / 0.450, then 0.729 / 0.452.
"""

import argparse
import json
import os
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.ease_ncf import hold_out, measure
from bench.report import data_folder, origin, peak_mb, table, write
from shortlist.dataset.interactions import Interactions
from shortlist.models.recall.mf import MF, Factors, learn

Ints = NDArray[np.int64]


def scores(model: Factors, train: Interactions, users: Ints, candidates: Ints) -> Any:
    """b_i + <p_u, q_i> of candidates [U, 100]. An item nobody has in train scores as the least known one would."""
    rows = np.searchsorted(train.user_keys, users)
    columns = np.minimum(np.searchsorted(train.item_keys, candidates), len(train.item_keys) - 1)
    known = train.item_keys[columns] == candidates
    found = np.einsum("ud,ucd->uc", model.users[rows], model.items[columns]) + model.item_bias[columns]
    return np.where(known, found, model.item_bias.min()).astype(np.float32)


def path(train: Interactions, config: MF.Config, users: Ints, candidates: Ints, stops: list[int]) -> Any:
    """(epoch, metrics) at each of the stops on one way through the epochs."""
    model = Factors.start(len(train.user_keys), len(train.item_keys), config)
    started = time.perf_counter()
    for epoch, loss in enumerate(learn(model, train, config), start=1):
        if epoch % 8 == 0:
            left = (time.perf_counter() - started) / epoch * (config.epochs - epoch)
            print(f"epoch {epoch} of {config.epochs}, loss {loss:.5f}, {left:.0f} s left", file=sys.stderr, flush=True)
        if epoch in stops:
            yield epoch, measure(scores(model, train, users, candidates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--epochs", type=int, nargs="+", default=[96, 128, 160, 192, 224, 256])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.002])
    parser.add_argument("--reg", type=float, nargs="+", default=[0.005])
    parser.add_argument("--negatives", type=int, nargs="+", default=[8])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = data_folder() / "ncf-ml-1m"
    pairs = pl.read_parquet(folder / "train.rebuilt.parquet").cast(pl.Int64)
    train = Interactions.of(pairs["user_id"].to_numpy(), pairs["item_id"].to_numpy())
    test = pl.read_parquet(folder / "test.negative.parquet")
    positives = test["pos_item_id"].cast(pl.Int64).to_numpy()
    negatives = np.array(test["neg_item_ids"].to_list(), dtype=np.int64)
    items = 1 + int(max(train.items.max(), positives.max(), negatives.max()))
    recipe = origin(seed=args.seed, dim=args.dim, load=os.getloadavg()[0], command="python -m bench.mf_ncf")

    rows: list[dict[str, Any]] = []
    if args.out and args.out.exists():
        rows = json.loads(args.out.read_text(encoding="utf-8"))["validation"]
    rest, users, candidates = hold_out(train, np.random.default_rng(args.seed), items)
    for lr, reg, n in product(args.lr, args.reg, args.negatives):
        setting = {"dim": args.dim, "seed": args.seed, "lr": lr, "reg": reg, "negatives": n}
        missing = [e for e in args.epochs if setting | {"epochs": e} not in [_setting(row) for row in rows]]
        config = MF.Config(dim=args.dim, epochs=max(args.epochs), lr=lr, reg=reg, negatives=n, seed=args.seed)
        for epoch, found in path(rest, config, users, candidates, missing) if missing else ():
            rows.append({**setting, "epochs": epoch, **found})
            print(rows[-1], file=sys.stderr, flush=True)
            write(args.out, {"origin": recipe, "validation": rows, "test": []})
    best = max(rows, key=lambda row: float(row["hit_rate@10"]) + float(row["ndcg@10"]))
    chosen = _setting(best)
    candidates = np.concatenate([positives[:, None], negatives], axis=1)
    users = test["user_id"].cast(pl.Int64).to_numpy()
    started = time.perf_counter()
    ((_, found),) = path(train, MF.Config(**chosen), users, candidates, [chosen["epochs"]])
    seconds = time.perf_counter() - started
    report = {**chosen, "seconds": seconds, "peak MB": peak_mb(), **found}
    print("validation\n" + table(rows))
    print("test\n" + table([report]))
    write(args.out, {"origin": recipe, "validation": rows, "test": [report]})


def _setting(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if "@" not in name}


if __name__ == "__main__":
    main()
