"""GMF, MLP and NeuMF under the NCF protocol (He X. et al., WWW 2017): HR@10 and NDCG@10 among 100 candidates, in
expectation over orders of tied scores.

    SHORTLIST_DATA=... python -m bench.ncf [--model gmf mlp neumf] [--factors 8 16 32 64] [--seed 0] [--out folder]
    SHORTLIST_DATA=... python -m bench.ncf --model neumf --start 0.5 ... (after gmf and mlp of the same folder)
    python -m bench.ncf table --out folder [--beside mf.json ease.json]

Log loss, Adam, batches of 4096, four negatives of each positive, drawn anew every epoch, uniformly from the catalogue
without what the user has in train, whatever the test holds. The log has no times, so a random train item of each user
is held out, and among 99 items the user lacks, drawn likewise, the sum of both metrics chooses the epoch; the weights
of that epoch, which have not learned the items held out, are measured once on the published test file, which nothing
reads before. Epochs are at most the documented ones; a run that has not validated better for `--patience` epochs ends.
NeuMF starts from nothing unless `--start` gives the alpha of pre-trained parts; then it goes on by SGD. With `--out` a
run that was stopped goes on, and one that is done is not repeated. Data whose files are not there are skipped, by name.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from bench.ease_ncf import hold_out, measure
from bench.report import data_folder, origin, peak_mb, table, write
from shortlist.batch import Batch, Columns, Layout, Side, Tables
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.loader import Loader
from shortlist.models.rank.gmf import GMF
from shortlist.models.rank.mlp import MLP
from shortlist.models.rank.neumf import NeuMF
from shortlist.schema import FIRST
from shortlist.training.checkpoints import fingerprint
from shortlist.training.loop import LOG, Loop, train
from shortlist.training.objectives.bce import Bce

TASK = "taken"
NEGATIVES = 4
BLOCK = 256  # users scored at once
MODELS = ("gmf", "mlp", "neumf")
FACTORS = (8, 16, 32, 64)
MF = 32  # width of the GMF part in the documented rows
Ints = NDArray[np.int64]

EPOCHS = {
    ("ml-1m", "gmf"): (100, 100, 100, 100),
    ("ml-1m", "mlp"): (100, 40, 40, 40),
    ("ml-1m", "neumf"): (100, 100, 100, 100),
    ("pinterest", "gmf"): (100, 100, 100, 100),
    ("pinterest", "mlp"): (40, 40, 40, 40),
    ("pinterest", "neumf"): (25, 25, 25, 25),
}
DOCUMENTED: dict[tuple[str, str], tuple[tuple[float, float] | None, ...]] = {
    ("ml-1m", "gmf"): ((0.6460, 0.3661), (0.6884, 0.4071), (0.6970, 0.4173), (0.6917, 0.4140)),
    ("ml-1m", "mlp"): ((0.6589, 0.3824), (0.6737, 0.3970), (0.6844, 0.4038), (0.6874, 0.4107)),
    ("ml-1m", "neumf"): ((0.6921, 0.4141), (0.6899, 0.4122), (0.6896, 0.4147), (0.6916, 0.4101)),
    ("pinterest", "gmf"): ((0.8672, 0.5430), (0.8580, 0.5285), (0.8553, 0.5298), (0.8553, 0.5294)),
    ("pinterest", "mlp"): ((0.8432, 0.5142), (0.8562, 0.5275), (0.8565, 0.5265), (0.8611, 0.5345)),
    ("pinterest", "neumf"): ((0.8400, 0.5177), None, (0.8395, 0.5189), None),
}


@dataclass(frozen=True)
class Setting:
    """One run. `layers` begin with the width of the MLP's input."""

    data: str
    model: str
    factors: int
    epochs: int
    patience: int
    batch: int
    lr: float
    seed: int
    start: float | None = None
    l2: float = 0.0  # of the rows of tables that a batch touches

    @property
    def name(self) -> str:
        return f"{self.data}-{self.model}{'' if self.start is None else '-started'}-{self.factors}-{self.seed}"

    @property
    def layers(self) -> tuple[int, ...]:
        return (4 * self.factors, 4 * self.factors, 2 * self.factors, self.factors)

    def built(self, layout: Layout) -> GMF | MLP | NeuMF:
        torch.manual_seed(self.seed)
        if self.model == "gmf":
            return GMF(GMF.Config(self.factors), layout)
        if self.model == "mlp":
            return MLP(MLP.Config(self.factors, self.layers), layout)
        mf = MF if self.start is None else None  # pre-trained parts have the same factors
        return NeuMF(NeuMF.Config(self.factors, mf, self.layers), layout)

    def loop(self) -> Loop.Config:
        return Loop.Config(
            optimizer="adam" if self.start is None else "sgd",
            lr=self.lr,
            l2_embedding=self.l2,
            epochs=self.epochs,
            patience=self.patience,
            metric="sum",
            seed=self.seed,
            device="cpu",
        )


