"""Models with gradients, from a log to an artifact: encoders, examples, the loop, and what serving restores.

R requests, I items, D width.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from torch import Tensor

from shortlist.artifact import Manifest, save
from shortlist.batch import Columns
from shortlist.candidates import Candidates, Requests
from shortlist.config import Count, build, frozen, nearest
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.loader import Loader, Source
from shortlist.dataset.pairs import Pairs
from shortlist.dataset.ranking import Examples, Outcomes, Ranking
from shortlist.dataset.sequences import Sequences
from shortlist.errors import ConfigError, DataError
from shortlist.features.assemble import Assembler
from shortlist.features.base import Known, Rows
from shortlist.features.encoders import Encoders
from shortlist.features.featureset import FeatureSet
from shortlist.forms import Metric, Vectors
from shortlist.index.building import SAMPLE
from shortlist.metrics import ctr
from shortlist.models.learned import Learned, parts
from shortlist.schema import FIRST, Catalogue, Schema
from shortlist.training.calibrate import Isotonic, isotonic, platt
from shortlist.training.checkpoints import fingerprint
from shortlist.training.curves import ended
from shortlist.training.fit import Progress, index_of
from shortlist.training.frequency import Counted, Streaming
from shortlist.training.hard import check, draws
from shortlist.training.loop import LOG as RECORDS
from shortlist.training.loop import Loop, Step, train
from shortlist.training.loss import CatalogueRows
from shortlist.training.negatives import Sampler
from shortlist.training.objectives.bce import Bce
from shortlist.training.objectives.pairwise import Pairwise
from shortlist.training.objectives.pointwise import Pointwise
from shortlist.training.objectives.softmax import Softmax
from shortlist.training.plan import PACKAGES, Plan
from shortlist.training.scores import table

__all__ = ["Training", "retriever", "ranker", "RankerData", "ToRank", "Units", "settings", "reads_of"]

LOG = logging.getLogger("shortlist.training")
FITTED = 20_000  # requests of a retriever that features are encoded after
UNITS = 4_096  # requests of a ranker whose candidates features are encoded after
ALONE = {"retriever": ("objective", "frequency", "held"), "ranker": ("calibration",)}  # who has use for what


@frozen
class Training(Loop.Config):
    """The loop, and what a batch and a history are. More `threads` of one operation pay for wide models on idle cores
    only; for narrow ones, or beside other work, they cost several times the time."""

    batch_size: Count = 256
    history: Count = 50
    threads: Count = 1
    objective: Literal["softmax", "pairwise", "pointwise"] = "softmax"  # of a retriever
    frequency: Literal["exact", "streaming"] = "exact"  # how often items are columns of a batch: counted, or estimated
    held: Annotated[float, Ge(0), Lt(1)] = 0.0  # of a retriever's users: their last event says when to stop
    calibration: Literal["platt", "isotonic", "none"] = "platt"  # of a ranker's tasks whose negatives were drawn


def settings(plan: Plan, schema: Schema) -> tuple[Training, Any]:
    """How a model is trained: `Training`, and the Config of its objective (`Bce` of a ranker, `Softmax` of a
    retriever). Raises ConfigError for keys or tasks that are not there."""
    if plan.name not in PACKAGES:
        train = _training(plan, plan.train, "ranker")
        if train.patience and not train.held:
            hint = "set held, the share of users whose last event is looked at"
            raise ConfigError("patience without anything to look at", where=f"{plan.where}.train", hint=hint)
        # what a user has met is no negative; steps of one sequence have no history of their own
        known = {} if hasattr(plan.kind, "states") else {"known": "history"}
        kind: Any = {"softmax": Softmax, "pairwise": Pairwise, "pointwise": Pointwise}[train.objective]
        loss = build(kind.Config, {**known, **plan.loss}, f"{plan.where}.loss")
        if loss.known not in ("", "history"):
            what = f"{loss.known!r} is no list of items that a request has"
            raise ConfigError(what, where=f"{plan.where}.loss.known", hint='write "history", or "" for none')
        if getattr(loss, "task", ""):
            what = "its rows are what was taken, without labels: task does nothing"
            raise ConfigError(what, where=f"{plan.where}.loss", hint="take task away")
        if getattr(loss, "hard", None) is not None:
            check(loss.hard, schema, f"{plan.where}.loss")
        if getattr(loss, "hard", None) is not None and hasattr(plan.kind, "states"):
            hint = "take hard away, or take a model that learns from one event at a time"
            raise ConfigError("steps of sequences have no user to rank for", where=f"{plan.where}.loss.hard", hint=hint)
        return train, loss
    train = _training(plan, {"patience": 3, "batch_size": 32, **plan.train}, "retriever")
    loss = build(Bce.Config, plan.loss, f"{plan.where}.loss")
    for name in (*loss.weights, *loss.regression):
        if name not in schema.tasks:
            hint = nearest(name, list(schema.tasks))
            raise ConfigError(f"no task is called {name!r}", where=f"{plan.where}.loss", hint=hint)
    return train, loss


def _training(plan: Plan, words: Mapping[str, Any], other: Literal["retriever", "ranker"]) -> Training:
    """Raises ConfigError for words that only the `other` kind of model has use for."""
    train = build(Training, words, f"{plan.where}.train")
    for key in ALONE[other]:
        if getattr(train, key) != getattr(Training, key):
            what = f"{key} is for a {other}, here it does nothing"
            raise ConfigError(what, where=f"{plan.where}.train", hint=f"take {key} away")
    return train


def reads_of(schema: Schema) -> tuple[str, ...]:
    """Every part of a schema that a batch depends on."""
    fields = [f"user.{n}" for n in schema.users] + [f"item.{n}" for n in schema.items]
    return ("actions", *fields, *(f"context.{n}" for n in schema.context), *(f"tasks.{n}" for n in schema.tasks))


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Threads of one operation, while this lasts: torch has one number for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def named(plan: Plan) -> Iterator[None]:
    """What goes wrong with data in here says whose training it was."""
    try:
        yield
    except DataError as error:
        where = f"{plan.where}, {error.where}" if error.where else plan.where
        raise DataError(error.what, where=where, hint=error.hint) from None


def own(run: Path, identity: str) -> Path:
    """The folder of a run of this identity; what runs of other data or another configuration left is removed."""
    place = run / identity[:16]
    for other in run.glob("*"):
        if other != place:
            shutil.rmtree(other)
    return place


def encoded(
    schema: Schema,
    catalogue: Catalogue,
    log: Interactions,
    history: int,
    recalled: Candidates | None = None,
    context: Mapping[str, NDArray[Any]] | None = None,
) -> Assembler:
    """Encoders fitted on what this log meets, on the scores of what was recalled, and on nothing else. `context` are
    columns of requests, where the log has none of its own."""
    encoders = Encoders.fit(schema, catalogue, log.user_keys, log.item_keys, {**(context or {}), **log.context})
    if recalled is not None:
        encoders = encoders.scored(recalled)
    return Assembler(schema, encoders, catalogue, history)


def featured(
    assembler: Assembler, features: FeatureSet, requests: Requests, rows: tuple[Requests, Candidates] | None = None
) -> Assembler:
    """With feature columns, encoded as these requests and, of candidates, these rows of training have them.

    Raises DataError where nobody answers for the features.
    """
    if not len(features):
        return assembler
    known: Known | None = requests.known
    if known is None:
        what = f"{len(features)} features, and nobody answers for them"
        raise DataError(what, where="training", hint="give the requests `known` (features.replay)")
    raw = dict(known.columns(Rows(requests, np.arange(len(requests)), None)))
    if rows is not None:
        raw |= known.columns(Rows(rows[0], rows[1].owners, rows[1].items))
    given = {name: (column, raw[name]) for name, column in features.columns.items() if name in raw}
    made = assembler.encoders.featured(given)
    catalogue = Catalogue(assembler.users, assembler.items)
    return Assembler(assembler.schema, made, catalogue, assembler.history, features)


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
) -> Manifest:
    """Train one retriever and save its weights, its encoders and its items' vectors.

    A model with `states` learns from every step of whole sequences, another from one event at a time, whose requests
    have the `features` that are theirs: an item is indexed before anyone asks. `known` answers for these. A run that
    was stopped goes on from `run`. Raises ConfigError for options, DataError for a log that teaches nothing.
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
    layout = assembler.layout()
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
        place = own(run, identity)
        for step in train(model, objective, batches, config, validate=validate, folder=place, fingerprint=identity):
            _tell(progress, plan, step, len(batches) * config.epochs)
        told = ended(place / RECORDS)  # of all of the run, whatever part of it was now
        learned = Learned(model.cpu().eval(), assembler, layout)
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


