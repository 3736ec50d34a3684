"""Shared-Bottom: one network for all tasks, a tower for each (Caruana, Machine Learning 28, 1997).
B rows, H width of the representation, T tasks. Logits [B] per task."""

__all__ = ["SharedBottom"]

from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Share, frozen
from shortlist.models.blocks.experts import Experts
from shortlist.models.blocks.mlp import mlp


class SharedBottom(nn.Module):
    """h = f(x), logit_t = tower_t(h). Without a bottom the ranker's own layers are what is shared."""

    @frozen
    class Config:
        bottom: tuple[Count, ...] = (128, 128)
        towers: tuple[Count, ...] = (64, 32)
        dropout: Share = 0.0

    def __init__(self, config: Config, width: int, layout: Layout) -> None:
        super().__init__()
        self.tasks = layout.tasks
        self.bottom = mlp(width, config.bottom, config.dropout)
        wide = config.bottom[-1] if config.bottom else width
        self.towers = Experts(wide, config.towers, len(self.tasks), config.dropout, out=1)

    def forward(self, x_BH: Tensor, batch: Batch | None = None) -> dict[str, Tensor]:
        logit_TB = self.towers(self.bottom(x_BH)).squeeze(2)
        return dict(zip(self.tasks, logit_TB.unbind(), strict=True))
