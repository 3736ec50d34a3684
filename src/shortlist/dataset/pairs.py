"""Retrieval examples: an item someone took, and the request they would have made just before.

E events, n examples, L steps of history. Histories are slices of the sorted log: nothing is copied per example but the
events of its batch.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from shortlist.batch import Batch
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.errors import DataError
from shortlist.features.assemble import Assembler
from shortlist.schema import FIRST

__all__ = ["Pairs"]


class Pairs:
    """One example per event that shows interest, has `min_history` such events before it and an item training knows.

    An example is a request at the event's time with the `last` events before it, the item as its row, and the action's
    weight. Before means strictly earlier: what a log writes at one moment (a click and its like, ratings sent as one
    form) came from one page, its order inside says nothing, and half of it would give away the other. A log without
    times has only its order: `ties = "log"`. `where` [E] says which events may be examples, the rest being history
    alone; `context` holds columns [E] of requests by name, by default those of the log. `known` answers for the
    project's features.
    """

    def __init__(
        self,
        interactions: Interactions,
        assembler: Assembler,
        last: int = 50,
        min_history: int = 1,
        *,
        ties: Literal["time", "log"] = "time",
        where: NDArray[np.bool_] | None = None,
        context: Mapping[str, NDArray[Any]] | None = None,
        known: Any = None,
    ) -> None:
        """Raises DataError when no event is left to learn from."""
        self.assembler, self.last, self.known = assembler, last, known
        interest = assembler.schema.weights[interactions.actions] > 0
        self.events = interactions.where(interest)
        columns = interactions.context if context is None else context
        self.context = {name: column[interest] for name, column in columns.items()}
        places = np.arange(len(self.events))
        turn = np.ones(len(self.events), dtype=bool)
        turn[1:] = self.events.users[1:] != self.events.users[:-1]
        self._start = np.maximum.accumulate(np.where(turn, places, 0))
        if ties == "time":
            turn[1:] |= self.events.times[1:] != self.events.times[:-1]
            self._stop = np.maximum.accumulate(np.where(turn, places, 0))
        else:
            self._stop = places
        ids = assembler.encoders.items(self.events.items)
        fit = (self._stop - self._start >= min_history) & (ids >= FIRST)
        if where is not None:
            fit &= where[interest]
        self.at = np.flatnonzero(fit)
        if not len(self.at):
            what = f"none of {len(self.events)} events has {min_history} earlier ones and a known item"
            raise DataError(what, where="pairs", hint='lower min_history, or set ties = "log" for a log without times')
        self.ids = ids[self.at]

    def __len__(self) -> int:
        return len(self.at)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Examples of each item by id from 2: what a sampling correction starts from."""
        return np.bincount(self.ids - FIRST, minlength=len(self.assembler.encoders.items) - FIRST)

    def requests(self, rows: NDArray[np.int64]) -> Requests:
        """The request of each example [R]."""
        at = self.at[rows]
        stop = self._stop[at]
        start = np.maximum(self._start[at], stop - self.last)
        offsets = np.concatenate([[0], np.cumsum(stop - start)]).astype(np.int64)
        steps = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], stop - start)
        log, none = self.events, Ragged.empty(len(at))
        history = Ragged(offsets, log.items[steps], log.times[steps], log.actions[steps])
        context = {name: column[at] for name, column in self.context.items()}
        return Requests(log.users[at], log.times[at], 1, history, none, none, context, known=self.known)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Examples by place, one request and one row each, with weights."""
        at = self.at[rows]
        one = Candidates.empty(len(at))
        items, fate = self.events.items[at], np.zeros(len(at), dtype=np.int16)
        wide = np.zeros((len(at), 0), dtype=np.int32)
        taken = replace(
            one, offsets=np.arange(len(at) + 1), items=items, rank=wide, score=wide.astype(np.float32), fate=fate
        )
        weights = self.assembler.schema.weights[self.events.actions[at]]
        return replace(self.assembler(self.requests(rows), taken), weights=torch.from_numpy(weights))
