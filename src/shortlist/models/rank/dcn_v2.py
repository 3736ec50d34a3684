"""DCN-V2: crosses with a whole matrix a layer, or one of low rank, and an MLP (Wang R. et al., WWW 2021,
arXiv:2008.13535). B rows, E sum of field widths. Reads everything side by side: means of groups, dense values as they
are. Logits [B] per task."""

__all__ = ["DCNv2"]

from dataclasses import field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Share, frozen
from shortlist.errors import ConfigError
from shortlist.models.blocks.cross import CrossLowRank, CrossMatrix, CrossMixture
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import joined, width
from shortlist.models.blocks.heads import heads
from shortlist.models.blocks.mlp import mlp


class DCNv2(nn.Module):
    """logits = Heads([x_L; MLP(x_0)]) with x_{l+1} = x_0 ∘ (W_l x_l + b_l) + x_l; stacked, Heads(MLP(x_L)).

    With a `rank`, W_l = U_l V_lᵀ; with `experts` too, W_l x_l is a gated sum of them, each with tanh inside. Without
    hidden layers the crosses stand alone.
    """

    @frozen
    class Config:
        """`rank` None: a whole matrix. In the paper a quarter of the input's width costs no accuracy."""

        dim: Count = 16
        layers: Count = 3
        structure: Literal["parallel", "stacked"] = "parallel"
        rank: Count | None = None
        experts: Count = 1
        hidden: tuple[Count, ...] = (256, 128, 64)
        dropout: Share = 0.0
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.beside = config.structure == "parallel" and bool(config.hidden)
        self.embed = Embed(layout, config.dim)
        wide = width(layout.request, config.dim) + width(layout.row, config.dim)
        self.cross = crosses(config, wide)
        self.deep = mlp(wide, config.hidden, config.dropout)
        made = (wide if self.beside else 0) + (config.hidden[-1] if config.hidden else wide)
        self.heads = heads(config.heads, made, layout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x_BE = joined(self.embed, batch, self.layout)
        cross_BE = self.cross(x_BE)
        h_BH = torch.cat([cross_BE, self.deep(x_BE)], dim=1) if self.beside else self.deep(cross_BE)
        out: dict[str, Tensor] = self.heads(h_BH, batch)
        return out


def crosses(config: DCNv2.Config, wide: int) -> nn.Module:
    """The kind of layers that `rank` and `experts` mean. Raises ConfigError."""
    if config.rank is None:
        if config.experts > 1:
            raise ConfigError("experts are of low rank", where="rank.experts", hint="set rank, e.g. 32")
        return CrossMatrix(wide, config.layers)
    if config.experts > 1:
        return CrossMixture(wide, config.layers, config.rank, config.experts)
    return CrossLowRank(wide, config.layers, config.rank)
