"""The positive examples of a batch, for objectives over a retriever's two sides.

R requests, B rows, L steps, M examples, D width. With `targets` [B, L] and a model that has `states`, every step with a
target is an example; otherwise every row whose item was wanted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shortlist.batch import Batch, Columns
from shortlist.config import nearest
from shortlist.errors import ConfigError
from shortlist.models.roles import Retriever
from shortlist.schema import FIRST

__all__ = ["Examples", "examples", "ITEM"]

ITEM = "item.id"


@dataclass(frozen=True)
class Examples:
    """M examples: the query side [M, D], the id and the worth of the item wanted [M], the batch row each is of [M].

    `per_step` says that examples are steps of sequences.
    """

    query: Tensor
    item: Tensor
    worth: Tensor
    row: Tensor
    per_step: bool


def examples(model: Retriever, batch: Batch, task: str = "") -> Examples:
    """Examples whose item is one of the vocabulary: padding and unknown items are never to be learned as classes.

    The worth of a row is its weight times its label of `task` (the first one; 1 without labels); rows worth nothing
    are no examples.
    """
    ones = batch.request_of.new_ones(len(batch), dtype=torch.float32)
    weights = ones if batch.weights is None else batch.weights.float()
    states: Callable[[Columns], Tensor] | None = getattr(model, "states", None)
    if batch.targets is not None and states is not None:
        row, step = (batch.targets >= FIRST).nonzero(as_tuple=True)
        query = states(batch.request)[batch.request_of[row], step]
        return Examples(query, batch.targets[row, step], weights[row], row, True)
    worth = weights * _labels(batch, task) if batch.labels is not None else weights
    item = batch.row[ITEM]
    row = ((item >= FIRST) & (worth > 0)).nonzero(as_tuple=True)[0]
    return Examples(model.query(batch.request)[batch.request_of[row]], item[row], worth[row], row, False)


def _labels(batch: Batch, task: str) -> Tensor:
    assert batch.labels is not None
    if task and task not in batch.tasks:
        raise ConfigError(f"no task is called {task!r}", where="objective.task", hint=nearest(task, batch.tasks))
    column = batch.tasks.index(task) if task else 0
    label = batch.labels[:, column].float()
    return label if batch.valid is None else torch.where(batch.valid[:, column], label, 0.0)
