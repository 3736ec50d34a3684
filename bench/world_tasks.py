"""The world's two conflicting tasks, click and like: MMoE against Shared-Bottom and a network for each task.

    python -m bench.world_tasks [--seeds 0 1 2] [--bait 0.08 0.3] [--out FOLDER]

Bait is clicked and not liked; `World.Config.bait` is its share of the items. A seed is a world of 2,000 users, 1,000
items and 24 days under the popularity policy (about 600,000 impressions), and all dice of training: 18 days are learned
from, 3 validate, 3 test. Both tasks are of every impression. Models read the same fields by tables of the same width,
and layers of about as many weights. A model's recipe is looked for in the world of the first bait and the first seed,
from GRID: each setting in turn, the others as they are best so far, by the mean AUC of its tasks on validation, where
a run also stops. With it the model runs with every seed, and one of FEW with every bait too; only of these
runs is the test part's outcome read. A run that is finished stands in FOLDER and is not run again.

`truth` are the world's own probabilities, with what it knew when it showed an impression: no model is above them but
by luck. `crossed` orders each task by the true probability of the other: what is lost there is the conflict.

R requests, K positions of a slate, B rows, U users, C columns of scores, L steps of history.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.report import origin, peak_mb, table, write
from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.config import build
from shortlist.dataset.loader import Loader
from shortlist.metrics import ctr
from shortlist.metrics.bootstrap import ratio
from shortlist.models.blocks.gates import watched
from shortlist.models.rank.dnn import DNN
from shortlist.simulation.events import Events
from shortlist.simulation.policy import Policy, named
from shortlist.simulation.truth import ACTIONS, CLICK, DAY_MS, HOUR_MS, IMPRESSION, Truth
from shortlist.simulation.world import State, World
from shortlist.training.loop import Loop, train
from shortlist.training.objectives.bce import Bce

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

USERS, ITEMS, DAYS = 2_000, 1_000, 24
PARTS = {"train": (0, 18), "valid": (18, 21), "test": (21, 24)}  # days
TASKS = ("click", "like")
STEPS = 10  # of history: the latest clicks
DIM, REQUESTS, EPOCHS, PATIENCE = 16, 256, 14, 3  # REQUESTS of a batch, ten rows each
RESAMPLES = 300
GRID: dict[str, list[Any]] = {"lr": [5e-3, 1e-2], "l2_embedding": [1e-4, 1e-3], "wide": [64, 128]}
EXPERTS = {64: [18, 32], 128: [44, 64]}  # of each of four, so that they weigh what a bottom of that width does


@dataclass(frozen=True)
class Model:
    """What is learned at once, by which head, and how losses are weighed."""

    tasks: tuple[str, ...]
    head: str | None = None
    gate_dropout: float = 0.0
    balance: str = "fixed"

    def options(self, wide: int) -> dict[str, Any]:
        towers = [wide // 2, wide // 4]
        if self.head is None:
            return {"dim": DIM, "hidden": [wide, wide, *towers]}
        head: dict[str, Any] = {"use": self.head, "towers": towers}
        if self.head == "mmoe":
            head |= {"experts": 4, "hidden": EXPERTS[wide], "gate_dropout": self.gate_dropout}
        else:
            head |= {"bottom": [wide, wide]}
        return {"dim": DIM, "hidden": [], "heads": head}


MODELS = {
    "single click": Model(("click",)),
    "single like": Model(("like",)),
    "shared_bottom": Model(TASKS, "shared_bottom"),
    "mmoe": Model(TASKS, "mmoe"),
    "mmoe, gate dropout": Model(TASKS, "mmoe", 0.1),
    "shared_bottom, uncertainty": Model(TASKS, "shared_bottom", balance="uncertainty"),
    "mmoe, uncertainty": Model(TASKS, "mmoe", balance="uncertainty"),
    "mmoe, gate dropout, uncertainty": Model(TASKS, "mmoe", 0.1, "uncertainty"),
}
FEW = ("single click", "single like", "shared_bottom", "mmoe")


class Told:
    """A policy, and the true probability of a click, if the item is looked at, and of a like, if it is clicked, of all
    that it shows."""

    def __init__(self, policy: Policy, truth: Truth, state: State) -> None:
        self.policy, self.truth, self.state = policy, truth, state
        self.attraction: list[NDArray[np.float32]] = []
        self.like: list[NDArray[np.float32]] = []

    def show(
        self, users: Ints, now: Ints, available: Ints, k: int, rng: np.random.Generator
    ) -> tuple[Ints, NDArray[np.float32]]:
        items, odds = self.policy.show(users, now, available, k, rng)
        who, when, state = users[:, None], now[:, None], self.state
        near = self.truth.affinity(who, items, when)
        self.attraction.append(
            self.truth.attracted(near, items, when, state.last[who], state.recent.of(users)[:, None])
        )
        self.like.append(self.truth.given("like", near, items))
        return items, odds

    def observe(self, events: Events) -> None:
        self.policy.observe(events)


@dataclass(frozen=True)
class Log:
    """Requests in order of time, from a world's log: `users`, `now`, `devices`, `length` of history [R]; `items`
    [R, K]; `history` [R, L] items, latest first; `labels` and `truth` [R, K, T] of TASKS."""

    world: World
    users: Ints
    now: Ints
    devices: Ints
    items: Ints
    length: Ints
    history: Ints
    labels: NDArray[np.bool_]
    truth: NDArray[np.float32]

    @classmethod
    def of(cls, bait: float, seed: int) -> "Log":
        config = World.Config(users=USERS, items=ITEMS, days=DAYS, tick_hours=6, bait=bait)
        world = World.generate(config, np.random.default_rng(seed))
        state = world.begin()
        told = Told(named("popularity", world.truth), world.truth, state)
        events = Events.joined(list(world.simulate(told, np.random.default_rng(seed), state=state)))
        shown = events.take(events.actions == IMPRESSION)
        shown = shown.take(np.lexsort((shown.positions, shown.requests)))
        slate = (-1, config.slate)
        items, place = shown.items.reshape(slate), shown.positions.astype(np.int64).reshape(slate)
        users, now = (column.reshape(slate)[:, 0] for column in (shown.users, shown.times))
        devices = shown.devices.reshape(slate)[:, 0].astype(np.int64)
        seen = world.truth.examined(place, devices[:, None])
        click = seen * np.concatenate(told.attraction)
        truth = np.stack([click, click * np.concatenate(told.like)], axis=2)
        labels = np.zeros(truth.shape, dtype=np.bool_)
        for n, task in enumerate(TASKS):
            done = events.take((events.actions == ACTIONS.index(task)) & (events.requests >= 0))
            labels[done.requests, done.positions.astype(np.int64) - 1, n] = True
        length, history = past(events.take(events.actions == CLICK), users, now)
        order = np.argsort(now, kind="stable")
        return cls(
            world, users[order], now[order], devices[order], items[order], length[order], history[order],
            labels[order], truth[order],
        )  # fmt: skip

    def part(self, name: str) -> Ints:
        """Requests of the days of a part."""
        day = (self.now - self.world.config.start_ms) // DAY_MS
        low, high = PARTS[name]
        return np.flatnonzero((day >= low) & (day < high))


def past(clicks: Events, users: Ints, now: Ints) -> tuple[Ints, Ints]:
    """The latest clicks before each request: how many [R], and items [R, L], latest first, -1 where there is none."""
    clicks = clicks.take(np.lexsort((clicks.times, clicks.users)))
    start = int(clicks.times.min())
    span = int(max(clicks.times.max(), now.max())) - start + 1
    reached = np.searchsorted(clicks.users * span + clicks.times - start, users * span + now - start)
    first = np.searchsorted(clicks.users, users)
    at = reached[:, None] - 1 - np.arange(STEPS)
    items = np.where(at >= first[:, None], clicks.items[np.maximum(at, 0)], -1)
    return np.minimum(reached - first, STEPS), items


class Fields:
    """What models may read of a log, in ids that the training part knows: 1 for a value it never met."""

    def __init__(self, log: Log) -> None:
        some = log.part("train")
        catalogue = log.world.catalogue
        people, shelf = catalogue.users.columns, catalogue.items.columns
        self.sizes: dict[str, int] = {}
        met_users, met_items = np.unique(log.users[some]), np.unique(log.items[some])
        hours = log.now // HOUR_MS % 24
        users = self._sparse("user", np.arange(USERS), met_users)
        asked = {
            "user": users[log.users],
            **{name: self._sparse(name, people[name], people[name][met_users])[log.users] for name in people},
            "used": self._sparse("used", log.devices, log.devices[some]),
            "hour": self._sparse("hour", hours, hours[some]),
        }
        items = self._sparse("item", np.arange(ITEMS), met_items)
        words = np.stack([np.array(row) for row in shelf["keywords"]])
        word = self._sparse("keyword", words.ravel(), words[met_items].ravel()).reshape(words.shape)
        history = np.where(log.history >= 0, items[log.history], 0)
        self.asked = Columns.of(len(log.now), asked, groups={"history": (log.length, {"item": history})})
        kinds = {name: self._sparse(name, shelf[name], shelf[name][met_items]) for name in ("category", "creator")}
        self.shelf = Columns.of(
            ITEMS,
            {"item": items, **kinds},
            {"length": np.log(shelf["length_s"] / 40)},
            {"keywords": (np.full(ITEMS, words.shape[1]), {"keyword": word})},
            {"content": np.stack(list(shelf["content"]))},
        )
        self.published = shelf["published"]
        places = np.arange(1, log.items.shape[1] + 1)
        self.place = torch.from_numpy(self._sparse("position", places, places))

    def _sparse(self, name: str, values: NDArray[Any], known: NDArray[Any]) -> Ints:
        words = np.unique(known.astype(str))
        self.sizes[name] = len(words) + 2
        values = values.astype(str)
        at = np.searchsorted(words, values).clip(max=len(words) - 1)
        return np.where(words[at] == values, at + 2, 1).astype(np.int64)

    def layout(self, tasks: tuple[str, ...]) -> Layout:
        request = Side({name: name for name in self.asked.sparse_names}, groups={"history": {"item": "item"}})
        row = Side(
            {"position": "position", **{name: name for name in self.shelf.sparse_names}},
            ("age", *self.shelf.dense_names),
            {"keywords": {"keyword": "keyword"}},
            {name: vec.shape[1] for name, vec in self.shelf.vecs.items()},
        )
        return Layout(request, row, self.sizes, tasks)


class Part:
    """Requests of a part as a source: each with all its rows."""

    def __init__(self, log: Log, fields: Fields, name: str, tasks: tuple[str, ...]) -> None:
        self.log, self.fields, self.at, self.tasks = log, fields, log.part(name), tasks
        self.columns = [TASKS.index(task) for task in tasks]

    def __len__(self) -> int:
        return len(self.at)

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Of all rows [B, T]."""
        every: NDArray[np.bool_] = self.log.labels[self.at][:, :, self.columns].reshape(-1, len(self.tasks))
        return every

    def batch(self, rows: Ints) -> Batch:
        log, fields, at = self.log, self.fields, self.at[rows]
        items = log.items[at]
        days = np.maximum(log.now[at][:, None] - fields.published[items], 0) / DAY_MS
        shelf = fields.shelf.take(torch.from_numpy(items.ravel()))
        row = replace(
            shelf,
            sparse=torch.cat([fields.place.repeat(len(at))[:, None], shelf.sparse], dim=1),
            dense=torch.cat([torch.from_numpy(np.log1p(days.ravel()[:, None]).astype(np.float32)), shelf.dense], dim=1),
            sparse_names=("position", *shelf.sparse_names),
            dense_names=("age", *shelf.dense_names),
        )
        request_of = np.repeat(np.arange(len(at)), items.shape[1])
        labels = log.labels[at][:, :, self.columns].reshape(-1, len(self.tasks)).astype(np.float32)
        made = Batch.of(fields.asked.take(torch.from_numpy(at)), row, request_of)
        return replace(made, tasks=self.tasks, labels=torch.from_numpy(labels))


