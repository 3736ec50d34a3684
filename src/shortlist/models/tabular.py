"""Table rankers among modules: what asks a ranker for logits asks them alike. B rows."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shortlist.batch import Batch

if TYPE_CHECKING:
    from shortlist.models.roles import TableRanker

__all__ = ["Tabular", "tabular"]


def tabular(kind: Any) -> bool:
    """Whether a class of models/rank/ fits tables itself, without gradients."""
    return hasattr(kind, "fit")


class Tabular(nn.Module):
    """A table ranker as a module without parameters: `forward` gives its scores [B] by task."""

    def __init__(self, ranker: "TableRanker") -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {task: torch.from_numpy(score) for task, score in self.ranker.score(batch).items()}
