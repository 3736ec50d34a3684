"""One recall channel on a published split: recall@20, NDCG@20 and F1@20 of a full ranking over what a user lacks.

    SHORTLIST_DATA=... python -m bench.published --data ml1m_m1 --method ease --grid lam=200,500,1000 --out runs.json

A project with the one channel is trained and measured as `shortlist evaluate --channels` does it. Every setting of the
grid is fitted to the training part without the validation tenth, drawn with the seed from each user's own, and judged
there; the setting with the highest sum of recall@20 and NDCG@20 is fitted once to the whole published training part and
judged once on the published test part; a grid of one setting is no choice and goes there at once. What `--out` holds
already of (data, seed, method, setting) is not measured again. `--grid` takes `name=value,value` for any option of the
channel; `--set` one value each, for all. `--on valid` leaves the test part alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.report import origin, peak_mb, table, write
from shortlist.config import load
from shortlist.evaluation.project import Data, evaluate, open_data, train
from shortlist.events import workspace

SHOWN = ("recall@20", "ndcg@20", "f1@20")
DEPTH = 20
WHOLE = {"last": 1_000_000}
"""Of the methods whose source asks about the latest items only: here about all, as the log has no times."""
LATEST = ("ease", "gf_cf", "item_cf")


def settings(grid: Sequence[str], fixed: Sequence[str]) -> list[dict[str, Any]]:
    """The options of each run: all combinations of the grid's values, written as TOML writes them."""
    parts = [[(name, value) for value in text.split(",")] for name, _, text in (word.partition("=") for word in grid)]
    rest = [tuple(word.partition("=")[::2]) for word in fixed]
    return [tomllib.loads("\n".join(f"{name} = {value}" for name, value in (*rest, *row))) for row in product(*parts)]


def project(folder: Path, adapter: str, seed: int, method: str, options: Mapping[str, Any]) -> Data:
    """The project of one run, whose log was imported before it if need be."""
    words = "\n".join(f"{name} = {_toml(value)}" for name, value in options.items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shortlist.toml").write_text(
        f'seed = {seed}\n[data]\nadapter = "{adapter}"\n[split]\nuse = "published"\n'
        f'[[recall]]\nname = "{method}"\nuse = "{method}"\nquota = {DEPTH}\n{words}\n'
        f"[scene.home]\npage = {DEPTH}\nbudget = {DEPTH}\n",
        encoding="utf-8",
    )
    found = load(folder)
    if not (found.home / "import.json").exists():
        workspace.import_log(found, lambda text: print(text, file=sys.stderr), 0)
    return open_data(found)


def _toml(value: Any) -> str:
    return "inf" if value == float("inf") else json.dumps(value)


def run(data: Data, on: Literal["valid", "test"]) -> dict[str, Any]:
    """Fit the channel for this part and measure it there."""
    started = time.perf_counter()
    train(data, on, created_ms=0)
    took = time.perf_counter() - started
    started = time.perf_counter()
    (channel,) = evaluate(data, on, ks=(DEPTH,)).measured.channels
    means = {name: float(np.nanmean(channel.columns[name])) for name in SHOWN}
    users = int(np.isfinite(channel.columns[SHOWN[0]]).sum())
    spent = {"fit s": took, "measure s": time.perf_counter() - started, "peak MB": peak_mb()}
    return {"on": on, "users": users, **means, **spent, "load": os.getloadavg()[0]}


def commit() -> str:
    """The commit of the tree, with a plus where the tree has changed since."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--porcelain", "src"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="an adapter with a published split: gowalla")
    parser.add_argument("--method", required=True, help="a model of models/recall: ease")
    parser.add_argument("--grid", nargs="*", default=[], metavar="NAME=VALUE,VALUE")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="fixed")
    parser.add_argument("--on", choices=["valid", "test"], default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="where projects are kept between runs; a temporary folder if not")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    done: list[dict[str, Any]] = []
    if args.out is not None and args.out.exists():
        done = json.loads(args.out.read_text(encoding="utf-8"))["runs"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.work or Path(temporary)) / args.data

        def measured(options: dict[str, Any], on: Literal["valid", "test"]) -> dict[str, Any]:
            about = {"data": args.data, "seed": args.seed, "method": args.method, "options": options, "on": on}
            for row in done:
                if {name: row[name] for name in about} == about:
                    return row
            whole = WHOLE if args.method in LATEST else {}
            data = project(folder, args.data, args.seed, args.method, {**whole, **options})
            done.append({**about, **run(data, on), "commit": commit()})
            print(done[-1], file=sys.stderr, flush=True)
            write(args.out, {"origin": origin(command="python -m bench.published"), "runs": done})
            return done[-1]

        every = settings(args.grid, args.fixed)
        chosen = every[0]
        if args.on == "valid" or len(every) > 1:  # a single setting is no choice
            rows = [measured(options, "valid") for options in every]
            chosen = max(rows, key=lambda row: float(row["recall@20"]) + float(row["ndcg@20"]))["options"]
            print("validation\n" + table([_flat(row) for row in rows]))
        if args.on == "test":
            print("test\n" + table([_flat(measured(chosen, "test"))]))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    told = " ".join(f"{name}={value}" for name, value in row["options"].items())
    names = ("users", *SHOWN, "fit s", "measure s", "peak MB", "load")
    return {"data": row["data"], "method": row["method"], "options": told, **{name: row[name] for name in names}}


if __name__ == "__main__":
    main()
