"""Rankers against torch-rechub, DeepCTR-Torch and FuxiCTR: rows a second of training, with the AUC they end at.

    python -m bench.rank_speed --peers /path/to/python-with-the-three [--model deepfm dcn_v2] [--rounds 3]

13 dense and 26 sparse generated columns of a million ids, skewed; labels follow every column, so an AUC says something.
One epoch over `--rows` rows, batch 4096, dim 16, MLP 256-128-64; of DCN-V2 three layers of whole matrices. Rounds
alternate all, each in a process of its own; of the rounds the median of the ratios inside a round counts. The loader
is in the time of ours, of torch-rechub's trainer and of DeepCTR-Torch's fit; `rechub_bare` and `fuxictr` (its train
step) are given slices of tensors. `best` is the AUC of the logits that drew the labels.
Goals: row-sparse rules at least 5 times `rechub`, 3 times `deepctr` and `fuxictr`; `dense_adam` level with
`rechub_bare`; DCN-V2 twice its peers; inference 1.2 times the best.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.deepfm_rate import DENSE, SPARSE, sizes
from bench.itemcf import ROOT, child
from bench.rank_ours import RULES
from bench.report import origin, table, write
from shortlist.metrics.ctr import auc

PEERS = ("rechub", "rechub_bare", "deepctr", "fuxictr")
FIGURES = ("rows/s", "rows/cpu s", "auc", "inference rows/s", "inference rows/cpu s")


def draw(folder: Path, ids: int, rows: int, test: int, seed: int) -> float:
    """Columns of both parts as .npy files; the AUC of the true logits on the test part."""
    rng = np.random.default_rng(seed)
    found = sizes(ids)
    np.save(folder / "sizes.npy", np.array(found))
    effects = [rng.normal(scale=0.4, size=size).astype(np.float32) for size in found]
    slopes = rng.normal(scale=0.3, size=DENSE).astype(np.float32)
    best = 0.0
    for part, n in (("train", rows), ("test", test)):
        sparse = np.empty((n, SPARSE), dtype=np.int64)
        dense = rng.normal(size=(n, DENSE)).astype(np.float32)
        logit = dense @ slopes - 1
        for column, size in enumerate(found):
            sparse[:, column] = (size * rng.random(n) ** 3).astype(np.int64)
            logit += effects[column][sparse[:, column]]
        logit += dense[:, 0] * effects[0][sparse[:, 0]] * 2  # and one crossing
        labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        np.save(folder / f"{part}_sparse.npy", sparse)
        np.save(folder / f"{part}_dense.npy", dense)
        np.save(folder / f"{part}_labels.npy", labels)
        best = auc(logit, labels)
    return best


def compare(folder: Path, model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each run's name: medians over the rounds, and ratios of ours to each peer inside a round."""
    size = [str(n) for n in (options.rows, options.batch, options.dim, options.threads, options.seed)]
    commands = {rule: [sys.executable, "-m", "bench.rank_ours", str(folder), rule, model, *size] for rule in RULES}
    if options.peers:
        script = str(ROOT / "bench" / "rank_peer.py")
        commands |= {peer: [options.peers, script, str(folder), peer, model, *size] for peer in PEERS}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for n in range(options.rounds):
        for name, command in commands.items():
            runs[name].append(child(command))
            print(f"{model} round {n + 1}/{options.rounds} {name} {runs[name][-1]}", file=sys.stderr, flush=True)
    lines = []
    for name, mine in runs.items():
        line: dict[str, Any] = {"model": model, "run": name}
        line |= {figure: float(np.median([run[figure] for run in mine])) for figure in FIGURES}
        speeds = [run["rows/s"] for run in mine]
        line |= {"slowest": min(speeds), "fastest": max(speeds)}
        for rule in RULES:
            pairs = list(zip(runs[rule], mine, strict=True))
            line[f"{rule}/it"] = float(np.median([a["rows/s"] / b["rows/s"] for a, b in pairs]))
            line[f"{rule}/it cpu"] = float(np.median([a["rows/cpu s"] / b["rows/cpu s"] for a, b in pairs]))
        pairs = list(zip(runs["dense_adam"], mine, strict=True))
        for unit in ("s", "cpu s"):
            figure = f"inference rows/{unit}"
            line[f"inference/it {unit}"] = float(np.median([a[figure] / b[figure] for a, b in pairs]))
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="an interpreter that has torch-rechub, deepctr-torch and fuxictr")
    parser.add_argument("--model", nargs="+", choices=("deepfm", "dcn_v2"), default=["deepfm", "dcn_v2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--test", type=int, default=200_000)
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        best = draw(Path(place), options.ids, options.rows, options.test, options.seed)
        lines = [line for model in options.model for line in compare(Path(place), model, options)]
    print(table(lines))
    print(f"best: AUC {best:.4f}; {options.threads} threads")
    write(options.out, {"lines": lines, "best": best, "origin": origin(**vars(options) | {"peers": "", "out": ""})})


if __name__ == "__main__":
    main()
