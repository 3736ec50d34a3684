"""What an objective is: a model and a batch in, the number to minimise out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from shortlist.batch import Batch, Columns

__all__ = ["Loss", "Objective", "CatalogueRows", "Dated"]


@dataclass(frozen=True)
class Loss:
    """`loss`, a scalar with its graph, and what it is made of, by name: detached scalars."""

    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


Objective = Callable[[Any, Batch], Loss]
"""One that is an nn.Module has parameters, trained with the model's, and state (counts, dice), kept in checkpoints."""

CatalogueRows = Callable[[Tensor], Columns]
"""Row columns of catalogue items [N], given their ids (from 2)."""


@runtime_checkable
class Dated(Protocol):
    """Rows of a catalogue whose items look different at different moments: they have ages."""

    def __call__(self, ids: Tensor) -> Columns: ...

    def at(self, ids: Tensor, now: Tensor) -> Columns:
        """Row columns of items [N] at a moment each [N] (ms)."""
        ...

    def ages(self, ids: Tensor, now: Tensor) -> Tensor:
        """Numbers [M, N]: at moments [M] where an item [N] has equal ones, `at` gives equal rows."""
        ...