class Units(Source, Protocol):
    """What a ranker's batches are made of: requests with all their rows, by place."""

    tasks: tuple[str, ...]

    def examples(self, rows: NDArray[np.int64]) -> Examples:
        """Rows of units, not yet encoded."""
        ...


class ToRank(Protocol):
    """What rankers learn from: drawn beside a log (`RankerData`), or served (`dataset.logged.LoggedData`).

    `held` [R] are the requests that say when to stop; `log` is what encoders are fitted on; `labels` and `valid` [P, T]
    are of the rows that something is known of, `outcomes` what calibration counts as hits.
    """

    @property
    def requests(self) -> Requests: ...

    @property
    def candidates(self) -> Candidates: ...

    @property
    def labels(self) -> NDArray[np.float32]: ...

    @property
    def valid(self) -> NDArray[np.bool_]: ...

    @property
    def outcomes(self) -> Outcomes: ...

    @property
    def held(self) -> NDArray[np.bool_]: ...

    @property
    def log(self) -> Interactions: ...

    def some(self, mask: NDArray[np.bool_], assembler: Assembler, seed: int) -> Units:
        """Units of the requests under the mask."""
        ...


@dataclass(frozen=True)
class RankerData:
    """Requests, what a funnel recalled for them, and what happened after: a `ToRank`."""

    requests: Requests
    candidates: Candidates
    outcomes: Outcomes
    held: NDArray[np.bool_]
    log: Interactions

    @property
    def labels(self) -> NDArray[np.float32]:
        return self.outcomes.labels

    @property
    def valid(self) -> NDArray[np.bool_]:
        return self.outcomes.valid

    def some(self, mask: NDArray[np.bool_], assembler: Assembler, seed: int) -> Ranking:
        """Units of the requests under the mask."""
        pairs = np.repeat(mask, np.diff(self.outcomes.offsets))
        valid = self.outcomes.valid & pairs[:, None]
        return Ranking(self.requests, self.candidates, replace(self.outcomes, valid=valid), assembler, seed=seed)


