"""Image and text in one space: two towers over given vectors, as CLIP ends (Radford et al., ICML 2021).

N items, D width of the joint space. Reads the `vec` columns `image` and `text` of rows, zero for an item without one.
The encoders behind the two are frozen: what is learned is what they have in common.
"""

__all__ = ["Contrastive"]

import torch
from torch import Tensor, nn

from shortlist.batch import Columns, Layout
from shortlist.config import Count, Share, frozen
from shortlist.errors import ConfigError
from shortlist.models.blocks.mlp import mlp
from shortlist.models.blocks.unit import unit

IMAGE, TEXT = "image", "text"


class Contrastive(nn.Module):
    """f(image) and g(text), both of length 1, compared by their cosine; an item is the mean of the two it has.

    Unlike in the paper the towers may have hidden layers. A column that is missing is zero, not the tower of zero.
    """

    metric = "cos"

    @frozen
    class Config:
        """Each side goes through `hidden` layers to `dim`."""

        dim: Count = 64
        hidden: tuple[Count, ...] = ()
        dropout: Share = 0.0

    def __init__(self, config: Config, layout: Layout) -> None:
        """Raises ConfigError where items have no vectors `image` or `text`."""
        super().__init__()
        self.widths = {name: layout.row.vecs.get(name, 0) for name in (IMAGE, TEXT)}
        for name, wide in self.widths.items():
            if not wide:
                raise ConfigError(f"items have no vectors {name!r}", where="contrastive", hint="give both")
        self.dim = config.dim
        self.image_tower = mlp(self.widths[IMAGE], config.hidden, config.dropout, out=config.dim)
        self.text_tower = mlp(self.widths[TEXT], config.hidden, config.dropout, out=config.dim)

    def image(self, row: Columns) -> Tensor:
        """f [N, D]."""
        return _tower(self.image_tower, row.vecs[IMAGE])

    def text(self, row: Columns) -> Tensor:
        """g [N, D]."""
        return _tower(self.text_tower, row.vecs[TEXT])

    def forward(self, row: Columns) -> Tensor:
        """The joint vector [N, D]: of length 1, zero for an item that has neither."""
        return unit(self.image(row) + self.text(row))


def _tower(tower: nn.Module, x_NC: Tensor) -> Tensor:
    v_ND: Tensor = unit(tower(x_NC))
    return torch.where(x_NC.any(dim=1, keepdim=True), v_ND, torch.zeros_like(v_ND))
