"""A coarse ranker or a ranker, from what a funnel recalled and what became of it to an artifact.

R requests, P rows that something is known of, T tasks.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from shortlist.artifact import Manifest, save
from shortlist.batch import Batch
from shortlist.candidates import Candidates, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.ranking import Examples, Outcomes, Ranking
from shortlist.errors import DataError
from shortlist.features.assemble import Assembler
from shortlist.features.featureset import FeatureSet
from shortlist.metrics import ctr
from shortlist.metrics.calibration import ratio
from shortlist.models.blocks.gates import watched
from shortlist.models.learned import FARTHEST, Learned, parts, texts
from shortlist.models.tabular import Tabular, tabular
from shortlist.schema import Catalogue, Schema
from shortlist.training.calibrate import corners, isotonic, platt
from shortlist.training.checkpoints import fingerprint
from shortlist.training.compact import compact, lost
from shortlist.training.curves import ended
from shortlist.training.fit import Progress
from shortlist.training.loop import LOG as RECORDS
from shortlist.training.loop import Step
from shortlist.training.objectives.bce import Bce
from shortlist.training.outputs import caps, labelled, lengths, unshifted
from shortlist.training.plan import Plan
from shortlist.training.scale import Units as Learnable
from shortlist.training.scale import steps
from shortlist.training.tabular import as_probabilities, fit_table

__all__ = ["ranker", "RankerData", "ToRank", "Units"]

from shortlist.training.learn import LOG, encoded, featured, named, own, reads_of, settings, tables_of, tell, threads

AT_ONCE = 256  # units that are judged together
UNITS = 4_096  # requests of a ranker whose candidates features are encoded after
NO_MARGIN = ("logloss", "minus_mse")  # what a margin, being no log-odds, has none of


class Units(Learnable, Protocol):
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
    watch: Callable[[Step], None] | None = None,
) -> Manifest:
    """Train a coarse ranker or a ranker on what a funnel recalled, and save what serving needs.

    It stops where the mean AUC of the held requests' lists (GAUC of the first task) is best. Where negatives were
    drawn, logits are calibrated on all that was recalled for the held requests, as `train.calibration` says. The
    `features`, for which `data.requests.known` answers, are encoded as the rows of the other requests have them.
    `watch` is given every step of the loop. Raises ConfigError, DataError.
    """
    config, loss = settings(plan, schema)
    for note in check_labels(plan, data, schema, loss):
        LOG.warning("%s: %s", plan.where, note)
    context = {name: column[~data.held] for name, column in data.requests.context.items()}
    assembler = encoded(schema, catalogue, data.log, config.history, data.candidates, context)
    if features is not None and len(features):
        every = data.some(~data.held, assembler, config.seed)
        some = np.random.default_rng(config.seed).permutation(len(every))[:UNITS]
        made = every.examples(np.sort(some))
        asked = every.examples(np.arange(len(every))).requests
        assembler = featured(assembler, features, asked, (made.requests, made.candidates))
    channels = data.candidates.channels
    layout = replace(assembler.layout(channels, tuple(schema.tasks)), tables=tables_of(plan))
    torch.manual_seed(config.seed)
    model = plan.kind(plan.config(), layout)
    learned_on, held = (data.some(mask, assembler, config.seed) for mask in (~data.held, data.held))
    keep = partial(saved, plan, data, schema, folder, len(learned_on), snapshot, created_ms)
    if tabular(plan.kind):
        if progress:
            progress(0, 1, f"{plan.name} {plan.use}")
        with threads(config.threads), named(plan):
            told = fit_table(model, learned_on, held, config.seed, config.threads)
            learned = Learned(Tabular(model), assembler, layout)
            found = judged(learned.model, held)
            told |= {name: value for name, value in found.items() if not (model.margin and name.endswith(NO_MARGIN))}
            learned = calibrated(learned, data, schema, config.calibration)
            if model.margin:
                learned = as_probabilities(learned, held, config.calibration)
        return keep(learned, told)
    with named(plan):
        fitted = labelled(learned_on, (*loss.watch, *loss.length))
        limits, by_length = caps(fitted, loss), lengths(fitted, loss, catalogue.items)
    objective = Bce(loss, tuple(schema.tasks), limits)
    batches = -(-len(learned_on) // (config.batch_size * config.processes))  # of an epoch
    words = (plan.where, plan.words(), snapshot, schema.fingerprint(reads_of(schema)), assembler.encoders.fingerprint)
    validate = partial(judged, held=held, watch=limits, measures=loss.regression)
    identity = fingerprint(*words)
    with threads(config.threads), named(plan):
        place = own(run, identity, plan.where)
        for step in steps(
            plan, model, objective, learned_on, assembler, layout, config,
            validate=validate, place=place, identity=identity,
        ):  # fmt: skip
            tell(progress, plan, step, batches * config.epochs, watch)
    told = ended(place / RECORDS)  # of all of the run, whatever part of it was now
    told |= {f"{task}.weight": weight for task, weight in objective.weights().items()}
    told |= {f"{task}.longest": limit for task, limit in limits.items()}
    learned = Learned(
        model.cpu().eval(), assembler, layout, {}, frozenset(loss.regression), watch=limits, lengths=by_length
    )
    with threads(config.threads):
        if layout.tables.serve == "int8":
            full, learned = learned, compact(learned, plan)
            told = told | lost(full, learned, _outputs, _batches(held), validate)
        learned = unshifted(calibrated(learned, data, schema, config.calibration), loss)
    return keep(learned, told)


def saved(
    plan: Plan,
    data: ToRank,
    schema: Schema,
    folder: Path,
    requests: int,
    snapshot: str,
    created_ms: int,
    learned: Learned,
    told: Mapping[str, float],
) -> Manifest:
    """The artifact of what was learned from some requests, with what is told of it."""
    config, arrays = parts(learned, plan.use, plan.options, data.candidates.channels)
    return save(
        folder,
        kind=f"{plan.name}.{plan.use}",
        name=plan.name,
        arrays=arrays,
        texts=texts(learned),
        config=config | plan.words(),
        reads=reads_of(schema),
        fingerprint=schema.fingerprint(reads_of(schema)),
        snapshot=snapshot,
        metrics={
            "requests": requests,
            **{f"left out: {what}": n for what, n in data.outcomes.contradictory.items()},
            **{name: round(value, 6) for name, value in told.items()},
        },
        created_ms=created_ms,
    )


def _outputs(model: Any, batch: Batch) -> Tensor:
    """Logits [T, B]."""
    return torch.stack(list(model(batch).values()))


def _batches(held: Units) -> Iterator[Batch]:
    for at in range(0, len(held), AT_ONCE):
        yield held.batch(np.arange(at, min(at + AT_ONCE, len(held))))


def check_labels(plan: Plan, data: ToRank, schema: Schema, loss: Bce.Config) -> list[str]:
    """What a person should know of the labels: those left out, and tasks that nothing in the log speaks of.

    Raises DataError for labels outside a task's range, and where none of the tasks has anything to tell apart.
    """
    notes = [f"{n} rows are left out: {what}" for what, n in data.outcomes.contradictory.items()]
    met = np.bincount(data.log.actions, minlength=len(schema.action_names)) > 0
    idle: dict[str, str] = {}
    for n, (name, task) in enumerate(schema.tasks.items()):
        y = data.labels[data.valid[:, n], n]
        if name in loss.watch and (y < 0).any():
            what = f"{int((y < 0).sum())} of {len(y)} times are below 0, the first is {y[y < 0][0]:g}"
            hint = "correct the values, or the task's positive"
            raise DataError(what, where=f"{plan.where}, schema.tasks.{name}", hint=hint)
        value = name in loss.watch or name in loss.regression
        wrong = (y < 0) | (y > 1)
        if not value and wrong.any():
            what = f"{int(wrong.sum())} of {len(y)} labels are outside 0..1, the first is {y[wrong][0]:g}"
            hint = "make positive a condition (value >= 4), or name the task in loss.regression (a time in loss.watch)"
            raise DataError(what, where=f"{plan.where}, schema.tasks.{name}", hint=hint)
        drawn = not isinstance(task.on, str) and not value  # negatives are drawn for each positive
        if not len(y):
            idle[name] = "no row carries a label"
        elif not (y > 0).any() if drawn else y.min() == y.max():
            idle[name] = f"all {len(y)} labels are {y[0]:g}"
        silent = [action for action in task.actions(schema.action_names) if not met[schema.action_names.index(action)]]
        if name in idle and silent:
            what = f"no event of the log is {' or '.join(silent)}"
            idle[name] += f" ({what})"
            notes.append(f"task {name}: {what}")
    if idle and len(idle) == len(schema.tasks):
        told = "; ".join(f"{name}: {what}" for name, what in idle.items())
        hint = "look at what positive and on say, and at which actions and values the log has"
        raise DataError(f"no task has anything to tell apart: {told}", where=f"{plan.where}, schema.tasks", hint=hint)
    return notes


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
        if isinstance(task.on, str) or name in learned.measures or name in learned.watch:
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


def judged(
    model: Any, held: Units, watch: Mapping[str, float] | None = None, measures: Collection[str] = ()
) -> dict[str, float]:
    """What says when to stop first: GAUC over the recalled rows of held requests, of the first task that has both
    classes; for a value or a share, minus its mean squared error. Then what else is told of every task, and of the
    gates of its head. `watch` are tasks that are times, and the longest that counts; `measures` those whose output is
    the value itself."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))  # tables have none
    with watched(model) as gates:
        for at in range(0, len(held), 256):
            batch = held.batch(np.arange(at, min(at + 256, len(held))))
            assert batch.labels is not None
            assert batch.valid is not None
            out = model(batch.to(device))
            logits = torch.stack([out[task] for task in held.tasks], dim=1).float().cpu()
            recall = [batch.row.dense_names.index(n) for n in batch.row.dense_names if n.startswith("recall.")]
            brought = (
                (batch.row.dense[:, recall] > 0).any(dim=1) if recall else torch.ones(len(batch), dtype=torch.bool)
            )
            parts.append((logits, batch.labels, batch.valid & brought[:, None], batch.request_of + at))
    z, y, known, group = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    steering: dict[str, float] = {}
    told: dict[str, float] = {}
    for n, task in enumerate(held.tasks):
        mine = known[:, n]
        if not mine.any():
            continue
        if watch is not None and task in watch:
            seconds, longest = np.exp(np.minimum(z[mine, n].astype(np.float64), FARTHEST)), watch[task]
            spent = np.minimum(y[mine, n], longest)
            steering[f"{task}.minus_mse"] = -float(np.mean((np.minimum(seconds, longest) - spent) ** 2))
            if spent.any():
                told[f"{task}.calibration"] = ratio(seconds, spent)
            continue
        if task in measures:
            steering[f"{task}.minus_mse"] = -float(np.mean((z[mine, n] - y[mine, n]) ** 2))
            continue
        p = expit(z[mine, n].astype(np.float64))
        if not np.isin(y[mine, n], (0, 1)).all():
            steering[f"{task}.minus_mse"] = -float(np.mean((p - y[mine, n]) ** 2))
            continue
        found = ctr.measure(p, y[mine, n], group[mine])
        if np.isfinite(found["gauc"]):
            steering[f"{task}.gauc"] = found["gauc"]
        told |= {f"{task}.{name}": found[name] for name in ("auc", "logloss") if np.isfinite(found[name])}
    if not steering:
        hint = "ask about more users (ranking.held, ranking.moments), or look at the tasks' labels"
        raise DataError("no held-out list has rows of both classes", where="ranking", hint=hint)
    return steering | told | gates.told()
