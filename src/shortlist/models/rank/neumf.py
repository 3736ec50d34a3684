"""NeuMF: GMF and an MLP, each with vectors of its own, under one linear layer (He X. et al., WWW 2017).
B rows, M width of the GMF part, E half of the MLP's input. Reads the ids of user and item. Logits [B] per task."""

__all__ = ["NeuMF"]

from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Share, frozen
from shortlist.errors import ConfigError
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.heads import Heads, heads
from shortlist.models.blocks.ids import both, ids_of, sizes
from shortlist.models.blocks.mlp import mlp
from shortlist.models.rank.gmf import GMF
from shortlist.models.rank.mlp import MLP


class NeuMF(nn.Module):
    """logit = hᵀ[p ∘ q ; MLP([p'; q'])] + b.

    A row of the table is [p; p']: one gather serves both parts, which share no number.
    """

    @frozen
    class Config:
        """`layers` as in MLP."""

        factors: Count = 8
        mf: Count | None = None  # width of the GMF part; None: factors
        layers: tuple[Count, ...] = ()
        dropout: Share = 0.0
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        self.layout = ids_of(layout, "neumf")
        first, *hidden = sizes(config.factors, config.layers, "neumf")
        self.widths = config.mf or config.factors, first // 2
        self.embed = Embed(self.layout, sum(self.widths))
        self.deep = mlp(first, hidden, config.dropout)
        self.heads = heads(config.heads, self.widths[0] + (first, *hidden)[-1], layout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        (p_BM, p_BE), (q_BM, q_BE) = (x_BX.split(self.widths, dim=1) for x_BX in both(self.embed, batch, self.layout))
        deep_BH = self.deep(torch.cat([p_BE, q_BE], dim=1))
        x_BH = torch.cat([p_BM * q_BM, deep_BH], dim=1)
        out: dict[str, Tensor] = self.heads(x_BH, batch)
        return out

    @torch.no_grad()
    def start(self, gmf: GMF, mlp: MLP, alpha: float = 0.5) -> None:
        """Take over two trained parts: h = [alpha h_G ; (1 - alpha) h_M], and b likewise, so that the logit is alpha
        times that of GMF plus 1 - alpha times that of MLP. Raises ConfigError where a part does not fit."""
        for what, model in (("neumf", self), ("gmf", gmf), ("mlp", mlp)):
            if not isinstance(model.heads, Heads):
                hint = "leave heads out: h is the one linear layer"
                raise ConfigError(f"{what} has other heads", where="neumf.start", hint=hint)
            if model.layout != self.layout:
                hint = "train them on the same ids and tasks"
                raise ConfigError(f"{what} has another layout", where="neumf.start", hint=hint)
        tables = self.layout.tables
        if tables.widths != "equal" or tables.admit > 1:
            what = "a row is not that of GMF and that of MLP side by side"
            hint = "take widths and admit out of tables: rows shared by hash do"
            raise ConfigError(what, where="neumf.start", hint=hint)
        parts, joined = (gmf.state_dict(), mlp.state_dict()), {}
        for name, weight in self.state_dict().items():
            own = [part[name] for part in parts if name in part]
            if name.startswith("heads."):
                own = [alpha * own[0], (1 - alpha) * own[1]]
            if name == "heads.linear.bias":
                own = [own[0] + own[1]]
            shape = [*own[0].shape[:-1], sum(part.shape[-1] for part in own)] if own else "absent"
            if shape != list(weight.shape):
                what = f"{name} is {list(weight.shape)}, of the parts {shape}"
                raise ConfigError(what, where="neumf.start", hint="give the parts neumf's widths and layers")
            joined[name] = torch.cat(own, dim=-1)
        self.load_state_dict(joined)
