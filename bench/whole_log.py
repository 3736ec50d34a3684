"""A whole log from nothing to features: what each step takes in time and in memory.

    python -m bench.whole_log [--size S] [--seed 0] [--work FOLDER] [--questions 1000000] [--at-once 20000000]

A world is simulated and written, a project file made for it, its log imported and checked. Then every event becomes an
encoded row on disk: encoders fitted on the users, items and devices of the log, fields of users and items once, beside.
And clicks and impressions of the last 7 days by user, by item, and by item and gender are counted as they stood at the
moment of each of many impressions, drawn at random; few of these counts are counted again, event by event.

Each step is a process of its own: seconds by the clock and of the processor, and the most memory it ever held (what the
system says of that process alone; pages of files that it maps are part of it). The counts are made a slice of keys at a
time, of about `--at-once` events. Steps that are done stay: started again with the same --work, it goes on from there.
JSON on stdout. Goals: L under 4 GiB, XL under 8 GiB, and 500,000 events a second written for L.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what starts the steps stays small: a process is counted with what its parent held
    import polars as pl

    from shortlist.batch import Batch
    from shortlist.features.base import Events

GIB = 2**30
LIMITS = {"L": 4, "XL": 8}  # GiB
STEPS = ("simulate", "init", "import", "check", "encode", "windows")
OUTPUTS = {
    "simulate": "log/truth/world.json", "init": "shortlist.toml", "import": "var/import.json", "check": "check.json",
    "encode": "encoded/manifest.json", "windows": "windows.json",
}  # fmt: skip
BLOCK = 1_000_000  # events encoded at once
PARTS = (("user",), ("item",), ("item", "user.gender"))
COUNTED = ("impression", "click")
AGAIN = 5  # questions whose counts are counted again


# ------------------------------------------------------------------------------------------------- steps


def command(step: str, work: Path, options: argparse.Namespace) -> list[str]:
    """What a step runs: the project's own command where there is one, else this file."""
    if step in ("encode", "windows"):
        given = ["--questions", str(options.questions), "--at-once", str(options.at_once), "--seed", str(options.seed)]
        return [sys.executable, "-m", "bench.whole_log", "--step", step, "--work", str(work), *given]
    words = {
        "simulate": ["simulate", "log", "--size", options.size, "--seed", str(options.seed), "--json"],
        "init": ["init", "log", "--force", "--json"], "import": ["import", "--fresh", "--json"],
        "check": ["check", "--json"],
    }  # fmt: skip
    return [sys.executable, "-c", "from shortlist.cli import main; raise SystemExit(main())", *words[step]]


