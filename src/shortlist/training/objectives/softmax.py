"""Listwise: the wanted item among others, a softmax corrected for how these came to stand there.

In-batch negatives with logQ (Yi et al., RecSys 2019), mixed with uniform ones (Yang et al., WWW 2020 companion),
sampled ones shared by the batch (Jean et al., ACL 2015), or all items. M examples, N columns, R requests, D width.

Unlike in the papers an item has one column however often it was drawn, so that the probability of a column to be
there is just what logQ subtracts, for hot items too.
"""

from math import log
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import ArrayLike
from torch import Tensor, nn

from shortlist.batch import Batch, Columns
from shortlist.config import NonNegative, Positive, frozen
from shortlist.errors import ConfigError
from shortlist.models.roles import Retriever
from shortlist.schema import FIRST
from shortlist.training.examples import ITEM, Examples, examples, not_negatives, sides
from shortlist.training.frequency import Counted, Streaming, presence
from shortlist.training.hard import Hard
from shortlist.training.loss import CatalogueRows, Dated, Loss
from shortlist.training.negatives import Asked, Negatives, Sampler, keep_probability
from shortlist.training.rng import Rng
from shortlist.training.scores import Temperature, paired, table

__all__ = ["Softmax"]


class Softmax(nn.Module):
    """Mean over examples of -r log softmax, r the worth of the example, over its item and the columns of the batch.

    Columns are the items of the batch (`batch`), these and drawn ones (`mixed`), drawn ones (`sampled`) or all items
    (`full`). What an example's request wants elsewhere in the batch is no negative of it. Items that have ages are as
    old as they were at the moment of the example (`batch`), or at one moment for all.
    """

    @frozen
    class Config:
        negatives: Literal["batch", "mixed", "sampled", "full"] = "batch"
        temperature: Positive | None = None  # None: 0.1 for cosines (Yi et al.: 0.05 to 0.1), 1 otherwise
        learn_temperature: bool = False
        n: Annotated[int, Ge(0)] = 1000  # drawn per batch (mixed, sampled)
        beta: NonNegative = 0.0  # in proportion to count^beta
        known: str = ""  # a group of the request (`history`) whose items are no negatives either
        hard: Hard | None = None  # beside them, for each example: of another channel's ranks, or of the item's kind
        subsample: NonNegative = 0.0  # events of items that are more than this share of all are left out by chance
        task: str = ""  # the label that says what was wanted; empty: the first
        seed: int = 0

    def __init__(
        self,
        config: Config,
        metric: str,
        *,
        frequency: Counted | Streaming | None = None,
        catalogue: CatalogueRows | None = None,
        counts: ArrayLike | None = None,
    ) -> None:
        """`frequency` corrects for columns of the batch (None: not at all). Steps of sequences, and all but `batch`,
        need the rows of the `catalogue`; drawing needs `counts` [I], how often the log has each item, ids from 2."""
        super().__init__()
        if config.negatives != "batch" and (counts is None or catalogue is None):
            what = f"{config.negatives!r} needs the items of the catalogue and how often each was met"
            raise ConfigError(what, where="objective.negatives", hint="give them, or write 'batch'")
        if config.negatives == "sampled" and not config.n:
            raise ConfigError("'sampled' without a draw", where="objective.n", hint="write at least 1")
        self.config = config
        self.metric = metric
        self.frequency = frequency
        self.catalogue = catalogue
        self.sampler = None if counts is None else Sampler(counts, config.beta)
        self.hard: Negatives | None = None  # draws those of `config.hard`
        self.keep = None if counts is None or not config.subsample else keep_probability(counts, config.subsample)
        share = torch.zeros(0) if self.sampler is None else torch.from_numpy(self.sampler.p)
        self.share: Tensor
        self.register_buffer("share", share, persistent=False)
        self.rng = Rng(config.seed)
        default = 0.1 if metric == "cos" else 1.0
        self.temperature = Temperature(config.temperature or default, learned=config.learn_temperature)
        self._every: tuple[Tensor, Columns] | None = None

    def forward(self, model: Retriever, batch: Batch) -> Loss:
        found = examples(model, batch, self.config.task)
        own_MD, ids_N, items_ND, log_q, own_log_q = self._columns(model, batch, found)
        own_M = self.temperature(paired(found.query, own_MD, self.metric)) - own_log_q
        scores_MN = self._then(model, batch, found, ids_N)
        if scores_MN is None:
            scores_MN = table(found.query, items_ND, self.metric)
        others_MN = self.temperature(scores_MN) - log_q
        others_MN = others_MN.masked_fill(self._wanted(batch, found, ids_N), float("-inf"))
        columns = [own_M.unsqueeze(1), others_MN]
        if self.config.hard is not None:
            columns.append(self._hard(model, batch, found, self.config.hard.per))
        each_M = torch.cat(columns, dim=1).logsumexp(dim=1) - own_M
        worth, kept = self._kept(found)
        loss = (worth * each_M).sum() / max(kept, 1)
        parts = {"softmax": loss.detach()}
        if self.config.learn_temperature:
            parts["temperature"] = torch.exp(-self.temperature.log_scale).detach()
        return Loss(loss, parts)

    def _columns(
        self, model: Retriever, batch: Batch, found: Examples
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The examples' own vectors [M, D]; distinct ids [N] ascending and vectors [N, D] of the columns; log q of the
        columns [N] and of the own items [M]."""
        none = self.temperature.log_scale.new_zeros(())
        if self.config.negatives == "full":
            ids, rows = self._all(found.item.device)
            vectors = model.candidate(rows)
            return vectors[found.item - FIRST], ids, vectors, none, none
        if found.per_step or self.config.negatives in ("sampled", "mixed"):
            # own items and drawn ones from the same rows: an age of the event's day would tell them apart
            ids, own = torch.unique(found.item, return_inverse=True)
            vectors, draws = model.candidate(self._rows(ids)), len(found.item)
        else:
            ids, own = batch.row[ITEM], found.row
            vectors, draws = model.candidate(batch.row), len(batch)
        own_MD = vectors[own]
        if self.training and self.frequency is not None:
            self.frequency.update(ids[ids >= FIRST])
        if self.config.negatives == "sampled":
            ids = self._draw(ids.device)
            return own_MD, ids, model.candidate(self._rows(ids)), self._drawn(ids), self._drawn(found.item)
        ids, vectors = _distinct(ids, vectors)
        if self.config.negatives == "mixed":
            more = self._draw(ids.device)
            more = more[~torch.isin(more, ids)]
            ids, order = torch.cat([ids, more]).sort()
            vectors = torch.cat([vectors, model.candidate(self._rows(more))])[order]
        if self.frequency is None:
            return own_MD, ids, vectors, none, none
        return own_MD, ids, vectors, self._present(ids, draws), self._present(found.item, draws)

    def _then(self, model: Retriever, batch: Batch, found: Examples, ids_N: Tensor) -> Tensor | None:
        """Scores of the items of the batch as they were at the moment of each example [M, N]; None where they do not
        change. At the moment of another row an item is as fresh as whoever took it then liked it."""
        dated = self.catalogue
        if self.config.negatives != "batch" or found.per_step or batch.now is None or not isinstance(dated, Dated):
            return None
        now_T, at_M = torch.unique(batch.now[batch.request_of[found.row]], return_inverse=True)
        n, device = len(ids_N), ids_N.device
        codes_TN = dated.ages(ids_N.cpu(), now_T.cpu()).to(device) * n + torch.arange(n, device=device)
        kept, at_TN = torch.unique(codes_TN, return_inverse=True)
        first = torch.full_like(kept, codes_TN.numel()).scatter_reduce(
            0, at_TN.flatten(), torch.arange(codes_TN.numel(), device=device), "amin"
        )
        rows = dated.at(ids_N[first % n].cpu(), now_T[first // n].cpu()).to(device)
        scores_MK = table(found.query, model.candidate(rows), self.metric)
        return scores_MK.gather(1, at_TN[at_M])

    def _kept(self, found: Examples) -> tuple[Tensor, int]:
        """The worth of examples, 0 for those left out because their item is frequent, and how many are left."""
        if not self.training or not self.config.subsample:
            return found.worth, len(found.item)
        if self.keep is None:
            hint = "give `counts`, or take subsample away"
            raise ConfigError("how often items were met is not known", where="objective.subsample", hint=hint)
        ids = found.item.cpu().numpy() - FIRST
        kept = torch.from_numpy(self.rng.dice.random(len(ids)) < self.keep[ids]).to(found.worth.device)
        return found.worth * kept, int(kept.sum())

    def _hard(self, model: Retriever, batch: Batch, found: Examples, n: int) -> Tensor:
        """Scores of n hard items of each example [M, n], each for as many as it stands for."""
        if self.hard is None or self.catalogue is None:
            what = "hard negatives need who draws them, and the catalogue"
            raise ConfigError(what, where="objective.hard", hint="set `hard`, or take it away")
        users = batch.request["user.id"][batch.request_of[found.row]].cpu().numpy()
        known = not_negatives(batch, found, self.config.known)
        asked = Asked(users, found.item.cpu().numpy(), known)
        drawn = self.hard.sample(asked, n, self.rng.dice)
        ids = torch.from_numpy(drawn.ids).to(found.item.device)
        _, others_MnD = sides(model, batch, found, ids, self.catalogue)
        scores: Tensor = self.temperature(paired(found.query.unsqueeze(1), others_MnD, self.metric))
        log_q = torch.from_numpy(drawn.log_q).to(scores.device)
        return scores - (log_q + log(n))

    def _draw(self, device: torch.device) -> Tensor:
        """Distinct ids out of n draws, ascending."""
        assert self.sampler is not None
        ids, _ = self.sampler.sample(self.config.n, self.rng.dice)
        return torch.from_numpy(np.unique(ids)).to(device)

    def _drawn(self, ids: Tensor) -> Tensor:
        """log(1 - (1 - q)^n): an item is among n draws."""
        return presence(self.share[ids - FIRST], self.config.n).log().float()

    def _present(self, ids: Tensor, draws: int) -> Tensor:
        """Log of the probability that an item has a column, by the batch or, mixed, by a draw."""
        assert self.frequency is not None
        log_batch: Tensor = self.frequency.log_presence(ids, draws)
        if self.config.negatives != "mixed":
            return log_batch
        absent = torch.log1p(-log_batch.double().exp()) + self.config.n * torch.log1p(-self.share[ids - FIRST])
        log_p: Tensor = (-torch.expm1(absent)).log().float()
        return log_p

    def _rows(self, ids: Tensor) -> Columns:
        if self.catalogue is None:
            what = "steps of sequences have no rows of their own: the items of the catalogue are needed"
            raise ConfigError(what, where="objective", hint="give `catalogue`")
        rows: Columns = self.catalogue(ids.cpu()).to(ids.device)
        return rows

    def _all(self, device: torch.device) -> tuple[Tensor, Columns]:
        if self._every is None or self._every[0].device != device:
            ids = torch.arange(FIRST, len(self.share) + FIRST, device=device)
            self._every = ids, self._rows(ids)
        return self._every

    def _wanted(self, batch: Batch, found: Examples, ids_N: Tensor) -> Tensor:
        """Which columns an example's request wants or knows, its own item among them: bool [M, N]."""
        m = len(found.item)
        owner = torch.arange(m, device=ids_N.device) if found.per_step else batch.request_of[found.row]
        who, what = owner, found.item
        if self.config.known and not found.per_step:
            group = batch.request.groups[self.config.known]
            request, step = group.mask.nonzero(as_tuple=True)
            who, what = torch.cat([who, request]), torch.cat([what, group.channels["item"][request, step]])
        wanted = torch.zeros(
            m if found.per_step else len(batch.request), len(ids_N), dtype=torch.bool, device=ids_N.device
        )
        if len(ids_N):
            place = torch.searchsorted(ids_N, what).clamp(max=len(ids_N) - 1)
            there = ids_N[place] == what
            wanted[who[there], place[there]] = True
        return wanted if found.per_step else wanted[owner]


def _distinct(ids: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Each item once, ascending, with the vector of its first row; padding and unknown items left out."""
    distinct, place = torch.unique(ids, return_inverse=True)
    first = torch.full_like(distinct, len(ids)).scatter_reduce(
        0, place, torch.arange(len(ids), device=ids.device), "amin"
    )
    real = distinct >= FIRST
    return distinct[real], vectors[first[real]]
