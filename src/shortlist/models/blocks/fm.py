"""The second order of a factorization machine (Rendle, ICDM 2010). B rows, M features, D width."""

from torch import Tensor

__all__ = ["pairs", "paired", "sums", "bi_interaction"]


def pairs(x_BMD: Tensor) -> Tensor:
    """Σ_{i<j} <x_i, x_j> [B], x_i the vector of a feature times its value: in O(M D) as ½ (|Σ x|² - Σ |x|²)."""
    return paired(*sums(x_BMD))


def sums(x_BMD: Tensor) -> tuple[Tensor, Tensor]:
    """Σ x [B, D] and Σ |x|² [B]: those of features of two kinds add up."""
    return x_BMD.sum(dim=1), x_BMD.square().sum(dim=(1, 2))


def paired(total_BD: Tensor, square_B: Tensor) -> Tensor:
    """`pairs` [B] from its `sums`."""
    return 0.5 * (total_BD.square().sum(dim=1) - square_B)


def bi_interaction(x_BMD: Tensor) -> Tensor:
    """Σ_{i<j} x_i ∘ x_j [B, D], the same before the sum over D (He X. & Chua, SIGIR 2017)."""
    return 0.5 * (x_BMD.sum(dim=1).square() - x_BMD.square().sum(dim=1))
