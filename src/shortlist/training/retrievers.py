"""A retriever, from a log to an artifact: encoders, examples, the loop, and the vectors of its items.

R requests, I items, D width.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.artifact import Manifest, save
from shortlist.batch import Batch, Columns
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.loader import Loader
from shortlist.dataset.pairs import Pairs
from shortlist.dataset.sequences import Sequences
from shortlist.errors import DataError
from shortlist.features.assemble import Assembler
from shortlist.features.base import Known
from shortlist.features.featureset import FeatureSet
from shortlist.forms import Metric, Vectors
from shortlist.index.building import SAMPLE
from shortlist.models.learned import Learned, parts
from shortlist.schema import FIRST, Catalogue, Schema
from shortlist.training.checkpoints import fingerprint
from shortlist.training.compact import compact, lost
from shortlist.training.curves import ended
from shortlist.training.fit import Progress, index_of
from shortlist.training.frequency import Counted, Streaming
from shortlist.training.hard import draws
from shortlist.training.loop import LOG as RECORDS
from shortlist.training.loop import Step, train
from shortlist.training.loss import CatalogueRows
from shortlist.training.negatives import Sampler
from shortlist.training.objectives.pairwise import Pairwise
from shortlist.training.objectives.pointwise import Pointwise
from shortlist.training.objectives.softmax import Softmax
from shortlist.training.plan import Plan
from shortlist.training.scores import table

__all__ = ["retriever", "rows_of"]

from shortlist.training.learn import encoded, featured, named, own, reads_of, settings, tables_of, tell, threads

ASKED = 1_000  # events whose requests say what tables of bytes lose
FITTED = 20_000  # requests of a retriever that features are encoded after


class Aging:
    """Row columns of items by id (from 2), at one moment or at a moment each."""

    def __init__(self, assembler: Assembler, now: int) -> None:
        self.assembler, self.keys = assembler, assembler.encoders.items.keys
        self.every = assembler.entries(self.keys, np.full(len(self.keys), now, dtype=np.int64))

    def __call__(self, ids: Tensor) -> Columns:
        return self.every.take(ids - FIRST)

    def at(self, ids: Tensor, now: Tensor) -> Columns:
        return self.assembler.entries(self.keys[ids.numpy() - FIRST], now.numpy())

    def ages(self, ids: Tensor, now: Tensor) -> Tensor:
        ages = self.assembler.ages(self.keys[ids.numpy() - FIRST], now.numpy())
        assert ages is not None
        return torch.from_numpy(ages)


def rows_of(assembler: Assembler, now: int) -> CatalogueRows:
    """Row columns of items by id (from 2): the catalogue that negatives are taken from."""
    aging = Aging(assembler, now)
    none = np.zeros(0, dtype=np.int64)
    return aging.__call__ if assembler.ages(none, none) is None else aging


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
    features: FeatureSet | None = None,
    known: Known | None = None,
    watch: Callable[[Step], None] | None = None,
) -> Manifest:
    """Train one retriever and save its weights, its encoders and its items' vectors.

    A model with `states` learns from every step of whole sequences, another from one event at a time, whose requests
    have the `features` that are theirs: an item is indexed before anyone asks. `known` answers for these. A run that
    was stopped goes on from `run`; `watch` is given every step. Raises ConfigError for options, DataError for a log
    that teaches nothing.
    """
    config, loss = settings(plan, schema)
    log = interactions.liked(schema.weights)
    now = int(log.times.max()) + 1
    by_step = hasattr(plan.kind, "states")
    live = FeatureSet() if by_step or features is None else features.side("request")
    assembler = encoded(schema, catalogue, log, config.history)
    late = np.zeros(len(log), dtype=bool)
    if config.held:
        last_of = np.append(log.users[1:] != log.users[:-1], True)
        users = np.random.default_rng(config.seed).permutation(log.user_keys)
        late = last_of & np.isin(log.users, users[: max(1, int(config.held * len(users)))])
    learned_on = log.where(~late) if config.held else log
    ties: Literal["time", "log"] = "log" if schema.time_unit == "none" else "time"
    check_histories(plan, learned_on, "log" if by_step else ties)
    look = max(config.history, live.last)  # features may look further back than the model
    pairs = partial(Pairs, last=look, ties=ties, known=known)
    if len(live):
        every = pairs(learned_on, assembler)
        some = np.random.default_rng(config.seed).permutation(len(every))[:FITTED]
        assembler = featured(assembler, live, every.requests(np.sort(some)))
    layout = replace(assembler.layout(), tables=tables_of(plan))
    torch.manual_seed(config.seed)  # the weights a model starts with
    model = plan.kind(plan.config(), layout)
    asked = pairs(log, assembler, where=late) if config.held else None
    source: Sequences | Pairs
    source = Sequences.of(learned_on, assembler, config.history) if by_step else pairs(learned_on, assembler)
    objective: Softmax | Pairwise | Pointwise
    rows, counts = rows_of(assembler, now), source.counts
    if config.objective == "softmax":
        often = Counted(counts) if config.frequency == "exact" else Streaming()
        objective = Softmax(loss, plan.kind.metric, frequency=often, catalogue=rows, counts=counts)
    elif config.objective == "pairwise":
        objective = Pairwise(loss, plan.kind.metric, catalogue=rows, counts=counts)
    else:
        objective = Pointwise(loss, plan.kind.metric, (), catalogue=rows, counts=counts)
    if not isinstance(objective, Pointwise) and loss.hard is not None:
        where, sampler = f"{plan.where}.loss", Sampler(counts, loss.beta)
        objective.hard = draws(loss.hard, folder.parent, learned_on, assembler, where, sampler, known)
    batches = Loader(source, config.batch_size, config.seed)
    read = schema.fingerprint(reads_of(schema))
    identity = fingerprint(plan.where, plan.words(), snapshot, read, assembler.encoders.fingerprint)
    validate = partial(found_again, pairs=asked, rows=rows, metric=plan.kind.metric) if asked else None
    with threads(config.threads), named(plan):
        place = own(run, identity, plan.where)
        for step in train(model, objective, batches, config, validate=validate, folder=place, fingerprint=identity):
            tell(progress, plan, step, len(batches) * config.epochs, watch)
        told = ended(place / RECORDS)  # of all of the run, whatever part of it was now
        learned = Learned(model.cpu().eval(), assembler, layout)
        if layout.tables.serve == "int8":
            full, learned = learned, compact(learned, plan)
            every_one = pairs(log, assembler)
            first = np.random.default_rng(config.seed).permutation(len(every_one))[:ASKED]
            told = told | lost(full, learned, _queries, [every_one.batch(np.sort(first))], validate)
        keys = assembler.encoders.items.keys
        vectors = learned.vectors(keys, now)
        metric: Metric = plan.kind.metric
        form = Vectors(keys, vectors, metric)
        made = index_of(plan, form, lambda: asking(learned, pairs(log, assembler), config.seed))
    words, arrays = parts(learned, plan.use, plan.options, ())
    return save(
        folder,
        kind=f"recall.{plan.use}",
        name=plan.name,
        form=form,
        arrays=arrays,
        config=words | plan.words() | made.config,
        files=made.files,
        reads=reads_of(schema),
        fingerprint=schema.fingerprint(reads_of(schema)),
        snapshot=snapshot,
        metrics={"events": len(learned_on), "items": len(keys), **told} | made.metrics,
        created_ms=created_ms,
    )


def _queries(model: Any, batch: Batch) -> Tensor:
    found: Tensor = model.query(batch.request)
    return found


def asking(learned: Learned, pairs: Pairs, seed: int) -> NDArray[np.float32]:
    """What users of the log ask [Q, D]: vectors of some of its requests, of each interest where there are several."""
    some = np.random.default_rng(seed).permutation(len(pairs))[:SAMPLE]
    asked = learned.query(pairs.requests(np.sort(some)))
    asked = asked.reshape(-1, asked.shape[-1])
    return asked[np.isfinite(asked).all(axis=1)]


def check_histories(plan: Plan, log: Interactions, ties: Literal["time", "log"]) -> None:
    """Raises DataError where no event of interest has another of its user before it: there is nothing to learn from."""
    before = log.users[1:] == log.users[:-1]
    if ties == "time":
        before &= log.times[1:] != log.times[:-1]
    if not before.any():
        what = f"none of {len(log.user_keys)} users has two events that show interest" + (
            " at different moments" if ties == "time" else ""
        )
        hint = "import a longer log, or leave this channel out: it learns what follows what"
        raise DataError(what, where=plan.where, hint=hint)


def found_again(
    model: Any, pairs: Pairs, rows: Callable[[Tensor], Columns], metric: str, k: int = 20
) -> dict[str, float]:
    """Recall@k of held-out events among all known items; ties count as half above."""
    device = next(model.parameters()).device
    items = len(pairs.assembler.encoders.items)
    every = model.candidate(rows(torch.arange(FIRST, items)).to(device))
    hits = []
    for at in range(0, len(pairs), 1024):
        place = np.arange(at, min(at + 1024, len(pairs)))
        batch = pairs.batch(place).to(device)
        scores = table(model.query(batch.request)[batch.request_of], every, metric)
        own_B = torch.from_numpy(pairs.ids[place] - FIRST).to(device)
        mine = scores[torch.arange(len(own_B), device=device), own_B].unsqueeze(1)
        above = (scores > mine).sum(dim=1) + ((scores == mine).sum(dim=1) - 1) / 2
        hits.append((above < k).float().cpu())
    return {f"recall@{k}": float(torch.cat(hits).mean())}
