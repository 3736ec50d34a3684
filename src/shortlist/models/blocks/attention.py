"""Target attention of DIN: how much each past step says about a candidate (Zhou et al., KDD 2018, arXiv:1706.06978).

R requests, B candidates, L steps, D width of a step, C width of what only the past has, P pairs of a candidate and a
real step of its request.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shortlist.models.blocks.dice import Dice
from shortlist.models.blocks.mlp import mlp

__all__ = ["TargetAttention", "PAIRS"]

PAIRS = 1 << 16  # pairs weighed at a time where no gradient is kept: bounds memory, changes no result


class TargetAttention(nn.Module):
    """v = Σ_i a_i e_i with a_i = MLP([e_i; e_t; e_i - e_t; e_i ∘ e_t; c_i]): no softmax, so v grows with interest.

    c_i, `context` wide, is what a step has and a candidate has not (its action, its age): not in the paper. Only
    real steps are weighed, so nothing behind a length costs, counts in Dice or changes a result.
    """

    def __init__(self, dim: int, hidden: Sequence[int], context: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.first = nn.Linear(4 * dim + context, hidden[0])
        self.rest = nn.Sequential(Dice(hidden[0]), *mlp(hidden[0], hidden[1:], activation=Dice, out=1))

    def forward(
        self, past_RLD: Tensor, context_RLC: Tensor | None, length: Tensor, target_BD: Tensor, request_of: Tensor
    ) -> Tensor:
        """v [B, D]; zero for an empty history. `length` [R] real steps, `request_of` [B]."""
        steps = past_RLD.shape[1]
        counts = length.clamp(max=steps)[request_of]
        if self.training or torch.is_grad_enabled():
            return self._interest(past_RLD, context_RLC, counts, target_BD, request_of)
        size = max(1, PAIRS // max(1, steps))
        return torch.cat(
            [
                self._interest(past_RLD, context_RLC, counts[at], target_BD[at], request_of[at])
                for at in torch.arange(len(target_BD), device=counts.device).split(size)
            ]
        )

    def _interest(
        self, past_RLD: Tensor, context_RLC: Tensor | None, counts: Tensor, target_BD: Tensor, request_of: Tensor
    ) -> Tensor:
        row_P, step_P = pairs(counts, request_of, past_RLD.shape[1])
        past_PD = past_RLD.flatten(0, 1)[step_P]
        context_PC = None if context_RLC is None else context_RLC.flatten(0, 1)[step_P]
        a_P = self.weigh(past_PD, context_PC, target_BD[row_P])
        return torch.zeros_like(target_BD).index_add(0, row_P, a_P.unsqueeze(1) * past_PD)

    def weigh(self, past_PD: Tensor, context_PC: Tensor | None, target_PD: Tensor) -> Tensor:
        """a [P]."""
        both = [past_PD, target_PD, past_PD - target_PD, past_PD * target_PD]
        x_PX = torch.cat(both if context_PC is None else [*both, context_PC], dim=1)
        out: Tensor = self.rest(self.first(x_PX)).squeeze(1)
        return out


def pairs(counts: Tensor, request_of: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Every (candidate, real step) as the candidate's row [P] and the step's place in histories laid end to end."""
    row_P = torch.repeat_interleave(counts)
    starts = counts.cumsum(0) - counts
    within = torch.arange(len(row_P), device=counts.device) - starts[row_P]
    return row_P, request_of[row_P] * steps + within
