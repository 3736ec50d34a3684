"""iALS under the NCF protocol on ml-1m: HR@10 and NDCG@10 among 100 candidates, in expectation over orders of
tied scores.

    SHORTLIST_DATA=... python -m bench.ials_ncf [--seed 0] [--dim 192] [--epochs 12 16] [--lam ...] [--alpha0 ...]

As in `bench.ease_ncf`: the log has no times, so lambda, alpha0 and the number of epochs are chosen on a random train
item of each user, held out, among 99 random items the user lacks, by the sum of both metrics; then the whole train
set is fitted once and the published test file is scored once. Users' vectors are folded in from their history, as at
serving. Goal: at least 0.715 / 0.446.
"""

import argparse
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.ease_ncf import hold_out, measure
from bench.report import data_folder, origin, peak_mb, table, write
from shortlist.dataset.interactions import Interactions
from shortlist.models.recall.ials import IALS, half_step, start

Ints = NDArray[np.int64]


def scores(train: Interactions, q_ID: NDArray[Any], config: IALS.Config, users: Ints, candidates: Ints) -> Any:
    """<p_u, q_i> of candidates [U, 100]. An item nobody has in train scores 0."""
    p_UD = half_step(train.matrix, q_ID, replace(config, solver="exact"))
    rows = np.searchsorted(train.user_keys, users)
    columns = np.minimum(np.searchsorted(train.item_keys, candidates), len(train.item_keys) - 1)
    known = train.item_keys[columns] == candidates
    return np.where(known, np.einsum("ud,ucd->uc", p_UD[rows], q_ID[columns]), 0.0).astype(np.float32)


def path(train: Interactions, config: IALS.Config, users: Ints, candidates: Ints, stops: list[int]) -> Any:
    """(epoch, metrics) at each of the stops on one way through the epochs."""
    q_ID, p_UD = start(len(train.item_keys), config), None
    x_UI = train.matrix
    x_IU = x_UI.T.tocsr()
    for epoch in range(1, max(stops) + 1):
        p_UD = half_step(x_UI, q_ID, config, p_UD)
        q_ID = half_step(x_IU, p_UD, config, q_ID)
        if epoch in stops:
            yield epoch, measure(scores(train, q_ID, config, users, candidates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--epochs", type=int, nargs="+", default=[12, 16])
    parser.add_argument("--lam", type=float, nargs="+", default=[0.005, 0.007, 0.01])
    parser.add_argument("--alpha0", type=float, nargs="+", default=[0.2, 0.3, 0.4])
    parser.add_argument("--solver", choices=["exact", "cg"], default="exact")
    parser.add_argument("--cg-steps", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = data_folder() / "ncf-ml-1m"
    pairs = pl.read_parquet(folder / "train.rebuilt.parquet").cast(pl.Int64)
    train = Interactions.of(pairs["user_id"].to_numpy(), pairs["item_id"].to_numpy())
    test = pl.read_parquet(folder / "test.negative.parquet")
    positives = test["pos_item_id"].cast(pl.Int64).to_numpy()
    negatives = np.array(test["neg_item_ids"].to_list(), dtype=np.int64)
    items = 1 + int(max(train.items.max(), positives.max(), negatives.max()))

    rows: list[dict[str, Any]] = []
    rest, users, candidates = hold_out(train, np.random.default_rng(args.seed), items)
    for lam, alpha0 in product(args.lam, args.alpha0):
        config = IALS.Config(
            dim=args.dim, lam=lam, alpha0=alpha0, seed=args.seed, solver=args.solver, cg_steps=args.cg_steps
        )
        for epoch, found in path(rest, config, users, candidates, args.epochs):
            rows.append({"lam": lam, "alpha0": alpha0, "epochs": epoch, **found})
            print(rows[-1], file=sys.stderr, flush=True)
    best = max(rows, key=lambda row: float(row["hit_rate@10"]) + float(row["ndcg@10"]))
    config = replace(config, epochs=best["epochs"], alpha0=best["alpha0"], lam=best["lam"])
    candidates = np.concatenate([positives[:, None], negatives], axis=1)
    users = test["user_id"].cast(pl.Int64).to_numpy()
    started = time.process_time()
    ((_, found),) = path(train, config, users, candidates, [config.epochs])
    seconds = time.process_time() - started
    report = {**{k: best[k] for k in ("lam", "alpha0", "epochs")}, "CPU s": seconds, "peak MB": peak_mb(), **found}
    print("validation\n" + table(rows))
    print("test\n" + table([report]))
    recipe = origin(seed=args.seed, dim=args.dim, solver=args.solver, command="python -m bench.ials_ncf")
    write(args.out, {"origin": recipe, "validation": rows, "test": [report]})


if __name__ == "__main__":
    main()
