"""The positive examples of a batch, for objectives over a retriever's two sides.

R requests, B rows, L steps, M examples, D width. With `targets` [B, L] and a model that has `states`, every step with a
target is an example; otherwise every row whose item was wanted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.batch import Batch, Columns
from shortlist.config import nearest
from shortlist.errors import ConfigError
from shortlist.models.roles import Retriever
from shortlist.schema import FIRST
from shortlist.training.loss import CatalogueRows, Dated

__all__ = ["Examples", "examples", "not_negatives", "sides", "ITEM"]

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


def not_negatives(batch: Batch, found: Examples, known: str) -> NDArray[np.int64]:
    """What each example may not have as a negative [M, K], filled up with 0: what its request wants elsewhere in the
    batch, and the items of its group `known`."""
    request = batch.request_of[found.row]
    parts = [found.item.unsqueeze(1)]
    if found.per_step:
        assert batch.targets is not None
        parts.append(batch.targets[found.row])
    else:
        parts.append(_lists(request, found.item, len(batch.request))[request])
    if known in batch.request.groups:
        group = batch.request.groups[known]
        parts.append((group.channels["item"] * group.mask)[request])
    out: NDArray[np.int64] = torch.cat(parts, dim=1).cpu().numpy()
    return out


def sides(
    model: Retriever, batch: Batch, found: Examples, drawn_Mn: Tensor, catalogue: CatalogueRows
) -> tuple[Tensor, Tensor]:
    """Vectors of the examples' own items [M, D] and of those drawn for them [M, n, D], at the same moment: an age of
    another day would tell them apart."""
    if isinstance(catalogue, Dated) and batch.now is not None and not found.per_step:
        n = drawn_Mn.shape[1]
        now_M = batch.now[batch.request_of[found.row]]
        rows = catalogue.at(drawn_Mn.flatten().cpu(), now_M.repeat_interleave(n).cpu()).to(drawn_Mn.device)
        others = model.candidate(rows)
        return model.candidate(batch.row)[found.row], others.view(len(now_M), n, others.shape[1])
    ids, place = torch.unique(torch.cat([found.item, drawn_Mn.flatten()]), return_inverse=True)
    items_ND = model.candidate(catalogue(ids.cpu()).to(ids.device))
    own, other = place[: len(found.item)], place[len(found.item) :].view_as(drawn_Mn)
    return items_ND[own], items_ND[other]


def _lists(owner: Tensor, items: Tensor, owners: int) -> Tensor:
    """Items by owner [R, K], filled up with 0."""
    order = owner.argsort(stable=True)
    counts = torch.bincount(owner, minlength=owners)
    rank = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner[order]]
    lists = items.new_zeros(owners, int(counts.max()) if owners else 0)
    lists[owner[order], rank] = items[order]
    return lists
