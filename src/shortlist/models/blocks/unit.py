"""Vectors of length 1: what makes inner product, cosine and distance agree (Yi et al., RecSys 2019). D width."""

import torch
from torch import Tensor

__all__ = ["unit"]


def unit(x: Tensor, eps: float = 1e-12) -> Tensor:
    """x / max(|x|, eps) over the last dimension; a zero vector stays zero. Nothing is clipped."""
    return torch.nn.functional.normalize(x, dim=-1, eps=eps)
