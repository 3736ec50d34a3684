"""Models with gradients, from a log to an artifact: encoders, examples, the loop, and what serving restores.

R requests, I items, D width.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shortlist.artifact import Manifest, save
from shortlist.batch import Columns
from shortlist.config import Count, build, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.loader import Loader
from shortlist.dataset.pairs import Pairs
from shortlist.dataset.sequences import Sequences
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.forms import Metric, Vectors
from shortlist.models.learned import Learned, parts
from shortlist.schema import Catalogue, Schema
from shortlist.training.checkpoints import fingerprint
from shortlist.training.fit import Progress
from shortlist.training.frequency import Counted
from shortlist.training.loop import Loop, Step, train
from shortlist.training.objectives.softmax import Softmax
from shortlist.training.plan import Plan

__all__ = ["Training", "retriever", "reads_of"]


@frozen
class Training(Loop.Config):
    """The loop, and what a batch and a history are."""

    batch_size: Count = 256
    history: Count = 50


def reads_of(schema: Schema) -> tuple[str, ...]:
    """Every part of a schema that a batch depends on."""
    fields = [f"user.{n}" for n in schema.users] + [f"item.{n}" for n in schema.items]
    return ("actions", *fields, *(f"context.{n}" for n in schema.context), *(f"tasks.{n}" for n in schema.tasks))


def encoded(schema: Schema, catalogue: Catalogue, log: Interactions, history: int) -> Assembler:
    """Encoders fitted on what this log meets, and on nothing else."""
    encoders = Encoders.fit(schema, catalogue, log.user_keys, log.item_keys)
    return Assembler(schema, encoders, catalogue, history)


def rows_of(assembler: Assembler, now: int) -> Callable[[Tensor], Columns]:
    """Row columns of items by id (from 2): the catalogue that sampled negatives are taken from."""
    keys = assembler.encoders.items.keys
    every = assembler.entries(keys, np.full(len(keys), now, dtype=np.int64))
    return lambda ids: every.take(ids - 2)


def retriever(
    plan: Plan,
    interactions: Interactions,
    catalogue: Catalogue,
    schema: Schema,
    folder: Path,
    *,
    run: Path,
    snapshot: str,
    created_ms: int,
    progress: Progress | None = None,
) -> Manifest:
    """Train one retriever and save its weights, its encoders and its items' vectors.

    A model with `states` learns from every step of whole sequences, another from one event at a time. A run that was
    stopped goes on from `run`. Raises ConfigError for options, DataError for a log that teaches nothing.
    """
    config = build(Training, plan.train, f"{plan.where}.train")
    loss = build(Softmax.Config, plan.loss, f"{plan.where}.loss")
    log = interactions.liked(schema.weights)
    now = int(log.times.max()) + 1
    assembler = encoded(schema, catalogue, log, config.history)
    layout = assembler.layout()
    torch.manual_seed(config.seed)  # the weights a model starts with
    model = plan.kind(plan.config(), layout)
    by_step = hasattr(model, "states")
    source: Sequences | Pairs
    source = Sequences.of(log, assembler, config.history) if by_step else Pairs(log, assembler, config.history)
    objective = Softmax(
        loss,
        plan.kind.metric,
        frequency=Counted(source.counts),
        catalogue=rows_of(assembler, now),
        counts=source.counts,
    )
    batches = Loader(source, config.batch_size, config.seed)
    identity = fingerprint(plan.where, snapshot, schema.fingerprint(reads_of(schema)), assembler.encoders.fingerprint)
    last: Step | None = None
    for last in train(model, objective, batches, config, folder=run, fingerprint=identity):
        if progress:
            progress(last.step, len(batches) * config.epochs, f"{plan.name} epoch {last.epoch}, loss {last.loss:.3f}")
    learned = Learned(model.cpu().eval(), assembler, layout)
    keys = assembler.encoders.items.keys
    metric: Metric = plan.kind.metric
    words, arrays = parts(learned, plan.use, plan.options, ())
    return save(
        folder,
        kind=f"recall.{plan.use}",
        name=plan.name,
        form=Vectors(keys, learned.vectors(keys, now), metric),
        arrays=arrays,
        config=words | plan.words(),
        reads=reads_of(schema),
        fingerprint=schema.fingerprint(reads_of(schema)),
        snapshot=snapshot,
        metrics={"events": len(log), "items": len(keys), "loss": last.loss if last else 0.0},
        created_ms=created_ms,
    )
