"""MMoE: experts for all tasks, a gate and a tower for each (Ma J. et al., KDD 2018); dropout of gates (Zhao Z. et al.,
RecSys 2019); experts over the history, on demand (MOSE: Qin et al., KDD 2020). B rows, H width of the representation,
E experts, D width of an expert, T tasks, R requests, L steps. Logits [B] per task."""

__all__ = ["MMoE"]

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import Count, Share, frozen
from shortlist.errors import ConfigError
from shortlist.models.blocks.embed import Embed
from shortlist.models.blocks.experts import Experts, Lstms
from shortlist.models.blocks.gates import Gate

HISTORY = "history"


class MMoE(nn.Module):
    """logit_t = tower_t(Σ_e g^t_e f_e(x)), g^t = softmax(W_t x); with `shared_gate` all tasks have one gate (OMoE).

    An expert of kind `lstm` is f_e([x; s_e]), s_e its own LSTM's state after the last step of the history. Unlike
    MOSE, where all of the input is a sequence, it sees x too: what only the history says is the same for every
    candidate. The steps have vectors of this head's own.
    """

    @frozen
    class Config:
        """`dim` (width of a step's channel) and `state` are for `lstm` alone; `dropout` is for layers."""

        experts: Count = 4
        hidden: tuple[Count, ...] = (256, 128)
        towers: tuple[Count, ...] = (64,)
        gate_dropout: Share = 0.1
        shared_gate: bool = False
        expert: Literal["mlp", "lstm"] = "mlp"
        dim: Count = 16
        state: Count = 64
        dropout: Share = 0.0

    def __init__(self, config: Config, width: int, layout: Layout) -> None:
        super().__init__()
        self.tasks, self.side = layout.tasks, layout.request
        count = config.experts
        if not config.hidden:
            raise ConfigError("experts without layers are all alike", where="heads.hidden", hint="give them a layer")
        self.embed: Embed | None = None
        wide = width
        if config.expert == "lstm":
            channels = layout.request.groups.get(HISTORY)
            if not channels:
                hint = 'keep the group history, or take expert = "mlp"'
                raise ConfigError("lstm experts need a history", where="heads.expert", hint=hint)
            words = {name: layout.vocabularies[name] for name in dict.fromkeys(channels.values())}
            self.embed = Embed(replace(layout, vocabularies=words), config.dim)
            self.lstms = Lstms(len(channels) * config.dim, config.state, count)
            wide += config.state
        else:
            idle = [key for key in ("dim", "state") if getattr(config, key) != getattr(self.Config, key)]
            if idle:
                what = f"{idle[0]} does nothing without an LSTM"
                raise ConfigError(what, where=f"heads.{idle[0]}", hint='take it away, or take expert = "lstm"')
        self.experts = Experts(wide, config.hidden, count, config.dropout)
        gates = ("all",) if config.shared_gate else self.tasks
        self.gate = Gate(width, count, gates, config.gate_dropout)
        self.towers = Experts(config.hidden[-1], config.towers, len(self.tasks), config.dropout, out=1)

    def forward(self, x_BH: Tensor, batch: Batch | None = None) -> dict[str, Tensor]:
        h_BTD = torch.bmm(self.gate(x_BH), self.expert(x_BH, batch))
        h_TBD = h_BTD.transpose(0, 1).expand(len(self.tasks), -1, -1)
        logit_TB = self.towers(h_TBD).squeeze(2)
        return dict(zip(self.tasks, logit_TB.unbind(), strict=True))

    def expert(self, x_BH: Tensor, batch: Batch | None = None) -> Tensor:
        """What the experts say [B, E, D]. Those over the history need the batch."""
        x = x_BH
        if self.embed is not None:
            assert batch is not None, "a ranker gives its head the batch: self.heads(x_BH, batch)"
            x_EBH = x_BH.expand(self.lstms.count, *x_BH.shape)
            x = torch.cat([x_EBH, self.past(batch)[:, batch.request_of]], dim=2)
        out: Tensor = self.experts(x).transpose(0, 1)
        return out

    def past(self, batch: Batch) -> Tensor:
        """States after the last step of each history [E, R, D], once per request."""
        assert self.embed is not None
        group = batch.request.groups[HISTORY]
        steps_RLD = self.embed.group(group, self.side, HISTORY, tuple(self.side.groups[HISTORY])).flatten(2)
        out: Tensor = self.lstms(steps_RLD, group.length)
        return out
