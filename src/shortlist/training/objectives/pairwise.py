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
from shortlist.models.roles import Retriever
from shortlist.training.examples import Examples, examples
from shortlist.training.loss import CatalogueRows, Loss
from shortlist.training.negatives import Sampler, avoiding
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
        task: str = ""  # the label that says what was wanted; empty: the first
        seed: int = 0

    def __init__(self, config: Config, metric: str, *, catalogue: CatalogueRows, counts: ArrayLike) -> None:
        """`catalogue` gives the rows of items drawn; `counts` [I] how often the log has each, ids from 2."""
        super().__init__()
        self.config = config
        self.metric = metric
        self.catalogue = catalogue
        self.sampler = Sampler(counts, config.beta)
        self.rng = Rng(config.seed)
        self.temperature = Temperature(
            config.temperature or (0.1 if metric == "cos" and config.loss != "triplet" else 1.0)
        )

    def forward(self, model: Retriever, batch: Batch) -> Loss:
        found = examples(model, batch, self.config.task)
        drawn = avoiding(self.sampler, self._known(batch, found), self.config.n, self.rng.dice).ids
        negatives_Mn = torch.from_numpy(drawn).to(found.item.device)
        ids, place = torch.unique(torch.cat([found.item, negatives_Mn.flatten()]), return_inverse=True)
        items = model.candidate(self.catalogue(ids.cpu()).to(ids.device))
        own, other = place[: len(found.item)], place[len(found.item) :].view_as(negatives_Mn)
        if not found.per_step:
            own_MD = model.candidate(batch.row)[found.row]
        else:
            own_MD = items[own]
        positive = self.temperature(paired(found.query, own_MD, self.metric)).unsqueeze(1)
        negative = self.temperature(paired(found.query.unsqueeze(1), items[other], self.metric))
        each_M = self._loss(positive, negative).mean(dim=1)
        loss = (found.worth * each_M).sum() / max(len(each_M), 1)
        right = (positive > negative).float().mean() if len(each_M) else loss
        return Loss(loss, {self.config.loss: loss.detach(), "right": right.detach()})

    def _loss(self, positive: Tensor, negative: Tensor) -> Tensor:
        if self.config.loss == "logistic":
            return functional.softplus(negative - positive)
        if self.config.loss == "triplet":
            return functional.relu(negative - positive + self.config.margin)
        return functional.softplus(-positive) + functional.softplus(negative)

    def _known(self, batch: Batch, found: Examples) -> NDArray[np.int64]:
        """What each example may not have as a negative [M, K], filled up with 0."""
        request = batch.request_of[found.row]
        parts = [found.item.unsqueeze(1)]
        if found.per_step:
            assert batch.targets is not None
            parts.append(batch.targets[found.row])
        else:
            parts.append(_lists(request, found.item, len(batch.request))[request])
        if self.config.known in batch.request.groups:
            group = batch.request.groups[self.config.known]
            parts.append((group.channels["item"] * group.mask)[request])
        known: NDArray[np.int64] = torch.cat(parts, dim=1).cpu().numpy()
        return known


def _lists(owner: Tensor, items: Tensor, owners: int) -> Tensor:
    """Items by owner [R, K], filled up with 0."""
    order = owner.argsort(stable=True)
    counts = torch.bincount(owner, minlength=owners)
    rank = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner[order]]
    lists = items.new_zeros(owners, int(counts.max()) if owners else 0)
    lists[owner[order], rank] = items[order]
    return lists
