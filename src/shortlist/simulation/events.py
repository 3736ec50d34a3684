"""What a world yields: a block of its log, as columns in order of time. E events."""

__all__ = ["Events"]

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from shortlist.dataset.interactions import Interactions
from shortlist.simulation.truth import IMPRESSION

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """`users`, `items` keys, `times` ms, `actions` codes of `truth.ACTIONS`, `values` (seconds watched, of clicks;
    NaN), `requests` (the slate it answers; -1 when the user came without one), `positions` in it from 1 (0),
    `propensities` (of impressions; NaN), `devices` codes of `ground.DEVICES`: the context of the request. All [E].
    """

    users: Ints
    items: Ints
    times: Ints
    actions: NDArray[np.int16]
    values: NDArray[np.float32]
    requests: Ints
    positions: NDArray[np.int16]
    propensities: NDArray[np.float32]
    devices: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def empty(cls) -> "Events":
        none = np.zeros(0, dtype=np.int64)
        short, real = none.astype(np.int16), none.astype(np.float32)
        return cls(none, none, none, short, real, none, short, real, none.astype(np.int8))

    @classmethod
    def joined(cls, parts: "list[Events]") -> "Events":
        """One behind the other, as they come."""
        if len(parts) == 1:
            return parts[0]
        parts = parts or [cls.empty()]
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def take(self, at: "NDArray[np.int64] | slice") -> "Events":
        """Rows at these places."""
        return Events(*(getattr(self, f.name)[at] for f in fields(self)))

    def in_time(self) -> "Events":
        """Ordered by time; of one moment, as they are."""
        return self.take(np.argsort(self.times, kind="stable"))

    def interactions(self) -> Interactions:
        """Everything but impressions, with codes of `truth.ACTIONS`."""
        at = np.flatnonzero(self.actions != IMPRESSION)
        some = self.take(at)
        return Interactions.of(some.users, some.items, some.times, some.actions, some.values)
