"""Rankers on Frappe's published split x1: AUC and logloss on its test part, the train negatives drawn again.

    python -m bench.frappe --model fm deepfm dcn_v2 lr lambdamart [--seeds 0 1 2] [--out FOLDER]

The published train file could not be had; of its rows the apps of negatives alone are drawn anew (uniform over apps
that the user never used), so every figure is "x1 with re-drawn train negatives". A model's recipes (`GRID`) run with
the first seed and stop where the AUC of the validation part is best; the recipe best there runs with every seed, and
only these runs read the test part. A run that is finished stands in FOLDER and is not run again.
Goals: DeepFM and DCN-V2 at least 0.983, FM at least 0.971.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.report import data_folder, origin, peak_mb, table, write
from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.config import build, find
from shortlist.dataset.loader import Loader
from shortlist.metrics import ctr
from shortlist.training.loop import Loop, train
from shortlist.training.objectives.bce import Bce

TASK, FIELDS = "used", tuple(f"f{n}" for n in range(10))
ASKED = tuple(name for name in FIELDS if name != "f1")  # user and context; f1 is the app
FILES = {"train": "x1.train.rebuilt", "valid": "x1.valid", "test": "x1.test"}
TABLES = ("lr", "gbdt_lr", "lambdamart")  # fitted whole, not by gradients
DEEP: dict[str, list[Any]] = {"dim": [16], "hidden": [[256, 128, 64]], "dropout": [0.2, 0.4]}
LEARN: dict[str, list[Any]] = {"lr": [5e-3, 1e-2], "l2_embedding": [3e-4, 1e-3]}
GRID: dict[str, tuple[Mapping[str, list[Any]], Mapping[str, list[Any]]]] = {
    "fm": ({"dim": [16, 64]}, {"lr": [5e-3], "l2_embedding": [1e-4, 1e-3, 1e-2]}),
    "deepfm": (DEEP, LEARN),
    "dcn": (DEEP, LEARN),
    # few recipes, for a run of it costs twice one of DeepFM: those around the best of DeepFM
    "dcn_v2": ({**DEEP, "dropout": [0.2]}, {"lr": [5e-3, 1e-2], "l2_embedding": [3e-4]}),
    "lr": ({"l1": [0.0, 0.1, 1.0]}, {}),
    "gbdt_lr": ({"categories": [5000]}, {}),
    "lambdamart": ({"categories": [5000]}, {}),  # else it reads nothing of the candidate
}
BATCH, EPOCHS, PATIENCE = 4096, 200, 3


class Part:
    """Rows of a part, by request: rows of one user in one context stand together."""

    def __init__(self, frame: pl.DataFrame, words: Mapping[str, NDArray[np.int64]]) -> None:
        frame = frame.sort(ASKED, maintain_order=True)
        ids = {name: coded(frame[name].to_numpy(), words[name]) for name in FIELDS}
        asked = np.stack([ids[name] for name in ASKED], axis=1)
        fresh = np.append(True, (asked[1:] != asked[:-1]).any(axis=1))
        self.request_of = np.cumsum(fresh) - 1
        self.requests = Columns.of(int(fresh.sum()), {name: ids[name][fresh] for name in ASKED})
        self.rows = Columns.of(len(frame), {"f1": ids["f1"]})
        self.labels = torch.from_numpy(frame["label"].to_numpy().astype(np.float32)[:, None])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        used, request_of = np.unique(self.request_of[rows], return_inverse=True)
        index = torch.from_numpy(rows)
        made = Batch.of(self.requests.take(torch.from_numpy(used)), self.rows.take(index), request_of)
        return replace(made, tasks=(TASK,), labels=self.labels[index])

    def every(self) -> list[Batch]:
        """All rows in order, requests whole within a batch."""
        ends = np.flatnonzero(np.append(self.request_of[1:] != self.request_of[:-1], True)) + 1
        cuts, start = [], 0
        while start < len(self):
            stop = int(ends[ends <= max(start + BATCH, ends[ends > start][0])][-1])
            cuts.append(np.arange(start, stop))
            start = stop
        return [self.batch(cut) for cut in cuts]


def coded(values: NDArray[Any], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids from 2 in the order of `known`, 1 for what is not among them."""
    at = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[at] == values, at + 2, 1).astype(np.int64)


