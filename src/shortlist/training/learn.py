"""What retrievers and rankers share on the way from a log to an artifact: settings, encoders, the folder of a run."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from shortlist.batch import Tables
from shortlist.candidates import Candidates, Requests
from shortlist.config import Count, Positive, build, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError, DataError
from shortlist.features.assemble import Assembler
from shortlist.features.base import Known, Rows
from shortlist.features.encoders import Encoders
from shortlist.features.featureset import FeatureSet
from shortlist.schema import Catalogue, Schema
from shortlist.training.checkpoints import stopped
from shortlist.training.fit import Progress
from shortlist.training.hard import check
from shortlist.training.loop import Loop, Step
from shortlist.training.objectives.bce import Bce, check_loss
from shortlist.training.objectives.pairwise import Pairwise
from shortlist.training.objectives.pointwise import Pointwise
from shortlist.training.objectives.softmax import Softmax
from shortlist.training.plan import PACKAGES, Plan

__all__ = ["Training", "settings", "tables_of", "reads_of", "threads", "named", "own", "encoded", "featured", "tell"]

LOG = logging.getLogger("shortlist.training")
ALONE = {  # who has use for what
    "retriever": ("objective", "frequency", "held"),
    "ranker": ("calibration", "read", "processes", "sharded", "timeout_s"),
}


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
    read: Literal["memory", "stream"] = (
        "memory"  # of a ranker: stream writes its rows to disk, and reads them by windows
    )
    processes: Count = 1  # of a ranker: each has a batch of its own, and reads from disk
    sharded: Literal["", "table_wise", "row_wise"] = ""  # of a ranker: its tables split over processes, by TorchRec
    timeout_s: Positive = 600.0  # how long processes wait for one another in a step


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
    check_loss(loss, schema, f"{plan.where}.loss")
    return train, loss


def tables_of(plan: Plan) -> Tables:
    """How embeddings are kept. Raises ConfigError for keys that are not there, or that do nothing."""
    tables = build(Tables, plan.tables, f"{plan.where}.tables")
    equal = tables.widths == "equal"
    for key, idle in (("hashes", tables.hash_above is None), ("power", equal), ("least", equal)):
        if idle and getattr(tables, key) != getattr(Tables, key):
            other = "hash_above" if key == "hashes" else 'widths = "root" or "mixed"'
            what = f"{key} does nothing without {other}"
            raise ConfigError(what, where=f"{plan.where}.tables", hint=f"take {key} away")
    return tables


def _training(plan: Plan, words: Mapping[str, Any], other: Literal["retriever", "ranker"]) -> Training:
    """Raises ConfigError for words that only the `other` kind of model has use for."""
    train = build(Training, words, f"{plan.where}.train")
    for key in ALONE[other]:
        if getattr(train, key) != getattr(Training, key):
            what = f"{key} is for a {other}, here it does nothing"
            raise ConfigError(what, where=f"{plan.where}.train", hint=f"take {key} away")
    if train.processes > 1 and train.read != "stream":
        what = f"{train.processes} processes read what they learn on from disk"
        raise ConfigError(what, where=f"{plan.where}.train.processes", hint='write read = "stream"')
    if train.sharded and train.processes == 1:
        what = "one process has nothing to split its tables over"
        raise ConfigError(what, where=f"{plan.where}.train.sharded", hint="write processes = 2, or more")
    if train.sharded and train.compile:
        what = "the look-ups of a compiled model cannot be listed first"
        raise ConfigError(what, where=f"{plan.where}.train.compile", hint="take compile away, or sharded")
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


def own(run: Path, identity: str, where: str) -> Path:
    """The folder of a run of this identity; what runs of other data or another configuration left is removed, and one
    that had not come to its end is named."""
    place = run / identity[:16]
    for other in run.glob("*"):
        if other != place:
            if step := stopped(other):
                what = "was of other data or another configuration: this one starts afresh"
                LOG.warning("%s: the run that stopped after step %d %s", where, step, what)
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


def tell(
    progress: Progress | None, plan: Plan, step: Step, steps: int, watch: Callable[[Step], None] | None = None
) -> None:
    """Say where a run is. `watch` is given every step; what it raises ends the run."""
    for note in step.notes:
        LOG.warning("%s: %s", plan.where, note)
    if progress:
        progress(step.step, steps, f"{plan.name} epoch {step.epoch}, loss {step.loss:.3f}")
    if watch:
        watch(step)
