"""Pointwise for the two sides of a retriever: log loss of score / tau + b, one b a task.

B rows, M examples of what was wanted, n negatives drawn for each, D width.
"""

import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import functional

from shortlist.batch import Batch
from shortlist.config import Count, NonNegative, Positive, frozen
from shortlist.errors import ConfigError
from shortlist.models.roles import Retriever
from shortlist.training.examples import examples, not_negatives, sides
from shortlist.training.loss import CatalogueRows, Loss
from shortlist.training.negatives import Sampler, avoiding
from shortlist.training.objectives.bce import Bce, multitask
from shortlist.training.rng import Rng
from shortlist.training.scores import Temperature, paired

__all__ = ["Pointwise"]


class Pointwise(nn.Module):
    """Every row of a batch with labels is an example, its labels say of what. A batch without holds what was wanted:
    against each such item stand n drawn ones that its request neither wants nor knows, each as good an example.

    Without b a cosine could not say how rare clicks are.
    """

    @frozen
    class Config:
        temperature: Positive | None = None  # None: 0.1 for cosines, 1 otherwise
        learn_temperature: bool = False
        n: Count = 4  # negatives drawn for each item wanted, where rows have no labels
        beta: NonNegative = 0.0  # in proportion to count^beta
        known: str = "history"  # a group of the request whose items are no negatives; empty: none
        seed: int = 0

    def __init__(
        self,
        config: Config,
        metric: str,
        tasks: tuple[str, ...],
        *,
        catalogue: CatalogueRows | None = None,
        counts: ArrayLike | None = None,
    ) -> None:
        """Batches without labels need the rows of the `catalogue` and `counts` [I], how often the log has each item,
        ids from 2."""
        super().__init__()
        self.config = config
        self.metric = metric
        self.tasks = tasks
        self.catalogue = catalogue
        self.sampler = None if counts is None else Sampler(counts, config.beta)
        self.rng = Rng(config.seed)
        default = 0.1 if metric == "cos" else 1.0
        self.temperature = Temperature(config.temperature or default, learned=config.learn_temperature)
        self.bias = nn.Parameter(torch.zeros(max(len(tasks), 1)))

    def forward(self, model: Retriever, batch: Batch) -> Loss:
        if batch.labels is None:
            return self._drawn(model, batch)
        u_BD = model.query(batch.request)[batch.request_of]
        score_B = self.temperature(paired(u_BD, model.candidate(batch.row), self.metric))
        logits = {task: score_B + self.bias[n] for n, task in enumerate(self.tasks)}
        return multitask(logits, batch, Bce.Config())

    def _drawn(self, model: Retriever, batch: Batch) -> Loss:
        if self.catalogue is None or self.sampler is None:
            what = "rows without labels need the items of the catalogue and how often each was met"
            raise ConfigError(what, where="objective", hint="give `catalogue` and `counts`, or labels")
        found = examples(model, batch)
        known = not_negatives(batch, found, self.config.known)
        drawn_Mn = torch.from_numpy(avoiding(self.sampler, known, self.config.n, self.rng.dice).ids)
        own_MD, other_MnD = sides(model, batch, found, drawn_Mn.to(found.item.device), self.catalogue)
        positive_M = self.temperature(paired(found.query, own_MD, self.metric)) + self.bias[0]
        negative_Mn = self.temperature(paired(found.query.unsqueeze(1), other_MnD, self.metric)) + self.bias[0]
        each_M = functional.softplus(-positive_M) + functional.softplus(negative_Mn).sum(dim=1)
        loss = (found.worth * each_M).sum() / max((1 + self.config.n) * len(each_M), 1)
        return Loss(loss, {"pointwise": loss.detach()})
