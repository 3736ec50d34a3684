"""DIN: target attention over the history (Zhou et al., KDD 2018, arXiv:1706.06978).
R requests, B rows, L steps, D width. Reads everything; of the group `history`, channels that share a vocabulary with a
row column meet the candidate. Logits [B] per task."""

__all__ = ["DIN"]

from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns, Layout
from shortlist.config import Count, Share, frozen
from shortlist.errors import ConfigError
from shortlist.models.blocks.attention import TargetAttention
from shortlist.models.blocks.dice import Dice
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import flat, width
from shortlist.models.blocks.heads import heads
from shortlist.models.blocks.mlp import beside, mlp

HISTORY = "history"


class DIN(nn.Module):
    """logit = MLP([everything but the history; v]), v = Σ_i a(e_i, e_t) e_i, without softmax.

    Channels of the history without a partner among the row columns (action, age) take part in a alone: not in the
    paper. The paper's regularization of touched rows is `train.l2_embedding`. `softmax` makes the weights of a
    history sum to 1: intensity is lost.
    """

    @frozen
    class Config:
        dim: Count = 64
        attention: tuple[Count, ...] = (80, 40)
        softmax: bool = False
        hidden: tuple[Count, ...] = (200, 80)
        dropout: Share = 0.0
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        self.sides = layout.request, layout.row
        self.partners = partners(layout)
        channels = layout.request.groups[HISTORY]
        self.alone = tuple(name for name in channels if name not in self.partners)
        self.embed = Embed(layout, config.dim)
        widths = len(self.partners) * config.dim, len(self.alone) * config.dim
        self.interest = TargetAttention(widths[0], config.attention, widths[1], config.softmax)
        wide = width(layout.request, config.dim, (HISTORY,)) + width(layout.row, config.dim)
        wide += len(self.partners) * config.dim
        self.deep = mlp(wide, config.hidden, config.dropout, Dice)
        self.heads = heads(config.heads, config.hidden[-1] if config.hidden else wide, layout)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        request, row = self.sides
        v_BD = self.interest_of(batch)
        asked_RE = flat(self.embed, batch.request, request, (HISTORY,))
        row_BE = torch.cat([flat(self.embed, batch.row, row), v_BD], dim=1)
        out: dict[str, Tensor] = self.heads(beside(self.deep, asked_RE, row_BE, batch.request_of), batch)
        return out

    def interest_of(self, batch: Batch) -> Tensor:
        """v [B, D]: the history, looked up once per request, as this candidate sees it."""
        past_RLD, context_RLC = self.history(batch.request)
        target_BD = self.embed(batch.row, self.sides[1], tuple(self.partners.values())).flatten(1)
        length = batch.request.groups[HISTORY].length
        out: Tensor = self.interest(past_RLD, context_RLC, length, target_BD, batch.request_of)
        return out

    def history(self, request: Columns) -> tuple[Tensor, Tensor | None]:
        """Steps as a candidate would be looked up [R, L, D], and what only they have [R, L, C]."""
        group, side = request.groups[HISTORY], self.sides[0]
        past_RLD = self.embed.group(group, side, HISTORY, tuple(self.partners)).flatten(2)
        if not self.alone:
            return past_RLD, None
        return past_RLD, self.embed.group(group, side, HISTORY, self.alone).flatten(2)


def partners(layout: Layout) -> dict[str, str]:
    """Channel of the history -> the row column of its vocabulary, that of its name (or `<name>.id`) before others.

    Raises ConfigError where history and candidate share nothing.
    """
    found = {}
    for channel, words in layout.request.groups.get(HISTORY, {}).items():
        columns = [name for name, vocabulary in layout.row.sparse.items() if vocabulary == words]
        columns.sort(key=lambda name: name not in (channel, f"{channel}.id"))
        if columns:
            found[channel] = columns[0]
    if not found:
        what = "din needs a history that shares a vocabulary with the candidate"
        raise ConfigError(what, where="rank.use", hint="keep the group history, or choose deepfm")
    return found
