"""Whole sequences, for models that learn from every step: the input of a step is what came up to it,
its target what came next.

S sequences, B of them in a batch, L steps. A batch is padded to its own longest sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.dataset.interactions import Interactions
from shortlist.errors import DataError
from shortlist.features.assemble import Assembler, pad
from shortlist.features.encoders import Known
from shortlist.schema import FIRST, PAD

__all__ = ["Sequences", "LeftOut"]

Ints = NDArray[np.int64]


class Sequences:
    """`channels` [H] of S sequences one after the other, oldest step first, with `offsets` [S+1]; `item` holds ids.

    Inputs are all steps but the last, targets all but the first, both cut to the last `length`; an unknown item is
    never a target. The last `hold` steps of every sequence are never learned from: `left_out` asks for them. Sequences
    with fewer than two steps besides are skipped. Row columns hold the last target. `layout` is what these batches
    have: channels that a step knows by itself, so no `age`, which belongs to the moment of a request.
    """

    def __init__(
        self, offsets: Ints, channels: Mapping[str, Ints], layout: Layout, length: int = 50, hold: int = 0
    ) -> None:
        """Raises DataError when channels do not fit the offsets, or no sequence is long enough."""
        for name, column in channels.items():
            if len(column) != offsets[-1]:
                what = f"channel {name!r} has {len(column)} steps, offsets end at {int(offsets[-1])}"
                raise DataError(what, where="sequences", hint="give one value a step")
        self.offsets, self.channels, self.layout = offsets, channels, layout
        self.length, self.hold = length, hold
        self.at = np.flatnonzero(np.diff(offsets) - hold >= 2)
        if not len(self.at):
            what = f"none of {len(offsets) - 1} sequences has 2 steps besides the {hold} held out"
            raise DataError(what, where="sequences", hint="lower hold, or give longer ones")

    @classmethod
    def of(cls, interactions: Interactions, assembler: Assembler, length: int = 50, hold: int = 0) -> "Sequences":
        """A sequence per user, ascending by key, of the events that show interest in log order."""
        events = interactions.liked(assembler.schema.weights)
        full = assembler.layout()
        words = {name: word for name, word in full.request.groups["history"].items() if name != "age"}
        steps = assembler.steps(events.histories(events.user_keys))
        return cls(events.offsets, steps, _layout(words, full.vocabularies), length, hold)

    @classmethod
    def lists(
        cls, sequences: Sequence[Sequence[int] | Ints], items: Known | None = None, length: int = 50, hold: int = 0
    ) -> "Sequences":
        """From item keys a sequence, oldest first, as published files have them. Without `items` all of them are
        known."""
        counts = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        keys = np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences]) if len(counts) else counts
        items = items or Known.fit(keys)
        layout = _layout({"item": "item.id"}, {"item.id": len(items)})
        return cls(_offsets(counts), {"item": items(keys)}, layout, length, hold)

    def __len__(self) -> int:
        return len(self.at)

    @property
    def lengths(self) -> Ints:
        """Steps of each row's input [n]: batches of alike ones need little padding."""
        steps: Ints = np.diff(self.offsets)[self.at]
        return np.minimum(steps - self.hold - 1, self.length)

    @property
    def counts(self) -> Ints:
        """Targets of each item by id from 2: what a sampling correction starts from."""
        start, stop = self._span(np.arange(len(self)))
        edges = np.zeros(len(self.channels["item"]) + 1, dtype=np.int64)
        edges[start + 1] += 1  # sequences do not overlap: an edge is one sequence's
        edges[stop + 1] -= 1
        ids = self.channels["item"][np.cumsum(edges[:-1]) > 0]
        return np.bincount(ids[ids >= FIRST] - FIRST, minlength=self.layout.vocabularies["item.id"] - FIRST)

    def batch(self, rows: Ints) -> Batch:
        """Inputs and targets of sequences by place."""
        start, stop = self._span(rows)
        made = _batch(self.channels, start, stop, self.channels["item"][stop])
        _, following = _cut({"item": self.channels["item"]}, start + 1, stop + 1)
        targets = np.where(following["item"] >= FIRST, following["item"], PAD)
        return replace(made, targets=torch.from_numpy(targets))

    def _span(self, rows: Ints) -> tuple[Ints, Ints]:
        """Where the inputs of rows begin and end."""
        stop = self.offsets[self.at[rows] + 1] - self.hold - 1
        return np.maximum(self.offsets[self.at[rows]], stop - self.length), stop

    def left_out(self, back: int = 1) -> "LeftOut":
        """What a model is asked for: the step `back` from the end, after all that came before it."""
        return LeftOut(self, back)


class LeftOut:
    """Inputs up to the step `back` from the end, which is the answer; of sequences with a step before it.

    `at` names them among the S, `answers` [n] holds ids (1: an item that training does not know).
    """

    def __init__(self, sequences: Sequences, back: int = 1) -> None:
        self.sequences, self.back = sequences, back
        self.at = np.flatnonzero(np.diff(sequences.offsets) > back)
        self._stop = sequences.offsets[self.at + 1] - back
        self.answers: Ints = sequences.channels["item"][self._stop]

    def __len__(self) -> int:
        return len(self.at)

    def batch(self, rows: Ints) -> Batch:
        """Requests by place; the row of each is its answer."""
        stop = self._stop[rows]
        start = np.maximum(self.sequences.offsets[self.at[rows]], stop - self.sequences.length)
        return _batch(self.sequences.channels, start, stop, self.answers[rows])


def _layout(words: Mapping[str, str], sizes: Mapping[str, int]) -> Layout:
    return Layout(
        Side(groups={"history": words}),
        Side(sparse={"item.id": "item.id"}),
        {name: sizes[name] for name in dict.fromkeys([*words.values(), "item.id"])},
    )


def _batch(channels: Mapping[str, Ints], start: Ints, stop: Ints, item: Ints) -> Batch:
    request = Columns.of(len(start), groups={"history": _cut(channels, start, stop)})
    return Batch.of(request, Columns.of(len(start), {"item.id": item}), np.arange(len(start)))


def _cut(channels: Mapping[str, Ints], start: Ints, stop: Ints) -> tuple[Ints, Mapping[str, Ints]]:
    """Steps start..stop of each row [B], padded to the longest."""
    counts = stop - start
    offsets = _offsets(counts)
    steps = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], counts)
    return pad(counts, {name: column[steps] for name, column in channels.items()}, int(counts.max(initial=0)))


def _offsets(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
