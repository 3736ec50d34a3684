"""DeepFM: a factorization machine and an MLP on the same vectors (Guo et al., IJCAI 2017, arXiv:1703.04247).
B rows, M fields, D width. Reads everything: a group's channels as fields, their steps pooled by mean. Logits [B]."""

__all__ = ["DeepFM"]

from dataclasses import field
from typing import Any

from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Share, frozen
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import Fields
from shortlist.models.blocks.fm import paired, sums
from shortlist.models.blocks.heads import heads
from shortlist.models.blocks.mlp import beside, mlp


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
        of = batch.request_of
        asked_RMX, row_BMX = self.request(self.embed, batch.request), self.row(self.embed, batch.row)
        asked_RMD, row_BMD = asked_RMX[..., :-1], row_BMX[..., :-1]
        first_B = asked_RMX[..., -1].sum(dim=1)[of] + row_BMX[..., -1].sum(dim=1)
        both = (asked[of] + row for asked, row in zip(sums(asked_RMD), sums(row_BMD), strict=True))
        fm_B = first_B + paired(*both)
        h_BH = beside(self.deep, asked_RMD.flatten(1), row_BMD.flatten(1), of)
        deep: dict[str, Tensor] = self.heads(h_BH, batch)
        return {task: fm_B + logit_B for task, logit_B in deep.items()}
