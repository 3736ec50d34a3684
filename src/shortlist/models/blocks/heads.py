"""One linear head per task on a shared representation. B rows, H width, T tasks."""

from collections.abc import Sequence

from torch import Tensor, nn

from shortlist.errors import ConfigError

__all__ = ["Heads"]


class Heads(nn.Module):
    """x [B, H] -> task -> logit [B]: one matrix for all tasks. Raises ConfigError where no task is declared."""

    def __init__(self, width: int, tasks: Sequence[str]) -> None:
        super().__init__()
        if not tasks:
            hint = 'add tasks.click = { on = "impression", positive = "click" }'
            raise ConfigError("a ranker needs a task", where="schema.tasks", hint=hint)
        self.tasks = tuple(tasks)
        self.linear = nn.Linear(width, len(tasks))

    def forward(self, x_BH: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.tasks, self.linear(x_BH).unbind(dim=1), strict=True))
