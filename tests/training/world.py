"""Small models and batches whose numbers can be written down."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns


def row_columns(ids: Tensor) -> Columns:
    """Row columns of catalogue items: their ids."""
    return Columns(ids.unsqueeze(1), torch.zeros(len(ids), 0), ("item.id",))


def pairs(
    users: list[int],
    items: list[int],
    request_of: list[int] | None = None,
    labels: list[float] | None = None,
    weights: list[float] | None = None,
) -> Batch:
    """A batch of (user, item) examples; users by request."""
    request = Columns(torch.tensor(users).unsqueeze(1), torch.zeros(len(users), 0), ("user.id",))
    owners = torch.arange(len(items)) if request_of is None else torch.tensor(request_of)
    return Batch(
        request,
        row_columns(torch.tensor(items, dtype=torch.long)),
        owners,
        ("click",) if labels is not None else (),
        None if labels is None else torch.tensor(labels).unsqueeze(1),
        None,
        None if weights is None else torch.tensor(weights),
    )


class Two(nn.Module):
    """A vector per user and one per item; `states` are those of the history's items."""

    def __init__(self, users: int, items: int, dim: int = 3, sparse: bool = False, seed: int = 0) -> None:
        super().__init__()
        dice = torch.Generator().manual_seed(seed)
        self.user = nn.Embedding(users, dim, sparse=sparse)
        self.item = nn.Embedding(items, dim, sparse=sparse)
        with torch.no_grad():
            self.user.weight.copy_(torch.randn(users, dim, generator=dice))
            self.item.weight.copy_(torch.randn(items, dim, generator=dice))

    metric = "ip"
    Config = None

    def query(self, request: Columns) -> Tensor:
        out: Tensor = self.user(request["user.id"])
        return out

    def candidate(self, row: Columns) -> Tensor:
        out: Tensor = self.item(row["item.id"])
        return out


class Steps(Two):
    """Each step's state is the vector its history item has as a user."""

    def states(self, request: Columns) -> Tensor:
        out: Tensor = self.user(request.groups["history"].channels["item"])
        return out


class Logits(nn.Module):
    """A bottom, and a line per task; dropout between."""

    def __init__(self, tasks: tuple[str, ...], width: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.bottom = nn.Linear(width, 4)
        self.drop = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in tasks})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        h = self.drop(torch.tanh(self.bottom(batch.row.dense)))
        return {task: head(h).squeeze(1) for task, head in self.heads.items()}


def labelled(x: Tensor, labels: Tensor, tasks: tuple[str, ...] = ("click",), valid: Tensor | None = None) -> Batch:
    """Rows with dense columns x [B, G] named item.a, item.b, ... and labels [B, T]."""
    names = tuple(f"item.{letter}" for letter in "abcdef"[: x.shape[1]])
    row = Columns(torch.zeros(len(x), 0, dtype=torch.long), x, (), names)
    request = Columns(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0))
    return Batch(request, row, torch.zeros(len(x), dtype=torch.long), tasks, labels, valid)


class Listed:
    """The same batches each epoch, in an order that depends on the epoch; goes on where it was."""

    def __init__(self, batches: list[Batch], on: Callable[[int], None] | None = None) -> None:
        self.batches, self.on = batches, on
        self.epoch = self.place = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        order = np.random.default_rng(self.epoch).permutation(len(self.batches))
        for place in range(self.place, len(order)):
            self.place = place + 1
            if self.on is not None:
                self.on(self.epoch * len(order) + place + 1)
            yield self.batches[order[place]]
        self.epoch, self.place = self.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "place": self.place}

    def load(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.place = state["epoch"], state["place"]
