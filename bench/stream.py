"""What a ranker reads, from disk and from memory: rows a second, and what ten times the allowed memory costs.

    python -m bench.stream [--limit-mb 300] [--times 10] [--epochs 2] [--out result.json]

Generated requests of 20 rows with a history of 50 events each, written whole as `read = "stream"` writes them, until
the files take `times` the limit. Then epochs from disk beside epochs of a tenth of it from memory, encoded beforehand,
in batches of as many requests. Memory is what each part adds at its peak to what the process held before. One process,
pinned to one core, one thread in every library; where the machine is shared, rows per second of processor time say more
than those of the clock. Goal: an epoch of ten times the limit stays within it.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.loader import one_core

ROWS, STEPS, BLOCK = 20, 50, 2_048  # rows of a request, events of its history, requests made at once
USERS, ITEMS = 1_000_000, 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-mb", type=float, default=300)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--window", type=int, default=262_144)
    parser.add_argument("--shard-mb", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    one_core()

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from bench.report import origin, peak_mb, resident_mb, table, write
    from shortlist.batch import Batch, Columns
    from shortlist.dataset import stream
    from shortlist.dataset.loader import Loader

    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)

    def columns() -> Batch:
        n = BLOCK * ROWS
        owner = np.repeat(np.arange(BLOCK), ROWS)
        steps = {name: rng.integers(2, size, (BLOCK, STEPS)) for name, size in (("item", ITEMS), ("age", 90))}
        request = Columns.of(
            BLOCK, {"user.id": rng.integers(2, USERS, BLOCK), "hour": rng.integers(2, 26, BLOCK)},
            groups={"history": (np.full(BLOCK, STEPS), steps)},
        )  # fmt: skip
        item = rng.integers(0, ITEMS, n)
        places = {f"recall.{c}": 1 / rng.integers(1, 300, n) for c in range(6)}
        scores = {f"recall_score.{c}": rng.standard_normal(n, dtype=np.float32) for c in range(6)}
        row = Columns.of(n, {"item.id": item + 2, "item.row": item}, places | scores)
        label = torch.from_numpy((rng.random((n, 1), dtype=np.float32) < 0.1).astype(np.float32))
        made = Batch.of(request, row, owner)
        return Batch(made.request, made.row, made.request_of, ("click",), label)

    def size_mb(folder: Path) -> float:
        return sum(file.stat().st_size for file in folder.rglob("*.parquet")) / 2**20

    def batches(home: Path) -> Iterator[Batch]:
        """Until the files are as large as they should be: what is still to be written is a shard at most."""
        while size_mb(home) < options.limit_mb * options.times:
            for _ in range(4):
                yield columns()

    sides = {
        "item.row": Columns.of(
            ITEMS + 1,
            {"item.category": rng.integers(2, 300, ITEMS + 1)},
            {"item.price": rng.random(ITEMS + 1)},
            vecs={"item.look": rng.random((ITEMS + 1, 16), dtype=np.float32)},
        )
    }
    rows: list[dict[str, Any]] = []

    def measured(what: str, epoch: int, reader: Any, before: float) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
        started, worked = time.perf_counter(), time.process_time()
        seen = sum(len(batch) for batch in reader)
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        added = peak_mb() - before
        rows.append(
            {
                "read": what, "epoch": epoch, "rows": seen, "rows_per_second": seen / seconds,
                "rows_per_cpu_second": seen / worked, "peak_mb_added": added,
            }
        )  # fmt: skip

    class Held:
        """Encoded requests in memory."""

        def __init__(self, batch: Batch) -> None:
            self.made = batch

        def __len__(self) -> int:
            return len(self.made.request)

        def batch(self, units: NDArray[np.int64]) -> Batch:
            at = (units[:, None] * ROWS + np.arange(ROWS)).ravel()
            return self.made.take(torch.from_numpy(at))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "stream"
        columns()  # what a first batch loads stays loaded
        before = resident_mb()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        started = time.perf_counter()
        total = stream.write(folder, batches(Path(name)), sides=sides, whole=True, shard_bytes=options.shard_mb << 20)
        wrote, added = time.perf_counter() - started, peak_mb() - before
        rows.append(
            {
                "read": "(written)", "epoch": 0, "rows": total, "rows_per_second": total / wrote,
                "rows_per_cpu_second": float("nan"), "peak_mb_added": added,
            }
        )  # fmt: skip
        disk_mb = size_mb(folder)
        reader = stream.Stream(folder, options.batch, options.seed, window=options.window)
        for epoch in range(options.epochs):
            measured("stream", epoch, reader, resident_mb())
        requests, before = total // ROWS // 10, resident_mb()
        part = next(iter(stream.Stream(folder, requests, options.seed, shuffle=False, window=1, prefetch=0)))
        loader = Loader(Held(part), options.batch, options.seed)
        for epoch in range(options.epochs):
            measured("memory, a tenth", epoch, loader, before)
    print(table(rows))
    most = max(row["peak_mb_added"] for row in rows[: 1 + options.epochs])
    verdict = "within" if most <= options.limit_mb else "ABOVE"
    print(
        f"{disk_mb:,.0f} MB of files, {disk_mb / options.limit_mb:.1f} times the limit of {options.limit_mb:.0f} MB; "
        f"at most {most:.0f} MB added, {verdict} it"
    )
    words = {name: getattr(options, name) for name in ("batch", "window", "shard_mb", "limit_mb", "times", "seed")}
    recipe = origin(command="python -m bench.stream", **words)
    write(options.out, {"origin": recipe, "rows": rows, "disk_mb": disk_mb, "most_mb_added": most})


if __name__ == "__main__":
    main()
