"""Reading and writing blobs of 500 keys in each home of online state, one thread.

    python -m bench.store --keys 100000 --bytes 1000 --redis redis://127.0.0.1:6379/15

Prints p50 and p99 in milliseconds of reading 500 keys at random, of writing 500 with the offset, and the bytes an entry
takes beside its blob; LMDB with each way to wait for the disk. Without --redis that home is left out.
"""

import argparse
import secrets
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import origin, table, write
from shortlist.store.blobs import Blobs
from shortlist.store.lmdb import Lmdb
from shortlist.store.memory import Memory
from shortlist.store.redis import Redis

ASKED = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--redis", help="redis://HOST:PORT/DB of a server for this alone")
    parser.add_argument("--folder", type=Path, help="where LMDB's file is made; a temporary folder by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir=options.folder))
    try:
        rows = [measured("memory", memory(), options), measured("lmdb", lmdb(folder / "a", True), options)]
        rows.append(measured("lmdb sync=False", lmdb(folder / "b", False), options))
        if options.redis:
            rows.append(measured("redis", redis(options.redis), options))
    finally:
        shutil.rmtree(folder)
    print(table(rows))
    given = {"keys": options.keys, "bytes": options.bytes, "rounds": options.rounds}
    write(options.out, {"rows": rows, **origin(command="bench.store", seed=options.seed, **given)})


@contextmanager
def memory() -> Iterator[tuple[Blobs, Callable[[], int]]]:
    tracemalloc.start()
    store = Memory()
    yield store, lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


@contextmanager
def lmdb(folder: Path, sync: bool) -> Iterator[tuple[Blobs, Callable[[], int]]]:
    with closing(Lmdb(folder, "f" * 64, sync=sync)) as store:
        yield store, lambda: (folder / "data.mdb").stat().st_blocks * 512


@contextmanager
def redis(url: str) -> Iterator[tuple[Blobs, Callable[[], int]]]:
    import redis as client

    with closing(client.Redis.from_url(url)) as server, closing(Redis(url, secrets.token_hex(32))) as store:
        before = int(server.info("memory")["used_memory"])
        yield store, lambda: int(server.info("memory")["used_memory"]) - before
        store.stage({}, first=True)
        store.adopt(0)


def measured(name: str, home: Any, options: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(options.seed)
    with home as (store, held):
        for start in range(0, options.keys, 10_000):
            some = np.arange(start, min(start + 10_000, options.keys), dtype=np.int64)
            store.put({"item": (some, [rng.bytes(options.bytes) for _ in some])}, 1)
        beside = held() / options.keys - options.bytes
        if name == "memory":
            tracemalloc.stop()  # it would be measured too
        asked = [rng.integers(0, options.keys, ASKED) for _ in range(options.rounds)]
        read = [timed(store.get, "item", keys) for keys in asked]
        put = []
        for n, keys in enumerate(map(np.unique, asked[: max(1, options.rounds // 10)])):
            blobs = [rng.bytes(options.bytes) for _ in keys]
            put.append(timed(store.put, {"item": (keys, blobs)}, n + 2))
    spread = {"read": read, "write": put}
    figures = {f"{what} p{q}": float(np.percentile(ms, q)) for what, ms in spread.items() for q in (50, 99)}
    return {"home": name, **figures, "bytes beside": beside}


def timed(work: Callable[..., object], *given: object) -> float:
    started = time.perf_counter()
    work(*given)
    return (time.perf_counter() - started) * 1000.0


if __name__ == "__main__":
    main()
