"""How much each task's loss counts, learned with the model (Kendall, Gal & Cipolla, CVPR 2018, arXiv:1705.07115).

s = log sigma^2 of each of T tasks, 0 to begin with: the sum of c exp(-s) L + s / 2, where c is 1/2 for a regression
and 1 for a classification. Its least value for a loss L that stays is at s = ln 2 c L, where the task's part is
1/2 + s / 2, whatever its scale.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

__all__ = ["Uncertainty"]


class Uncertainty(nn.Module):
    """The s of `tasks`, those of `measures` regressions. `own_lr` is their learning rate; they are not decayed."""

    def __init__(self, tasks: tuple[str, ...], measures: Collection[str] = (), own_lr: float = 0.01) -> None:
        super().__init__()
        self.tasks, self.own_lr = tasks, own_lr
        self.s = nn.Parameter(torch.zeros(len(tasks)))
        self.register_buffer("c", torch.tensor([0.5 if task in measures else 1.0 for task in tasks]), persistent=False)

    def weights(self) -> Tensor:
        """What losses are multiplied by [T]."""
        found: Tensor = self.get_buffer("c") * (-self.s).exp()
        return found

    def forward(self, losses: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each task's part of the sum, its loss being not below 0. One that is not `present` in a batch has no part."""
        weights = self.weights()
        return {task: (weights[n] * losses[task] + self.s[n] / 2) * present[task] for n, task in enumerate(self.tasks)}
