"""Gates over experts, and whether they have narrowed down to one of them (Zhao Z. et al., RecSys 2019).
B rows, H width, T gates, E experts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Gate", "Watch", "watched", "narrowed"]

NARROW = 0.95  # a gate that gives one expert more than this has forgotten the others


class Gate(nn.Module):
    """g = softmax(W x) over experts, for each of T gates, whose `names` a watch tells.

    In training each of its numbers is dropped with probability `dropout` and the rest sum to 1 again; where all would
    go, all stay.
    """

    def __init__(self, width: int, experts: int, names: Sequence[str], dropout: float = 0.0) -> None:
        super().__init__()
        self.names, self.experts, self.dropout = tuple(names), experts, dropout
        self.linear = nn.Linear(width, len(self.names) * experts)

    def forward(self, x_BH: Tensor) -> Tensor:
        """[B, T, E], each row of experts summing to 1."""
        z_BTE: Tensor = self.linear(x_BH).unflatten(1, (len(self.names), self.experts))
        if self.training and self.dropout:
            kept = torch.rand_like(z_BTE) >= self.dropout
            z_BTE = z_BTE.masked_fill(~(kept | ~kept.any(dim=2, keepdim=True)), -torch.inf)
        return z_BTE.softmax(dim=2)


def narrowed(g_BTE: Tensor) -> tuple[Tensor, Tensor]:
    """Of each gate over rows: the sum of entropies in nats [T], and how many rows give one expert above 0.95 [T]."""
    entropy_BT = torch.special.entr(g_BTE).sum(dim=2)
    return entropy_BT.sum(dim=0), (g_BTE.amax(dim=2) > NARROW).sum(dim=0)


@dataclass
class Watch:
    """What gates did while they were watched: name -> sum of entropies, rows above 0.95, rows."""

    seen: dict[str, tuple[float, int, int]] = field(default_factory=dict)

    def add(self, gate: Gate, g_BTE: Tensor) -> None:
        for name, entropy, narrow in zip(gate.names, *(sums.tolist() for sums in narrowed(g_BTE)), strict=True):
            total, above, rows = self.seen.get(name, (0.0, 0, 0))
            self.seen[name] = total + entropy, above + narrow, rows + len(g_BTE)

    def told(self) -> dict[str, float]:
        """`<gate>.gate_entropy`, the mean in nats, and `<gate>.gate_narrow`, the share of rows, of gates that were
        asked."""
        out: dict[str, float] = {}
        for name, (total, above, rows) in self.seen.items():
            if rows:
                out |= {f"{name}.gate_entropy": total / rows, f"{name}.gate_narrow": above / rows}
        return out


@contextmanager
def watched(model: nn.Module) -> Iterator[Watch]:
    """All gates of a model, while this lasts: what they give is looked at, and nothing is changed."""
    watch = Watch()

    def look(gate: nn.Module, given: Any, g_BTE: Tensor) -> None:
        assert isinstance(gate, Gate)
        watch.add(gate, g_BTE.detach())

    hooks = [part.register_forward_hook(look) for part in model.modules() if isinstance(part, Gate)]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()
