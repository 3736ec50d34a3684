"""Pairwise: the wanted item above ones drawn for it: BPR's logistic (Rendle et al., UAI 2009), the triplet hinge (Huang
et al., KDD 2020), or log loss on both (SASRec's, Kang & McAuley, ICDM 2018). M examples, n negatives each, D width.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from shortlist.batch import Batch
from shortlist.config import Count, NonNegative, Positive, frozen
from shortlist.errors import ConfigError
from shortlist.models.roles import Retriever
from shortlist.training.examples import Examples, examples, not_negatives, sides
from shortlist.training.hard import Hard
from shortlist.training.loss import CatalogueRows, Loss
from shortlist.training.negatives import Asked, Blend, Catalogued, Negatives, Sampler, avoiding
from shortlist.training.rng import Rng
from shortlist.training.scores import Temperature, paired

__all__ = ["Pairwise"]


class Pairwise(nn.Module):
    """Mean over examples, weighted by their worth, of the mean over n negatives drawn for each:
    `logistic` log(1 + exp(s- - s+)), `triplet` max(0, s- - s+ + margin), `log` -log sigmoid(s+) - log sigmoid(-s-).

    None of the negatives is wanted by the request elsewhere in the batch, or known to it.
    """

    @frozen
    class Config:
        loss: Literal["logistic", "triplet", "log"] = "logistic"
        n: Count = 1
        beta: NonNegative = 0.0  # drawn in proportion to count^beta
        margin: NonNegative = 0.1  # of the triplet loss
        temperature: Positive | None = None  # None: 0.1 for cosines under a logistic, 1 otherwise
        known: str = "history"  # a group of the request whose items are no negatives; empty: none
        hard: Hard | None = None  # some of them are of another channel's ranks, or of the item's kind
        task: str = ""  # the label that says what was wanted; empty: the first
        seed: int = 0

    def __init__(self, config: Config, metric: str, *, catalogue: CatalogueRows, counts: ArrayLike) -> None:
        """`catalogue` gives the rows of items drawn; `counts` [I] how often the log has each, ids from 2."""
        super().__init__()
        self.config = config
        self.metric = metric
        self.catalogue = catalogue
        self.sampler = Sampler(counts, config.beta)
        self.hard: Negatives | None = None  # draws those of `config.hard`
        self.rng = Rng(config.seed)
        self.temperature = Temperature(
            config.temperature or (0.1 if metric == "cos" and config.loss != "triplet" else 1.0)
        )

    def forward(self, model: Retriever, batch: Batch) -> Loss:
        found = examples(model, batch, self.config.task)
        known = not_negatives(batch, found, self.config.known)
        drawn = self._drawn(batch, found, known)
        own_MD, other_MnD = sides(model, batch, found, torch.from_numpy(drawn).to(found.item.device), self.catalogue)
        positive = self.temperature(paired(found.query, own_MD, self.metric)).unsqueeze(1)
        negative = self.temperature(paired(found.query.unsqueeze(1), other_MnD, self.metric))
        each_M = self._loss(positive, negative).mean(dim=1)
        loss = (found.worth * each_M).sum() / max(len(each_M), 1)
        right = (positive > negative).float().mean() if len(each_M) else loss
        return Loss(loss, {self.config.loss: loss.detach(), "right": right.detach()})

    def _drawn(self, batch: Batch, found: Examples, known: NDArray[np.int64]) -> NDArray[np.int64]:
        """Negatives of each example [M, n]."""
        hard, dice = self.config.hard, self.rng.dice
        if hard is None:
            return avoiding(self.sampler, known, self.config.n, dice).ids
        if self.hard is None:
            what = "hard negatives need who draws them"
            raise ConfigError(what, where="objective.hard", hint="set `hard`, or take it away")
        users = batch.request["user.id"][batch.request_of[found.row]].cpu().numpy()
        kinds = Blend(Catalogued(self.sampler), self.hard, hard.easy_per_hard)
        return kinds.sample(Asked(users, found.item.cpu().numpy(), known), self.config.n, dice).ids

    def _loss(self, positive: Tensor, negative: Tensor) -> Tensor:
        if self.config.loss == "logistic":
            return functional.softplus(negative - positive)
        if self.config.loss == "triplet":
            return functional.relu(negative - positive + self.config.margin)
        return functional.softplus(-positive) + functional.softplus(negative)
