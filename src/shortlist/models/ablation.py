"""What single features are worth to a trained ranker: batches in which one is blank, or shuffled.

A feature is a field, a group or a counter by its column's name; the two columns of a recall channel (its rank and its
score) are one. R requests, B rows, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.batch import Batch, Columns, Group, Layout
from shortlist.candidates import Candidates, Requests
from shortlist.features.encoders import LIVE, PLACE
from shortlist.schema import PAD, UNKNOWN

if TYPE_CHECKING:
    from shortlist.models.learned import Learned

Part = Tensor | Group

__all__ = ["Feature", "features", "ablated", "answers", "blank", "shuffled"]

RECALLED = ("recall.", "recall_score.")
PLACED = f"{LIVE}{PLACE}"


@dataclass(frozen=True)
class Feature:
    """Columns of one side of a batch that say one thing."""

    name: str
    side: Literal["request", "row"]
    columns: tuple[str, ...]


def features(layout: Layout) -> tuple[Feature, ...]:
    """Every feature that a model of this layout reads: those of requests first, in the order of columns."""
    found: dict[tuple[Literal["request", "row"], str], list[str]] = {}
    sides: tuple[tuple[Literal["request", "row"], Any], ...] = (("request", layout.request), ("row", layout.row))
    for side, columns in sides:
        for column in (*columns.sparse, *columns.groups, *columns.dense, *columns.vecs):
            prefix = next((p for p in RECALLED if column.startswith(p)), "")
            name = f"recall.{column.removeprefix(prefix)}" if prefix else column
            found.setdefault((side, name), []).append(column)
    return tuple(Feature(name, side, tuple(columns)) for (side, name), columns in found.items())


def blank(batch: Batch, feature: Feature, at: Tensor) -> Batch:
    """The batch, the feature's columns at positions `at` of its side as of what is not known: a stranger's id, no
    steps, a number at its mean (0), a channel that did not bring the item."""
    return _changed(batch, feature, lambda name, part: _blank(name, part, at))


def shuffled(batch: Batch, feature: Feature, order: Tensor) -> Batch:
    """The batch, the feature's columns in another order [R] or [B]."""
    return _changed(batch, feature, lambda name, part: _take(part, order))


def answers(learned: "Learned", batch: Batch, candidates: Candidates) -> dict[str, NDArray[np.float32]]:
    """A ranker's probabilities (or values) [B] by task, of a batch made already; a coarse one keeps no items for it,
    and its module answers: another runtime is made for those that are kept."""
    given: Any = Made(learned.assembler, batch)
    asked: Any = None  # the batch is there already
    runtime = learned.runtime if learned.items is None else None
    return replace(learned, assembler=given, items=None, runtime=runtime).score(asked, candidates)


def ablated(
    learned: "Learned", requests: Requests, candidates: Candidates
) -> tuple[tuple[str, ...], dict[str, NDArray[np.float32]], Candidates]:
    """One candidate of one request with each of its features blank in turn: their names [F], the tasks' answers
    [F + 1], the first of them with nothing blank, and the candidate as often."""
    if len(requests) != 1 or len(candidates) != 1:
        raise ValueError(f"one candidate of one request, got {len(candidates)} of {len(requests)}")
    known = features(learned.layout)
    n = len(known) + 1
    one = learned.assembler(requests, candidates)
    every = torch.zeros(n, dtype=torch.long)
    batch = Batch(one.request.take(every), one.row.take(every), torch.arange(n))
    for k, feature in enumerate(known, start=1):
        batch = blank(batch, feature, torch.tensor([k]))
    many = replace(
        candidates,
        offsets=np.arange(n + 1, dtype=np.int64),
        items=np.repeat(candidates.items, n),
        rank=np.repeat(candidates.rank, n, axis=0),
        score=np.repeat(candidates.score, n, axis=0),
        scores={name: np.repeat(column, n) for name, column in candidates.scores.items()},
        fate=np.repeat(candidates.fate, n),
    )
    return tuple(feature.name for feature in known), answers(learned, batch, many), many


class Made:
    """An assembler whose batch is made already."""

    def __init__(self, assembler: Any, batch: Batch) -> None:
        self._assembler, self._batch = assembler, batch

    def __call__(self, requests: Requests, candidates: Candidates) -> Batch:
        return self._batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._assembler, name)


def _changed(batch: Batch, feature: Feature, change: Any) -> Batch:
    if feature.side == "request":
        return replace(batch, request=_with(batch.request, feature.columns, change))
    return replace(batch, row=_with(batch.row, feature.columns, change))


def _with(columns: Columns, names: Sequence[str], change: Any) -> Columns:
    """Columns, those of these names changed."""
    sparse, dense = columns.sparse, columns.dense
    groups, vecs = dict(columns.groups), dict(columns.vecs)
    for name in names:
        if name in columns.sparse_names:
            at = columns.sparse_names.index(name)
            sparse = sparse.clone()
            sparse[:, at] = change(name, sparse[:, at])
        elif name in columns.dense_names:
            at = columns.dense_names.index(name)
            dense = dense.clone()
            dense[:, at] = change("", dense[:, at])
        elif name in groups:
            groups[name] = change("", groups[name])
        elif name in vecs:
            vecs[name] = change("", vecs[name])
    return replace(columns, sparse=sparse, dense=dense, groups=groups, vecs=vecs)


def _blank(name: str, part: Part, at: Tensor) -> Part:
    if isinstance(part, Group):
        length = part.length.clone()
        length[at] = 0
        channels = {key: channel.clone() for key, channel in part.channels.items()}
        for channel in channels.values():
            channel[at] = PAD
        return Group(length, channels)
    out = part.clone()
    out[at] = (PAD if name == PLACED else UNKNOWN) if name else 0
    return out


def _take(part: Part, order: Tensor) -> Part:
    return part.take(order) if isinstance(part, Group) else part[order]