class Positives:
    """Pairs of train [n] and `NEGATIVES` others of each: rows of a `Loader`, other negatives in every epoch.

    Users and items count from 0; `taken` [U, I] is what no negative may be.
    """

    def __init__(self, train: Interactions, items: int, seed: int) -> None:
        self.users = np.searchsorted(train.user_keys, train.users).astype(np.int32)
        self.items = train.items.astype(np.int32)
        self.seed, self.count = seed, items
        self.taken = np.zeros((len(train.user_keys), items), dtype=bool)
        self.taken[self.users, self.items] = True
        self.drawn = np.zeros(0, dtype=np.int32)

    @property
    def layout(self) -> Layout:
        sizes = {"user.id": len(self.taken) + FIRST, "item.id": self.count + FIRST}
        sides = Side(sparse={"user.id": "user.id"}), Side(sparse={"item.id": "item.id"})
        # dense gradients at any size: the moments of all rows move at each step, as with the authors' Adam
        return Layout(*sides, sizes, (TASK,), Tables(sparse_above=1 << 40))

    def __len__(self) -> int:
        return (1 + NEGATIVES) * len(self.items)

    def at_epoch(self, epoch: int) -> "Positives":
        """With the negatives of an epoch, a function of (seed, epoch)."""
        rng = np.random.default_rng([self.seed, epoch, 1])
        whose = np.tile(self.users, NEGATIVES)
        self.drawn = rng.integers(self.count, size=len(whose), dtype=np.int32)
        wrong = np.flatnonzero(self.taken[whose, self.drawn])
        while len(wrong):
            self.drawn[wrong] = rng.integers(self.count, size=len(wrong), dtype=np.int32)
            wrong = wrong[self.taken[whose[wrong], self.drawn[wrong]]]
        return self

    def batch(self, rows: Ints) -> Batch:
        """Rows below n are the pairs, those behind them negatives, pair after pair."""
        n = len(self.items)
        labels = rows < n
        items = np.where(labels, self.items[np.minimum(rows, n - 1)], self.drawn[np.maximum(rows - n, 0)])
        request = _ids("user.id", self.users[rows % n])
        made = Batch(request, _ids("item.id", items), torch.arange(len(rows)), (TASK,))
        return replace(made, labels=torch.from_numpy(labels[:, None].astype(np.float32)))


def _ids(name: str, ids: NDArray[Any]) -> Columns:
    return Columns.of(len(ids), {name: ids.astype(np.int64) + FIRST})


@dataclass(frozen=True)
class Data:
    """Pairs without the held-out ones, users [U], and candidates [U, 100] of validation, the held-out item first."""

    rest: Interactions
    users: Ints
    candidates: Ints
    items: int


def read(name: str, seed: int) -> Data | None:
    """None where the files are not there."""
    folder = data_folder() / f"ncf-{name}"
    if name == "ml-1m" and folder.is_dir():
        pairs = pl.read_parquet(folder / "train.rebuilt.parquet").cast(pl.Int64).to_numpy()
        items = len(pl.read_parquet(folder / "item_map.rebuilt.parquet"))
    elif (folder / "pinterest-20.train.rating").is_file():
        pairs = pl.read_csv(folder / "pinterest-20.train.rating", separator="\t", has_header=False).to_numpy()
        items = 1 + int(pairs[:, 1].max())
    else:
        return None
    log = Interactions.of(pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64))
    return Data(*hold_out(log, np.random.default_rng(seed), items), items)


def published(name: str) -> tuple[Ints, Ints]:
    """Users and candidates [R, 100] of the test file, the positive first."""
    folder = data_folder() / f"ncf-{name}"
    if name == "ml-1m":
        test = pl.read_parquet(folder / "test.negative.parquet")
        positives = test["pos_item_id"].cast(pl.Int64).to_numpy()
        negatives = np.array(test["neg_item_ids"].to_list(), dtype=np.int64)
        return test["user_id"].cast(pl.Int64).to_numpy(), np.concatenate([positives[:, None], negatives], axis=1)
    lines = (folder / "pinterest-20.test.negative").read_text(encoding="ascii").split("\n")
    cells = [line.strip().replace("(", "").replace(")", "").replace(",", "\t").split("\t") for line in lines if line]
    rows = np.array(cells, dtype=np.int64)
    return rows[:, 0], rows[:, 1:]


