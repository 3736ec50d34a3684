"""From a ranker's representation to a logit per task: one linear layer, or a head of models/multitask/ by name.
B rows, H width, T tasks."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from shortlist.batch import Batch, Layout
from shortlist.config import build, find
from shortlist.errors import ConfigError

__all__ = ["Heads", "heads", "head_of"]

PACKAGE = "shortlist.models.multitask"


class Heads(nn.Module):
    """x [B, H] -> task -> logit [B]: one matrix for all tasks. Raises ConfigError where no task is declared."""

    def __init__(self, width: int, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = some(tasks)
        self.linear = nn.Linear(width, len(tasks))

    def forward(self, x_BH: Tensor, batch: Batch | None = None) -> dict[str, Tensor]:
        return dict(zip(self.tasks, self.linear(x_BH).unbind(dim=1), strict=True))


def heads(config: Mapping[str, Any], width: int, layout: Layout, where: str = "rank.heads") -> nn.Module:
    """The head that a ranker's `heads` table names, `Heads` where it is empty; asked as `head(x_BH, batch)`.

    Raises ConfigError for a head or an option that is not there.
    """
    tasks = some(layout.tasks)
    if not config:
        return Heads(width, tasks)
    kind, options = head_of(config, where)
    head: nn.Module = kind(options, width, layout)
    return head


def head_of(config: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """The class that `use` names and its options, typed. Raises ConfigError."""
    if not isinstance(config.get("use"), str):
        raise ConfigError("should name a head", where=f"{where}.use", hint='write heads = { use = "mmoe" }')
    kind: Any = find(config["use"], [PACKAGE], f"{where}.use")
    options = {key: value for key, value in config.items() if key != "use"}
    return kind, build(kind.Config, options, where, ("use",))


def some(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """The same. Raises ConfigError where there is none."""
    if not tasks:
        hint = 'add tasks.click = { on = "impression", positive = "click" }'
        raise ConfigError("a ranker needs a task", where="schema.tasks", hint=hint)
    return tuple(tasks)
