"""The product of the two sides, as loss, index and evaluation share it (Yi et al., RecSys 2019), and its temperature.

M examples, N items, D width. `ip`: <u, v>; `cos`: <u/|u|, v/|v|>; `l2`: -|u - v|^2: more is nearer.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["paired", "table", "full", "Temperature"]

EPS = 1e-12
COLDEST = math.log(100)  # a learned temperature stays within 0.01..1


def paired(u_MD: Tensor, v_MD: Tensor, metric: str) -> Tensor:
    """Score of each example with its own item [M]; leading dimensions may be more, and broadcast."""
    u, v = _ready(u_MD, metric), _ready(v_MD, metric)
    return -(u - v).square().sum(dim=-1) if metric == "l2" else (u * v).sum(dim=-1)


def table(u_MD: Tensor, v_ND: Tensor, metric: str) -> Tensor:
    """Score of each example with each item [M, N]."""
    u, v = _ready(u_MD, metric), _ready(v_ND, metric)
    if metric != "l2":
        return u @ v.T
    return 2 * (u @ v.T) - u.square().sum(dim=1, keepdim=True) - v.square().sum(dim=1)


def _ready(vectors: Tensor, metric: str) -> Tensor:
    return functional.normalize(vectors, dim=-1, eps=EPS) if metric == "cos" else vectors


def full(numbers: Tensor) -> Tensor:
    """In float32 at least: losses are summed in it whatever the products were made in."""
    return numbers.float() if numbers.dtype in (torch.bfloat16, torch.float16) else numbers


class Temperature(nn.Module):
    """Scores divided by tau, which is fixed, or learned as log(1 / tau) and kept within its bounds from outside."""

    def __init__(self, tau: float, *, learned: bool = False) -> None:
        super().__init__()
        log = torch.tensor(-math.log(tau))
        self.log_scale: Tensor
        if learned:
            self.log_scale = nn.Parameter(log)
        else:
            self.register_buffer("log_scale", log)

    def forward(self, scores: Tensor) -> Tensor:
        if self.training and isinstance(self.log_scale, nn.Parameter):
            with torch.no_grad():  # not in the graph: a bound inside it would stop the gradient
                self.log_scale.clamp_(0.0, COLDEST)
        return full(scores) * self.log_scale.exp()