def said(model: Any, part: Part) -> NDArray[np.float32]:
    """Logits [B, T] of a part."""
    blocks = np.array_split(np.arange(len(part)), -(-len(part) // REQUESTS))
    with torch.inference_mode():
        every = [model(part.batch(block)) for block in blocks]
    return np.concatenate([torch.stack([out[task] for task in part.tasks], dim=1).numpy() for out in every])


def judged(model: Any, part: Part) -> dict[str, float]:
    z, y = said(model, part), part.labels
    each = {f"{task} auc": ctr.auc(z[:, n], y[:, n]) for n, task in enumerate(part.tasks)}
    return {"auc": float(np.mean(list(each.values()))), **each}


def run(name: str, recipe: Mapping[str, Any], log: Log, fields: Fields, seed: int, logits: Path) -> dict[str, Any]:
    """One run of a recipe: what validation says at its best. Logits of the test part go to a file, not its outcome."""
    one = MODELS[name]
    layout = fields.layout(one.tasks)
    learned_on, held = (Part(log, fields, part, one.tasks) for part in ("train", "valid"))
    torch.manual_seed(seed)
    model = DNN(build(DNN.Config, one.options(recipe["wide"]), name), layout)
    objective = Bce(build(Bce.Config, {"balance": one.balance}, name), one.tasks)
    config = Loop.Config(
        epochs=EPOCHS, patience=PATIENCE, seed=seed, device="cpu", optimizer="adam",
        lr=recipe["lr"], l2_embedding=recipe["l2_embedding"],
    )  # fmt: skip
    clocks = time.perf_counter(), time.process_time()
    steps = train(model, objective, Loader(learned_on, REQUESTS, seed), config, validate=partial(judged, part=held))
    epochs = max(step.epoch for step in steps)
    told: dict[str, Any] = {
        "seconds": time.perf_counter() - clocks[0], "processor seconds": time.process_time() - clocks[1],
        "epochs": epochs, "rows": 10 * len(learned_on),
    }  # fmt: skip
    tables = model.embed.table.weight.numel()
    told |= {"weights": sum(weight.numel() for weight in model.parameters()) - tables, "table": tables}
    told |= {f"valid {key}": value for key, value in judged(model, held).items()}
    told |= {f"{task} counts": value for task, value in objective.weights().items()}
    with watched(model) as gates:
        np.save(logits, said(model, Part(log, fields, "test", one.tasks)))
    return told | gates.told() | {"recipe": recipe, "seed": seed}


Runs = Callable[[str, Mapping[str, Any], float, int], dict[str, Any]]  # model, recipe, bait, seed


def chosen(name: str, runs: Runs, bait: float, seed: int) -> dict[str, Any]:
    """The recipe that is best on validation."""
    best = {key: values[0] for key, values in GRID.items()}
    for key, values in GRID.items():
        tried = [runs(name, {**best, key: value}, bait, seed) for value in values]
        best = max(tried, key=lambda told: float(told["valid auc"]))["recipe"]
    return best


def place(folder: Path, name: str, recipe: Mapping[str, Any], bait: float, seed: int) -> Path:
    """Of what a finished run said; its logits are beside it."""
    words = (name.replace(",", ""), *(f"{key} {value}" for key, value in recipe.items()), f"bait {bait} seed {seed}")
    return folder / ("-".join(words).replace(" ", "-") + ".json")


# ------------------------------------------------------------------------------------------ figures


def weighted(s: NDArray[Any], y: NDArray[np.bool_], users: Ints, counts: Floats) -> Floats:
    """AUC [N] of rows that count as often as their user is drawn in each of N resamples [N, U]; a tie is half."""
    order = np.argsort(s, kind="stable")
    starts = np.flatnonzero(np.diff(s[order], prepend=-np.inf) > 0)
    owner, hit = users[order], y[order].astype(np.float64)
    out = np.empty(len(counts))
    for n, often in enumerate(counts):
        weight = often[owner]
        up, down = np.add.reduceat(weight * hit, starts), np.add.reduceat(weight * (1 - hit), starts)
        won = up @ (np.cumsum(down) - down / 2)
        out[n] = won / (up.sum() * down.sum())
    return out


def by_user(s: NDArray[Any], y: NDArray[np.bool_], users: Ints) -> tuple[Floats, Floats]:
    """Each user's own AUC [U], NaN for one class, and rows [U]."""
    order = np.argsort(users, kind="stable")
    edges = np.searchsorted(users[order], np.arange(USERS + 1))
    own = [ctr.auc(s[at], y[at]) for at in np.split(order, edges[1:-1])]
    return np.array(own), np.diff(edges).astype(np.float64)


@dataclass
class Measured:
    """Of one task in one world, by model: AUC of all test rows and of each resample of users [1 + N]; AUC of each user
    [U] and rows [U]."""

    auc: dict[str, Floats]
    own: dict[str, Floats]
    rows: Floats

    @classmethod
    def of(cls, scores: Mapping[str, NDArray[Any]], y: NDArray[np.bool_], users: Ints, seed: int) -> "Measured":
        drawn = np.random.default_rng(seed).multinomial(USERS, np.full(USERS, 1 / USERS), RESAMPLES)
        counts = np.concatenate([np.ones((1, USERS)), drawn])
        own = {name: by_user(s, y, users) for name, s in scores.items()}
        auc = {name: weighted(s, y, users, counts) for name, s in scores.items()}
        return cls(auc, {name: each for name, (each, _) in own.items()}, next(iter(own.values()))[1])

    def gauc(self, name: str) -> float:
        own = self.own[name]
        known = ~np.isnan(own)
        return float(np.average(own[known], weights=self.rows[known]))


def difference(worlds: list[Measured], name: str, base: str) -> dict[str, Any]:
    """Of two models, paired: mean over worlds with the interval over users, and each world's own."""
    auc = np.mean([world.auc[name] - world.auc[base] for world in worlds], axis=0)
    lost = np.concatenate([world.own[name] - world.own[base] for world in worlds])
    rows = np.concatenate([world.rows for world in worlds])
    gauc = ratio(lost * rows, np.where(np.isnan(lost), np.nan, rows), np.random.default_rng(0))
    return {
        "auc": [float(auc[0]), *map(float, np.quantile(auc[1:], [0.025, 0.975]))],
        "auc by seed": [float(world.auc[name][0] - world.auc[base][0]) for world in worlds],
        "gauc": [gauc.value, gauc.low, gauc.high],
        "gauc by seed": [world.gauc(name) - world.gauc(base) for world in worlds],
    }


def scores(log: Log, task: str, logits: Mapping[str, Path]) -> Iterator[tuple[str, NDArray[Any]]]:
    """What the truth and each model said of the test part."""
    truth = log.truth[log.part("test")]
    yield "truth", truth[:, :, TASKS.index(task)].ravel()
    yield "crossed", truth[:, :, 1 - TASKS.index(task)].ravel()
    for name, file in logits.items():
        model = MODELS[name]
        if task in model.tasks:
            yield "single tasks" if model.head is None else name, np.load(file)[:, model.tasks.index(task)]


def figures(logs: Mapping[int, Log], logits: Mapping[int, Mapping[str, Path]]) -> list[dict[str, Any]]:
    """Of every task and model, by seed: test AUC and GAUC, and differences to single tasks, to Shared-Bottom and, with
    uncertainty, to the same without."""
    lines = []
    for n, task in enumerate(TASKS):
        worlds = []
        for seed, log in logs.items():
            at = log.part("test")
            users, y = np.repeat(log.users[at], log.items.shape[1]), log.labels[at][:, :, n].ravel()
            worlds.append(Measured.of(dict(scores(log, task, logits[seed])), y, users, seed))
        for name in worlds[0].auc:
            line: dict[str, Any] = {"task": task, "model": name, "auc": [float(world.auc[name][0]) for world in worlds]}
            line["gauc"] = [world.gauc(name) for world in worlds]
            for base in ("single tasks", "shared_bottom", name.removesuffix(", uncertainty")):
                if base != name:
                    line[f"minus {base}"] = difference(worlds, name, base)
            lines.append(line)
    return lines


def shown(line: Mapping[str, Any]) -> dict[str, str]:
    """A line of `figures` to be read."""
    out = {
        "task": line["task"],
        "model": line["model"],
        "auc": mean_range(line["auc"]),
        "gauc": mean_range(line["gauc"]),
    }
    for base in ("single tasks", "shared_bottom"):
        for key in ("auc", "gauc"):
            value = line.get(f"minus {base}", {}).get(key)
            out[f"{key} - {base}"] = "" if value is None else "{:.4f} [{:.4f}, {:.4f}]".format(*value)
    return out


def mean_range(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def rates(log: Log) -> dict[str, float]:
    """What a log holds, and how clicks and likes of bait differ from others'."""
    click, like = log.labels[:, :, 0], log.labels[:, :, 1]
    bait = log.world.truth.bait[log.items]
    return {
        "impressions": log.items.size, "test": 10 * len(log.part("test")), "clicks": float(click.mean()),
        "likes": float(like.mean()), "bait": float(bait.mean()), "clicks of bait": float(click[bait].mean()),
        "of others": float(click[~bait].mean()), "likes of clicked bait": float(like[bait & click].mean()),
        "of other clicked": float(like[~bait & click].mean()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bait", type=float, nargs="+", default=[World.Config.bait])
    parser.add_argument("--out", type=Path, default=Path("world_tasks"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    made = cache(Log.of)
    fields = cache(lambda bait, seed: Fields(made(bait, seed)))

    def done(name: str, recipe: Mapping[str, Any], bait: float, seed: int) -> dict[str, Any]:
        file = place(args.out, name, recipe, bait, seed)
        if not file.is_file():
            log, columns = made(bait, seed), fields(bait, seed)
            write(file, run(name, recipe, log, columns, seed, file.with_suffix(".npy")))
            print(file.read_text(encoding="utf-8"), flush=True)
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return told

    first: tuple[float, int] = args.bait[0], args.seeds[0]
    best = {name: chosen(name, done, *first) for name in MODELS}
    result: dict[str, Any] = {}
    for bait in args.bait:
        names = list(MODELS) if bait == first[0] else list(FEW)
        runs = {name: [done(name, best[name], bait, seed) for seed in args.seeds] for name in names}
        logs = {seed: made(bait, seed) for seed in args.seeds}
        logits = {
            seed: {name: place(args.out, name, best[name], bait, seed).with_suffix(".npy") for name in names}
            for seed in args.seeds
        }
        lines = figures(logs, logits)
        about = [{"share of bait": bait, "seed": seed, **rates(log)} for seed, log in logs.items()]
        print(table(about), table([shown(line) for line in lines]), sep="\n\n")
        for name, each in runs.items():
            figured = {key: mean_range([one[key] for one in each]) for key in each[0] if key not in ("recipe", "seed")}
            print(name, best[name], figured)
        result[str(bait)] = {"logs": about, "figures": lines, "runs": runs}
    write(args.out / "result.json", {"result": result, "peak_mb": peak_mb(), "origin": origin(seeds=args.seeds)})


if __name__ == "__main__":
    main()
