"""Losses of many tasks at once, masked where a row carries no label (Caruana 1997). B rows, T tasks.

A task is a probability (log loss), a value (squared error) or a time watched, t seconds and 0 where nobody watched,
learned as odds: `weighted` -t log sigmoid(z) where t > 0 and -log sigmoid(-z) elsewhere (Covington et al., RecSys
2016): exp(z) is t per row that was not watched; `expected` -t log sigmoid(z) - log sigmoid(-z) of every row: exp(z) is
the mean of t. Both serve exp(z).
"""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from shortlist.batch import Batch
from shortlist.config import NonNegative, Positive, frozen, nearest
from shortlist.errors import ConfigError, DataError
from shortlist.schema import Schema
from shortlist.training.balance import Uncertainty
from shortlist.training.loss import Loss, among
from shortlist.training.scores import full

__all__ = ["Bce", "check_loss", "multitask"]

Kept = Annotated[float, Gt(0), Le(1)]


class Bce(nn.Module):
    """Sum over tasks of omega_t L_t, for a model whose forward gives task -> logit [B].

    L_t is the mean over rows that carry the label of weight * log loss, or of weight * squared error for a task of
    `regression`, where the model's output is the value itself, or of the loss of `watch`. `listwise` adds the cross
    entropy of a softmax over the labelled rows of each request (Cao et al., ICML 2007, ListNet top one), so that the
    order inside a list counts. With `balance = "uncertainty"` the sum is of omega_t (c_t exp(-s_t) L_t + s_t / 2).
    """

    @frozen
    class Config:
        weights: dict[str, NonNegative] = field(default_factory=dict)  # omega of a task; 1 where none is named
        regression: tuple[str, ...] = ()
        listwise: NonNegative = 0.0  # beside it, this much of the softmax loss of each request's list
        balance: Literal["fixed", "uncertainty"] = "fixed"
        balance_lr: Positive = 0.01  # of the s of `uncertainty`
        watch: dict[str, Literal["weighted", "expected"]] = field(default_factory=dict)  # tasks that are times
        percentile: Annotated[float, Gt(0), Le(100)] = 99.0  # of the times watched: longer ones count as this one
        length: dict[str, str] = field(default_factory=dict)  # task -> item field: what is served is over f(length)
        class_weights: dict[str, Positive] = field(
            default_factory=dict
        )  # weight of a task's positives; undone when served
        kept: dict[str, Kept] = field(default_factory=dict)  # share of a task's negatives that the log kept; undone

    def __init__(self, config: Config, tasks: tuple[str, ...] = (), caps: Mapping[str, float] | None = None) -> None:
        """`tasks` are those of all batches, needed where their balance is learned; `caps` the longest time that counts
        of a task of `watch`."""
        super().__init__()
        self.config, self.caps = config, dict(caps or {})
        self.balance: Uncertainty | None = None
        if config.balance == "uncertainty":
            self.balance = Uncertainty(tasks, config.regression, config.balance_lr)

    def forward(self, model: nn.Module, batch: Batch) -> Loss:
        return multitask(model(batch), batch, self.config, self.balance, self.caps)

    def weights(self) -> dict[str, float]:
        """What each task's loss counts where that is learned."""
        if self.balance is None:
            return {}
        return dict(zip(self.balance.tasks, self.balance.weights().detach().tolist(), strict=True))


def multitask(
    logits: Mapping[str, Tensor],
    batch: Batch,
    config: Bce.Config,
    balance: Uncertainty | None = None,
    caps: Mapping[str, float] | None = None,
) -> Loss:
    """Raises DataError for a label outside its task's range, ConfigError for a task the batch does not have."""
    if batch.labels is None:
        raise DataError("rows carry no labels", where="objective", hint="give the batch `labels` [B, T]")
    for name in named(config):
        if name not in batch.tasks:
            what = f"no task is called {name!r}"
            raise ConfigError(what, where="objective", hint=nearest(name, batch.tasks))
    weights = torch.ones_like(batch.labels[:, 0]) if batch.weights is None else batch.weights
    losses: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for column, task in enumerate(batch.tasks):
        logit = full(logits[task])
        label = batch.labels[:, column].to(logit.dtype)
        valid = torch.ones_like(label, dtype=torch.bool) if batch.valid is None else batch.valid[:, column]
        label = torch.where(valid, label, 0.0)  # whatever stands where no label is
        _in_range(label, task, config)
        if task in config.watch:
            each = watched(logit, label.clamp(max=(caps or {}).get(task, math.inf)), config.watch[task])
        elif task in config.regression:
            each = (logit - label).square()
        else:
            times = config.class_weights.get(task)
            more = None if times is None else logit.new_tensor(times)
            each = functional.binary_cross_entropy_with_logits(logit, label, pos_weight=more, reduction="none")
        each = torch.where(valid, each * weights, 0.0)
        rows = among(valid.sum().float(), 1e-12)
        losses[task] = each.sum() / rows
        present[task] = rows > 1e-9  # in any process: what balances them is the same in all
        if config.listwise and task not in {*config.watch, *config.regression}:
            losses[task] = losses[task] + config.listwise * listwise(logit, label, valid, weights, batch.request_of)
    shares = losses if balance is None else balance(losses, present)
    total = sum((config.weights.get(task, 1.0) * loss for task, loss in shares.items()), torch.zeros(()))
    parts = {task: loss.detach() for task, loss in losses.items()}
    if balance is not None:
        parts |= {
            f"{task}.weight": weight for task, weight in zip(balance.tasks, balance.weights().detach(), strict=True)
        }
    return Loss(total, parts)


