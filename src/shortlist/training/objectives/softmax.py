"""Listwise: the wanted item among others, a softmax corrected for how these came to stand there.

In-batch negatives with logQ (Yi et al., RecSys 2019), mixed with uniform ones (Yang et al., WWW 2020 companion), sampled
ones shared by the batch (Jean et al., ACL 2015), or all items. M examples, N columns, R requests, D width.

Unlike in the papers an item has one column however often it was drawn, so that the probability of a column to be there is
just what logQ subtracts, for hot items too.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns
from shortlist.config import Count, NonNegative, Positive, frozen
from shortlist.errors import ConfigError
from shortlist.schema import FIRST
from shortlist.training.objectives.dice import Dice
from shortlist.training.objectives.examples import ITEM, Examples, examples
from shortlist.training.objectives.loss import CatalogueRows, Loss
from shortlist.training.objectives.negatives import Sampler
from shortlist.training.objectives.scores import Temperature, paired, table

__all__ = ["Softmax"]


class Frequency(Protocol):
    """`Counted` or `Streaming` of `frequency.py`."""

    def update(self, ids: Tensor) -> None: ...

    def log_presence(self, ids: Tensor, draws: int) -> Tensor: ...


class Softmax(nn.Module):
    """-r log softmax of the wanted item's score among the columns of its batch, mean over examples.

    `frequency` corrects in-batch columns (None: no correction); `sampler` draws others, whose columns come from
    `catalogue`. Columns an example's request wants as well are taken from its denominator.
    """

    @frozen
    class Config:
        negatives: Literal["batch", "mixed", "sampled", "full"] = "batch"
        temperature: Positive | None = None  # None: 0.1 for cosines (Yi et al.: 0.05 to 0.1), otherwise 1
        learn_temperature: bool = False
        n: Count = 1000  # columns drawn per batch (mixed, sampled)
        beta: NonNegative = 0.0  # they are drawn in proportion to count^beta
        known: str = ""  # a group of the request (`history`) whose items are no negatives either
        task: str = ""  # the label that says what was wanted; empty: the first
        seed: int = 0

    def __init__(
        self,
        config: Config,
        metric: str,
        *,
        counts: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
        frequency: nn.Module | None = None,
        catalogue: CatalogueRows | None = None,
    ) -> None:
        """`counts` [I] of the training examples per item, ids from 2: how many classes there are, and `beta`'s f."""
        super().__init__()
        if config.negatives != "batch" and (counts is None or catalogue is None):
            what = f"{config.negatives!r} needs the catalogue and its counts"
            raise ConfigError(what, where="objective.negatives", hint='write "batch" where there is none')
        default = 0.1 if metric == "cos" else 1.0
        self.config = config
        self.metric = metric
        self.catalogue = catalogue
        self.frequency = frequency
        self.sampler = None if counts is None else Sampler(counts, config.beta)
        self.dice = Dice(config.seed)
        self.temperature = Temperature(config.temperature or default, learned=config.learn_temperature)

    def forward(self, model: nn.Module, batch: Batch) -> Loss:
        found = examples(model, batch, self.config.task)