def ranker(
    plan: Plan,
    data: ToRank,
    catalogue: Catalogue,
    schema: Schema,
    folder: Path,
    *,
    run: Path,
    snapshot: str,
    created_ms: int,
    progress: Progress | None = None,
    features: FeatureSet | None = None,
) -> Manifest:
    """Train a coarse ranker or a ranker on what a funnel recalled, and save what serving needs.

    It stops where the mean AUC of the held requests' lists (GAUC of the first task) is best. Where negatives were
    drawn, logits are calibrated on all that was recalled for the held requests, as `train.calibration` says. The
    `features`, for which `data.requests.known` answers, are encoded as the rows of the other requests have them.
    Raises ConfigError, DataError.
    """
    config, loss = settings(plan, schema)
    check_labels(plan, data, schema, loss.regression)
    context = {name: column[~data.held] for name, column in data.requests.context.items()}
    assembler = encoded(schema, catalogue, data.log, config.history, data.candidates, context)
    if features is not None and len(features):
        every = data.some(~data.held, assembler, config.seed)
        some = np.random.default_rng(config.seed).permutation(len(every))[:UNITS]
        made = every.examples(np.sort(some))
        asked = every.examples(np.arange(len(every))).requests
        assembler = featured(assembler, features, asked, (made.requests, made.candidates))
    channels = data.candidates.channels
    layout = assembler.layout(channels, tuple(schema.tasks))
    torch.manual_seed(config.seed)
    model = plan.kind(plan.config(), layout)
    learned_on, held = (data.some(mask, assembler, config.seed) for mask in (~data.held, data.held))
    batches = Loader(learned_on, config.batch_size, config.seed)
    words = (plan.where, plan.words(), snapshot, schema.fingerprint(reads_of(schema)), assembler.encoders.fingerprint)
    validate = partial(judged, held=held)
    identity = fingerprint(*words)
    with threads(config.threads), named(plan):
        place = own(run, identity)
        for step in train(model, Bce(loss), batches, config, validate=validate, folder=place, fingerprint=identity):
            _tell(progress, plan, step, len(batches) * config.epochs)
    told = ended(place / RECORDS)  # of all of the run, whatever part of it was now
    learned = Learned(model.cpu().eval(), assembler, layout, {}, frozenset(loss.regression))
    with threads(config.threads):
        learned = calibrated(learned, data, schema, config.calibration)
    config_, arrays = parts(learned, plan.use, plan.options, channels)
    return save(
        folder,
        kind=f"{plan.name}.{plan.use}",
        name=plan.name,
        arrays=arrays,
        config=config_ | plan.words(),
        reads=reads_of(schema),
        fingerprint=schema.fingerprint(reads_of(schema)),
        snapshot=snapshot,
        metrics={"requests": len(learned_on), **{name: round(value, 6) for name, value in told.items()}},
        created_ms=created_ms,
    )


