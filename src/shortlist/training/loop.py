"""The one training loop: batches in, a record a step out, the best weights left in the model.

Nothing is printed: who iterates says what is shown. B rows, T tasks.
"""

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, Protocol, TextIO

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from shortlist.batch import Batch, Columns
from shortlist.config import Count, frozen, nearest, plain
from shortlist.errors import ConfigError, DataError
from shortlist.training import checkpoints
from shortlist.training.checkpoints import Checkpoint
from shortlist.training.compiled import Compiled
from shortlist.training.distributed import Alone, Team
from shortlist.training.loss import Loss, Objective, shared
from shortlist.training.optimizers import Rules, build

__all__ = ["train", "Loop", "Step", "Batches", "Validate", "LOG"]

LOG = "log.jsonl"

Every = Annotated[int, Ge(0)]
Validate = Callable[[Any], Mapping[str, float]]
"""Metrics by name of the model as it is; it is in eval mode and no gradient is recorded."""


class Batches(Protocol):
    """One epoch of batches each time it is iterated.

    `state` after the n-th batch of an epoch, before the next is asked for, is plain JSON values; with it loaded, the
    next iteration gives batch n + 1 to the last, and none when n was the last. With `len`, time left is known at once.
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def state(self) -> dict[str, Any]: ...

    def load(self, state: Mapping[str, Any]) -> None: ...


class SplitTables(Protocol):
    """A model whose tables are split over the processes of a team (`sharded.py`): it is asked as the model is, by all
    at once, and updates the tables where they are when its gradients come back."""

    def __call__(self, batch: Batch) -> Any: ...

    def gather(self) -> None:
        """Make the leader's tables whole, as the model has them, and what `state` gives. All take part."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Take over whole tables by the model's names, and a state: each process its part."""
        ...


@dataclass(frozen=True)
class Step:
    """What one step did. One with `metrics` is a validation after `step` steps; one with `notes` says what a person
    should know of the data. `loss` is that of the batch, in a validation the mean since the one before.
    """

    epoch: int  # from 1
    step: int  # updates so far
    loss: float
    rows_per_second: float
    seconds_left: float | None  # to the end of the last epoch; None while unknown
    parts: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: bool = False  # no validation before was better
    notes: tuple[str, ...] = ()


def train(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    config: "Loop.Config",
    *,
    validate: Validate | None = None,
    folder: str | Path | None = None,
    fingerprint: str = "",
    clock: Callable[[], float] = time.perf_counter,
    team: Team | None = None,
    tables: SplitTables | None = None,
) -> Iterator[Step]:
    """Train while the result is iterated; at its end the model has the weights that validated best, else the last.

    With a `folder` a run goes on from the checkpoint there, as if it had never stopped, bit for bit on one thread; to
    stop early, leave the iteration, or send SIGINT. `fingerprint` (`checkpoints.fingerprint`) names what the weights
    are for. Of a `team` each process iterates; the first one validates and writes, and the batches of all together are
    one; `tables` are split over them. Raises DataError naming the batch when a loss or a gradient is not finite, or
    labels are out of range; ArtifactError when the checkpoint is of another run; ConfigError for a metric or a device
    that is not there; ProcessError when another process of the team is gone.
    """
    return Loop(model, objective, batches, config, validate, folder, fingerprint, clock, team, tables).run()


@dataclass
class Progress:
    """Where a run stands, as plain values."""

    epoch: int = 0  # finished ones
    step: int = 0
    in_epoch: int = 0  # batches of the present epoch
    per_epoch: int = 0  # batches of a whole one, once known
    validated: int = 0  # step of the last validation
    losses: float = 0.0  # sum since then
    since: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0  # validations since the best
    finished: bool = False
    loader: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, tuple[int, float, float]] = field(default_factory=dict)  # task -> rows, lowest, highest

    @property
    def mean_loss(self) -> float:
        """Since the last validation."""
        return self.losses / max(self.since, 1)


class Loop:
    """One run; `train` makes it."""

    @frozen
    class Config(Rules):
        """Update rules, and for how long, on what, how often to look up."""

        epochs: Count = 10
        seed: int = 0  # of dropout and the like; the weights a model starts with are its maker's
        device: str = "auto"  # auto: a GPU where there is one
        precision: Literal["float32", "bf16"] = (
            "float32"  # bf16: products in bfloat16, quicker where the processor has them
        )
        compile: bool = False  # the model by torch.compile: measure it first, it starts half a minute later
        validate_every: Every = 0  # steps; 0: after each epoch
        patience: Every = 0  # validations without a better one before it stops; 0: never
        metric: str = ""  # what is better is said by this one; empty: the first that validation gives
        direction: Literal["max", "min"] = "max"
        checkpoint_every: Every = 0  # steps; 0: after each epoch

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        config: Config,
        validate: Validate | None,
        folder: str | Path | None,
        fingerprint: str,
        clock: Callable[[], float],
        team: Team | None = None,
        tables: SplitTables | None = None,
    ) -> None:
        self.model, self.objective, self.batches, self.config = model, objective, batches, config
        self.validate, self.fingerprint, self.clock = validate, fingerprint, clock
        self.folder = None if folder is None else Path(folder)
        self.team, self.tables = team or Alone(), tables
        self.leads = self.team.rank == 0
        self.device = _device(config, self.team)
        modules = {"model": model} | ({"objective": objective} if isinstance(objective, nn.Module) else {})
        self.parts = nn.ModuleDict(modules)
        if tables is None:
            self.parts.to(self.device)
        self.learns: Any = tables or (Compiled(model, self.device) if config.compile else model)
        self.optimizer = build(self.parts, config)
        self.dice = _Dice(config.seed, self.device)
        self.at = Progress(loader=batches.state())
        self.best: dict[str, Tensor] = {}
        self.whole = True  # no step is half done
        self.rows, self.steps, self.seconds = 0, 0, 0.0  # of this process
        self.log: TextIO | None = None

    def run(self) -> Iterator[Step]:
        with contextlib.ExitStack() as stack:
            self._resume()
            if self.folder is not None and self.leads:
                self.log = stack.enter_context((self.folder / LOG).open("a", encoding="utf-8"))
            if self.at.finished:
                return
            self.team.same([*(w for w in self.parts.parameters() if w.requires_grad), *self.parts.buffers()])
            try:
                yield from self._run()
            except (GeneratorExit, KeyboardInterrupt):
                if self.whole and self.tables is None:  # what is split cannot be had without the others
                    self._save()
                raise

    def _run(self) -> Iterator[Step]:
        self.parts.train()
        if self._due():  # it was stopped before or while it validated
            yield self._validated()
        while self.at.epoch < self.config.epochs and not self._worn():
            yield from self._epoch()
        if self.validate is not None and self.at.validated != self.at.step:
            yield self._validated()
        self._gather()
        if self.best:
            self.parts.load_state_dict(self.best)
        self.parts.eval()
        self.at.finished = True
        self._write()

    def _epoch(self) -> Iterator[Step]:
        batches = iter(self.batches)
        while True:
            started = self.clock()
            batch = next(batches, None)
            if batch is None:
                break
            record = self._update(batch, started)
            if self.config.checkpoint_every and self.at.step % self.config.checkpoint_every == 0:
                self._save()
            yield record
            if self._due():
                yield self._validated()
                if self._worn():
                    return
        if not self.at.in_epoch:
            raise DataError("there is no batch to learn from", where="training", hint="give it rows")
        notes = _notes(self.at.labels) if not self.at.epoch else ()
        self.at.per_epoch = self.at.in_epoch
        self.at.epoch, self.at.in_epoch, self.at.loader = self.at.epoch + 1, 0, self.batches.state()
        if not self.config.checkpoint_every:
            self._save()
        if notes:
            yield self._note(replace(self._record(self.at.mean_loss), notes=notes))
        if self._due():
            yield self._validated()

    # ------------------------------------------------------------------------------------------ a step

    def _update(self, batch: Batch, started: float) -> Step:
        number = self.at.step + 1
        with _undisturbed():
            self.whole = False
            if not self.at.epoch and self.team.ranks == 1:
                _count(self.at.labels, batch)
            if self.device.type != "cpu":
                batch = batch.to(self.device)
            counts = self._counts()
            with self._dice(number), self._precision():
                loss = self._loss(batch, number)
            value = loss.loss.item()
            if not math.isfinite(value):
                raise _broken(f"the loss is {value}", batch, number)
            self.optimizer.zero_grad()
            loss.loss.backward()
            if self.team.ranks > 1:
                value = self._averaged(loss.loss)
                self.team.add(counts)
            if wrong := self.optimizer.step():
                raise _broken(f"the gradient of {wrong.partition('.')[2]} is not finite", batch, number)
            at = self.at
            at.step, at.in_epoch, at.loader = number, at.in_epoch + 1, self.batches.state()
            at.losses, at.since = at.losses + value, at.since + 1
            self.rows, self.steps = self.rows + len(batch) * self.team.ranks, self.steps + 1
            self.seconds += self.clock() - started
            parts = dict(zip(loss.parts, self._means(list(loss.parts.values())), strict=True))
            record = self._note(replace(self._record(value), parts=parts))
            self.whole = True
        return record

    def _averaged(self, loss: Tensor) -> float:
        """The gradients, and what a layer counts as it goes, as the batches of all processes make them."""
        tables = [weight for weight in self.optimizer.names if weight in self.optimizer.tables]
        dense = [weight for weight in self.optimizer.names if weight not in self.optimizer.tables]
        buffers = [buffer for buffer in self.parts.buffers() if buffer.is_floating_point()]
        return self.team.average(loss, dense, tables, buffers)

    def _counts(self) -> list[tuple[Tensor, Tensor]]:
        """What is counted for each id, as it is and as it was before the step, where others count too."""
        if self.team.ranks == 1:
            return []
        return [(b, b.clone()) for b in self.parts.buffers() if b.ndim == 1 and not b.is_floating_point()]

    def _means(self, numbers: list[Tensor]) -> list[float]:
        if self.team.ranks == 1 or not numbers:
            return [number.item() for number in numbers]
        means: list[float] = self.team.mean(torch.stack([number.float() for number in numbers])).tolist()
        return means

    def _dice(self, number: int) -> "_Dice":
        """The run's dice; those of a process among others depend on its rank and the step alone."""
        if self.team.ranks > 1:
            seed = np.random.SeedSequence([self.config.seed, self.team.rank, number]).generate_state(1)
            self.dice.reset(int(seed[0]))
        return self.dice

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _loss(self, batch: Batch, number: int) -> Loss:
        try:
            if self.team.ranks == 1:
                loss: Loss = self.objective(self.learns, batch)
                return loss
            with shared(self.team.mean):
                return self.objective(self.learns, batch)
        except DataError as error:
            if error.where.startswith(f"batch {number}, "):  # another process found it
                raise
            where = f"batch {number}, {error.where}" if error.where else f"batch {number}"
            raise DataError(error.what, where=where, hint=error.hint) from None

    def _record(self, loss: float) -> Step:
        left: float | None = None
        per_epoch = len(self.batches) if isinstance(self.batches, Sized) else self.at.per_epoch
        if per_epoch and self.steps:
            left = max(per_epoch * self.config.epochs - self.at.step, 0) * self.seconds / self.steps
        speed = self.rows / self.seconds if self.seconds else 0.0
        epoch = self.at.epoch + bool(self.at.in_epoch)
        return Step(epoch, self.at.step, loss, speed, left)

    # ------------------------------------------------------------------------------------------ validation

    def _due(self) -> bool:
        at, every = self.at, self.config.validate_every
        if self.validate is None or at.validated == at.step:
            return False
        return at.step % every == 0 if every else not at.in_epoch

    def _worn(self) -> bool:
        return bool(self.config.patience) and self.at.stale >= self.config.patience

    def _validated(self) -> Step:
        assert self.validate is not None
        metrics: dict[str, float] = {}
        self._gather()
        if self.leads:
            self.parts.eval()
            with torch.no_grad():
                metrics = {name: float(value) for name, value in self.validate(self.model).items()}
            self.parts.train()
        metrics = self.team.tell(f"metrics/{self.at.step}", metrics)
        name = self.config.metric or next(iter(metrics), "")
        if name not in metrics:
            what = f"validation gives no metric {name!r}"
            raise ConfigError(what, where="training.metric", hint=nearest(name, list(metrics)))
        if not math.isfinite(metrics[name]):
            what = f"the metric {name} is {metrics[name]}"
            raise DataError(what, where=f"validation after step {self.at.step}", hint="look at what it is measured on")
        at, sign = self.at, 1 if self.config.direction == "max" else -1
        better = at.best is None or sign * metrics[name] > sign * at.best
        if better and self.leads:
            self.best = {key: value.detach().cpu().clone() for key, value in self.parts.state_dict().items()}
        if better:
            at.best, at.best_step = metrics[name], at.step
        record = replace(self._record(at.mean_loss), metrics=metrics, best=better)
        at.stale = 0 if better else at.stale + 1
        at.validated, at.losses, at.since = at.step, 0.0, 0
        return self._note(record)

    # ------------------------------------------------------------------------------------------ on disk

    def _tensors(self) -> dict[str, Tensor]:
        """All that changes while training, by name."""
        weights = {f"parts/{name}": value for name, value in self.parts.state_dict().items()}
        split = {} if self.tables is None else {f"split/{name}": t for name, t in self.tables.state().items()}
        rules = {f"rules/{name}": value for name, value in self.optimizer.state().items()}
        return weights | rules | split | self.dice.state()

    def _gather(self) -> None:
        """Make the tables of the process that leads whole."""
        if self.tables is not None:
            self.tables.gather()

    def _save(self) -> None:
        self._gather()
        self._write()

    def _write(self) -> None:
        if self.folder is None or not self.leads:
            return
        if self.log is not None:
            self.log.flush()
        at, config = self.at, plain(self.config)
        run, tensors = asdict(at), self._tensors()
        saved = Checkpoint(at.step, config, self.fingerprint, run, tensors, self.best, at.best_step)
        checkpoints.save(self.folder, saved)

    def _resume(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = checkpoints.load(self.folder)
        if found is not None:
            checkpoints.check_same(found, plain(self.config), self.fingerprint, self.folder)
            weights = _under("parts/", found.tensors)
            checkpoints.check_weights(weights, self.parts.state_dict(), self.folder)
            try:
                self.at = Progress(**found.run)
                self.optimizer.load(_under("rules/", found.tensors))
                self.dice.load(found.tensors)
            except (TypeError, KeyError):
                raise checkpoints.damaged(self.folder) from None
            self.batches.load(self.at.loader)
            own = self.parts.state_dict()  # of what another process has whole, this one has only the shape
            self.parts.load_state_dict({n: w for n, w in weights.items() if not own[n].is_meta}, strict=False)
            if self.tables is not None:
                self.tables.load(_under("model.", weights), _under("split/", found.tensors))
            self.best = dict(found.best)
            if self.at.finished:
                self.parts.eval()
        if self.leads:
            _cut(self.folder / LOG, self.at)

    def _note(self, record: Step) -> Step:
        """Write a record down."""
        if self.log is not None:
            line: dict[str, Any] = {"epoch": record.epoch, "step": record.step, "loss": record.loss}
            if record.metrics:
                line |= {"metrics": record.metrics, "best": record.best}
            elif record.notes:
                line |= {"notes": record.notes}
            else:
                line |= {"parts": record.parts, "rows_per_second": round(record.rows_per_second, 1)}
            self.log.write(json.dumps(line) + "\n")
        return record


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _device(config: Loop.Config, team: Team) -> torch.device:
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and team.ranks > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', team.rank)}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        what = f"no device {name!r} here: {str(error).splitlines()[0]}"
        raise ConfigError(what, where="training.device", hint='write "auto" or "cpu"') from None
    if config.precision == "bf16" and not torch.amp.is_autocast_available(device.type):
        what = f"torch has no bf16 on {device.type}"
        raise ConfigError(what, where="training.precision", hint='write "float32"')
    if device.type == "cuda" and team.ranks > 1:
        torch.cuda.set_device(device)
    return device


class _Dice:
    """torch's dice of one run: set for a step, and as they were for everybody else after it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device if device.type == "cuda" else None
        self.reset(seed)

    def reset(self, seed: int) -> None:
        self.mine = torch.Generator().manual_seed(seed).get_state()
        self.mine_cuda = None if self.device is None else torch.Generator(self.device).manual_seed(seed).get_state()

    def __enter__(self) -> None:
        self.others = torch.get_rng_state()
        torch.set_rng_state(self.mine)
        if self.device is not None and self.mine_cuda is not None:
            self.others_cuda = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self.mine_cuda, self.device)

    def __exit__(self, *error: object) -> None:
        self.mine = torch.get_rng_state()
        torch.set_rng_state(self.others)
        if self.device is not None:
            self.mine_cuda = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self.others_cuda, self.device)

    def state(self) -> dict[str, Tensor]:
        cuda = {} if self.mine_cuda is None else {"dice/cuda": self.mine_cuda}
        return {"dice/cpu": self.mine, **cuda}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.mine = tensors["dice/cpu"]
        if self.device is not None:
            self.mine_cuda = tensors.get("dice/cuda", self.mine_cuda)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """SIGINT waits for the end of a step, the second one does not. Only the main thread gets signals."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    caught: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if caught:
            before(number, frame)
        caught.append(number)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        before(caught[0], None)


def _broken(what: str, batch: Batch, number: int) -> DataError:
    """What is said of a number that is not finite: the column it came from, where one of the batch is so itself."""
    for columns in (batch.request, batch.row):
        name = _not_finite(columns)
        if name is not None:
            hint = "the column has values that are no numbers: correct them, or leave it out"
            return DataError(what, where=f"batch {number}, column {name}", hint=hint)
    hint = "the columns are finite: lower lr, or set clip"
    return DataError(what, where=f"batch {number}", hint=hint)


def _not_finite(columns: Columns) -> str | None:
    fine = columns.dense.isfinite().all(dim=0).tolist()
    named = dict(zip(columns.dense_names, fine, strict=True))
    named |= {name: bool(vec.isfinite().all()) for name, vec in columns.vecs.items()}
    for name, group in columns.groups.items():
        for key, channel in group.channels.items():
            named[f"{name}.{key}"] = bool(torch.where(group.mask, channel, 0).isfinite().all())
    return next((name for name, finite in named.items() if not finite), None)


def _count(labels: dict[str, tuple[int, float, float]], batch: Batch) -> None:
    """Rows that carry each task's label, and the lowest and highest of these, brought forward by a batch."""
    if batch.labels is None:
        return
    valid = batch.labels.isfinite() if batch.valid is None else batch.valid & batch.labels.isfinite()
    for column, task in enumerate(batch.tasks):
        seen = batch.labels[:, column][valid[:, column]]
        rows, low, high = labels.get(task, (0, 0.0, 0.0))
        if len(seen):
            lowest, highest = seen.min().item(), seen.max().item()
            low, high = (min(low, lowest), max(high, highest)) if rows else (lowest, highest)
        labels[task] = (rows + len(seen), low, high)


def _notes(labels: Mapping[str, tuple[int, float, float]]) -> tuple[str, ...]:
    """What an epoch showed of tasks that cannot be learned. They stop nothing: other tasks may do well."""
    out = []
    for task, (rows, low, high) in labels.items():
        if not rows:
            out.append(f"task {task}: no row carries a label")
        elif low == high:
            out.append(f"task {task}: all {rows} labels are {low:g}")
    return tuple(out)


def _cut(file: Path, at: Progress) -> None:
    """Leave in the log what the checkpoint knows of; a line that was being written when the run died goes too."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["step"] <= (at.validated if "metrics" in record else at.step):
            kept.append(line + "\n")
    scratch = file.with_name(f".{file.name}")
    scratch.write_text("".join(kept), encoding="utf-8")
    scratch.replace(file)
