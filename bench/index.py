"""Kinds of index over clustered vectors, each at the declared recall, on one thread.

    python -m bench.index --items 1000000 --kinds flat ivf ivfpq hnsw

Every kind is built, measured by its canary, written, opened again mapped and asked, in a process of its own, on one
thread.
Prints recall of the best 100 among other queries, the seconds of processor time it took to build (and by the clock, for
others want the processor too), the size of its files beside the vectors, queries a second of processor time one by one
and in batches of 256, and the peak of memory in MB while it was built and while it was asked. `--kinds` takes options:
`ivf:storage=float32`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import origin, peak_mb, table, write
from shortlist import artifact
from shortlist.config import IndexConfig
from shortlist.forms import Vectors
from shortlist.index.building import indexed, opened
from shortlist.index.vectors import VectorIndex

KINDS = ["flat", "flat:storage=int8", "ivf", "ivf:storage=float32", "ivfpq", "ivfpq:bits=4,bytes=16,refine=20", "hnsw"]
DEPTH, BATCH = 100, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--metric", choices=["ip", "cos", "l2"], default="ip")
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary folder by default")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--do", nargs=2, metavar=("WHAT", "PLACE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do is not None:
        print(json.dumps((build if options.do[0] == "build" else ask)(options, Path(options.do[1]))))
        return
    rows = []
    for kind in options.kinds:
        with tempfile.TemporaryDirectory(prefix="bench-index-", dir=options.folder) as place:
            row: dict[str, Any] = {"kind": kind}
            for what in ("build", "ask"):
                row |= apart(what, kind, place, options)
        rows.append(row)
        print(table([row]), file=sys.stderr, flush=True)
    print(table(rows))
    given = {"items": options.items, "width": options.width, "metric": options.metric, "declared": options.recall}
    write(options.out, {"rows": rows, **origin(command="bench.index", seed=options.seed, **given)})


def apart(what: str, kind: str, place: str, options: argparse.Namespace) -> dict[str, Any]:
    """One step in a process of its own, on one thread."""
    words = ["--items", options.items, "--width", options.width, "--metric", options.metric, "--seed", options.seed]
    words += ["--recall", options.recall, "--kinds", kind, "--do", what, place]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-m", "bench.index", *map(str, words)],
        capture_output=True, text=True, check=False, env={**os.environ, **one},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{kind}, {what}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def world(options: argparse.Namespace, salt: int, count: int) -> NDArray[np.float32]:
    """Points around 5,000 centres of unequal weight, lengths log-normal. The same centres for items and queries."""
    rng = np.random.default_rng(options.seed)
    centres = rng.standard_normal((5000, options.width)).astype(np.float32)
    weights = rng.dirichlet(np.ones(5000))
    rng = np.random.default_rng([options.seed, salt])
    near = centres[rng.choice(5000, count, p=weights)]
    near += 0.8 * rng.standard_normal(near.shape, dtype=np.float32)
    near *= np.exp(0.2 * rng.standard_normal((count, 1), dtype=np.float32))
    return near


def build(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    use, _, given = options.kinds[0].partition(":")
    pairs = (word.partition("=") for word in given.split(",") if word)
    words = {key: int(value) if value.isdigit() else value for key, _, value in pairs}
    form = Vectors(np.arange(options.items), world(options, 1, options.items), options.metric)
    config = IndexConfig(use=use, recall=options.recall, options=words)
    started, clock = time.process_time(), time.perf_counter()
    built = indexed(form, config, "bench", lambda: world(options, 2, 256))
    took = {"build, s": time.process_time() - started, "by the clock": time.perf_counter() - clock}
    artifact.save(
        place / "a", kind="bench", name="bench", form=form, config=built.config, metrics=built.metrics,
        files=built.files, created_ms=0,
    )  # fmt: skip
    files = {path.name: path.stat().st_size for path in (place / "a").iterdir()}
    beside = sum(size for name, size in files.items() if not name.startswith(("form.", "manifest")))
    found = built.config["index"]["options"]
    effort = " ".join(f"{key} {found[key]}" for key in ("probes", "ef", "nodes") if key in found)
    return {
        **took,
        "MB": beside / 1e6,
        "build peak": peak_mb(),
        "effort": effort,
    }


def ask(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    index = opened(artifact.load(place / "a", verify=False))
    assert isinstance(index, VectorIndex)
    queries = world(options, 3, 4 * BATCH)
    index.search(queries[:8], DEPTH)  # what is made once
    count = BATCH if index.engine.exact else len(queries)
    started = time.process_time()
    found = np.concatenate([index.search(queries[at : at + BATCH], DEPTH)[1] for at in range(0, count, BATCH)])
    batches = count / (time.process_time() - started)
    alone = 20 if index.engine.exact else 400
    started = time.process_time()
    for q in range(alone):
        index.search(queries[q : q + 1], DEPTH)
    single = alone / (time.process_time() - started)
    peak = peak_mb()
    edge = index.points.exact(index.points.asked(queries[:BATCH]), DEPTH)[1][:, -1:]
    return {
        "recall": float((found[:BATCH] >= edge).mean()), "one by one": single, "in batches": batches,
        "peak": peak, "load": os.getloadavg()[0],
    }  # fmt: skip


if __name__ == "__main__":
    main()
