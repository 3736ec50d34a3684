"""Full ranking of every item for every user on a generated log: lists of 20, their metrics, time and peak memory.

    python -m bench.full_ranking [--channels item_cf vectors scores] [--users 140000] [--items 27000] [--out F.json]

Users, items and the number of events are those of MovieLens-20M; popularity falls as 1 / (rank + 50), and how much a
user has is log-normal. Twelve events of each user are held out. Each channel in a process of its own:

- `item_cf`: neighbour lists of 200 from ItemCF, asked about a user's latest 30 items (the source `neighbours`);
- `vectors`: 64 factors of an iALS epoch, users folded in, exact search (the source `fold_in`);
- `scores`: the same factors of users and items, ranked as whole score rows with ties at their expectation
  (`evaluation.ranking.full_ranking`).

Lists leave out what a user has in training, as a served list does. Time is that of lists and metrics, without
generating and fitting; the peak is that of the whole process with all of that. Goals: 90 s and 2 GiB.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bench.report import origin, peak_mb, resident_mb, table, write
from shortlist.candidates import Mask, Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.evaluation.ranking import full_ranking
from shortlist.forms import Vectors
from shortlist.funnel.pipeline import Source
from shortlist.funnel.sources.fold_in import FoldIn
from shortlist.funnel.sources.neighbours import Neighbours
from shortlist.metrics.topk import accuracy
from shortlist.models.blocks.ridge import ridge
from shortlist.models.recall.ials import IALS
from shortlist.models.recall.item_cf import ItemCF
from shortlist.schema import Catalogue, Profiles, Schema

CHANNELS = ("item_cf", "vectors", "scores")
K, HELD, BLOCK = 20, 12, 512  # a block as the funnel's
SCHEMA = Schema.parse({"actions": {"click": {}}, "time_unit": "none"})
Ints = NDArray[np.int64]


def log(users: int, items: int, events: int, seed: int) -> tuple[Interactions, Interactions]:
    """What is learned from and what is held out: distinct pairs, in no order."""
    rng = np.random.default_rng(seed)
    counts = rng.lognormal(sigma=1.1, size=users)
    counts = np.maximum((counts * (events / counts.sum())).astype(np.int64), 2 * HELD)
    chance = 1 / (np.arange(items) + 50.0)
    edges = np.cumsum(chance / chance.sum())
    owner = np.repeat(np.arange(users), counts)
    item = np.searchsorted(edges, rng.random(len(owner))).astype(np.int64)
    np.minimum(item, items - 1, out=item)
    codes = np.unique(owner * items + item)
    del owner, item
    owner, item = codes // items, codes % items
    del codes
    dice = rng.random(len(owner), dtype=np.float32)
    order = np.lexsort((dice, owner))
    starts = np.searchsorted(owner, np.arange(users))
    place = np.arange(len(owner)) - starts[owner]
    held = np.zeros(len(owner), dtype=bool)
    held[order[place < HELD]] = True
    del order, place, dice
    return Interactions.of(owner[~held], item[~held]), Interactions.of(owner[held], item[held])


def source(channel: str, train: Interactions, items: int) -> Source:
    """The channel's source over what its model makes of the log."""
    keys = np.arange(items)
    catalogue = Catalogue(Profiles(keys, {}), Profiles(np.zeros(0, dtype=np.int64), {}))
    if channel == "vectors":
        form = IALS(IALS.Config(epochs=1), SCHEMA).solve(train, catalogue, 0)
        return FoldIn(FoldIn.Config(), form, SCHEMA)
    lists = ItemCF(ItemCF.Config(weights="binary"), SCHEMA).solve(train, catalogue, 0)
    return Neighbours(Neighbours.Config(), lists, SCHEMA)


