"""FTRL-Proximal: logistic regression online, a rate of its own for every weight (McMahan et al., KDD 2013).

T tasks, N places, B rows. Of each place two numbers are kept, z and n; the weight follows from them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.batch import Batch
from shortlist.config import Count, NonNegative, Positive, frozen
from shortlist.errors import ArtifactError
from shortlist.models.blocks.slots import Coded, Floats

__all__ = ["Ftrl"]

Code = Callable[[Batch], Sequence[Coded]]  # the lines of a batch as each task reads them


class Ftrl:
    """g = (p - y) x; sigma = (sqrt(n + g^2) - sqrt(n)) / alpha; z += g - sigma w; n += g^2, and

    w = 0 where |z| <= l1, else -(z - sgn(z) l1) / ((beta + sqrt(n)) / alpha + l2). `z`, `n`, `w` float64 [T, N].
    """

    @frozen
    class Config:
        """More than one of `epochs` keep the weights of the least held log loss."""

        alpha: Positive = 0.1
        beta: NonNegative = 1.0
        l1: NonNegative = 1.0
        l2: NonNegative = 1.0
        epochs: Count = 1

    def __init__(self, config: Config, tasks: int, width: int) -> None:
        self.config = config
        self.z, self.n, self.w = np.zeros((tasks, width)), np.zeros((tasks, width)), np.zeros((tasks, width))

    def weights(self) -> Floats:
        """w as z and n have it."""
        c = self.config
        rate = (c.beta + np.sqrt(self.n)) / c.alpha + c.l2
        there = (np.abs(self.z) > c.l1) & (rate > 0)
        return np.divide(np.sign(self.z) * c.l1 - self.z, rate, out=np.zeros_like(self.z), where=there)

    def start(self, task: int, first: int, weights: Floats) -> None:
        """Set the weights of places from `first` on that nothing was learned of."""
        c, at = self.config, slice(first, first + len(weights))
        self.z[task, at] = -weights * (c.beta / c.alpha + c.l2) - np.sign(weights) * c.l1
        self.n[task, at] = 0.0
        self.w = self.weights()

    def fit(self, train: Iterable[Batch], held: Iterable[Batch], code: Code) -> None:
        """Go over the rows in their order, once or `epochs` times."""
        best, kept = np.inf, self.arrays()
        for _ in range(self.config.epochs):
            for batch in train:
                for task, coded in enumerate(code(batch)):
                    self.learn(task, coded, batch)
            self.w = self.weights()
            if self.config.epochs > 1 and (loss := self.loss(held, code)) < best:
                best, kept = loss, {name: array.copy() for name, array in self.arrays().items()}
        self.take(kept)

    def learn(self, task: int, coded: Coded, batch: Batch) -> float:
        """One pass over the rows, in their order, that carry the task's label. Returns the sum of their log losses,
        each before its row was learned; `w` stays behind."""
        from shortlist.models.blocks import ftrl_pass  # loads numba

        y, weight = _labels(batch, task)
        c, request, row = self.config, coded.request, coded.row
        total: float = ftrl_pass.learn(
            self.z[task], self.n[task], np.zeros(self.z.shape[1]), coded.request_of, request.places, request.values,
            row.places, row.values, y, weight, c.alpha, c.beta, c.l1, c.l2,
        )  # fmt: skip
        return total

    def score(self, lines: Sequence[Coded]) -> list[Floats]:
        """<w, x> [B] by task; what belongs to a request is added up once."""
        out = []
        for w, coded in zip(self.w, lines, strict=True):
            asked = np.einsum("rs,rs->r", w[coded.request.places], coded.request.values)
            out.append(np.einsum("bs,bs->b", w[coded.row.places], coded.row.values) + asked[coded.request_of])
        return out

    def loss(self, batches: Iterable[Batch], code: Code) -> float:
        """Sum of the log losses of labelled rows, over all tasks."""
        total = 0.0
        for batch in batches:
            for task, z in enumerate(self.score(code(batch))):
                y, weight = _labels(batch, task)
                total += float((weight * (np.logaddexp(0, z) - y * z)).sum())
        return total

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept of it, enough to go on learning."""
        return {"z": self.z, "n": self.n}

    def take(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Stand where `arrays` were kept. Raises ArtifactError for those of another width."""
        if any(arrays[name].shape != self.z.shape for name in ("z", "n")):
            what = f"weights {arrays['z'].shape} for {self.z.shape[0]} tasks and {self.z.shape[1]} places"
            raise ArtifactError(what, hint="train and publish again")
        self.z, self.n = np.array(arrays["z"]), np.array(arrays["n"])
        self.w = self.weights()


def _labels(batch: Batch, task: int) -> tuple[Floats, Floats]:
    """Labels and weights [B] of a task; rows without its label have weight 0."""
    assert batch.labels is not None
    weight = np.ones(len(batch)) if batch.weights is None else batch.weights.numpy().astype(np.float64)
    if batch.valid is not None:
        weight = np.where(batch.valid[:, task].numpy(), weight, 0.0)
    return np.where(weight > 0, batch.labels[:, task].numpy(), 0.0).astype(np.float64), weight
