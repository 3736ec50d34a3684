"""DCN: crosses of bounded degree and an MLP (Wang R. et al., ADKDD 2017, arXiv:1708.05123).
B rows, E sum of field widths. Reads everything side by side: means of groups, dense values as they are. Logits [B]."""

__all__ = ["DCN"]

from dataclasses import field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Share, frozen
from shortlist.models.blocks.cross import CrossVector
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import joined, width
from shortlist.models.blocks.heads import heads
from shortlist.models.blocks.mlp import mlp


class DCN(nn.Module):
    """logits = Heads([x_L; MLP(x_0)]) with x_{l+1} = x_0 (x_lᵀ w_l) + b_l + x_l; stacked, Heads(MLP(x_L)).

    Every monomial up to degree L + 1 appears in x_L, but its coefficient is not free: a layer's matrix is rank one.
    Stacked is DCN-V2's. Without hidden layers the crosses stand alone.
    """

    @frozen
    class Config:
        dim: Count = 16
        layers: Count = 3
        structure: Literal["parallel", "stacked"] = "parallel"
        hidden: tuple[Count, ...] = (256, 128, 64)
        dropout: Share = 0.0
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.beside = config.structure == "parallel" and bool(config.hidden)
        self.embed = Embed(layout, config.dim)
        wide = width(layout.request, config.dim) + width(layout.row, config.dim)
        self.cross = CrossVector(wide, config.layers)
        self.deep = mlp(wide, config.hidden, config.dropout)
        made = (wide if self.beside else 0) + (config.hidden[-1] if config.hidden else wide)
        self.heads = heads(config.heads, made, layout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x_BE = joined(self.embed, batch, self.layout)
        cross_BE = self.cross(x_BE)
        h_BH = torch.cat([cross_BE, self.deep(x_BE)], dim=1) if self.beside else self.deep(cross_BE)
        out: dict[str, Tensor] = self.heads(h_BH, batch)
        return out
