"""How probably an item has a column in a batch: what logQ corrects for (Yi et al., RecSys 2019).

Two ways with one face, `log_presence(ids, draws)`: exact from counts, or estimated while training from the steps
between two appearances. N items, ids from 2; H hash functions over S slots.
"""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from shortlist.schema import FIRST

__all__ = ["Counted", "Streaming"]


class Counted(nn.Module):
    """Exact: `counts` [N] of the training examples per item; one never met counts as met once."""

    def __init__(self, counts: ArrayLike) -> None:
        super().__init__()
        met = torch.as_tensor(counts, dtype=torch.float64).clamp(min=1)
        self.share: Tensor
        self.register_buffer("share", met / met.sum())

    def update(self, ids: Tensor) -> None:
        """Counts are known beforehand: a batch changes nothing."""

    def log_presence(self, ids: Tensor, draws: int) -> Tensor:
        """log(1 - (1 - share)^draws): at least one of `draws` independent examples has the item. Float32 like ids."""
        return presence(self.share[ids - FIRST], draws).log().float()


def presence(share: Tensor, draws: int) -> Tensor:
    """1 - (1 - share)^draws, exact for small shares too."""
    return -torch.expm1(draws * torch.log1p(-share.double()))


class Streaming(nn.Module):
    """Estimated: D, the mean number of steps between two batches that have the item, gives p = 1 / D.

    At step t an item that appears makes D <- (1 - alpha) D + alpha (t - A) and A <- t, at H hashed slots. Items that
    share a slot only shorten its gaps, so the largest of the H is believed. `gap` is what an item starts with.
    """

    MULTIPLIERS = (-7046029254386353131, -4417276706812531889, 1609587929392839161, -8796714831421723037)

    def __init__(self, alpha: float = 0.01, bits: int = 20, hashes: int = 2, gap: float = 1000.0) -> None:
        super().__init__()
        if not 1 <= hashes <= len(self.MULTIPLIERS):
            raise ValueError(f"1 to {len(self.MULTIPLIERS)} hash functions, not {hashes}")
        self.alpha, self.bits = alpha, bits
        self.last: Tensor
        self.gap: Tensor
        self.step: Tensor
        self.odd: Tensor
        self.register_buffer("last", torch.zeros(hashes, 1 << bits, dtype=torch.int64))
        self.register_buffer("gap", torch.full((hashes, 1 << bits), gap))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("odd", torch.tensor(self.MULTIPLIERS[:hashes]).unsqueeze(1), persistent=False)

    def _slots(self, ids: Tensor) -> Tensor:
        """[H, N]: the high bits of the product with an odd number, modulo 2^64 (Dietzfelbinger et al. 1997)."""
        return (self.odd * ids >> (64 - self.bits)) & ((1 << self.bits) - 1)

    @torch.no_grad()
    def update(self, ids: Tensor) -> None:
        """One step: the items of a batch. An item that is there twice is there."""
        self.step += 1
        for row, slots in enumerate(self._slots(ids)):
            seen = torch.unique(slots)
            since = (self.step - self.last[row, seen]).to(self.gap.dtype)
            self.gap[row, seen] = (1 - self.alpha) * self.gap[row, seen] + self.alpha * since
            self.last[row, seen] = self.step

    def log_presence(self, ids: Tensor, draws: int) -> Tensor:
        """log(1 / D), D at least 1. Float32 like ids; the size of a batch is in D already."""
        gap = self.gap.gather(1, self._slots(ids)).amax(dim=0)
        return -gap.clamp(min=1).log()
