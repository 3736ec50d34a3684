"""Whether how active two users are belongs into their likeness: UserCF with and without such a factor.

    [SHORTLIST_DATA=...] python -m bench.activity [--size S] [--seeds 0 1 2] [--out result.json]

Each user's last fifth of events is held out, all before it is known; items met before are not recommended. Cosine
plain, with IUF, shrunk (lambda 10), with both, and the first and the last of these times the mean activity of the pair,
(|I_u| + |I_v|) / (2 max |I|). 80 neighbours, the last 50 items of each, no region rule: nothing is chosen. Clicks of
generated worlds under the popularity policy, and MovieLens-100K where SHORTLIST_DATA is set. Differences are those to
plain cosine, paired over users, with 95 % intervals. `activity`: items a neighbour has, over those of the mean user;
`common`: items a user and a neighbour have in common, the median.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.report import data_folder, origin, table, write
from shortlist.candidates import Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.split import relevant
from shortlist.dataset.splits.user_time import UserTime
from shortlist.forms import Lists
from shortlist.funnel.sources.similar_users import SimilarUsers
from shortlist.metrics.bootstrap import difference, mean
from shortlist.metrics.topk import accuracy
from shortlist.models.recall.user_cf import UserCF
from shortlist.schema import Catalogue, Schema
from shortlist.simulation.events import Events
from shortlist.simulation.policy import named
from shortlist.simulation.sizes import SIZES
from shortlist.simulation.truth import CLICK
from shortlist.simulation.world import World

SCHEMA = Schema.parse({})
KEEP, DEPTH = 80, 200
VARIANTS: Mapping[str, tuple[str, float, bool]] = {  # measure, lambda, times activity
    "cosine": ("cosine", 0.0, False),
    "cosine x activity": ("cosine", 0.0, True),
    "IUF": ("iuf", 0.0, False),
    "cosine, lambda 10": ("cosine", 10.0, False),
    "IUF, lambda 10": ("iuf", 10.0, False),
    "IUF, lambda 10 x activity": ("iuf", 10.0, True),
}
METRICS = ("ndcg@10", "recall@20", "recall@200")


def logs(size: str, seeds: list[int]) -> Iterator[tuple[str, Interactions]]:
    """The real log where it is at hand, and one of a generated world for each seed."""
    if os.environ.get("SHORTLIST_DATA"):
        frame = pl.read_parquet(data_folder() / "ml-100k" / "ratings.parquet").cast(pl.Int64)
        users, items, times = (frame[name].to_numpy() for name in ("user_id", "item_id", "timestamp"))
        yield "ml-100k", Interactions.of(users, items, times)
    for seed in seeds:
        world = World.generate(SIZES[size], np.random.default_rng(seed))
        blocks = world.simulate(named("popularity", world.truth), np.random.default_rng(seed))
        clicks = Events.joined([block.take(np.flatnonzero(block.actions == CLICK)) for block in blocks])
        yield f"{size}, seed {seed}", Interactions.of(clicks.users, clicks.items, clicks.times)


def neighbours(known: Interactions, measure: Any, lam: float, active: bool) -> tuple[Lists, Lists]:
    """Lists of similar users, and of what everybody took."""
    config = UserCF.Config(measure=measure, lam=lam, beta=0.0, keep=len(known.user_keys) if active else KEEP)
    built = UserCF(config, SCHEMA).solve(known, Catalogue.empty(), 0)
    form, taken = built.form, built.beside["taken"]
    assert isinstance(form, Lists)
    assert isinstance(taken, Lists)
    if not active:
        return form, taken
    share = np.diff(taken.offsets) / np.diff(taken.offsets).max()
    owners = np.repeat(form.keys, np.diff(form.offsets))
    both = (share[np.searchsorted(taken.keys, owners)] + share[np.searchsorted(taken.keys, form.items)]) / 2
    return Lists.ranked(owners, form.items, (form.scores * both).astype(np.float32), KEEP), taken


def in_common(known: Interactions, form: Lists) -> NDArray[np.float64]:
    """Items that each user and neighbour of the lists have in common [N]."""
    users, others = np.repeat(form.keys, np.diff(form.offsets)), form.items
    at, to = np.searchsorted(known.user_keys, users), np.searchsorted(known.user_keys, others)
    shared: NDArray[np.float64] = np.asarray(known.matrix[at].multiply(known.matrix[to]).sum(axis=1)).ravel()
    return shared


def recommended(form: Lists, taken: Lists, known: Interactions, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first items of each user [R, DEPTH], what is known left out, -1 behind the end."""
    source = SimilarUsers(SimilarUsers.Config(beta=0.0), form, SCHEMA, {"taken": taken}, Catalogue.empty().users)
    history, none = known.histories(users), Ragged.empty(len(users))
    requests = Requests(users, np.zeros(len(users), dtype=np.int64), DEPTH, history, none, none)
    out = np.full((len(users), DEPTH), -1, dtype=np.int64)

    def fresh(owners: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        return ~history.contains(owners, items)

    owners, items, _ = source.recall(requests, DEPTH, fresh)
    mask = fresh(owners, items)
    owners, items = owners[mask], items[mask]
    starts = np.searchsorted(owners, np.arange(len(users)))
    out[owners, np.arange(len(owners)) - starts[owners]] = items
    return out


def measured(name: str, log: Interactions) -> list[dict[str, Any]]:
    """A row for each variant."""
    split = UserTime(UserTime.Config()).split(log, np.random.default_rng(0))
    known = split.known("test")
    users = split.test.user_keys
    offsets, labels = relevant(split.test, users, "", SCHEMA, known)
    columns: dict[str, dict[str, NDArray[np.float64]]] = {}
    rows = []
    for variant, (measure, lam, active) in VARIANTS.items():
        form, taken = neighbours(known, measure, lam, active)
        slates = recommended(form, taken, known, users)
        found = accuracy(slates, offsets, labels, (10, 20, 200), ("ndcg", "recall"))
        columns[variant] = {metric: found[metric] for metric in METRICS}
        size = np.diff(taken.offsets)
        busy = size[np.searchsorted(taken.keys, form.items)].mean() / size.mean()
        common = float(np.median(in_common(known, form)))
        row: dict[str, Any] = {"log": name, "likeness": variant, "activity": float(busy), "common": common}
        for metric in METRICS:
            rng = np.random.default_rng(0)
            plain = columns["cosine"][metric]
            row[metric] = mean(columns[variant][metric], rng).value
            gap = difference(columns[variant][metric], plain, rng)
            row[f"{metric} gap"] = f"{gap.value:+.4f} [{gap.low:.4f}, {gap.high:.4f}]"
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S", choices=sorted(SIZES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [row for name, log in logs(options.size, options.seeds) for row in measured(name, log)]
    print(table(rows))
    write(options.out, {"origin": origin(size=options.size, seeds=options.seeds), "rows": rows})


if __name__ == "__main__":
    main()
