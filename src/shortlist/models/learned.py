"""A trained module with what feeds it: restored from an artifact without training code, asked in numpy columns.

R requests, N candidates, I items, D width. What it needs to be rebuilt is `parts`; what it answers is `query` (a
retriever's vectors) and `score` (a ranker's probabilities).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, nn

from shortlist.artifact import Artifact
from shortlist.batch import Layout, Tables
from shortlist.candidates import Candidates, Requests
from shortlist.config import build, find, plain
from shortlist.errors import ArtifactError
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.features.featureset import FeatureSet
from shortlist.models.ablation import ablated
from shortlist.models.lengths import Length
from shortlist.models.runtimes import Eager, Runtime, opened
from shortlist.models.tabular import Tabular, tabular
from shortlist.schema import Catalogue, Schema

__all__ = ["Learned", "parts", "texts", "restore", "PACKAGES"]

PACKAGES = ("shortlist.models.recall", "shortlist.models.coarse", "shortlist.models.rank")
WEIGHT, FITTED, STEPS, LENGTH, KEPT = "weight.", "fitted.", "steps.", "length.", "kept."
ORDER = 1e-4  # of a probability is the logit's: a map that is level somewhere keeps the order there
FARTHEST = 80.0  # beyond it exp(z) is no float32
BLOCK = 65_536  # rows of the catalogue encoded at once


@dataclass(frozen=True)
class Learned:
    """A module in eval mode and the assembler of its batches.

    `platt` (a, b) of a task makes its logit z a probability sigmoid(a z + b), `steps` [2, K] of a task another way:
    logits, ascending, and the probability at each, straight between. `measures` are tasks whose output is a value and
    no logit; `watch` those that are times, exp(z), and the longest that counted when they were learned; `lengths` of a
    task say what it is divided by. `items` is the item side of a coarse ranker, encoded once [I + 1, V]; `runtime` is
    what runs a ranker, the module itself by default.
    """

    model: Any
    assembler: Assembler
    layout: Layout
    platt: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    measures: frozenset[str] = frozenset()
    items: Tensor | None = None
    runtime: Runtime | None = None
    steps: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    watch: Mapping[str, float] = field(default_factory=dict)
    lengths: Mapping[str, Length] = field(default_factory=dict)

    @property
    def values(self) -> frozenset[str]:
        """Tasks whose score is no probability."""
        return self.measures | frozenset(self.watch) | frozenset(self.lengths)

    def query(self, requests: Requests) -> NDArray[np.float32]:
        """A retriever's vectors of requests [R, D]."""
        with torch.inference_mode():
            vectors: Tensor = self.model.query(self.assembler.requests(requests))
        return vectors.numpy()

    def vectors(self, keys: NDArray[np.int64], now: int) -> NDArray[np.float32]:
        """A retriever's vectors of items [I, D]."""
        return np.concatenate([v.numpy() for v in self._sides("candidate", keys, now)])

    def score(self, requests: Requests, candidates: Candidates) -> dict[str, NDArray[np.float32]]:
        """A ranker's probabilities (or values) [N] by task."""
        said = {task: self._said(task, z) for task, z in self.logits(requests, candidates).items()}
        for task, length in self.lengths.items():
            long = self.assembler.items.take(length.field, candidates.items, np.nan)
            said[task] = (said[task] / length.usual(long)).astype(np.float32)
        return said

    def _said(self, task: str, z: NDArray[np.float32]) -> NDArray[np.float32]:
        if task in self.measures:
            return z
        if task in self.watch:
            return np.exp(np.minimum(z, FARTHEST))
        if task in self.steps:
            level = np.interp(z, *self.steps[task])
            return (level + ORDER * (expit(z.astype(np.float64)) - level)).astype(np.float32)
        a, b = self.platt.get(task, (1.0, 0.0))
        return np.asarray(expit(a * z + b).astype(np.float32))

    def ablated(
        self, requests: Requests, candidates: Candidates
    ) -> tuple[tuple[str, ...], dict[str, NDArray[np.float32]], Candidates]:
        """A candidate of a request with each feature blank in turn (`models/ablation.py`)."""
        return ablated(self, requests, candidates)

    def logits(self, requests: Requests, candidates: Candidates) -> dict[str, NDArray[np.float32]]:
        """What the module gives [N] by task, before calibration."""
        if not len(candidates):
            return {task: np.zeros(0, dtype=np.float32) for task in self.layout.tasks}
        batch = self.assembler(requests, candidates)
        with torch.inference_mode():
            item = None
            if self.items is not None:  # a coarse ranker: its item side was encoded when it was restored
                rows = self.assembler.items.rows(candidates.items)
                item = self.items[torch.from_numpy(np.where(rows < 0, len(self.items) - 1, rows))]
            logits = (self.runtime or Eager(self.model))(batch, item)
            return {task: logit.float().numpy() for task, logit in logits.items()}

    def cached(self, now: int) -> "Learned":
        """With the item side of a coarse ranker encoded for the whole catalogue; a last row is the unknown item's."""
        if not hasattr(self.model, "item"):
            return self
        keys = np.append(self.assembler.items.keys, -1)
        items = torch.cat(list(self._sides("item", keys, now)))
        return replace(self, items=items)

    def _sides(self, name: str, keys: NDArray[np.int64], now: int) -> list[Tensor]:
        out = []
        with torch.inference_mode():
            for at in range(0, max(len(keys), 1), BLOCK):
                block = keys[at : at + BLOCK]
                columns = self.assembler.entries(block, np.full(len(block), now, dtype=np.int64))
                out.append(getattr(self.model, name)(columns).clone())
        return out


