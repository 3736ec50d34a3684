"""Joint vectors of items from their images and their texts: a contrastive model, from two columns to an artifact.

N items, D width. Learned on items of training that have both; applied to all that have either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from shortlist.artifact import Artifact, Manifest, save
from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.config import Count, build, frozen, plain
from shortlist.dataset.loader import Loader
from shortlist.errors import ConfigError, DataError
from shortlist.features.content import Keyed
from shortlist.models.content.contrastive import IMAGE, TEXT, Contrastive
from shortlist.training.checkpoints import fingerprint
from shortlist.training.curves import ended
from shortlist.training.learn import own, threads
from shortlist.training.loop import LOG, Loop, train
from shortlist.training.objectives.infonce import InfoNce

__all__ = ["Joint", "Training", "joint", "restored"]

WEIGHT = "weight."
BLOCK = 65_536


@frozen
class Training(Loop.Config):
    """The loop, and how many items are told apart at once: more are harder, and better. A last batch that is not full
    is left out. A share `held` of the items says when to stop, by the share of their images and texts that find each
    other."""

    batch_size: Count = 256
    threads: Count = 1
    held: Annotated[float, Ge(0), Lt(1)] = 0.0


@dataclass(frozen=True)
class Pairs:
    """Rows of items that have both vectors: what the loader takes batches from."""

    image: NDArray[np.float32]
    text: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.image)

    def where(self, mask: NDArray[np.bool_]) -> "Pairs":
        return Pairs(self.image[mask], self.text[mask])

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        columns = _columns(self.image[rows], self.text[rows])
        return Batch(Columns.of(1), columns, torch.zeros(len(rows), dtype=torch.long))


@dataclass(frozen=True)
class Joint:
    """A trained model in eval mode: vectors of items from what they have."""

    model: Contrastive

    def __call__(self, image: Keyed, text: Keyed) -> Keyed:
        """Keys of all that have either, and their joint vectors [N, D] of length 1."""
        keys = np.union1d(image[0], text[0]).astype(np.int64)
        wide = self.model.widths
        image_NC, text_NC = _laid(keys, *image, wide[IMAGE]), _laid(keys, *text, wide[TEXT])
        out = np.zeros((len(keys), self.model.dim), dtype=np.float32)
        with torch.inference_mode():
            for at in range(0, len(keys), BLOCK):
                part = slice(at, at + BLOCK)
                out[part] = self.model(_columns(image_NC[part], text_NC[part])).numpy()
        return keys, out


def joint(
    image: Keyed,
    text: Keyed,
    items: NDArray[np.int64],
    folder: Path,
    *,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    loss: Mapping[str, Any] | None = None,
    run: Path | None = None,
    snapshot: str,
    created_ms: int,
) -> Manifest:
    """Train on `items` (keys of training) that have both, and save the model with the vectors of all.

    A run that was stopped goes on from `run`. Raises ConfigError for options, DataError where fewer than two items have
    both.
    """
    config = build(Contrastive.Config, model or {}, "joint.model")
    loop = build(Training, training or {}, "joint.train")
    objective = InfoNce(build(InfoNce.Config, loss or {}, "joint.loss"))
    both = np.intersect1d(np.intersect1d(image[0], text[0]), items)
    if loop.patience and not loop.held:
        hint = "set held, the share of items that are looked at"
        raise ConfigError("patience without anything to look at", where="joint.train", hint=hint)
    pairs = Pairs(*(_laid(both, *side, side[1].shape[1]) for side in (image, text)))
    held = max(1, int(loop.held * len(both))) if loop.held else 0
    late = np.random.default_rng(loop.seed).permutation(len(both)) < held
    learned_on, asked = pairs.where(~late), pairs.where(late)
    if len(learned_on) < 2:
        what = f"{len(learned_on)} items of training have an image and a text"
        raise DataError(what, where="joint", hint="it takes two to tell one from another")
    layout = Layout(Side(), Side(vecs={IMAGE: image[1].shape[1], TEXT: text[1].shape[1]}), {})
    torch.manual_seed(loop.seed)  # the weights it starts with
    learned = Contrastive(config, layout)
    batches = Loader(learned_on, min(loop.batch_size, len(learned_on)), loop.seed, drop_last=True)
    validate = partial(found, pairs=asked) if len(asked) else None
    words = {"model": plain(config), "train": plain(loop), "loss": dict(loss or {})}
    identity = fingerprint(words, snapshot)
    place = None if run is None else own(run, identity, "joint")
    metrics: dict[str, float] = {"items": len(both)}
    with threads(loop.threads):
        for step in train(learned, objective, batches, loop, validate=validate, folder=place, fingerprint=identity):
            metrics["loss"] = step.loss
            metrics |= step.metrics if step.best else {}
    if place is not None:
        metrics |= ended(place / LOG)  # of all of the run, whatever part of it was now
    keys, vectors = Joint(learned.cpu().eval())(image, text)
    weights = {f"{WEIGHT}{name}": t.detach().cpu().numpy() for name, t in learned.state_dict().items()}
    return save(
        folder,
        kind="features.joint",
        name="joint",
        arrays={**weights, "keys": keys, "vectors": vectors},
        config=words | {"widths": dict(layout.row.vecs)},
        snapshot=snapshot,
        metrics=metrics,
        created_ms=created_ms,
    )


def found(model: Contrastive, pairs: Pairs) -> dict[str, float]:
    """Share of images that are nearer to their own text than to any other, and of texts likewise: their mean."""
    device = next(model.parameters()).device
    row = _columns(pairs.image, pairs.text).to(device)
    scores = model.image(row) @ model.text(row).T
    own = torch.arange(len(pairs), device=device)
    hits = [(table.argmax(dim=1) == own).float().mean().item() for table in (scores, scores.T)]
    return {"recall@1": sum(hits) / 2}


def restored(artifact: Artifact) -> tuple[Joint, Keyed]:
    """The model, for items that came later, and the vectors it was saved with."""
    words = artifact.manifest.config
    layout = Layout(Side(), Side(vecs=words["widths"]), {})
    model = Contrastive(build(Contrastive.Config, words["model"], "joint.model"), layout)
    names = model.state_dict()
    model.load_state_dict({name: torch.from_numpy(np.array(artifact.array(f"{WEIGHT}{name}"))) for name in names})
    return Joint(model.eval()), (artifact.array("keys"), artifact.array("vectors"))


def _laid(keys: NDArray[np.int64], own: NDArray[np.int64], matrix: NDArray[Any], width: int) -> NDArray[np.float32]:
    """Vectors of keys [N, width], zero where there is none."""
    out = np.zeros((len(keys), width), dtype=np.float32)
    out[np.isin(keys, own)] = matrix[np.isin(own, keys)]
    return out


def _columns(image: NDArray[np.float32], text: NDArray[np.float32]) -> Columns:
    return Columns.of(len(image), vecs={IMAGE: image, TEXT: text})
