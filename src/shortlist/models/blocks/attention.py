"""Target attention of DIN: how much each past step says about a candidate (Zhou et al., KDD 2018, arXiv:1706.06978).

R requests, B candidates, L steps, D width of a step, C width of what only the past has, P pairs of a candidate and a
real step of its request.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shortlist.models.blocks.affine import product
from shortlist.models.blocks.dice import Dice
from shortlist.models.blocks.mlp import mlp

__all__ = ["TargetAttention", "PAIRS"]

PAIRS = 2048  # pairs weighed at a time where no gradient is kept: what a core keeps near runs fastest


class TargetAttention(nn.Module):
    """v = Σ_i a_i e_i with a_i = MLP([e_i; e_t; e_i - e_t; e_i ∘ e_t; c_i]): no softmax, so v grows with interest.

    c_i, `context` wide, is what a step has and a candidate has not (its action, its age): not in the paper. Only
    real steps are weighed, so nothing behind a length costs, counts in Dice or changes a result. The first layer is
    linear: what it makes of e_i alone is made once a step, of e_t once a candidate, of e_i ∘ e_t once a pair. With
    `softmax` the a_i of a history sum to 1.
    """

    def __init__(self, dim: int, hidden: Sequence[int], context: int = 0, softmax: bool = False) -> None:
        super().__init__()
        self.dim, self.softmax = dim, softmax
        self.first = nn.Linear(4 * dim + context, hidden[0])
        self.rest = nn.Sequential(Dice(hidden[0]), *mlp(hidden[0], hidden[1:], activation=Dice, out=1))

    def forward(
        self, past_RLD: Tensor, context_RLC: Tensor | None, length: Tensor, target_BD: Tensor, request_of: Tensor
    ) -> Tensor:
        """v [B, D]; zero for an empty history. `length` [R] real steps, `request_of` [B]."""
        steps, d = past_RLD.shape[1], self.dim
        past_W, target_W, gap_W, both_W, context_W = self.first.weight.split(
            [d, d, d, d, self.first.in_features - 4 * d], dim=1
        )
        past_ND = past_RLD.flatten(0, 1)
        past_NH = product(past_ND, past_W + gap_W, self.first.bias)
        if context_RLC is not None:
            past_NH = past_NH + product(context_RLC.flatten(0, 1), context_W)
        target_BH = product(target_BD, target_W - gap_W)

        def interest(rows: Tensor) -> Tensor:
            of = request_of[rows]
            row_P, step_P = pairs(length.clamp(max=steps)[of], of, steps)
            past_PD, at_P = past_ND[step_P], rows[row_P]
            s_PH = product(past_PD * target_BD[at_P], both_W) + past_NH[step_P] + target_BH[at_P]
            a_P1 = self.rest(s_PH)
            if self.softmax:
                a_P1 = shares(a_P1.squeeze(1), row_P, len(rows)).unsqueeze(1)
            zero = past_ND.new_zeros(len(rows), d)
            return zero.index_add(0, row_P, a_P1 * past_PD)

        if torch.compiler.is_exporting():  # an exported graph has no pairs, whose number it could not know
            x_BLD, mask_RL = past_RLD[request_of], torch.arange(steps, device=length.device) < length[:, None]
            both_BLH = product(x_BLD * target_BD.unsqueeze(1), both_W) + target_BH.unsqueeze(1)
            s_BLH = both_BLH + past_NH.view(-1, steps, past_NH.shape[1])[request_of]
            a_BL = self.rest(s_BLH.flatten(0, 1)).view(-1, steps)
            if self.softmax:  # the least number, not infinity: an empty history has no share to give
                a_BL = a_BL.masked_fill(~mask_RL[request_of], torch.finfo(a_BL.dtype).min).softmax(dim=1)
            a_BL = a_BL * mask_RL[request_of]
            return torch.bmm(a_BL.unsqueeze(1), x_BLD).squeeze(1)

        def alone(rows: Tensor, real_LD: Tensor, real_LH: Tensor) -> Tensor:
            both_PD = (target_BD[rows].unsqueeze(1) * real_LD).flatten(0, 1)
            s_BLH = product(both_PD, both_W).view(len(rows), *real_LH.shape)
            s_BLH += real_LH
            s_BLH += target_BH[rows].unsqueeze(1)
            a_BL = self.rest(s_BLH.flatten(0, 1)).view(len(rows), -1)
            v_BD: Tensor = (a_BL.softmax(dim=1) if self.softmax else a_BL) @ real_LD
            return v_BD

        every = torch.arange(len(target_BD), device=request_of.device)
        if self.training or torch.is_grad_enabled():
            return interest(every)
        some = every.split(max(1, PAIRS // max(1, steps)))
        if len(length) == 1:  # one request, as when it serves: every candidate meets the same steps, none is looked up
            n = int(length[0].clamp(max=steps))
            return torch.cat([alone(rows, past_ND[:n], past_NH[:n]) for rows in some])
        return torch.cat([interest(rows) for rows in some])


def shares(a_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Softmax of each row's numbers among themselves [P]."""
    top_B = a_P.detach().new_full((rows,), -torch.inf).scatter_reduce(0, row_P, a_P.detach(), "amax")
    mass_P = torch.exp(a_P - top_B[row_P])
    return mass_P / torch.zeros_like(top_B).index_add(0, row_P, mass_P)[row_P]


def pairs(counts: Tensor, request_of: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Every (candidate, real step) as the candidate's row [P] and the step's place in histories laid end to end."""
    row_P = torch.repeat_interleave(counts)
    starts = counts.cumsum(0) - counts
    within = torch.arange(len(row_P), device=counts.device) - starts[row_P]
    return row_P, request_of[row_P] * steps + within
