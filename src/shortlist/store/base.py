"""Online state by user key: what a user did and was shown of late. R users asked, E events, H events told.

State and the log offset up to which it was read are told together, so that a reader can lay the rest of the log over
it and miss nothing and count nothing twice.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.candidates import Ragged
from shortlist.config import nearest
from shortlist.errors import DataError
from shortlist.schema import Schema

__all__ = ["State", "Entries", "entries", "overlay"]

COLUMNS = ("offset", "user", "item", "action", "time_ms")


class State(NamedTuple):
    """Of each user, oldest first: interactions (weight > 0) and exposures (weight 0), as of the offset of a log, which
    `log` names (`Log.identity`) where that is known."""

    history: Ragged
    shown: Ragged
    offset: int
    log: str = ""


@dataclass(frozen=True)
class Entries:
    """Events as columns [E], sorted by (user, time, offset). All int64 but `actions`, int16 codes of the schema."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    actions: NDArray[np.int16]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, at: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "Entries":
        return Entries(self.users[at], self.items[at], self.times[at], self.actions[at], self.offsets[at])

    def spans(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the events of each asked user, one after the other, and how many each has [R]."""
        low, high = np.searchsorted(self.users, users, "left"), np.searchsorted(self.users, users, "right")
        counts = (high - low).astype(np.int64)
        starts = np.cumsum(counts) - counts
        return np.arange(int(counts.sum())) + np.repeat(low - starts, counts), counts


def entries(frame: pl.DataFrame, schema: Schema, where: str) -> tuple[Entries, int]:
    """Events of a frame, sorted, and how many were left out because the schema does not know their action.

    Raises DataError when a column is missing.
    """
    for name in COLUMNS:
        if name not in frame.columns:
            raise DataError(f"no column is called {name!r}", where=where, hint=nearest(name, frame.columns))
    codes = pl.DataFrame(
        {"action": schema.action_names, "code": range(len(schema.action_names))},
        schema={"action": pl.String, "code": pl.Int16},
    )
    known = frame.select(COLUMNS).with_columns(pl.col("action").cast(pl.String)).join(codes, on="action")
    known = known.sort("user", "time_ms", "offset")
    columns = (known[name].cast(pl.Int64).to_numpy() for name in ("user", "item", "time_ms"))
    users, items, times = columns
    made = Entries(users, items, times, known["code"].to_numpy(), known["offset"].cast(pl.Int64).to_numpy())
    return made, len(frame) - len(known)


def overlay(
    state: State, events: Entries, users: NDArray[np.int64], now: NDArray[np.int64] | int, schema: Schema
) -> State:
    """State with later events of the log laid over it, as if the store had read them: late ones find their place."""
    at, counts = events.spans(users)
    asked = events.take(at)
    owner = np.repeat(np.arange(len(users)), counts)
    due = asked.times <= np.broadcast_to(np.asarray(now, dtype=np.int64), len(users))[owner]
    liked = schema.weights[asked.actions] > 0
    history = _insert(state.history, asked, owner, due & liked)
    shown = _insert(state.shown, asked, owner, due & ~liked)
    return State(history, shown, max([state.offset, *events.offsets.tolist()]))


def _insert(ragged: Ragged, events: Entries, owner: NDArray[np.int64], mask: NDArray[np.bool_]) -> Ragged:
    if not bool(mask.any()):
        return ragged
    owners = np.concatenate([ragged.owners, owner[mask]])
    times = np.concatenate([ragged.times, events.times[mask]])
    # The sort is stable: at equal times what the store holds comes first, as its offsets are smaller.
    order = np.lexsort((times, owners))
    counts = np.bincount(owners, minlength=len(ragged.offsets) - 1)
    return Ragged(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate([ragged.items, events.items[mask]])[order],
        times[order],
        np.concatenate([ragged.actions, events.actions[mask]])[order],
    )
