"""MF: biased matrix factorization by stochastic gradient (Koren, Bell, Volinsky, Computer 2009): for ratings, for
clicks with sampled negatives (tuned by Rendle, Krichene, Zhang, Anderson, RecSys 2020, arXiv:2005.09683), or pairwise
as BPR (Rendle et al., UAI 2009). U users, I items, D width.

Reads who took what, and values where ratings are learned. Vectors [q_i; b_i] (`ip`); users' [p_u; 1] beside them."""

__all__ = ["MF"]

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from shortlist.config import Count, NonNegative, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import DataError
from shortlist.forms import Built, Vectors
from shortlist.models.blocks.limits import fits, learnable
from shortlist.schema import Catalogue, Schema

Single = NDArray[np.float32]


class MF:
    """y_ui = mu + b_u + b_i + <p_u, q_i>, by `objective`:

    - `logistic`: an event is 1, `negatives` items that the user has not taken are 0, cross-entropy;
    - `squared`: the event values, half the squared error (of repeated events the latest value); no negatives;
    - `bpr`: -ln sigmoid(y_ui - y_uj), `negatives` items j that the user has not taken for each event.

    `reg` is added once an example to every vector and bias it touches (mu is free): frequent users and items are
    regularized more in all, as the loss sum is. mu and b_u are the same for all items of a user: they order nothing and
    are left behind. A user without events of training has no vector and gets nothing; new events do not move it.
    """

    source: ClassVar[str] = "of_user"
    cold_users: ClassVar[bool] = False
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """As tuned for MovieLens-1M by the second paper, at 64 of its 16 to 192 dimensions. `bpr` wants 1 negative and
        a larger step (0.05), `squared` about 20 epochs of 0.01."""

        objective: Literal["logistic", "squared", "bpr"] = "logistic"
        dim: Count = 64
        epochs: Count = 256
        lr: Positive = 0.002
        reg: NonNegative = 0.005
        negatives: Count = 8
        init_std: Positive = 0.1
        seed: Annotated[int, Ge(0)] = 0
        budget_bytes: Count = 4 * 2**30

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.reads: tuple[str, ...] = ("actions",)

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Built:
        """Raises CapacityError with the estimate; DataError on an empty log, without values for `squared`, and where
        the steps were too long."""
        log = interactions.liked(self.schema.weights)
        if self.config.objective == "squared":
            log = log.where(np.isfinite(log.values))
            if len(interactions) and not len(log):
                hint = 'set schema.value, or objective = "logistic"'
                raise DataError("no event has a value", where="mf", hint=hint)
        learnable(log, "mf")
        users, items = len(log.user_keys), len(log.item_keys)
        need, budget = self.estimate(users, items, len(log)), self.config.budget_bytes
        fits(f"{users} users and {items} items", need, budget, "mf", "raise budget_bytes or lower dim")
        model = Factors.start(users, items, self.config)
        for _ in learn(model, log, self.config):
            if not model.sound():
                hint = f"lower lr (it is {self.config.lr:g})"
                raise DataError("the vectors grew beyond all bounds", where="mf", hint=hint)
        of_items = np.hstack([model.items, model.item_bias[:, None]])
        of_users = np.hstack([model.users, np.ones((users, 1), dtype=np.float32)])
        beside = {"users": Vectors(log.user_keys, of_users, "ip")}
        return Built(Vectors(log.item_keys, of_items, "ip"), beside, {"users": "vectors"})

    def estimate(self, users: int, items: int, events: int) -> int:
        """Bytes at the peak: vectors and their copies with the bias, events as columns, sorted and in random order."""
        return 2 * 4 * (self.config.dim + 2) * (users + items) + 40 * events


@dataclass(frozen=True)
class Factors:
    """The parameters, changed in place by `learn`: `mu` [1], biases [U] and [I], vectors [U, D] and [I, D]."""

    mu: Single
    user_bias: Single
    item_bias: Single
    users: Single
    items: Single

    @classmethod
    def start(cls, users: int, items: int, config: MF.Config) -> "Factors":
        """Normal vectors, no biases."""
        rng = np.random.default_rng(config.seed)
        p_UD = config.init_std * rng.standard_normal((users, config.dim), dtype=np.float32)
        q_ID = config.init_std * rng.standard_normal((items, config.dim), dtype=np.float32)
        nothing = np.zeros(1, dtype=np.float32)
        return cls(nothing, np.zeros(users, np.float32), np.zeros(items, np.float32), p_UD, q_ID)

    def sound(self) -> bool:
        """Whether every number is one."""
        return all(bool(np.isfinite(part.sum(dtype=np.float64))) for part in vars(self).values())

    def scores(self) -> NDArray[np.float64]:
        """y [U, I], dense: for small ones."""
        inner = self.users.astype(np.float64) @ self.items.T.astype(np.float64)
        return float(self.mu[0]) + self.user_bias[:, None] + self.item_bias[None, :] + inner


def learn(model: Factors, log: Interactions, config: MF.Config) -> Iterator[float]:
    """Change the model, epoch by epoch: the mean loss of an example before its step."""
    from shortlist.models.blocks import sgd  # loads numba

    x_UI = log.matrix  # its columns ascend in every row
    offsets, items = x_UI.indptr.astype(np.int64), x_UI.indices.astype(np.int32)
    users = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    squared = config.objective == "squared"
    values = _values(log) if squared else np.ones(len(items), dtype=np.float32)
    if squared:
        model.mu[0] = values.mean()
    negatives = 0 if squared else config.negatives
    rng = np.random.default_rng([config.seed, 1])
    state = rng.integers(0, 2**63, 1, dtype=np.uint64)
    lr, reg = np.float32(config.lr), np.float32(config.reg)
    vectors = (model.item_bias, model.users, model.items)
    for _ in range(config.epochs):
        order = rng.permutation(len(items))
        if config.objective == "bpr":
            total = sgd.pairwise(order, users, items, offsets, items, *vectors, negatives, lr, reg, state)
            yield total / (len(items) * negatives)
        else:
            total = sgd.pointwise(
                order, users, items, values, offsets, items, model.mu, model.user_bias, *vectors, not squared,
                negatives, lr, reg, state,
            )  # fmt: skip
            yield total / (len(items) * (1 + negatives))


def _values(log: Interactions) -> Single:
    """The latest value of each pair of the log's matrix, in its order."""
    columns = log.columns
    owners = np.repeat(np.arange(len(log.user_keys)), np.diff(log.offsets))
    order = np.lexsort((np.arange(len(log)), columns, owners))
    last = np.ones(len(order), dtype=bool)
    same = (owners[order][1:] == owners[order][:-1]) & (columns[order][1:] == columns[order][:-1])
    last[:-1] = ~same
    return log.values[order[last]].astype(np.float32)
