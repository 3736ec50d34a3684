"""FM: all pairs of features in linear time (Rendle, ICDM 2010). B rows, M fields, D width.
Reads everything: a group's channels as fields, their steps pooled by mean. Logits [B] per task."""

__all__ = ["FM"]

from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, frozen
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import Fields
from shortlist.models.blocks.fm import bi_interaction
from shortlist.models.blocks.heads import heads


class FM(nn.Module):
    """logit = w0 + Σ w_m x_m + Σ_{m<n} <e_m, e_n>, e_m = v_m x_m.

    A row of the table is [v; w]: one gather serves both orders. That is all for one task without `heads`; several
    tasks have FM(x) together, and of its own each has what a head, linear too, makes of the pairs' sum before it is
    summed over D: Σ_{m<n} e_m ∘ e_n. The paper's L2 is `train.l2_embedding`.
    """

    @frozen
    class Config:
        dim: Count = 10
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        wide = config.dim + 1
        self.embed = Embed(layout, wide)
        self.request, self.row = Fields(layout.request, wide), Fields(layout.row, wide)
        plain = not config.heads and len(layout.tasks) == 1
        self.heads = Bias(layout.tasks) if plain else heads(config.heads, config.dim, layout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x_BMD, w_BM = self.fields(batch)
        pairs_BD = bi_interaction(x_BMD)
        fm_B = w_BM.sum(dim=1) + pairs_BD.sum(dim=1)
        own: dict[str, Tensor] = self.heads(pairs_BD, batch)
        return {task: fm_B + logit for task, logit in own.items()}

    def fields(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors [B, M, D] and first order terms [B, M]; a request's are looked up once."""
        request_RMX = self.request(self.embed, batch.request)
        all_BMX = torch.cat([request_RMX[batch.request_of], self.row(self.embed, batch.row)], dim=1)
        return all_BMX[..., :-1], all_BMX[..., -1]


class Bias(nn.Module):
    """w0, and nothing of x."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = tasks
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x_BD: Tensor, batch: Batch | None = None) -> dict[str, Tensor]:
        return dict.fromkeys(self.tasks, self.bias)