def check_labels(plan: Plan, data: ToRank, schema: Schema, regression: tuple[str, ...]) -> None:
    """Raises DataError for labels outside a task's range, and where none of the tasks has anything to tell apart."""
    idle: dict[str, str] = {}
    for n, (name, task) in enumerate(schema.tasks.items()):
        y = data.labels[data.valid[:, n], n]
        wrong = (y < 0) | (y > 1)
        if name not in regression and wrong.any():
            what = f"{int(wrong.sum())} of {len(y)} labels are outside 0..1, the first is {y[wrong][0]:g}"
            hint = "make positive a condition (value >= 4), or name the task in loss.regression"
            raise DataError(what, where=f"{plan.where}, schema.tasks.{name}", hint=hint)
        drawn = not isinstance(task.on, str) and name not in regression  # negatives are drawn for each positive
        if not len(y):
            idle[name] = "no row carries a label"
        elif not (y > 0).any() if drawn else y.min() == y.max():
            idle[name] = f"all {len(y)} labels are {y[0]:g}"
    if idle and len(idle) == len(schema.tasks):
        told = "; ".join(f"{name}: {what}" for name, what in idle.items())
        hint = "look at what positive and on say, and at which actions and values the log has"
        raise DataError(f"no task has anything to tell apart: {told}", where=f"{plan.where}, schema.tasks", hint=hint)


def calibrated(learned: Learned, data: ToRank, schema: Schema, how: Literal["platt", "isotonic", "none"]) -> Learned:
    """With a map to probabilities for each task whose negatives were drawn, fitted on the held requests' whole lists,
    where nothing was drawn.

    A task with one class among them stays as it was learned.
    """
    if how == "none":
        return learned
    candidates = data.candidates.only(np.flatnonzero(data.held[data.candidates.owners] & data.candidates.alive))
    logits = learned.logits(data.requests, candidates)
    outcomes = data.outcomes
    owners = np.repeat(np.arange(len(data.requests)), np.diff(outcomes.offsets))
    width = int(max(candidates.items.max(initial=0), outcomes.items.max(initial=0))) + 1
    codes = candidates.owners * width + candidates.items
    lines: dict[str, tuple[float, float]] = {}
    steps: dict[str, NDArray[np.float64]] = {}
    for n, (name, task) in enumerate(schema.tasks.items()):
        if isinstance(task.on, str) or name in learned.measures:
            continue
        hit = (outcomes.labels[:, n] > 0) & outcomes.valid[:, n]
        y = np.isin(codes, owners[hit] * width + outcomes.items[hit])
        if not bool(y.any()) or bool(y.all()):
            continue
        if how == "platt":
            found = platt(logits[name], y)
            lines[name] = (found.a, found.b)
        else:
            steps[name] = corners(isotonic(logits[name], y))
    return replace(learned, platt=lines, steps=steps)


def corners(found: Isotonic) -> NDArray[np.float64]:
    """The points [2, K] of a map between which it is straight: the ends of each level."""
    inner = np.zeros(len(found.y), dtype=bool)
    inner[1:-1] = (found.y[1:-1] == found.y[:-2]) & (found.y[1:-1] == found.y[2:])
    return np.stack([found.x[~inner], found.y[~inner]])


def _tell(progress: Progress | None, plan: Plan, step: Step, steps: int) -> None:
    for note in step.notes:
        LOG.warning("%s: %s", plan.where, note)
    if progress:
        progress(step.step, steps, f"{plan.name} epoch {step.epoch}, loss {step.loss:.3f}")


def judged(model: Any, held: Units) -> dict[str, float]:
    """What says when to stop first: GAUC over the recalled rows of held requests, of the first task that has both
    classes; for a value, minus its mean squared error. Then what else is told of every task."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    device = next(model.parameters()).device
    for at in range(0, len(held), 256):
        batch = held.batch(np.arange(at, min(at + 256, len(held))))
        assert batch.labels is not None
        assert batch.valid is not None
        out = model(batch.to(device))
        logits = torch.stack([out[task] for task in held.tasks], dim=1).float().cpu()
        recall = [batch.row.dense_names.index(n) for n in batch.row.dense_names if n.startswith("recall.")]
        brought = (batch.row.dense[:, recall] > 0).any(dim=1) if recall else torch.ones(len(batch), dtype=torch.bool)
        parts.append((logits, batch.labels, batch.valid & brought[:, None], batch.request_of + at))
    z, y, known, group = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    steering: dict[str, float] = {}
    told: dict[str, float] = {}
    for n, task in enumerate(held.tasks):
        mine = known[:, n]
        if not mine.any():
            continue
        if not np.isin(y[mine, n], (0, 1)).all():
            steering[f"{task}.minus_mse"] = -float(np.mean((z[mine, n] - y[mine, n]) ** 2))
            continue
        found = ctr.measure(1 / (1 + np.exp(-z[mine, n].astype(np.float64))), y[mine, n], group[mine])
        if np.isfinite(found["gauc"]):
            steering[f"{task}.gauc"] = found["gauc"]
        told |= {f"{task}.{name}": found[name] for name in ("auc", "logloss") if np.isfinite(found[name])}
    if not steering:
        hint = "ask about more users (ranking.held, ranking.moments), or look at the tasks' labels"
        raise DataError("no held-out list has rows of both classes", where="ranking", hint=hint)
    return steering | told