def measured(step: str, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a step and say what it took. Ends this process when the step fails."""
    for left in {"simulate": ["log"], "encode": ["encoded"]}.get(step, []):
        shutil.rmtree(work / left, ignore_errors=True)
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    started = time.perf_counter()
    with (work / f"{step}.json").open("wb") as out:
        child = os.fork()
        if not child:
            os.chdir(work)
            os.dup2(out.fileno(), 1)
            words = command(step, work, options)
            os.execve(words[0], words, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
        _, status, used = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{step} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "step": step, "seconds": time.perf_counter() - started, "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_gib": used.ru_maxrss * 1024 / GIB, "load": os.getloadavg()[0], **told(step, work),
    }  # fmt: skip


def told(step: str, work: Path) -> dict[str, Any]:
    """What a step says of itself."""
    said = json.loads((work / f"{step}.json").read_text(encoding="utf-8"))
    if step == "check":
        found = [finding["status"] for finding in said]
        return {status: found.count(status) for status in ("PASS", "WARN", "FAIL")}
    kept = {"simulate": ("events", "actions"), "init": (), "import": ("rows", "events", "users", "items", "snapshot")}
    return {name: said[name] for name in kept.get(step, said)}


# ------------------------------------------------------------------------------------------------- encode


def encode(work: Path) -> dict[str, Any]:
    """Every event of the log as an encoded row, a click labelled 1, into `encoded/`."""
    from shortlist.config import load
    from shortlist.dataset import stream
    from shortlist.events import workspace
    from shortlist.features.assemble import Assembler
    from shortlist.features.encoders import Encoders

    project = load(work)
    schema, catalogue, log = workspace.schema(project), workspace.catalogue(project), workspace.events(project)

    def distinct(name: str) -> "pl.Series":
        return log.select(name).unique().collect(engine="streaming")[name].sort()

    context = {name: distinct(name).to_numpy() for name in schema.context}  # each value once: there is no other order
    encoders = Encoders.fit(schema, catalogue, distinct("user").to_numpy(), distinct("item").to_numpy(), context)
    assembler = Assembler(schema, encoders, catalogue, history=0)
    rows = stream.write(work / "encoded", batches(log, assembler), sides=assembler.sides())
    size = sum(file.stat().st_size for file in (work / "encoded").iterdir())
    reader = stream.Stream(work / "encoded", 4096, 0, shuffle=False, prefetch=0)
    first = next(iter(reader))
    same = log.head(len(first)).select("user", "item").collect()
    for side, known, name in ((first.request, encoders.users, "user"), (first.row, encoders.items, "item")):
        at = first.request_of.numpy() if name == "user" else slice(None)
        if (side[f"{name}.id"].numpy()[at] != known(same[name].to_numpy())).any():
            raise SystemExit(f"what was encoded is not read back: {name}.id")
    ids = {"user.id": len(encoders.users), "item.id": len(encoders.items)}
    ids |= {name: len(vocabulary) for name, vocabulary in encoders.vocabularies.items()}
    return {"rows": rows, "bytes_per_row": size / rows, "ids": ids}


def batches(log: "pl.LazyFrame", assembler: Any) -> "Iterator[Batch]":
    """Blocks of the log in order: each event a request with one candidate."""
    from dataclasses import replace

    import numpy as np
    import polars as pl
    import torch

    from shortlist.candidates import Candidates, Ragged, Requests

    low, high = log.select(low=pl.col("offset").min(), high=pl.col("offset").max()).collect(engine="streaming").row(0)
    for start in range(low, high + 1, BLOCK):
        block = log.filter(pl.col("offset").is_between(start, start + BLOCK - 1)).collect(engine="streaming")
        n = len(block)
        nothing = Ragged.empty(n)
        context = {name: block[name].to_numpy() for name in assembler.schema.context}
        users, now = block["user"].to_numpy(), block["time_ms"].to_numpy()
        requests = Requests(users, now, 1, nothing, nothing, nothing, context)
        candidates = replace(Candidates.empty(n), offsets=np.arange(n + 1), items=block["item"].to_numpy())
        label = torch.from_numpy((block["action"] == "click").to_numpy().astype(np.float32)[:, None])
        yield replace(assembler.bare(requests, candidates), tasks=("click",), labels=label)


# ------------------------------------------------------------------------------------------------- windows


def windows(work: Path, questions: int, at_once: int, seed: int) -> dict[str, Any]:
    """Counts of the last 7 days at each question, a slice of keys at a time."""
    import numpy as np
    import polars as pl

    from shortlist.candidates import Ragged, Requests
    from shortlist.config import load
    from shortlist.events import workspace
    from shortlist.features.base import Counter, Rows
    from shortlist.features.featureset import FeatureSet
    from shortlist.features.replay import Replayed

    project = load(work)
    schema, catalogue, log = workspace.schema(project), workspace.catalogue(project), workspace.events(project)
    shown = log.filter(pl.col("action") == "impression")
    total = int(shown.select(pl.len()).collect(engine="streaming").item())
    events = int(log.select(pl.len()).collect(engine="streaming").item())
    mark = pl.col("offset").hash(seed=seed)
    some = shown.filter(mark % (10 * total) < 11 * questions) if 11 * questions < 10 * total else shown
    asked = some.select("user", "item", "time_ms").collect(engine="streaming")
    asked = asked.sample(min(questions, len(asked)), seed=seed).rechunk()
    users, items, at = (asked[name].to_numpy() for name in ("user", "item", "time_ms"))
    counters = [Counter(by, (action,), windows=("7d",)) for by in PARTS for action in COUNTED]
    found = np.zeros((len(asked), len(counters)))
    slices = -(-events // at_once)
    for entity, keys in (("user", users), ("item", items)):
        for n in range(slices):
            mine = np.flatnonzero(keys % slices == n)
            book = Replayed(slice_of(log, schema.action_names, entity, slices, n), catalogue, schema, FeatureSet())
            nothing = Ragged.empty(len(mine))
            requests = Requests(users[mine], at[mine], 1, nothing, nothing, nothing)
            rows = Rows(requests, np.arange(len(mine)), items[mine])
            for column, counter in enumerate(counters):
                if counter.by[0] == entity:
                    found[mine, column] = book.counts(counter, rows)[:, 0]
            print(f"windows: slice {n + 1} of {slices} by {entity}", file=sys.stderr, flush=True)
    few = np.random.default_rng(seed).choice(len(asked), AGAIN, replace=False)
    if (again(log, catalogue, users[few], items[few], at[few]) != found[few]).any():
        raise SystemExit("counted event by event, some windows are other ones")
    means = {
        f"{' x '.join(c.by)}, {c.actions[0]}": float(mean) for c, mean in zip(counters, found.mean(axis=0), strict=True)
    }
    return {"questions": len(asked), "slices": slices, "counted_again": found[few].size, "means": means}


def slice_of(log: "pl.LazyFrame", names: tuple[str, ...], entity: str, slices: int, n: int) -> "Events":
    """What is counted of every `slices`-th key."""
    import numpy as np
    import polars as pl

    from shortlist.features.base import Events

    mine = log.filter(pl.col("action").is_in(list(COUNTED)), pl.col(entity) % slices == n)
    code = pl.col("action").replace_strict(list(names), list(range(len(names))), return_dtype=pl.Int16)
    frame = mine.select("offset", "user", "item", "time_ms", code=code).collect(engine="streaming")
    none = np.full(len(frame), np.nan, dtype=np.float32)
    offsets, users, items, times, codes = (
        frame.drop_in_place(name).to_numpy() for name in ("offset", "user", "item", "time_ms", "code")
    )
    return Events(offsets, users, items, times, codes, none)


def again(log: "pl.LazyFrame", catalogue: Any, users: Any, items: Any, at: Any) -> Any:
    """The same counts of few questions, the plain way: from the start of the day 7 days before to the last minute."""
    import numpy as np
    import polars as pl

    near = pl.col("user").is_in(users.tolist()) | pl.col("item").is_in(items.tolist())
    some = log.filter(near).select("user", "item", "time_ms", "action").collect(engine="streaming")
    gender, day, minute = catalogue.users.take("gender", some["user"].to_numpy()), 86_400_000, 60_000
    out = np.zeros((len(users), len(PARTS) * len(COUNTED)))
    asked_of = catalogue.users.take("gender", users)
    time_ms, action = some["time_ms"].to_numpy(), some["action"].to_numpy()
    for n, (user, item, moment) in enumerate(zip(users, items, at, strict=True)):
        known = (time_ms >= moment // day * day - 7 * day) & (time_ms < moment // minute * minute)
        of_item = some["item"].to_numpy() == item
        keyed = (some["user"].to_numpy() == user, of_item, of_item & (gender == asked_of[n]))
        out[n] = [(known & key & (action == name)).sum() for key in keyed for name in COUNTED]
    return out


# ------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S", choices=["tiny", "S", "M", "L", "XL"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="a folder under the system's temporary one by default")
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--at-once", type=int, default=20_000_000, help="events a slice of the counts is made of")
    parser.add_argument("--step", choices=["encode", "windows"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="where the JSON goes too")
    options = parser.parse_args()
    if options.step:
        work = Path.cwd()
        steps = {
            "encode": lambda: encode(work),
            "windows": lambda: windows(work, options.questions, options.at_once, options.seed),
        }
        print(json.dumps(steps[options.step]()))
        return
    place = options.work or Path(tempfile.gettempdir()) / "shortlist-whole-log"
    work = place / f"{options.size}-{options.seed}"
    work.mkdir(parents=True, exist_ok=True)
    file = work / "figures.json"
    done: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for n, step in enumerate(STEPS):
        if step in done and (work / OUTPUTS[step]).is_file():
            print(f"{step}: done before", file=sys.stderr, flush=True)
            continue
        done = {name: done[name] for name in STEPS[:n]}  # what comes later rests on this
        print(f"{step} ({n + 1} of {len(STEPS)}) ...", file=sys.stderr, flush=True)
        done[step] = measured(step, work, options)
        told_ = {name: value for name, value in done[step].items() if isinstance(value, float)}
        print(f"{step}: " + ", ".join(f"{name} {v:.4g}" for name, v in told_.items()), file=sys.stderr, flush=True)
        file.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    events = done["simulate"]["events"]
    peak = max(step["peak_gib"] for step in done.values())

    from bench.report import origin, write

    recipe = origin(command="python -m bench.whole_log", size=options.size, seed=options.seed)
    result = {
        "origin": {**recipe, "questions": options.questions, "at_once": options.at_once},
        "steps": [{**step, "events_per_second": events / step["seconds"]} for step in done.values()],
        "seconds": sum(step["seconds"] for step in done.values()),
        "peak_gib": peak, "limit_gib": LIMITS.get(options.size),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    write(options.out, result)


if __name__ == "__main__":
    main()