def judged(logits: NDArray[Any], part: Part) -> dict[str, float]:
    y = part.labels[:, 0].numpy()
    found = ctr.measure(1 / (1 + np.exp(-logits.astype(np.float64))), y, np.zeros(len(y), dtype=np.int64))
    return {"auc": found["auc"], "logloss": found["logloss"]}


def said(model: Any, part: Part) -> NDArray[Any]:
    def one(batch: Batch) -> NDArray[Any]:
        if hasattr(model, "score"):
            return np.asarray(model.score(batch)[TASK])
        z: Tensor = model(batch)[TASK]
        return z.numpy()

    with torch.inference_mode():
        return np.concatenate([one(batch) for batch in part.every()])


def checked(model: Any, part: Part) -> dict[str, float]:
    return judged(said(model, part), part)


def run(name: str, recipe: Mapping[str, Any], parts: Mapping[str, Part], layout: Layout, seed: int) -> dict[str, Any]:
    """One run of a recipe: what validation says at its best, and the test part's figures where it is given."""
    started = time.perf_counter()
    kind: Any = find(name, ["shortlist.models.rank"], "model")
    torch.manual_seed(seed)
    model = kind(build(kind.Config, recipe["model"], name), layout)
    told: dict[str, Any] = {}
    if name in TABLES:
        model.fit(parts["train"].every(), parts["valid"].every())
    else:
        config = Loop.Config(
            epochs=EPOCHS, patience=PATIENCE, seed=seed, device="cpu", optimizer="adam", **recipe["train"]
        )
        batches = Loader(parts["train"], BATCH, seed)
        steps = train(
            model,
            Bce(Bce.Config()),
            batches,
            config,
            validate=partial(checked, part=parts["valid"]),
        )
        for step in steps:
            told |= {"epochs": step.epoch}
        model.eval()
    told |= {f"valid {key}": value for key, value in checked(model, parts["valid"]).items()}
    if "test" in parts:
        told |= {f"test {key}": value for key, value in checked(model, parts["test"]).items()}
    return told | {"recipe": recipe, "seed": seed, "seconds": time.perf_counter() - started}


def recipes(name: str) -> list[dict[str, Any]]:
    model, learn = GRID[name]
    every = [dict(zip(model, values, strict=True)) for values in product(*model.values())]
    how = [dict(zip(learn, values, strict=True)) for values in product(*learn.values())]
    return [{"model": one, "train": other} for one, other in product(every, how)]


def kept(place: Path, recipe: Mapping[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a finished run of this recipe said, or what it says now."""
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    if found.get("recipe") != recipe:
        found = work()
        write(place, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", nargs="+", choices=list(GRID), default=["fm", "deepfm", "dcn_v2", "lr", "lambdamart"]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("frappe"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = data_folder() / "frappe"
    frames = {part: pl.read_parquet(folder / f"{file}.parquet") for part, file in FILES.items()}
    words = {name: np.unique(frames["train"][name].to_numpy()).astype(np.int64) for name in FIELDS}
    parts = {part: Part(frame, words) for part, frame in frames.items()}
    sizes = {name: len(known) + 2 for name, known in words.items()}
    layout = Layout(Side({name: name for name in ASKED}), Side({"f1": "f1"}), sizes, (TASK,))
    lines = []
    for name in options.model:
        early = {part: parts[part] for part in ("train", "valid")}
        found = []
        for n, recipe in enumerate(recipes(name)):
            place = options.out / f"{name}-search-{n}.json"
            found.append(kept(place, recipe, partial(run, name, recipe, early, layout, options.seeds[0])))
            print(name, n, found[-1], flush=True)
        best = max(found, key=lambda one: one["valid auc"])["recipe"]
        final = [
            kept(options.out / f"{name}-seed-{seed}.json", best, partial(run, name, best, parts, layout, seed))
            for seed in options.seeds
        ]
        line: dict[str, Any] = {"model": name, "recipes": len(found)}
        for figure in ("valid auc", "test auc", "test logloss", "seconds"):
            values = [one[figure] for one in final]
            line |= {figure: float(np.mean(values)), f"{figure} spread": float(np.ptp(values))}
        lines.append(line | {"recipe": json.dumps(best)})
    print(table(lines))
    write(options.out / "table.json", {"lines": lines, "peak_mb": peak_mb(), "origin": origin(seeds=options.seeds)})


if __name__ == "__main__":
    main()
