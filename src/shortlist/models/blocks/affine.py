"""A linear layer whose products oneDNN takes on a CPU: torch's own library is tuned for one maker's.

N rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Affine", "product"]

WORTH = 1 << 22  # products of a batch from which the other library is asked


class Affine(nn.Linear):
    """nn.Linear, the same to rounding: what it is saved as, what it answers, and what is exported."""

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, x [N, I] or with more dimensions, W [O, I]."""
    if not _elsewhere(x, weight):
        return functional.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _times(x, weight, bias)
    out: Tensor = Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def _elsewhere(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.is_cpu
        and x.ndim == 2
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= WORTH
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


class Product(torch.autograd.Function):
    """x W^T + b."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _times(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        asks, grad = ctx.needs_input_grad, grad.contiguous()
        return (
            _times(grad, weight.t()) if asks[0] else None,
            _times(grad.t(), x.t()) if asks[1] else None,
            grad.sum(dim=0) if asks[2] else None,
        )


def _times(x_NI: Tensor, w_OI: Tensor, b_O: Tensor | None = None) -> Tensor:
    x_NI, w_OI = _whole(x_NI), _whole(w_OI)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, w_OI, b_O, "none", [], "")
    return out


def _whole(matrix: Tensor) -> Tensor:
    """The same numbers in one piece: of a part of a matrix oneDNN makes a thousand times the work."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()
