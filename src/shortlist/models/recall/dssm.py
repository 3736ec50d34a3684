"""DSSM: two towers that meet in a cosine (Huang et al., CIKM 2013; unit vectors: Yi et al., RecSys 2019).
R requests, N items, D width.

Reads every column of requests (a history as its mean), and of items those that last: not which channel brought them,
no count of late. Queries [R, D]."""

__all__ = ["DSSM"]

from torch import Tensor, nn

from shortlist.batch import Columns, Layout
from shortlist.config import Count, Share, frozen
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import lasting
from shortlist.models.blocks.tower import Tower


class DSSM(nn.Module):
    """u = f(request) and v = g(item), both of length 1, compared by their cosine.

    The temperature that divides it in training belongs to the loss: it changes no order. Columns of one vocabulary
    share their embeddings across the towers. The towers end linearly; the paper's end in tanh, on letter trigrams.
    Indexed are the items of training: others get vectors from `content_mean` or `look_alike`.
    """

    metric = "cos"
    cold_users = True
    cold_items = False

    @frozen
    class Config:
        """Embeddings of `dim` a column, `hidden` layers, and `out`, the width of both towers' ends."""

        dim: Count = 16
        hidden: tuple[Count, ...] = (64,)
        out: Count = 32
        dropout: Share = 0.0

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        self.embed = Embed(layout, config.dim)
        self.user_tower = Tower(layout.request, config.dim, config.hidden, config.out, config.dropout)
        self.item_tower = Tower(lasting(layout.row), config.dim, config.hidden, config.out, config.dropout)

    def query(self, request: Columns) -> Tensor:
        """u [R, D]."""
        u_RD: Tensor = self.user_tower(self.embed, request)
        return u_RD

    def candidate(self, row: Columns) -> Tensor:
        """v [N, D]."""
        v_ND: Tensor = self.item_tower(self.embed, row)
        return v_ND
