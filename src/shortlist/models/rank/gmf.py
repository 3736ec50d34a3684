"""GMF: matrix factorization whose coordinates have weights (He X. et al., WWW 2017, arXiv:1708.05031).
B rows, F factors. Reads the ids of user and item alone. Logits [B] per task."""

__all__ = ["GMF"]

from dataclasses import field
from typing import Any

from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, frozen
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.heads import heads
from shortlist.models.blocks.ids import both, ids_of


class GMF(nn.Module):
    """logit = hᵀ(p ∘ q) + b. With h = 1 and b = 0 it is the inner product of MF."""

    @frozen
    class Config:
        factors: Count = 8
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        self.layout = ids_of(layout, "gmf")
        self.embed = Embed(self.layout, config.factors)
        self.heads = heads(config.heads, config.factors, layout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        p_BF, q_BF = both(self.embed, batch, self.layout)
        out: dict[str, Tensor] = self.heads(p_BF * q_BF, batch)
        return out
