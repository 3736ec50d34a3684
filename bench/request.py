"""One request in process: the release of a project, asked for many users, one after the other.

    python -m bench.request --project demo

Prints p50, p90 and p99 of the whole `Engine.recommend` and of each stage, in milliseconds. The state of users comes
from the release; nothing is logged as served (`preview`).
"""

import argparse
import time
from pathlib import Path

import numpy as np

from bench.report import origin, table, write
from shortlist.config import load
from shortlist.feedback.live import open_engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default="demo")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with open_engine(load(options.project)) as engine:
        users = rng.choice(engine.live.release.users.ids.to_list(), options.warmup + options.requests)
        total: list[float] = []
        stages: dict[str, list[float]] = {}
        for at, user in enumerate(users):
            started = time.perf_counter()
            answer = engine.recommend(str(user), preview=True)
            took = (time.perf_counter() - started) * 1000.0
            if at < options.warmup:
                continue
            total.append(took)
            record = engine.record(answer.request_id)
            for stage, ms in (record.slates.took_ms if record else {}).items():
                stages.setdefault(stage, []).append(ms)
    rows = [
        {"stage": name, **{f"p{q}": float(np.percentile(column, q)) for q in (50, 90, 99)}}
        for name, column in {"whole request": total, **stages}.items()
    ]
    print(table(rows))
    write(options.out, {"rows": rows, **origin(command="bench.request", seed=options.seed, requests=options.requests)})


if __name__ == "__main__":
    main()