def watched(z: Tensor, t: Tensor, how: Literal["weighted", "expected"]) -> Tensor:
    """Loss [B] of logits against times."""
    none = functional.softplus(z)  # -log sigmoid(-z)
    some = t * functional.softplus(-z)
    return some + none if how == "expected" else torch.where(t > 0, some, none)


def listwise(logit: Tensor, label: Tensor, valid: Tensor, weights: Tensor, request_of: Tensor) -> Tensor:
    """Mean over positives of -log softmax among the valid rows of their request, each times weight and label."""
    requests = int(request_of.max()) + 1 if len(request_of) else 0
    z = torch.where(valid, logit, -torch.inf)
    top = z.new_full((requests,), -torch.inf).scatter_reduce(0, request_of, z, "amax").detach()
    shifted = torch.where(valid, logit - torch.where(valid, top[request_of], 0.0), 0.0)
    mass = z.new_zeros(requests).scatter_add(0, request_of, torch.where(valid, shifted.exp(), 0.0))
    worth = torch.where(valid, label * weights, 0.0)
    each = worth * (mass.clamp(min=1e-30).log()[request_of] - shifted)
    return each.sum() / among(worth.sum(), 1e-12)


def named(config: Bce.Config) -> list[str]:
    """Every task that a loss names."""
    tables = (config.weights, config.regression, config.watch, config.length, config.class_weights, config.kept)
    return [name for table in tables for name in table]


def check_loss(config: Bce.Config, schema: Schema, where: str) -> None:
    """Raises ConfigError for words about tasks or fields that are not there, or that do not go together."""
    for name in named(config):
        if name not in schema.tasks:
            hint = nearest(name, list(schema.tasks))
            raise ConfigError(f"no task is called {name!r}", where=where, hint=hint)
    for key, needed in (("balance_lr", config.balance == "uncertainty"), ("percentile", bool(config.watch))):
        if not needed and getattr(config, key) != getattr(Bce.Config, key):
            other = {"balance_lr": 'balance = "uncertainty"', "percentile": "watch"}[key]
            raise ConfigError(f"{key} does nothing without {other}", where=where, hint=f"take {key} away")
    for name in config.watch:
        if name in config.regression:
            hint = "take it out of one of the two"
            raise ConfigError(f"{name} is in watch and in regression", where=where, hint=hint)
    for key in ("class_weights", "kept"):
        for name in getattr(config, key):
            if name in {*config.watch, *config.regression}:
                what = f"{name} is a value and has no negatives"
                raise ConfigError(what, where=f"{where}.{key}", hint=f"take it out of {key}")
    for name in config.kept:
        if not isinstance(schema.tasks[name].on, str):
            what = f"the negatives of {name} are drawn, and calibrated where nothing is drawn"
            raise ConfigError(what, where=f"{where}.kept", hint="take it out of kept")
    numbers = [name for name, kind in schema.items.items() if kind.kind == "dense"]
    for task, name in config.length.items():
        if task in config.watch:
            what = f"{task} is a time: completion is what has a length"
            raise ConfigError(what, where=f"{where}.length", hint="take it out of length")
        if name not in numbers:
            hint = nearest(name, numbers)
            raise ConfigError(f"no dense item field is called {name!r}", where=f"{where}.length", hint=hint)


def _in_range(label: Tensor, task: str, config: Bce.Config) -> None:
    if task in config.watch:
        wrong, says = ~(label >= 0) | ~label.isfinite(), "no time"
    elif task in config.regression:
        wrong, says = ~label.isfinite(), "not a number"
    else:
        wrong, says = ~((label >= 0) & (label <= 1)), "outside 0..1"
    if wrong.any():
        value = label[wrong][0].item()
        hint = "correct the task's definition, or mask the row"
        raise DataError(f"the label {value:g} is {says}", where=f"task {task}", hint=hint)