def ranked(found: Source, train: Interactions, test: Interactions) -> dict[str, float]:
    """Means of the metrics of every user's list, made block by block."""
    users = test.user_keys
    lists = np.full((len(users), K), -1, dtype=np.int64)
    for at in range(0, len(users), BLOCK):
        asked = users[at : at + BLOCK]
        history = train.histories(asked)
        now, none = np.zeros(len(asked), dtype=np.int64), Ragged.empty(len(asked))
        requests = Requests(asked, now, K, history, none, none, {})
        owners, items, _ = found.recall(requests, K, partial(_unmet, history))
        fresh = _unmet(history, owners, items)
        owners, items = owners[fresh], items[fresh]
        starts = np.searchsorted(owners, np.arange(len(asked)))
        place = np.arange(len(owners)) - starts[owners]
        best = place < K
        lists[at + owners[best], place[best]] = items[best]
        _tell(at + len(asked), len(users))
    columns = accuracy(lists, np.searchsorted(test.users, np.append(users, users[-1] + 1)), test.items, [K])
    return {name: float(np.nanmean(column)) for name, column in columns.items()}


def _unmet(history: Ragged, owners: Ints, items: Ints) -> Mask:
    return ~history.contains(owners, items)


def scored(form: Vectors, train: Interactions, test: Interactions, items: int) -> dict[str, float]:
    """The same by whole rows of scores, ties at their expectation."""
    q_ID = np.zeros((items, form.matrix.shape[1]), dtype=np.float32)
    q_ID[form.keys] = form.matrix
    seen, labels = (_rows(part, len(test.user_keys), items) for part in (train, test))
    penalty = 0.007 * (np.diff(seen.indptr) + 0.3 * items)
    p_UD = ridge(seen.indptr.astype(np.int64), seen.indices, q_ID, 0.3, penalty, q_ID.T @ q_ID).astype(np.float32)

    def block(start: int, stop: int) -> NDArray[np.float32]:
        _tell(stop, len(p_UD))
        scores: NDArray[np.float32] = p_UD[start:stop] @ q_ID.T
        return scores

    columns = full_ranking(block, seen, labels, [K])
    return {name: float(np.nanmean(column)) for name, column in columns.items()}


def _rows(part: Interactions, users: int, items: int) -> sparse.csr_array:
    offsets = np.searchsorted(part.users, np.arange(users + 1))
    ones = np.ones(len(part), dtype=np.int8)
    return sparse.csr_array((ones, part.items.astype(np.int32), offsets.astype(np.int32)), shape=(users, items))


def _tell(done: int, total: int) -> None:
    if done * 10 // total != max(done - BLOCK, 0) * 10 // total:
        print(f"{done} of {total} users", file=sys.stderr, flush=True)


def one(channel: str, users: int, items: int, events: int, seed: int) -> dict[str, Any]:
    train, test = log(users, items, events, seed)
    made_mb = resident_mb()
    started = time.perf_counter()
    if channel == "scores":
        form = IALS(IALS.Config(epochs=1), SCHEMA).solve(train, Catalogue.empty(), 0)
    else:
        found = source(channel, train, items)
    fitted = time.perf_counter()
    fit_mb = peak_mb()
    cpu = time.process_time()
    means = scored(form, train, test, items) if channel == "scores" else ranked(found, train, test)
    return {
        "channel": channel, "events": len(train) + len(test), "fit s": fitted - started,
        "lists and metrics s": time.perf_counter() - fitted, "of the processor s": time.process_time() - cpu,
        "log MB": made_mb, "peak MB, fit": fit_mb, "peak MB": peak_mb(), "load": os.getloadavg()[0],
        "recall@20": means["recall@20"], "ndcg@20": means["ndcg@20"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", nargs="+", choices=CHANNELS, default=list(CHANNELS))
    parser.add_argument("--users", type=int, default=140_000)
    parser.add_argument("--items", type=int, default=27_000)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", action="store_true", help="in this process: what the others are started with")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sizes = (args.users, args.items, args.events, args.seed)
    if args.here:
        print(json.dumps(one(args.channels[0], *sizes)))
        return
    rows: list[dict[str, Any]] = []
    named = [word for name in ("users", "items", "events", "seed") for word in (f"--{name}", str(getattr(args, name)))]
    for channel in args.channels:
        command = [sys.executable, "-m", "bench.full_ranking", "--here", "--channels", channel, *named]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    recipe = origin(command="python -m bench.full_ranking", users=args.users, items=args.items, seed=args.seed)
    write(args.out, {"origin": recipe, "runs": rows})


if __name__ == "__main__":
    main()
