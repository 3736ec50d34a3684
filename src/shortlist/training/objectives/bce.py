"""Log loss of many tasks at once, masked where a row carries no label (Caruana 1997). B rows, T tasks."""

from collections.abc import Mapping
from dataclasses import field

import torch
from torch import Tensor, nn
from torch.nn import functional

from shortlist.batch import Batch
from shortlist.config import NonNegative, frozen, nearest
from shortlist.errors import ConfigError, DataError
from shortlist.training.loss import Loss
from shortlist.training.scores import full

__all__ = ["Bce"]


class Bce(nn.Module):
    """Sum over tasks of omega_t L_t, for a model whose forward gives task -> logit [B].

    L_t is the mean over rows that carry the label of weight * log loss, or of weight * squared error for a task of
    `regression`, where the model's output is the value itself. `listwise` adds the cross entropy of a softmax over the
    labelled rows of each request (Cao et al., ICML 2007, ListNet top one), so that the order inside a list counts.
    """

    @frozen
    class Config:
        weights: dict[str, NonNegative] = field(default_factory=dict)  # omega of a task; 1 where none is named
        regression: tuple[str, ...] = ()
        listwise: NonNegative = 0.0  # beside it, this much of the softmax loss of each request's list

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, model: nn.Module, batch: Batch) -> Loss:
        return multitask(model(batch), batch, self.config)


def multitask(logits: Mapping[str, Tensor], batch: Batch, config: Bce.Config) -> Loss:
    """Raises DataError for a label outside its task's range, ConfigError for a task the batch does not have."""
    if batch.labels is None:
        raise DataError("rows carry no labels", where="objective", hint="give the batch `labels` [B, T]")
    for name in [*config.weights, *config.regression]:
        if name not in batch.tasks:
            what = f"no task is called {name!r}"
            raise ConfigError(what, where="objective", hint=nearest(name, batch.tasks))
    weights = torch.ones_like(batch.labels[:, 0]) if batch.weights is None else batch.weights
    losses: dict[str, Tensor] = {}
    for column, task in enumerate(batch.tasks):
        logit = full(logits[task])
        label = batch.labels[:, column].to(logit.dtype)
        valid = torch.ones_like(label, dtype=torch.bool) if batch.valid is None else batch.valid[:, column]
        label = torch.where(valid, label, 0.0)  # whatever stands where no label is
        measure = task in config.regression
        _in_range(label, task, measure)
        if measure:
            each = (logit - label).square()
        else:
            each = functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
        each = torch.where(valid, each * weights, 0.0)
        losses[task] = each.sum() / valid.sum().clamp(min=1)
        if config.listwise and not measure:
            losses[task] = losses[task] + config.listwise * listwise(logit, label, valid, weights, batch.request_of)
    total = sum((config.weights.get(task, 1.0) * loss for task, loss in losses.items()), torch.zeros(()))
    return Loss(total, {task: loss.detach() for task, loss in losses.items()})


def listwise(logit: Tensor, label: Tensor, valid: Tensor, weights: Tensor, request_of: Tensor) -> Tensor:
    """Mean over positives of -log softmax among the valid rows of their request, each times weight and label."""
    requests = int(request_of.max()) + 1 if len(request_of) else 0
    z = torch.where(valid, logit, -torch.inf)
    top = z.new_full((requests,), -torch.inf).scatter_reduce(0, request_of, z, "amax").detach()
    shifted = torch.where(valid, logit - torch.where(valid, top[request_of], 0.0), 0.0)
    mass = z.new_zeros(requests).scatter_add(0, request_of, torch.where(valid, shifted.exp(), 0.0))
    worth = torch.where(valid, label * weights, 0.0)
    each = worth * (mass.clamp(min=1e-30).log()[request_of] - shifted)
    return each.sum() / worth.sum().clamp(min=1e-12)


def _in_range(label: Tensor, task: str, measure: bool) -> None:
    wrong = ~label.isfinite() if measure else ~((label >= 0) & (label <= 1))
    if wrong.any():
        value = label[wrong][0].item()
        what = f"the label {value:g} is " + ("not a number" if measure else "outside 0..1")
        raise DataError(what, where=f"task {task}", hint="correct the task's definition, or mask the row")
