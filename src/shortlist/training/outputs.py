"""What a ranker's outputs need beside weights to be served: the longest time that counts, usual completion by length,
and what sampling and class weights did to logits. Fitted on the rows that are learned from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist.dataset.ranking import Examples
from shortlist.errors import DataError
from shortlist.models.learned import Learned
from shortlist.models.lengths import Length
from shortlist.schema import Profiles
from shortlist.training.calibrate import corners, falling, undo_shift
from shortlist.training.objectives.bce import Bce

__all__ = ["labelled", "caps", "lengths", "unshifted"]

UNITS = 4_096  # requests whose rows are put together at once

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rows = Mapping[str, tuple[Ints, Floats]]
"""Items and labels [N] of the rows that carry a task's label, by task."""


class Units(Protocol):
    """Rows by place, as rankers learn from them."""

    tasks: tuple[str, ...]

    def __len__(self) -> int: ...

    def examples(self, rows: Ints) -> Examples: ...


def labelled(units: Units, tasks: Sequence[str]) -> Rows:
    """All rows of some tasks."""
    parts: dict[str, list[tuple[Ints, NDArray[np.float32]]]] = {task: [] for task in tasks}
    for at in range(0, len(units) if tasks else 0, UNITS):
        made = units.examples(np.arange(at, min(at + UNITS, len(units))))
        for task in parts:
            n = units.tasks.index(task)
            valid = made.valid[:, n]
            parts[task].append((made.candidates.items[valid], made.labels[valid, n]))
    return {
        task: (np.concatenate([items for items, _ in found]), np.concatenate([y for _, y in found]).astype(np.float64))
        for task, found in parts.items()
    }


def caps(rows: Rows, loss: Bce.Config) -> dict[str, float]:
    """The percentile of the times watched, by task of `loss.watch`; 0 where nobody watched."""
    some = {task: rows[task][1][rows[task][1] > 0] for task in loss.watch}
    return {task: float(np.percentile(t, loss.percentile)) if len(t) else 0.0 for task, t in some.items()}


def lengths(rows: Rows, loss: Bce.Config, items: Profiles) -> dict[str, Length]:
    """Usual completion by log length, by task of `loss.length`. Raises DataError where no item has a length."""
    out = {}
    for task, name in loss.length.items():
        keys, y = rows[task]
        long = items.take(name, keys, np.nan).astype(np.float64)
        known = long > 0
        if not known.any():
            what = f"none of {len(keys)} rows of training has a {name} above 0"
            raise DataError(what, where=f"task {task}", hint="fill the column, or take it out of loss.length")
        out[task] = Length(name, corners(falling(np.log(long[known]), y[known])), float(y[known].mean()))
    return out


def unshifted(learned: Learned, loss: Bce.Config) -> Learned:
    """With what `loss.kept` and `loss.class_weights` did to the logits undone, of tasks that nothing was fitted for: a
    fitted map has seen to it."""
    shifts = {
        task: undo_shift(loss.kept.get(task, 1.0), loss.class_weights.get(task, 1.0))
        for task in (*loss.kept, *loss.class_weights)
        if task not in learned.platt and task not in learned.steps
    }
    return replace(learned, platt={**learned.platt, **{task: (1.0, shift) for task, shift in shifts.items()}})
