"""GRU4Rec: a recurrent network over the items of a history (Hidasi et al., ICLR 2016, arXiv:1511.06939; Hidasi,
Karatzoglou, CIKM 2018, arXiv:1706.03847). R requests, N items, L steps, D width.

Reads the group `history` (channel `item`) and `item.id`; no user id, so new users are served. Queries [R, D]."""

__all__ = ["GRU4Rec"]

from dataclasses import replace

import torch
from torch import Tensor, nn

from shortlist.batch import Columns, Layout, Side
from shortlist.config import Count, Share, frozen
from shortlist.models.blocks.embed import Embed

HISTORY, ITEM = "history", "item"


class GRU4Rec(nn.Module):
    """h_t = GRU(e_t, h_{t-1}); the query is h at the last real step, an item its row of the output table.

    The score <h_t, o_j> is the inner product without a bias. Unlike the paper's code, sequences of a batch start
    together and are right padded: what stands behind a length is never read.
    """

    metric = "ip"
    cold_users = True
    cold_items = False

    @frozen
    class Config:
        """`shared`: items are scored with the rows that histories read. `dropout` on those rows and between layers."""

        dim: Count = 64
        layers: Count = 1
        dropout: Share = 0.0
        shared: bool = True

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        words = layout.request.groups[HISTORY][ITEM]
        items = replace(layout, vocabularies={words: layout.vocabularies[words]})
        std = config.dim**-0.5
        self.request = Side(groups={HISTORY: {ITEM: words}})
        self.row = Side(sparse={"item.id": layout.row.sparse["item.id"]})
        self.embed = Embed(items, config.dim, std=std)
        self.output = None if config.shared else Embed(items, config.dim, std=std)
        self.drop = nn.Dropout(config.dropout)
        between = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(config.dim, config.dim, config.layers, batch_first=True, dropout=between)

    def states(self, request: Columns) -> Tensor:
        """h after every step [R, L, D]; zero behind the length."""
        group = request.groups[HISTORY]
        mask_RL = group.mask
        steps = max(int(group.length.max()), 1) if len(group.length) else 1
        x_RLD = self.embed.group(group, self.request, HISTORY, (ITEM,)).squeeze(2)[:, :steps]
        h_RLD, _ = self.gru(self.drop(x_RLD))
        h_RLD = nn.functional.pad(h_RLD, (0, 0, 0, mask_RL.shape[1] - h_RLD.shape[1]))
        return torch.where(mask_RL.unsqueeze(-1), h_RLD, 0.0)

    def query(self, request: Columns) -> Tensor:
        """h at the last real step [R, D]; zero for an empty history."""
        h_RLD = self.states(request)
        last = (request.groups[HISTORY].length - 1).clamp(min=0)
        return h_RLD[torch.arange(len(h_RLD), device=h_RLD.device), last]

    def candidate(self, row: Columns) -> Tensor:
        """Rows of the output table [N, D]."""
        table: Embed = self.output or self.embed
        o_N1D: Tensor = table(row, self.row, ("item.id",))
        return o_N1D.squeeze(1)
