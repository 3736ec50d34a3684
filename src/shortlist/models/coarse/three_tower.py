"""Three towers: user and context once per request, the item cached, a small cross part per candidate (after COLD,
Wang Z. et al., DLP-KDD 2020, arXiv:2007.16122). R requests, B rows, D width of the towers. Logits [B] per task."""

__all__ = ["ThreeTower"]

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.config import Count, Share, frozen
from shortlist.errors import ConfigError
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.fields import LIVE, flat, width
from shortlist.models.blocks.heads import heads
from shortlist.models.blocks.mlp import mlp

AGE = ".age"  # what the vocabulary of a time since something ends with


class ThreeTower(nn.Module):
    """h = Top([a; b; c; a ∘ b]): a = U(request), b = T(static row columns), c = C(live row columns), a head per task.

    Live is a row column whose name begins with one of `LIVE`, that is an age (its vocabulary ends in `.age`), or that
    `Config.live` names: it may change while the item does not. `item` reads none of them, so b may be kept for as
    long as the item's static columns (`version`) and the model stay the same.
    """

    @frozen
    class Config:
        """Towers by layer. `user` and `item` end in one width; `live` names further live columns."""

        dim: Count = 16
        user: tuple[Count, ...] = (512, 256, 64)
        item: tuple[Count, ...] = (256, 64)
        cross: tuple[Count, ...] = (64, 32)
        top: tuple[Count, ...] = (128, 64)
        live: tuple[str, ...] = ()
        dropout: Share = 0.0
        heads: dict[str, Any] = field(default_factory=dict)

    def __init__(self, config: Config, layout: Layout) -> None:
        super().__init__()
        if not config.user or not config.item or config.user[-1:] != config.item[-1:]:
            what = f"the towers end in {list(config.user[-1:])} and {list(config.item[-1:])}"
            raise ConfigError(what, where="coarse.user", hint="end user and item in one width")
        self.request = layout.request
        self.static, self.live = parted(layout.row, config.live)
        self.embed = Embed(layout, config.dim)
        d = config.user[-1]
        self.user_tower = mlp(width(self.request, config.dim), config.user[:-1], config.dropout, out=d)
        self.item_tower = mlp(width(self.static, config.dim), config.item[:-1], config.dropout, out=d)
        live = width(self.live, config.dim)
        self.cross_tower = mlp(live, config.cross, config.dropout) if live and config.cross else None
        wide = 3 * d + (config.cross[-1] if self.cross_tower else 0)
        self.top = mlp(wide, config.top, config.dropout)
        self.heads = heads(config.heads, config.top[-1] if config.top else wide, layout, "coarse.heads")

    def user(self, request: Columns) -> Tensor:
        """a [R, D]."""
        a_RD: Tensor = self.user_tower(flat(self.embed, request, self.request))
        return a_RD

    def item(self, row: Columns) -> Tensor:
        """b [B, D], from static columns alone."""
        b_BD: Tensor = self.item_tower(flat(self.embed, row, self.static))
        return b_BD

    def cross(self, row: Columns) -> list[Tensor]:
        """[c [B, C]], or nothing where no column is live."""
        return [self.cross_tower(flat(self.embed, row, self.live))] if self.cross_tower else []

    def score(self, user: Tensor, item: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`user` [R, D], `item` [B, D] fresh or kept, live columns of the batch -> task -> logit [B]."""
        a_BD = user[batch.request_of]
        h_BH = torch.cat([a_BD, item, *self.cross(batch.row), a_BD * item], dim=1)
        out: dict[str, Tensor] = self.heads(self.top(h_BH), batch)
        return out

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.score(self.user(batch.request), self.item(batch.row), batch)

    def version(self, row: Columns) -> Tensor:
        """A number [B] of the static columns: an item keeps its own until one of them changes. With the item's key
        and the release it is the key of a kept b.
        """
        side, n = self.static, len(row)
        parts = [row[name].unsqueeze(1) for name in side.sparse]
        parts += [bits(row[name].unsqueeze(1)) for name in side.dense]
        for name, channels in side.groups.items():
            group = row.groups[name]
            steps = group.mask.sum(dim=1, keepdim=True)
            parts += [steps, *(group.channels[channel] * group.mask for channel in channels)]
        parts += [bits(row.vecs[name]) for name in side.vecs]
        out = torch.zeros(n, dtype=torch.int64, device=row.sparse.device)
        for column in torch.cat(parts, dim=1).unbind(dim=1) if parts else ():
            out = mixed(out ^ mixed(column))
        return out


def parted(side: Side, live: tuple[str, ...]) -> tuple[Side, Side]:
    """Row columns as static and live ones. Raises ConfigError for a name in `live` that is no column."""
    names = {*side.sparse, *side.dense, *side.groups, *side.vecs}
    unknown = [name for name in live if name not in names]
    if unknown:
        what, hint = f"no row column is called {unknown[0]!r}", f"columns are {', '.join(sorted(names))}"
        raise ConfigError(what, where="coarse.live", hint=hint)
    changing = {name for name in names if name.startswith(LIVE) or name in live}
    changing |= {name for name, words in side.sparse.items() if words.endswith(AGE)}

    def part(wanted: set[str]) -> Side:
        return replace(
            side,
            sparse={name: words for name, words in side.sparse.items() if name in wanted},
            dense=tuple(name for name in side.dense if name in wanted),
            groups={name: channels for name, channels in side.groups.items() if name in wanted},
            vecs={name: wide for name, wide in side.vecs.items() if name in wanted},
        )

    return part(names - changing), part(changing)


def bits(values: Tensor) -> Tensor:
    """Numbers as integers, equal where they are equal to the bit."""
    return values.contiguous().view(torch.int32 if values.element_size() == 4 else torch.int64).long()


def mixed(x: Tensor) -> Tensor:
    """A bijection of 64 bit integers that spreads every bit (the constants of splitmix64)."""
    x = (x + -7046029254386353131) * -4658895280553007687
    return (x ^ ((x >> 29) & 0x7FFFFFFFF)) * -7723592293110705685
