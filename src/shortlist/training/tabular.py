"""A table ranker on what rankers learn from: rows in order of time in, a fitted ranker and its calibration out.

R requests, B rows, T tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.batch import Batch
from shortlist.models.learned import Learned
from shortlist.models.roles import TableRanker
from shortlist.training.calibrate import corners, isotonic, platt

if TYPE_CHECKING:
    from shortlist.training.rankers import Units

__all__ = ["InTime", "fit_table", "as_probabilities"]

AT_ONCE = 256  # units that become one batch


@dataclass(frozen=True)
class InTime:
    """All units as batches, in order of the moments of their requests, the same each time."""

    units: "Units"

    def __iter__(self) -> Iterator[Batch]:
        order = np.argsort(self.moments(), kind="stable")
        for at in range(0, len(order), AT_ONCE):
            yield self.units.batch(order[at : at + AT_ONCE])

    def moments(self) -> NDArray[np.int64]:
        """When the request of each unit was made."""
        blocks = np.array_split(np.arange(len(self.units)), -(-len(self.units) // AT_ONCE))
        return np.concatenate([self.units.examples(block).requests.now for block in blocks])


def fit_table(ranker: TableRanker, learned_on: "Units", held: "Units", seed: int, threads: int) -> dict[str, float]:
    """Fit the ranker where it stands. Returns what it tells of itself."""
    return ranker.fit(InTime(learned_on), InTime(held), seed=seed, threads=threads)


def as_probabilities(learned: Learned, held: "Units", how: Literal["platt", "isotonic", "none"]) -> Learned:
    """With a map to probabilities for each task that has none, fitted on the held rows that carry its label: margins
    are no log-odds. A task with one class among them stays as it was learned."""
    if how == "none":
        return learned
    lines, steps = dict(learned.platt), dict(learned.steps)
    parts = []
    for batch in InTime(held):
        assert batch.labels is not None
        assert batch.valid is not None
        weight = np.ones(len(batch)) if batch.weights is None else batch.weights.numpy()
        z = np.stack([logit.numpy() for logit in learned.model(batch).values()], axis=1)
        parts.append((z, batch.labels.numpy(), batch.valid.numpy(), weight))
    z, label, valid, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    for n, task in enumerate(learned.layout.tasks):
        mine = valid[:, n] & (weight > 0)
        y = label[mine, n] > 0
        if task in (*lines, *steps) or not y.any() or y.all():
            continue
        if how == "platt":
            found = platt(z[mine, n], y, weight[mine])
            lines[task] = (found.a, found.b)
        else:
            steps[task] = corners(isotonic(z[mine, n], y, weight[mine]))
    return replace(learned, platt=lines, steps=steps)