def parts(
    learned: Learned, use: str, options: Mapping[str, Any], channels: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What an artifact must hold: its configuration and its arrays."""
    table, fitted = learned.assembler.encoders.state()
    weights = {f"{WEIGHT}{name}": t.detach().cpu().numpy() for name, t in learned.model.state_dict().items()}
    config = {
        "use": use,
        "options": dict(options),
        "channels": list(channels),
        "tasks": list(learned.layout.tasks),
        "platt": {task: list(pair) for task, pair in learned.platt.items()},
        "steps": sorted(learned.steps),
        "measures": sorted(learned.measures),
        "watch": dict(learned.watch),
        "lengths": {task: {"field": length.field, "mean": length.mean} for task, length in learned.lengths.items()},
        "features": learned.assembler.features.words(),
        "history": learned.assembler.history,
        "encoders": table,
        "arrays": sorted(fitted),
        "embeddings": plain(learned.layout.tables),
    }
    if isinstance(learned.model, Tabular):
        kept, told = learned.model.ranker.state()
        config["kept"] = {"arrays": sorted(kept), "texts": sorted(told)}
        weights = {f"{KEPT}{name}": array for name, array in kept.items()}
    maps = {f"{STEPS}{task}": steps for task, steps in learned.steps.items()}
    maps |= {f"{LENGTH}{task}": length.at for task, length in learned.lengths.items()}
    return config, weights | {f"{FITTED}{name}": array for name, array in fitted.items()} | maps


def texts(learned: Learned) -> dict[str, str]:
    """Beside `parts`: a table ranker's texts."""
    if not isinstance(learned.model, Tabular):
        return {}
    return {f"{KEPT}{name}": text for name, text in learned.model.ranker.state()[1].items()}


def restore(artifact: Artifact, schema: Schema, catalogue: Catalogue) -> Learned:
    """The module an artifact was saved from, run by what was chosen at publish where that can be had here.

    Raises ArtifactError when its weights do not fit the model's code.
    """
    config = artifact.manifest.config
    fitted = {name: np.array(artifact.array(f"{FITTED}{name}")) for name in config["arrays"]}
    features = FeatureSet.restored(config.get("features", ()), schema)
    encoders = Encoders.restore(config["encoders"], fitted)
    assembler = Assembler(schema, encoders, catalogue, config["history"], features)
    tables = build(Tables, config.get("embeddings", {}), artifact.manifest.name)
    layout = assembler.layout(config["channels"], config["tasks"])
    layout = replace(layout, tables=tables, packed=tables.serve == "int8")
    kind: Any = find(config["use"], PACKAGES, artifact.manifest.name)
    options = build(kind.Config, config["options"], artifact.manifest.name)
    model = _tabular(artifact, kind, options, layout) if tabular(kind) else _module(artifact, kind(options, layout))
    learned = Learned(
        model.eval(),
        assembler,
        layout,
        {task: (a, b) for task, (a, b) in config["platt"].items()},
        frozenset(config["measures"]),
        steps={task: np.array(artifact.array(f"{STEPS}{task}")) for task in config.get("steps", ())},
        watch=config.get("watch", {}),
        lengths={
            task: Length(words["field"], np.array(artifact.array(f"{LENGTH}{task}")), words["mean"])
            for task, words in config.get("lengths", {}).items()
        },
    )
    learned = learned.cached(artifact.manifest.created_ms)
    return replace(learned, runtime=opened(artifact, learned))


def _module(artifact: Artifact, model: nn.Module) -> nn.Module:
    """A module with the weights of an artifact."""
    weights = {name: torch.from_numpy(np.array(artifact.array(f"{WEIGHT}{name}"))) for name in model.state_dict()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        what = f"the weights do not fit the model: {str(error).splitlines()[-1].strip()}"
        raise ArtifactError(what, where=str(artifact.folder), hint="train and publish again") from None
    return model


def _tabular(artifact: Artifact, kind: Any, options: Any, layout: Layout) -> nn.Module:
    """A table ranker as it was kept."""
    kept = artifact.manifest.config["kept"]
    arrays = {name: artifact.array(f"{KEPT}{name}") for name in kept["arrays"]}
    told = {name: artifact.text(f"{KEPT}{name}") for name in kept["texts"]}
    try:
        return Tabular(kind.restored(options, layout, arrays, told))
    except ArtifactError as error:
        raise ArtifactError(error.what, where=str(artifact.folder), hint=error.hint) from None
