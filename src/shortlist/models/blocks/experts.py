"""Many networks of one shape side by side: one batched product a layer, or a step. E of them, B rows, H width in,
D width out, R sequences, L steps."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Experts", "Lstms"]


def drawn(*shape: int, fan_in: int) -> nn.Parameter:
    """As nn.Linear starts, each number drawn for itself: no two experts are alike."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class Experts(nn.Module):
    """E MLPs: linear, ReLU, dropout for each width in turn, then a linear layer of width `out` where one is asked for.

    Without layers it passes its input on.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], count: int, dropout: float = 0.0, out: int | None = None
    ) -> None:
        super().__init__()
        self.count, self.hidden, self.dropout = count, len(hidden), dropout
        widths = [width, *hidden] + ([] if out is None else [out])
        layers = list(pairwise(widths))
        self.weights = nn.ParameterList([drawn(count, n, m, fan_in=n) for n, m in layers])
        self.biases = nn.ParameterList([drawn(count, 1, m, fan_in=n) for n, m in layers])

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H] of all, or [E, B, H] of each -> [E, B, D]."""
        x_EBH = x if x.ndim == 3 else x.expand(self.count, *x.shape)
        for n, (w_EHD, b_E1D) in enumerate(zip(self.weights, self.biases, strict=True)):
            x_EBH = torch.baddbmm(b_E1D, x_EBH, w_EHD)
            if n < self.hidden:
                x_EBH = functional.dropout(functional.relu(x_EBH), self.dropout, self.training)
        return x_EBH


class Lstms(nn.Module):
    """E LSTMs over the same sequences (Hochreiter & Schmidhuber 1997), each from a state of zeros."""

    def __init__(self, width: int, state: int, count: int) -> None:
        super().__init__()
        self.count, self.state = count, state
        self.given = drawn(count, width, 4 * state, fan_in=state)
        self.kept = drawn(count, state, 4 * state, fan_in=state)
        self.bias = drawn(count, 1, 4 * state, fan_in=state)

    def forward(self, x_RLH: Tensor, length: Tensor) -> Tensor:
        """The state [E, R, D] after the last of `length` [R] steps; zero where there is none."""
        n, steps = len(length), int(length.max()) if len(length) else 0
        x_RLH = x_RLH[:, :steps]
        every_ENS = x_RLH.flatten(0, 1).expand(self.count, -1, -1)
        given_ERLS = torch.baddbmm(self.bias, every_ENS, self.given).view(self.count, n, steps, 4 * self.state)
        h_ERD = c_ERD = x_RLH.new_zeros(self.count, n, self.state)
        for step, given_ERS in enumerate(given_ERLS.unbind(dim=2)):
            i, f, g, o = torch.baddbmm(given_ERS, h_ERD, self.kept).chunk(4, dim=2)
            c_new = torch.sigmoid(f) * c_ERD + torch.sigmoid(i) * torch.tanh(g)
            h_new = torch.sigmoid(o) * torch.tanh(c_new)
            real_R1 = (step < length).unsqueeze(1)
            h_ERD, c_ERD = torch.where(real_R1, h_new, h_ERD), torch.where(real_R1, c_new, c_ERD)
        return h_ERD