def scores(model: nn.Module, users: Ints, candidates: Ints) -> NDArray[np.float32]:
    """Logits of candidates [R, C]; users count from 0."""
    out = []
    with torch.no_grad():
        for at in range(0, len(users), BLOCK):
            some = candidates[at : at + BLOCK]
            of = np.repeat(np.arange(len(some)), some.shape[1])
            given = Batch.of(_ids("user.id", users[at : at + BLOCK]), _ids("item.id", some.ravel()), of)
            out.append(model(given)[TASK].numpy().reshape(some.shape))
    return np.concatenate(out)


def judged(model: nn.Module, users: Ints, candidates: Ints) -> dict[str, float]:
    """HR@10, NDCG@10, and their sum."""
    found = measure(scores(model, users, candidates))
    return {**found, "sum": sum(found.values())}


def fitted(setting: Setting, data: Data, folder: Path) -> tuple[nn.Module, float]:
    """The model with the weights that validated best, and seconds of this process; a run of this folder goes on, or is
    over."""
    source = Positives(data.rest, data.items, setting.seed)
    model = setting.built(source.layout)
    if isinstance(model, NeuMF) and setting.start is not None:
        gmf, mlp = (_part(setting, part, data, folder) for part in ("gmf", "mlp"))
        assert isinstance(gmf, GMF)
        assert isinstance(mlp, MLP)
        model.start(gmf, mlp, setting.start)
    everyone = np.arange(len(data.users))
    run = train(
        model,
        Bce(Bce.Config()),
        Loader(source, setting.batch, setting.seed, prefetch=0),
        setting.loop(),
        validate=lambda now: judged(now, everyone, data.candidates),
        folder=folder / setting.name,
        fingerprint=fingerprint(asdict(setting)),
    )
    started = time.perf_counter()
    for step in run:
        if step.metrics:
            found = " / ".join(f"{step.metrics[name]:.4f}" for name in ("hit_rate@10", "ndcg@10"))
            left = f"at most {step.seconds_left or 0:.0f} s left"
            mark = " *" if step.best else ""
            speed = f"{step.rows_per_second:,.0f} rows/s"
            print(f"{setting.name} epoch {step.epoch}, loss {step.loss:.5f}, {found}{mark}, {speed}, {left}",
                  file=sys.stderr, flush=True)  # fmt: skip
    return model, time.perf_counter() - started


def _part(setting: Setting, name: str, data: Data, folder: Path) -> nn.Module:
    """A part that NeuMF starts from: as it was trained before in this folder, else trained now."""
    asked = replace(planned(setting, name), lr=Loop.Config().lr, start=None)
    done = folder / f"{asked.name}.json"
    if done.exists():
        found = json.loads(done.read_text(encoding="utf-8"))["setting"]
        asked = Setting(**{field.name: found[field.name] for field in fields(Setting) if field.name in found})
    return fitted(asked, data, folder)[0]


def planned(setting: Setting, model: str) -> Setting:
    """The setting for another model, with the epochs documented for it."""
    epochs = EPOCHS[setting.data, model][FACTORS.index(setting.factors)]
    return replace(setting, model=model, epochs=epochs)


