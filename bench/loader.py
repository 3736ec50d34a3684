"""Encoded examples from Parquet, shuffled: rows a second through one core, and the memory it takes.

    python -m bench.loader [--rows 2000000] [--batch 4096] [--out result.json]

Generated rows of 13 dense and 26 sparse columns with a label, the shape of the Criteo log, ids of Zipf popularity over
up to a million values. One process, pinned to one core, one thread in every library. The first epoch also checks the
sum of every shard. Where the machine is shared, rows per second of processor time say more than those of the clock.
Memory is what an epoch adds at its peak to what the process held before. Goal: at least 300,000
rows a second.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOAL = 300_000
DENSE, SPARSE, BLOCK = 13, 26, 131_072


def one_core() -> None:
    """Before any library starts its threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--window", type=int, default=262_144)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    one_core()

    import numpy as np
    import torch

    from bench.report import origin, peak_mb, resident_mb, table, write
    from shortlist.batch import Batch, Columns
    from shortlist.dataset import stream

    torch.set_num_threads(1)

    def batches() -> Iterator[Batch]:
        rng = np.random.default_rng(options.seed)
        for low in range(0, options.rows, BLOCK):
            n = min(BLOCK, options.rows - low)
            ids = {f"s{c}": np.minimum(rng.zipf(1.2, n), 10**6) + 1 for c in range(SPARSE)}
            numbers = {f"d{c}": rng.standard_normal(n, dtype=np.float32) for c in range(DENSE)}
            made = Batch.of(Columns.of(n), Columns.of(n, ids, numbers), np.arange(n))
            label = torch.from_numpy(rng.random((n, 1), dtype=np.float32).round())
            yield Batch(made.request, made.row, made.request_of, ("click",), label)

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "stream"
        started = time.perf_counter()
        stream.write(folder, batches())
        wrote = time.perf_counter() - started
        size_mb = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
        encoded_mb = options.rows * 4 * (DENSE + SPARSE + 1) / 2**20
        for prefetch in (2, 0):
            reader = stream.Stream(folder, options.batch, options.seed, prefetch=prefetch, window=options.window)
            for epoch in range(options.epochs):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
                before = resident_mb()
                started, worked = time.perf_counter(), time.process_time()
                seen = sum(len(batch) for batch in reader)
                seconds, worked = time.perf_counter() - started, time.process_time() - worked
                rows.append(
                    {
                        "prefetch": prefetch,
                        "epoch": epoch,
                        "rows": seen,
                        "seconds": seconds,
                        "rows_per_second": seen / seconds,
                        "rows_per_cpu_second": seen / worked,
                        "peak_mb_added": peak_mb() - before,
                    }
                )
    print(table(rows))
    slowest = min(row["rows_per_second"] for row in rows)
    print(
        f"slowest epoch {slowest:,.0f} rows/s, {slowest / GOAL:.1f} times the goal of {GOAL:,}; "
        f"{encoded_mb:.0f} MB of encoded rows, {size_mb:.0f} MB on disk, written in {wrote:.1f} s"
    )
    recipe = origin(command="python -m bench.loader", seed=options.seed, batch=options.batch, window=options.window)
    write(options.out, {"origin": recipe, "rows": rows, "slowest_rows_per_second": slowest, "goal": GOAL})


if __name__ == "__main__":
    main()
