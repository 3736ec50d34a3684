"""Dice: a PReLU whose bend follows the data (Zhou et al., KDD 2018, arXiv:1706.06978). N rows, H width."""

import torch
from torch import Tensor, nn

__all__ = ["Dice"]


class Dice(nn.Module):
    """f(s) = p s + (1 - p) α s with p = σ((s - E[s]) / sqrt(Var[s] + ε)), α learned from 0 per unit.

    E and Var are those of the batch in training and running ones in eval; a training batch of fewer than two rows
    has no spread and reads the running ones too.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, eps: float = 1e-8, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.alpha = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, s_NH: Tensor) -> Tensor:
        """[N, H], any rows: leave padding out before, it would count in E and Var."""
        fresh = self.training and len(s_NH) > 1
        normal = nn.functional.batch_norm(
            s_NH, self.mean, self.var, training=fresh, momentum=self.momentum, eps=self.eps
        )
        p = torch.sigmoid(normal)
        return s_NH * torch.addcmul(self.alpha, p, 1 - self.alpha)  # α + p (1 - α): two passes less over the rows
