"""The fully connected part of a model: linear, activation, dropout, for each width in turn. N rows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from shortlist.models.blocks.affine import Affine, product

__all__ = ["mlp", "beside"]


def mlp(
    width: int,
    hidden: Sequence[int],
    dropout: float = 0.0,
    activation: Callable[[int], nn.Module] = lambda width: nn.ReLU(),
    out: int | None = None,
) -> nn.Sequential:
    """[N, width] -> [N, hidden[-1]], or [N, out]: one more linear layer with nothing behind it.

    `activation` is built for a layer's width. Without hidden layers and `out` it passes its input on.
    """
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [Affine(width, size), activation(size)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    if out is not None:
        layers.append(Affine(width, out))
    return nn.Sequential(*layers)


def beside(layers: nn.Sequential, asked_RE: Tensor, row_BE: Tensor, request_of: Tensor) -> Tensor:
    """`layers` of a request's part and a row's side by side: what the first, linear one makes of a request is made once
    and not for every row. The same to rounding as `layers` of both in one row."""
    first = layers[0] if len(layers) else None
    if not isinstance(first, Affine):
        whole: Tensor = layers(torch.cat([asked_RE[request_of], row_BE], dim=1))
        return whole
    asked_W, row_W = first.weight.split([asked_RE.shape[1], row_BE.shape[1]], dim=1)
    h_BH = product(row_BE, row_W, first.bias) + product(asked_RE, asked_W)[request_of]
    for layer in list(layers)[1:]:
        h_BH = layer(h_BH)
    return h_BH
