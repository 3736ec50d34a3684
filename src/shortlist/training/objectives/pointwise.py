"""Pointwise for the two sides of a retriever: log loss of score / tau + b, one b a task. B rows."""

import torch
from torch import nn

from shortlist.batch import Batch
from shortlist.config import Positive, frozen
from shortlist.models.roles import Retriever
from shortlist.training.loss import Loss
from shortlist.training.objectives.bce import Bce, multitask
from shortlist.training.scores import Temperature, paired

__all__ = ["Pointwise"]


class Pointwise(nn.Module):
    """Every row of the batch is an example, its labels say of what; without b a cosine could not say how rare clicks
    are."""

    @frozen
    class Config:
        temperature: Positive | None = None  # None: 0.1 for cosines, 1 otherwise
        learn_temperature: bool = False

    def __init__(self, config: Config, metric: str, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.metric = metric
        self.tasks = tasks
        default = 0.1 if metric == "cos" else 1.0
        self.temperature = Temperature(config.temperature or default, learned=config.learn_temperature)
        self.bias = nn.Parameter(torch.zeros(len(tasks)))

    def forward(self, model: Retriever, batch: Batch) -> Loss:
        u_BD = model.query(batch.request)[batch.request_of]
        score_B = self.temperature(paired(u_BD, model.candidate(batch.row), self.metric))
        logits = {task: score_B + self.bias[n] for n, task in enumerate(self.tasks)}
        return multitask(logits, batch, Bce.Config())
