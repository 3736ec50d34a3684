"""Columns as vectors of one width, field by field (`Fields`), or all side by side as they are (`flat`, `width`).

N requests or rows, M fields, D width. A model reads what its layout names, by name: further columns are ignored, and
a column of a recall channel that is missing is 0, for a scene may do without a channel.
"""

from collections.abc import Container
from dataclasses import replace

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.models.blocks.embed import Embed

__all__ = ["Fields", "flat", "width", "joined", "dense", "lasting", "LIVE", "RECALL"]

RECALL = ("recall.", "recall_score.")  # columns of a recall channel: not there where it was not asked
LIVE = (*RECALL, "cross.", "live.")  # what the names of columns that change between requests begin with


class Fields(nn.Module):
    """One vector per field [N, M, D]: an id's row, the mean over a group's steps (one per channel), a dense value
    times a vector of its column, a content vector through a matrix. Order: sparse, groups, dense, vecs.
    """

    def __init__(self, side: Side, dim: int, std: float = 0.01) -> None:
        super().__init__()
        self.side = side
        self.count = len(side.sparse) + sum(map(len, side.groups.values())) + len(side.dense) + len(side.vecs)
        self.dense = nn.Parameter(torch.randn(len(side.dense), dim) * std) if side.dense else None
        self.vecs = nn.ModuleList([nn.Linear(wide, dim, bias=False) for wide in side.vecs.values()])

    def forward(self, embed: Embed, columns: Columns) -> Tensor:
        side, n = self.side, len(columns)
        parts = [embed(columns, side, tuple(side.sparse))]
        parts += [embed.pooled(columns.groups[name], side, name).view(n, -1, embed.dim) for name in side.groups]
        if self.dense is not None:
            parts.append(dense(columns, side).unsqueeze(2) * self.dense)
        parts += [matrix(columns.vecs[name]).unsqueeze(1) for name, matrix in zip(side.vecs, self.vecs, strict=True)]
        return torch.cat(parts, dim=1)


def lasting(row: Side) -> Side:
    """Row columns that an index or a cache may hold: none that belongs to a request, or to its moment."""
    return replace(
        row,
        sparse={name: words for name, words in row.sparse.items() if not name.startswith(LIVE)},
        dense=tuple(name for name in row.dense if not name.startswith(LIVE)),
        groups={name: channels for name, channels in row.groups.items() if not name.startswith(LIVE)},
        vecs={name: wide for name, wide in row.vecs.items() if not name.startswith(LIVE)},
    )


def width(side: Side, dim: int, without: Container[str] = ()) -> int:
    """E of `flat`."""
    channels = sum(len(channels) for name, channels in side.groups.items() if name not in without)
    return (len(side.sparse) + channels) * dim + len(side.dense) + sum(side.vecs.values())


def flat(embed: Embed, columns: Columns, side: Side, without: Container[str] = ()) -> Tensor:
    """All of a side in one row [N, E]: rows of ids, means of groups (but those in `without`), dense, vecs."""
    parts = [embed(columns, side, tuple(side.sparse)).flatten(1)]
    parts += [embed.pooled(columns.groups[name], side, name) for name in side.groups if name not in without]
    parts.append(dense(columns, side))
    parts += [columns.vecs[name] for name in side.vecs]
    return torch.cat(parts, dim=1)


def joined(embed: Embed, batch: Batch, layout: Layout) -> Tensor:
    """All of both sides in one row [B, E]; a request's is looked up once."""
    asked_RE = flat(embed, batch.request, layout.request)
    return torch.cat([asked_RE[batch.request_of], flat(embed, batch.row, layout.row)], dim=1)


def dense(columns: Columns, side: Side) -> Tensor:
    """The dense columns of a side [N, G] in its order. Raises KeyError for one that is not there."""
    if columns.dense_names == side.dense:
        return columns.dense
    zero = columns.dense.new_zeros(len(columns))
    absent = {name for name in side.dense if name.startswith(RECALL)} - set(columns.dense_names)
    picked = [zero if name in absent else columns[name] for name in side.dense]
    return torch.stack(picked, dim=1) if picked else columns.dense[:, :0]
