"""Layers that multiply the input into what was made of it: bounded-degree crosses, never a loop over pairs.
B rows, H width, L layers, K rank, E experts."""

import torch
from torch import Tensor, nn

from shortlist.models.blocks.affine import Affine
from shortlist.models.blocks.experts import drawn

__all__ = ["CrossVector", "CrossMatrix", "CrossLowRank", "CrossMixture"]


class CrossVector(nn.Module):
    """x_{l+1} = x_0 (x_lᵀ w_l) + b_l + x_l, DCN's (Wang R. et al., ADKDD 2017, arXiv:1708.05123)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weight = drawn(layers, width, fan_in=width)
        self.bias = nn.Parameter(torch.zeros(layers, width))

    def forward(self, x_BH: Tensor) -> Tensor:
        """x_L [B, H]."""
        start_BH = x_BH
        for w_H, b_H in zip(self.weight, self.bias, strict=True):
            x_BH = start_BH * (x_BH @ w_H).unsqueeze(1) + b_H + x_BH
        return x_BH


class CrossMatrix(nn.Module):
    """x_{l+1} = x_0 ∘ (W_l x_l + b_l) + x_l, DCN-V2's (Wang R. et al., WWW 2021, arXiv:2008.13535)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Affine(width, width) for _ in range(layers)])

    def forward(self, x_BH: Tensor) -> Tensor:
        """x_L [B, H]."""
        start_BH = x_BH
        for layer in self.layers:
            x_BH = start_BH * layer(x_BH) + x_BH
        return x_BH


class CrossLowRank(nn.Module):
    """x_{l+1} = x_0 ∘ (U_l (V_lᵀ x_l) + b_l) + x_l: W_l of rank K, in O(H K)."""

    def __init__(self, width: int, layers: int, rank: int) -> None:
        super().__init__()
        self.into = nn.ModuleList([Affine(width, rank, bias=False) for _ in range(layers)])  # Vᵀ
        self.back = nn.ModuleList([Affine(rank, width) for _ in range(layers)])  # U and b

    def forward(self, x_BH: Tensor) -> Tensor:
        """x_L [B, H]."""
        start_BH = x_BH
        for into, back in zip(self.into, self.back, strict=True):
            x_BH = start_BH * back(into(x_BH)) + x_BH
        return x_BH


class CrossMixture(nn.Module):
    """x_{l+1} = Σ_e g_e(x_l) x_0 ∘ (U_le tanh(C_le tanh(V_leᵀ x_l)) + b_l) + x_l, g a softmax over E experts.

    The gate weighs before U is applied: U of all experts is then one product.
    """

    def __init__(self, width: int, layers: int, rank: int, experts: int) -> None:
        super().__init__()
        self.into = drawn(layers, experts, width, rank, fan_in=width)
        self.within = drawn(layers, experts, rank, rank, fan_in=rank)
        self.back = drawn(layers, experts, rank, width, fan_in=rank)
        self.bias = nn.Parameter(torch.zeros(layers, width))
        self.gates = nn.ModuleList([nn.Linear(width, experts) for _ in range(layers)])

    def forward(self, x_BH: Tensor) -> Tensor:
        """x_L [B, H]."""
        start_BH = x_BH
        for n, gate in enumerate(self.gates):
            g_EB1 = gate(x_BH).softmax(dim=1).t().unsqueeze(2)
            near_EBK = torch.tanh(x_BH @ self.into[n])
            near_EBK = g_EB1 * torch.tanh(torch.bmm(near_EBK, self.within[n]))
            out_BH = near_EBK.transpose(0, 1).flatten(1) @ self.back[n].flatten(0, 1)
            x_BH = start_BH * (out_BH + self.bias[n]) + x_BH  # gates sum to 1: b_l is there once
        return x_BH
