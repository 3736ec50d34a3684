"""ItemCF against implicit's CosineRecommender: time, peak memory and equal lists, on real and generated logs.

    python -m bench.itemcf --implicit /path/to/python-with-implicit [--rounds 5] [--out result.json]

Rounds alternate the two, each in a process of its own. Our fit starts at the log, its at the finished matrix
(`seconds` adds the making of the matrix). Goals: at most 1.1 of its fit time and 0.8 of its peak memory.
Without --implicit only our own figures are printed. --weights times the weighted form too, which it has no
counterpart of.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.report import data_folder, origin, table, write
from shortlist.dataset.interactions import Interactions
from shortlist.models.recall.item_cf import ItemCF
from shortlist.simulation.toy import Toy

ROOT = Path(__file__).parent.parent
RATIOS: dict[str, Callable[[dict[str, float]], float]] = {
    "fit_time_ratio": lambda run: run["fit_seconds"],
    "peak_memory_ratio": lambda run: run["peak_mb"],
    "memory_above_loaded_ratio": lambda run: run["peak_mb"] - run["loaded_mb"],
}


def logs(seed: int, events: int) -> dict[str, Interactions]:
    """The logs compared on: MovieLens-1M pairs where SHORTLIST_DATA is set, and a generated one."""
    found = {}
    if os.environ.get("SHORTLIST_DATA"):
        frame = pl.read_parquet(data_folder() / "ml-1m" / "interactions.parquet").cast(pl.Int64)
        found["ml-1m"] = Interactions.of(frame["user_id"].to_numpy(), frame["movie_id"].to_numpy())
    found[f"generated-{events}"] = Toy.draw(events // 145, 27_000, events, seed, categories=50).interactions
    return found


def child(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def compare(log: Interactions, implicit: str | None, rounds: int, keep: int) -> dict[str, Any]:
    """Alternate the two on one log. Times in seconds, memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/users.npy", log.users)
        np.save(f"{folder}/items.npy", log.items)
        commands = {"ours": [sys.executable, "-m", "bench.itemcf_ours", folder, str(keep), f"{folder}/ours.npz"]}
        if implicit:
            script = str(ROOT / "bench" / "itemcf_implicit.py")
            commands["implicit"] = [implicit, script, folder, str(keep), f"{folder}/implicit.npz"]
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        child(commands["ours"])  # compile once, so that every counted round starts from the cache
        for n in range(rounds):
            for name, command in commands.items():
                runs[name].append(child(command))
                print(f"round {n + 1}/{rounds} {name} {runs[name][-1]}", file=sys.stderr)
        result: dict[str, Any] = {"runs": runs}
        if implicit:
            result |= difference(np.load(f"{folder}/ours.npz"), np.load(f"{folder}/implicit.npz"))
    return result


def difference(ours: Any, theirs: Any) -> dict[str, float]:
    """The largest difference between the n-th scores of two lists, and rows of one whose item the other lacks,
    ties at the last score apart."""
    a, b = _sorted(ours), _sorted(theirs)
    if a["owners"].tolist() != b["owners"].tolist():
        raise SystemExit("the lists differ in length")
    last = _last(a)
    clear = a["scores"] > last * (1 + 1e-6)
    width = int(max(a["items"].max(), b["items"].max())) + 1
    known = np.isin(a["owners"] * width + a["items"], b["owners"] * width + b["items"])
    return {
        "largest_score_difference": float(np.abs(a["scores"] - b["scores"]).max()),
        "items_not_shared": int((clear & ~known).sum()),
        "rows": len(a["owners"]),
    }


def _sorted(lists: Any) -> dict[str, NDArray[Any]]:
    columns = {name: lists[name] for name in ("owners", "items", "scores")}
    columns["owners"], columns["items"] = columns["owners"].astype(np.int64), columns["items"].astype(np.int64)
    order = np.lexsort((columns["items"], -columns["scores"], columns["owners"]))
    return {name: column[order] for name, column in columns.items()}


def _last(columns: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """The last score of each row's list."""
    ends = np.flatnonzero(np.diff(columns["owners"], append=-1))
    last: NDArray[Any] = np.repeat(columns["scores"][ends], np.diff(ends, prepend=-1))
    return last


def weighted(seed: int, events: int) -> list[dict[str, Any]]:
    """Seconds of a solve in this process, by what is turned on. The first line pays for loading the compiled loops."""
    world = Toy.draw(events // 145, 27_000, events, seed, categories=50)
    rows = []
    cases: dict[str, ItemCF.Config] = {
        "binary": ItemCF.Config(weights="binary", cap=None),
        "binary, 200 latest": ItemCF.Config(weights="binary"),
        "all weights, 200 latest": ItemCF.Config(),
        "all weights": ItemCF.Config(cap=None),
    }
    for name, case in cases.items():
        for attempt in (1, 2):
            start = time.perf_counter()
            ItemCF(case, Toy.schema()).solve(world.interactions, world.catalogue, world.now)
            rows.append({"weights": name, "attempt": attempt, "seconds": time.perf_counter() - start})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--implicit", help="an interpreter that has implicit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=int, default=200)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"origin": origin(seed=args.seed, keep=args.keep, rounds=args.rounds), "logs": {}}
    lines = []
    for name, log in logs(args.seed, args.events).items():
        found = compare(log, args.implicit, args.rounds, args.keep)
        result["logs"][name] = found
        for who, runs in found["runs"].items():
            line: dict[str, Any] = {"log": name, "who": who}
            for column in ("fit_seconds", "seconds", "load_seconds", "peak_mb", "loaded_mb"):
                values = [run.get(column, 0.0) for run in runs]
                line[column] = f"{np.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
            lines.append(line)
        if args.implicit:
            pairs = list(zip(found["runs"]["ours"], found["runs"]["implicit"], strict=True))
            for name_of, ratio in RATIOS.items():
                found[name_of] = float(np.median([ratio(a) / ratio(b) for a, b in pairs]))
    print(table(lines))
    for name, found in result["logs"].items():
        print(name, {key: value for key, value in found.items() if key != "runs"})
    if args.weights:
        result["weights"] = weighted(args.seed, args.events)
        print(table(result["weights"]))
    write(args.out, result)


if __name__ == "__main__":
    main()
