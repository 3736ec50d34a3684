"""The fully connected part of a model: linear, activation, dropout, for each width in turn. N rows."""

from collections.abc import Callable, Sequence

from torch import nn

from shortlist.models.blocks.affine import Affine

__all__ = ["mlp"]


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
