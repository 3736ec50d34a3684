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
from shortlist.batch import Layout
from shortlist.candidates import Candidates, Requests
from shortlist.config import build, find
from shortlist.errors import ArtifactError
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.features.featureset import FeatureSet
from shortlist.models.runtimes import Eager, Runtime, opened
from shortlist.schema import Catalogue, Schema

__all__ = ["Learned", "parts", "restore", "PACKAGES"]

PACKAGES = ("shortlist.models.recall", "shortlist.models.coarse", "shortlist.models.rank")
WEIGHT, FITTED, STEPS = "weight.", "fitted.", "steps."
ORDER = 1e-4  # of a probability is the logit's: a map that is level somewhere keeps the order there
BLOCK = 65_536  # rows of the catalogue encoded at once


@dataclass(frozen=True)
class Learned:
    """A module in eval mode and the assembler of its batches.

    `platt` (a, b) of a task makes its logit z a probability sigmoid(a z + b), `steps` [2, K] of a task another way:
    logits, ascending, and the probability at each, straight between. `measures` are tasks whose output is a value and
    no logit, `items` the item side of a coarse ranker, encoded once [I + 1, V]; `runtime` is what runs a ranker, the
    module itself by default.
    """

    model: Any
    assembler: Assembler
    layout: Layout
    platt: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    measures: frozenset[str] = frozenset()
    items: Tensor | None = None
    runtime: Runtime | None = None
    steps: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

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
        return {task: self._said(task, z) for task, z in self.logits(requests, candidates).items()}

    def _said(self, task: str, z: NDArray[np.float32]) -> NDArray[np.float32]:
        if task in self.measures:
            return z
        if task in self.steps:
            level = np.interp(z, *self.steps[task])
            return (level + ORDER * (expit(z.astype(np.float64)) - level)).astype(np.float32)
        a, b = self.platt.get(task, (1.0, 0.0))
        return np.asarray(expit(a * z + b).astype(np.float32))

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
        "features": learned.assembler.features.words(),
        "history": learned.assembler.history,
        "encoders": table,
        "arrays": sorted(fitted),
    }
    maps = {f"{STEPS}{task}": steps for task, steps in learned.steps.items()}
    return config, weights | {f"{FITTED}{name}": array for name, array in fitted.items()} | maps


def restore(artifact: Artifact, schema: Schema, catalogue: Catalogue) -> Learned:
    """The module an artifact was saved from, run by what was chosen at publish where that can be had here.

    Raises ArtifactError when its weights do not fit the model's code.
    """
    config = artifact.manifest.config
    fitted = {name: np.array(artifact.array(f"{FITTED}{name}")) for name in config["arrays"]}
    features = FeatureSet.restored(config.get("features", ()), schema)
    encoders = Encoders.restore(config["encoders"], fitted)
    assembler = Assembler(schema, encoders, catalogue, config["history"], features)
    layout = assembler.layout(config["channels"], config["tasks"])
    kind: Any = find(config["use"], PACKAGES, artifact.manifest.name)
    model: nn.Module = kind(build(kind.Config, config["options"], artifact.manifest.name), layout)
    weights = {name: torch.from_numpy(np.array(artifact.array(f"{WEIGHT}{name}"))) for name in model.state_dict()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        what = f"the weights do not fit the model: {str(error).splitlines()[-1].strip()}"
        raise ArtifactError(what, where=str(artifact.folder), hint="train and publish again") from None
    learned = Learned(
        model.eval(),
        assembler,
        layout,
        {task: (a, b) for task, (a, b) in config["platt"].items()},
        frozenset(config["measures"]),
        steps={task: np.array(artifact.array(f"{STEPS}{task}")) for task in config.get("steps", ())},
    )
    learned = learned.cached(artifact.manifest.created_ms)
    return replace(learned, runtime=opened(artifact, learned))
