"""One side of a two-tower model: all its columns through an mlp to a unit vector. N requests or rows, D width."""

from torch import Tensor, nn

from shortlist.batch import Columns, Side
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import flat, width
from shortlist.models.blocks.mlp import mlp
from shortlist.models.blocks.unit import unit

__all__ = ["Tower"]


class Tower(nn.Module):
    """Rows of ids, means of groups, dense columns and vectors side by side -> hidden layers -> [N, out].

    The side of items is without columns of a moment (`fields.lasting`): an indexed item has no request yet. The table
    is the caller's, so that two towers may share it.
    """

    def __init__(self, side: Side, dim: int, hidden: tuple[int, ...], out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.side = side
        self.layers = mlp(width(self.side, dim), hidden, dropout, out=out)

    def forward(self, embed: Embed, columns: Columns) -> Tensor:
        return unit(self.layers(flat(embed, columns, self.side)))
