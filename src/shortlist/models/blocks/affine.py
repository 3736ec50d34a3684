"""A linear layer whose products oneDNN takes while it learns on a CPU: torch's own library is tuned for one maker's.

N rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Affine"]

WORTH = 1 << 22  # products of a batch from which the other library is asked


class Affine(nn.Linear):
    """nn.Linear, the same to rounding: what it is saved as, what it answers, and what is exported."""

    def forward(self, input: Tensor) -> Tensor:
        if not self._elsewhere(input):
            return functional.linear(input, self.weight, self.bias)
        out: Tensor = Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out

    def _elsewhere(self, x: Tensor) -> bool:
        return (
            torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and x.is_cpu
            and x.ndim == 2
            and x.dtype == self.weight.dtype == torch.float32
            and x.numel() * self.out_features >= WORTH
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
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, w_OI, b_O, "none", [], "")
    return out
