"""MLP of neural collaborative filtering: a tower on user and item side by side (He X. et al., WWW 2017).
B rows. Reads the ids of user and item alone. Logits [B] per task."""

__all__ = ["MLP"]

from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Share, frozen
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.heads import heads
from shortlist.models.blocks.ids import both, ids_of, sizes
from shortlist.models.blocks.mlp import mlp


class MLP(nn.Module):
    """logit = hᵀ relu(... relu(W [p'; q'] + b)) + b'."""

    @frozen
    class Config:
        """`layers` begin, as the authors write them, with the width of [p'; q'], behind which come the hidden layers:
        none are 4f, 2f, f for f `factors`; one hidden layer more is 4f, 4f, 2f, f. Where they are given, `factors` is
        not read.
        """

        factors: Count = 8
        layers: tuple[Count, ...] = ()
        dropout: Share = 0.0
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        self.layout = ids_of(layout, "mlp")
        first, *hidden = sizes(config.factors, config.layers, "mlp")
        self.embed = Embed(self.layout, first // 2)
        self.deep = mlp(first, hidden, config.dropout)
        self.heads = heads(config.heads, (first, *hidden)[-1], layout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self.heads(self.deep(torch.cat(both(self.embed, batch, self.layout), dim=1)), batch)
        return out
