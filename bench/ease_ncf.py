"""EASE under the NCF protocol on ml-1m: HR@10 and NDCG@10 among 100 candidates, in expectation over orders of
tied scores.

    SHORTLIST_DATA=... python -m bench.ease_ncf [--seeds 0 1 2] [--out result.json]

The log has no times, so lambda is chosen on a random train item of each user, held out, among 99 random items
the user lacks, by the sum of both metrics, averaged over the seeds; then the whole train set is fitted once and the
published test file, kept as it is (156 of its negatives are the user's own test item), is scored once.
Goal: at least 0.717 / 0.450.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.report import data_folder, origin, table, write
from shortlist.dataset.interactions import Interactions
from shortlist.metrics.expected import accuracy, positive_ranks
from shortlist.models.recall.ease import weights

GRID = (100.0, 200.0, 300.0, 500.0, 700.0, 1000.0, 1500.0, 2000.0, 3000.0)
Ints = NDArray[np.int64]


def measure(train: Interactions, lam: float, users: Ints, candidates: Ints) -> dict[str, float]:
    """HR@10 and NDCG@10 of candidates [U, 100], the positive first. An item nobody has in train scores 0."""
    scores_UI = train.matrix @ weights(train.matrix, lam)
    scores_UI = np.pad(scores_UI, ((0, 0), (0, 1)))
    rows = np.searchsorted(train.user_keys, users)
    columns = np.minimum(np.searchsorted(train.item_keys, candidates), len(train.item_keys) - 1)
    columns = np.where(train.item_keys[columns] == candidates, columns, -1)
    found = accuracy(positive_ranks(scores_UI[rows[:, None], columns]), (10,), ("hit_rate", "ndcg"))
    return {name: float(np.mean(values)) for name, values in found.items()}


def hold_out(train: Interactions, rng: np.random.Generator, items: int) -> tuple[Interactions, Ints, Ints]:
    """Train without one random item per user, these users, and candidates [U, 100]: that item and 99 the user lacks."""
    starts, counts = train.offsets[:-1], np.diff(train.offsets)
    at = starts + (rng.random(len(counts)) * counts).astype(np.int64)
    rest = np.ones(len(train), dtype=bool)
    rest[at] = False
    mine = np.sort(train.users * items + train.items)
    drawn = rng.integers(items, size=(len(at), 99))
    while True:
        pairs = train.user_keys[:, None] * items + drawn
        known = mine[np.minimum(np.searchsorted(mine, pairs), len(mine) - 1)] == pairs
        if not known.any():
            break
        drawn[known] = rng.integers(items, size=int(known.sum()))
    candidates = np.concatenate([train.items[at][:, None], drawn], axis=1)
    return train.where(rest), train.user_keys, candidates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
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
    held = [hold_out(train, np.random.default_rng(seed), items) for seed in args.seeds]
    for lam in GRID:
        runs = [measure(rest, lam, users, candidates) for rest, users, candidates in held]
        row: dict[str, Any] = {"lambda": lam}
        for name in runs[0]:
            values = [run[name] for run in runs]
            row[name], row[f"{name} spread"] = float(np.mean(values)), float(np.ptp(values))
        rows.append(row)
        print(f"lambda {lam:g}: {row}", file=sys.stderr)
    best = max(rows, key=lambda row: float(row["hit_rate@10"]) + float(row["ndcg@10"]))["lambda"]
    candidates = np.concatenate([positives[:, None], negatives], axis=1)
    found = measure(train, best, test["user_id"].cast(pl.Int64).to_numpy(), candidates)
    print("validation\n" + table(rows))
    print("test\n" + table([{"lambda": best, **found}]))
    same = int((negatives == positives[:, None]).sum())
    recipe = origin(seeds=args.seeds, command="python -m bench.ease_ncf", negatives_that_are_the_positive=same)
    write(args.out, {"origin": recipe, "validation": rows, "test": {"lambda": best, **found}})


if __name__ == "__main__":
    main()