def written(folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Validation epoch by epoch and rows a second, as the run wrote them down."""
    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    found = [{"epoch": at["epoch"], "loss": at["loss"], **at["metrics"]} for at in lines if "metrics" in at]
    return found, float([at["rows_per_second"] for at in lines if "rows_per_second" in at][-1])


def report(setting: Setting, data: Data, folder: Path) -> dict[str, Any]:
    """Train, choose, and read the test once."""
    model, seconds = fitted(setting, data, folder)
    log, speed = written(folder / setting.name)
    best = max(log, key=lambda row: float(row["sum"]))  # the first of equal ones, as the loop keeps them
    users, candidates = published(setting.data)
    found = scores(model, np.searchsorted(data.users, users), candidates)
    again = candidates == candidates[:, :1]
    again[:, 0] = False
    settings = {**asdict(setting), "negatives": NEGATIVES, "optimizer": setting.loop().optimizer}
    if setting.model != "gmf":
        settings["layers"] = setting.layers
    facts = {
        "epoch": best["epoch"],
        "epochs run": log[-1]["epoch"],
        "rows/s": speed,
        "seconds of this process": seconds,
    }
    return {
        "origin": origin(command="python -m bench.ncf", torch=torch.__version__, load=os.getloadavg()[0]),
        "setting": settings,
        "cost": {**facts, "peak MB": peak_mb()},
        "validation": log,
        "test": measure(found),
        "test where the positive met again is one item": measure(np.where(again, -np.inf, found)),
    }


def shown(folder: Path, beside: list[Path]) -> str:
    """The documented table with ours beside it, in Markdown, and rows of other benchmarks of this protocol."""
    lines = [
        "| data | model | f | epoch chosen (run) | validation | HR@10 / NDCG@10 | documented | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    runs.sort(key=_place)
    for run in runs:
        setting, cost, test = run["setting"], run["cost"], run["test"]
        goal = DOCUMENTED[setting["data"], setting["model"]][FACTORS.index(setting["factors"])]
        goal = None if setting["start"] is not None else goal  # documented without pre-training
        ours = test["hit_rate@10"], test["ndcg@10"]
        chosen = next(row for row in run["validation"] if row["epoch"] == cost["epoch"])
        started = "" if setting["start"] is None else f", pre-trained parts, alpha {setting['start']}"
        cells = [
            *(setting["data"], setting["model"] + started, str(setting["factors"])),
            *(f"{cost['epoch']} ({cost['epochs run']})", _pair((chosen["hit_rate@10"], chosen["ndcg@10"]))),
            *(_pair(ours), _pair(goal)),
            "" if goal is None else " / ".join(f"{a - b:+.4f}" for a, b in zip(ours, goal, strict=True)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for path in beside:
        other = json.loads(path.read_text(encoding="utf-8"))
        name = other["origin"]["command"].rpartition(".")[2].partition("_")[0]
        test = other["test"][0]
        lines.append(f"| ml-1m | {name} | | | | {_pair((test['hit_rate@10'], test['ndcg@10']))} | | |")
    if not any(run["setting"]["data"] == "pinterest" for run in runs):
        lines.append("| pinterest | skipped: its files are not at hand | | | | | | |")
    return "\n".join(lines)


def _place(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where a run stands in the table."""
    setting = run["setting"]
    model = MODELS.index(setting["model"])
    return setting["data"], model, setting["start"] is not None, setting["factors"], setting["seed"]


def _pair(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{found[0]:.4f} / {found[1]:.4f}"


def settings(args: argparse.Namespace) -> list[Setting]:
    """What is asked for, in order."""
    out = []
    for data in args.data:
        for model in args.model:
            for factors in args.factors:
                rest = (
                    args.patience,
                    args.batch,
                    args.lr,
                    args.seed,
                    args.start if model == "neumf" else None,
                    args.l2,
                )
                asked = planned(Setting(data, model, factors, 0, *rest), model)
                out.append(asked if args.epochs is None else replace(asked, epochs=args.epochs))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", nargs="?", choices=["run", "table"], default="run")
    parser.add_argument("--data", nargs="+", choices=["ml-1m", "pinterest"], default=["ml-1m", "pinterest"])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["gmf"])
    parser.add_argument("--factors", nargs="+", type=int, choices=FACTORS, default=[8])
    parser.add_argument("--epochs", type=int, help="instead of the documented ones")
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--l2", type=float, default=0.0, help="of the rows of tables that a batch touches")
    parser.add_argument("--start", type=float, help="alpha of NeuMF's pre-trained parts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", nargs="*", type=Path, default=[])
    parser.add_argument("--out", type=Path, help="folder of results and checkpoints")
    args = parser.parse_args()
    if args.mode == "table":
        if args.out is None:
            parser.error("table needs --out, the folder of results")
        print(shown(args.out, args.beside))
        return
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        folder = args.out or Path(scratch)
        data: Mapping[str, Data | None] = {name: read(name, args.seed) for name in args.data}
        rows = []
        for name in args.data:
            if data[name] is None:
                print(f"{name}: skipped, there is no {data_folder() / f'ncf-{name}'}", file=sys.stderr)
        for setting in settings(args):
            given, out = data[setting.data], folder / f"{setting.name}.json"
            if given is None:
                continue
            if not out.exists():
                write(out, report(setting, given, folder))
            done = json.loads(out.read_text(encoding="utf-8"))
            rows.append({"run": setting.name, **done["cost"], **done["test"]})
            print(rows[-1], file=sys.stderr, flush=True)
        if rows:
            print(table(rows))


if __name__ == "__main__":
    main()
