"""The second order of a factorization machine (Rendle, ICDM 2010). B rows, M features, D width."""

from torch import Tensor

__all__ = ["pairs", "bi_interaction"]


def pairs(x_BMD: Tensor) -> Tensor:
    """Σ_{i<j} <x_i, x_j> [B], x_i the vector of a feature times its value: in O(M D) as ½ (|Σ x|² - Σ |x|²)."""
    total_BD = x_BMD.sum(dim=1)
    return 0.5 * (total_BD.square().sum(dim=1) - x_BMD.square().sum(dim=(1, 2)))


def bi_interaction(x_BMD: Tensor) -> Tensor:
    """Σ_{i<j} x_i ∘ x_j [B, D], the same before the sum over D (He X. & Chua, SIGIR 2017)."""
    return 0.5 * (x_BMD.sum(dim=1).square() - x_BMD.square().sum(dim=1))
