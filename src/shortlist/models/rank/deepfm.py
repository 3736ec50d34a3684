"""DeepFM: a factorization machine and an MLP on the same vectors (Guo et al., IJCAI 2017, arXiv:1703.04247).
B rows, M fields, D width. Reads everything: a group's channels as fields, their steps pooled by mean. Logits [B]."""

__all__ = ["DeepFM"]

from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Share, frozen
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import Fields
from shortlist.models.blocks.fm import pairs
from shortlist.models.blocks.heads import heads
from shortlist.models.blocks.mlp import mlp


class DeepFM(nn.Module):
    """logit = FM(x) + MLP([e_1 ... e_M]), FM(x) = w0 + Σ w_m x_m + Σ_{m<n} <e_m, e_n>, e_m = v_m x_m.

    A row of the table is [v; w]: one gather serves both orders and the MLP. With several tasks FM(x) is theirs
    together, and what `heads` makes of the MLP, w0 with it, is one task's own.
    """

    @frozen
    class Config:
        """`hidden` may be empty: then the model is an FM with a linear layer on its vectors."""

        dim: Count = 10
        hidden: tuple[Count, ...] = (400, 400, 400)
        dropout: Share = 0.0
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        wide = config.dim + 1
        self.embed = Embed(layout, wide)
        self.request, self.row = Fields(layout.request, wide), Fields(layout.row, wide)
        width = (self.request.count + self.row.count) * config.dim
        self.deep = mlp(width, config.hidden, config.dropout)
        self.heads = heads(config.heads, config.hidden[-1] if config.hidden else width, layout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x_BMD, w_BM = self.fields(batch)
        fm_B = w_BM.sum(dim=1) + pairs(x_BMD)
        deep: dict[str, Tensor] = self.heads(self.deep(x_BMD.flatten(1)), batch)
        return {task: fm_B + logit_B for task, logit_B in deep.items()}

    def fields(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors [B, M, D] and first order terms [B, M]; a request's are looked up once."""
        request_RMX = self.request(self.embed, batch.request)
        all_BMX = torch.cat([request_RMX[batch.request_of], self.row(self.embed, batch.row)], dim=1)
        x_BMD, w_BM1 = all_BMX.split([all_BMX.shape[2] - 1, 1], dim=2)
        return x_BMD, w_BM1.squeeze(2)
