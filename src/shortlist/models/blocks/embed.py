"""One embedding table for all fields of a width, with offsets by vocabulary: one gather a batch.

N requests or rows, F fields, L steps, D width. Id 0 of every vocabulary is one shared row that is zero and stays zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shortlist.batch import Columns, Group, Layout, Side

__all__ = ["Embed", "SPARSE_ABOVE"]

SPARSE_ABOVE = 1_000_000  # numbers in the table above which its gradient is sparse (row-wise update rules)


class Embed(nn.Module):
    """Vectors of the ids of a batch. Columns of one vocabulary share rows: history and target speak of the same items.

    `sparse` None makes the gradient sparse for tables above SPARSE_ABOVE numbers.
    """

    def __init__(self, layout: Layout, dim: int, *, std: float = 0.01, sparse: bool | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.offsets: dict[str, int] = {}
        rows = 1
        for name, size in layout.vocabularies.items():
            self.offsets[name] = rows - 1  # id 1, unknown, is the first of its own rows
            rows += size - 1
        wide = rows * dim > SPARSE_ABOVE if sparse is None else sparse
        self.table = nn.Embedding(rows, dim, padding_idx=0, sparse=wide)
        nn.init.normal_(self.table.weight, std=std)
        with torch.no_grad():
            self.table.weight[0] = 0
        self.vocabularies = dict(layout.vocabularies)

    def ids(self, vocabulary: str, ids: Tensor) -> Tensor:
        """Rows of the table for ids of a vocabulary, any shape."""
        return torch.where(ids > 0, ids + self.offsets[vocabulary], 0)

    def forward(self, columns: Columns, side: Side, names: Sequence[str] | None = None) -> Tensor:
        """Vectors of sparse columns [N, F, D], of `names` or of all, in their order."""
        names = columns.sparse_names if names is None else tuple(names)
        at = [columns.sparse_names.index(name) for name in names]
        ids = columns.sparse if names == columns.sparse_names else columns.sparse[:, at]
        shift = torch.tensor([self.offsets[side.sparse[name]] for name in names], dtype=torch.long, device=ids.device)
        out: Tensor = self.table(torch.where(ids > 0, ids + shift, 0))
        return out

    def group(self, group: Group, side: Side, name: str, channels: Sequence[str] | None = None) -> Tensor:
        """Vectors of the channels of a group [N, L, C, D]; steps behind the length are zero."""
        words = side.groups[name]
        names = list(group.channels) if channels is None else list(channels)
        ids = torch.stack([self.ids(words[channel], group.channels[channel]) for channel in names], dim=-1)
        out: Tensor = self.table(ids * group.mask.unsqueeze(-1))
        return out

    def pooled(self, group: Group, side: Side, name: str) -> Tensor:
        """Mean of a group's steps [N, C * D]; an empty one is zero."""
        vectors = self.group(group, side, name).flatten(2)
        return vectors.sum(dim=1) / group.length.clamp(min=1).unsqueeze(1)
