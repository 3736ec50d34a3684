"""Symmetric InfoNCE (van den Oord et al., 2018; both ways round as in CLIP, Radford et al., ICML 2021). M items.

An item's image is to find its text among those of the batch, and its text its image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from shortlist.batch import Batch
from shortlist.config import Positive, frozen
from shortlist.errors import DataError
from shortlist.training.loss import Loss
from shortlist.training.scores import Temperature, table

__all__ = ["InfoNce"]


class InfoNce(nn.Module):
    """Half the mean log loss of the rows of S / tau plus half that of its columns, S the cosines of all images with all
    texts of the batch; what belongs together is on the diagonal. Items that lack one of the two are left out.
    """

    @frozen
    class Config:
        temperature: Positive = 0.07  # to begin with; the paper's
        learn_temperature: bool = True  # kept within 0.01..1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.temperature = Temperature(config.temperature, learned=config.learn_temperature)

    def forward(self, model: nn.Module, batch: Batch) -> Loss:
        """Raises DataError where no item of the batch has both."""
        image_ND: Tensor = model.image(batch.row)  # type: ignore[operator]
        text_ND: Tensor = model.text(batch.row)  # type: ignore[operator]
        both = (image_ND.detach().any(dim=1) & text_ND.detach().any(dim=1)).nonzero(as_tuple=True)[0]
        if not len(both):
            hint = "fill the two columns of the same items"
            raise DataError("no item has an image and a text", where="contrastive", hint=hint)
        loss, found = infonce(self.temperature(table(image_ND[both], text_ND[both], "cos")))
        return Loss(loss, {"found": found, "temperature": torch.exp(-self.temperature.log_scale).detach()})


def infonce(scores_MM: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of scores that are divided by tau already, and the share of rows whose diagonal is the highest."""
    own = torch.arange(len(scores_MM), device=scores_MM.device)
    loss = (functional.cross_entropy(scores_MM, own) + functional.cross_entropy(scores_MM.T, own)) / 2
    return loss, (scores_MM.detach().argmax(dim=1) == own).float().mean()
