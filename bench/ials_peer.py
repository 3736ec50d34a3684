"""iALS against implicit's AlternatingLeastSquares: processor time of an iteration, one thread each.

    python -m bench.ials_peer --implicit /path/to/python-with-implicit [--dim 64 128] [--rounds 3] [--out result.json]

Rounds alternate the four, each in a process of its own: ours, exact and by three steps of conjugate gradients a row
(`ours, cg`), its exact solver (`cholesky`) and its default (`cg`, three steps too). An iteration is both half-steps;
of a process its median counts, of the rounds the median of the ratios inside a round, of like to like: exact to
exact, steps to steps. Goal: at most 1.1 of its time. `largest_difference` is of the users' vectors of one exact
half-step, over the largest of them. Logs are those of `bench.itemcf`.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.itemcf import ROOT, child, logs
from bench.report import origin, table, write
from shortlist.dataset.interactions import Interactions

LIKE = {"cholesky": "ours", "cg": "ours, cg"}  # its solver and ours that does the like
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def compare(log: Interactions, implicit: str | None, dim: int, epochs: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/users.npy", np.unique(log.users, return_inverse=True)[1])
        items, columns = np.unique(log.items, return_inverse=True)
        np.save(f"{folder}/items.npy", columns)
        begin = np.random.default_rng(0).standard_normal((len(items), dim), dtype=np.float32)
        np.save(f"{folder}/start.npy", begin)
        size = [str(dim), str(epochs)]
        own = [sys.executable, "-m", "bench.ials_ours", folder, *size]
        commands = {"ours": [*own, "exact", f"{folder}/ours.npy"], "ours, cg": [*own, "cg", f"{folder}/ours.npy"]}
        if implicit:
            script = str(ROOT / "bench" / "ials_implicit.py")
            for solver in LIKE:
                commands[solver] = [implicit, script, folder, *size, solver, f"{folder}/{solver}.npy"]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
        for n in range(rounds):
            for name, command in commands.items():
                runs[name].append(child(command))
                print(f"round {n + 1}/{rounds} {name} {runs[name][-1]}", file=sys.stderr, flush=True)
        result: dict[str, Any] = {"runs": runs}
        if implicit:
            ours, theirs = np.load(f"{folder}/ours.npy"), np.load(f"{folder}/cholesky.npy")
            result["largest_difference"] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    for name, own_name in LIKE.items() if implicit else ():
        pairs = list(zip(runs[own_name], runs[name], strict=True))
        result[f"{name}_ratio"] = float(np.median([np.median(a["cpu"]) / np.median(b["cpu"]) for a, b in pairs]))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--implicit", help="an interpreter that has implicit")
    parser.add_argument("--dim", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.update(THREADS)
    lines, result = [], {"origin": origin(seed=args.seed, rounds=args.rounds, epochs=args.epochs), "logs": {}}
    for name, log in logs(args.seed, args.events).items():
        for dim in args.dim:
            found = compare(log, args.implicit, dim, args.epochs, args.rounds)
            result["logs"][f"{name}, {dim}"] = found
            for who, runs in found["runs"].items():
                cpu = [float(np.median(run["cpu"])) for run in runs]
                line = {
                    "log": name,
                    "dim": dim,
                    "who": who,
                    "CPU s": f"{np.median(cpu):.2f} ({min(cpu):.2f}-{max(cpu):.2f})",
                }
                line["clock s"] = float(np.median([np.median(run["clock"]) for run in runs]))
                line["peak MB"] = float(np.median([run["peak_mb"] for run in runs]))
                line["load"] = float(np.median([run["load"] for run in runs]))
                lines.append({**line, "ours / it": found.get(f"{who}_ratio", float("nan"))})
            print(name, dim, {key: value for key, value in found.items() if key != "runs"}, file=sys.stderr, flush=True)
    print(table(lines))
    write(args.out, result)


if __name__ == "__main__":
    main()
