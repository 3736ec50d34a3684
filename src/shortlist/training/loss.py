"""What an objective is: a model and a batch in, the number to minimise out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from shortlist.batch import Batch, Columns

__all__ = ["Loss", "Objective", "CatalogueRows"]


@dataclass(frozen=True)
class Loss:
    """`loss`, a scalar with its graph, and what it is made of, by name: detached scalars."""

    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


Objective = Callable[[Any, Batch], Loss]
"""One that is an nn.Module has parameters, trained with the model's, and state (counts, dice), kept in checkpoints."""

CatalogueRows = Callable[[Tensor], Columns]
"""Row columns of catalogue items [N], given their ids (from 2)."""
