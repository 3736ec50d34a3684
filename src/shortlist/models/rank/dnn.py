"""DNN: all fields side by side through an MLP (Covington et al., RecSys 2016, ranking; the deep part of most others).
R requests, B rows, E sum of field widths. Reads everything: means of groups, dense values as they are. Logits [B]."""

__all__ = ["DNN"]

from dataclasses import field
from typing import Any

from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Share, frozen
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import flat, width
from shortlist.models.blocks.heads import heads
from shortlist.models.blocks.mlp import beside, mlp


class DNN(nn.Module):
    """logits = Heads(MLP([e_1 ... e_M; dense])).

    Without hidden layers a head reads the input itself: `heads` of shared_bottom or mmoe are then their papers' models.
    """

    @frozen
    class Config:
        dim: Count = 16
        hidden: tuple[Count, ...] = (256, 128, 64)
        dropout: Share = 0.0
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.embed = Embed(layout, config.dim)
        wide = width(layout.request, config.dim) + width(layout.row, config.dim)
        self.deep = mlp(wide, config.hidden, config.dropout)
        self.heads = heads(config.heads, config.hidden[-1] if config.hidden else wide, layout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        asked_RE = flat(self.embed, batch.request, self.layout.request)
        row_BE = flat(self.embed, batch.row, self.layout.row)
        out: dict[str, Tensor] = self.heads(beside(self.deep, asked_RE, row_BE, batch.request_of), batch)
        return out
