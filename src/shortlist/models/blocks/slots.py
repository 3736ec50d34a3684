"""A batch as one long sparse row per request and per row: a place for every id of every column, dense value and cross.

R requests, B rows, S slots of a line, N places. A slot is a place and the value there; value 0 is no feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.batch import Batch, Columns, Group, Layout, Side
from shortlist.config import nearest
from shortlist.errors import ConfigError
from shortlist.features.hashing import mix
from shortlist.models.blocks.fields import dense

__all__ = ["Slots", "Coded", "OneHot"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Slots:
    """`places` [n, S] and `values` [n, S]. A place may come twice in a line: its values add up."""

    places: Ints
    values: Floats

    def beside(self, other: "Slots") -> "Slots":
        places = np.concatenate([self.places, other.places], axis=1)
        return Slots(places, np.concatenate([self.values, other.values], axis=1))


@dataclass(frozen=True)
class Coded:
    """Lines of requests [R, S] and of rows [B, S']; `request_of` [B] says which two make an example."""

    request: Slots
    row: Slots
    request_of: Ints

    def beside(self, slots: Slots) -> "Coded":
        """With further slots of rows."""
        return Coded(self.request, self.row.beside(slots), self.request_of)


class OneHot:
    """Place 0 is the bias; then each column has places of its own, whatever vocabulary it shares: an item that was met
    weighs otherwise than the item that is asked about.

    Id 0 is nothing, a dense value and a number of a vector are their own place's value, and the steps of a group's
    channel share a weight of 1. A cross is a tuple of columns (`user.city`, `item.category`), one of which may be a
    channel (`history.item.category`): their ids together are hashed into one of `buckets` places, which all crosses
    share. Raises ConfigError for a cross of what is not there.
    """

    def __init__(self, layout: Layout, crosses: Sequence[Sequence[str]] = (), buckets: int = 0) -> None:
        self.layout, self.buckets = layout, buckets
        self.width = 1
        self.first: dict[tuple[str, ...], int] = {}  # of a column (side, name) or a channel (side, group, channel)
        for name, side in (("request", layout.request), ("row", layout.row)):
            for column, words in side.sparse.items():
                self._take((name, column), layout.vocabularies[words] - 1)
            for group, channels in side.groups.items():
                for channel, words in channels.items():
                    self._take((name, group, channel), layout.vocabularies[words] - 1)
            self._take((name, ""), len(side.dense) + sum(side.vecs.values()))
        self.crosses = tuple(tuple(cross) for cross in crosses)
        self._check()
        if self.crosses:
            self._take(("crosses",), buckets)

    def _take(self, what: tuple[str, ...], places: int) -> None:
        self.first[what] = self.width
        self.width += places

    def _check(self) -> None:
        columns, channels = self._names()
        for cross in self.crosses:
            for name in cross:
                if name not in columns and name not in channels:
                    hint = nearest(name, [*columns, *channels])
                    raise ConfigError(f"no column of ids is called {name!r}", where="rank.crosses", hint=hint)
            if len(cross) < 2 or sum(name in channels for name in cross) > 1:
                what = f"{list(cross)} is no cross"
                hint = "write two columns or more, of which one may be a group's channel"
                raise ConfigError(what, where="rank.crosses", hint=hint)

    def _names(self) -> tuple[dict[str, str], dict[str, tuple[str, str, str]]]:
        """Side of each sparse column, and (side, group, channel) of each channel by the name a cross gives it."""
        sides = (("request", self.layout.request), ("row", self.layout.row))
        columns = {name: of for of, side in sides for name in side.sparse}
        channels = {
            f"{group}.{channel}": (of, group, channel)
            for of, side in sides
            for group, members in side.groups.items()
            for channel in members
        }
        return columns, channels

    def __call__(self, batch: Batch) -> Coded:
        request = self._side("request", batch.request, self.layout.request)
        row = self._side("row", batch.row, self.layout.row)
        n = len(batch)
        row = Slots(np.zeros((n, 1), dtype=np.int64), np.ones((n, 1))).beside(row)
        for number, cross in enumerate(self.crosses):
            row = row.beside(self._crossed(number, cross, batch))
        return Coded(request, row, batch.request_of.numpy())

    def _side(self, name: str, columns: Columns, side: Side) -> Slots:
        n = len(columns)
        places, values = [np.zeros((n, 0), dtype=np.int64)], [np.zeros((n, 0))]
        if side.sparse:
            ids = np.stack([columns[column].numpy() for column in side.sparse], axis=1)
            first = np.array([self.first[name, column] - 1 for column in side.sparse])
            places.append(np.where(ids > 0, ids + first, 0))
            values.append((ids > 0).astype(np.float64))
        for group, channels in side.groups.items():
            share = _share(columns.groups[group])
            for channel in channels:
                ids = columns.groups[group].channels[channel].numpy()
                real = (ids > 0) & (share > 0)
                places.append(np.where(real, ids + (self.first[name, group, channel] - 1), 0))
                values.append(np.where(real, share, 0.0))
        numbers = [dense(columns, side).numpy(), *(columns.vecs[vec].numpy() for vec in side.vecs)]
        value = np.concatenate(numbers, axis=1).astype(np.float64)
        places.append(np.broadcast_to(self.first[name, ""] + np.arange(value.shape[1]), value.shape))
        values.append(value)
        return Slots(np.concatenate(places, axis=1), np.concatenate(values, axis=1))

    def _crossed(self, number: int, cross: tuple[str, ...], batch: Batch) -> Slots:
        """Slots [B, 1], or [B, L] where a channel takes part."""
        columns, channels = self._names()
        request_of = batch.request_of.numpy()
        code = np.full((len(batch), 1), number + 1, dtype=np.uint64)
        value = np.ones((len(batch), 1))
        for name in cross:
            of, key, channel = channels[name] if name in channels else (columns[name], name, "")
            side = batch.request if of == "request" else batch.row
            ids = (side.groups[key].channels[channel] if channel else side[key].unsqueeze(1)).numpy()
            share = _share(side.groups[key]) if channel else np.ones_like(ids, dtype=np.float64)
            if of == "request":
                ids, share = ids[request_of], share[request_of]
            code = mix(code * np.uint64(0x9E3779B97F4A7C15) ^ ids.astype(np.uint64))
            value = value * np.where(ids > 0, share, 0.0)
        places = (code % np.uint64(self.buckets)).astype(np.int64) + self.first["crosses",]
        return Slots(np.broadcast_to(places, value.shape), np.broadcast_to(value, places.shape))


def _share(group: Group) -> Floats:
    """What a step weighs [N, L]: 1 / length, 0 behind it."""
    length = np.maximum(group.length.numpy(), 1)[:, None]
    return np.where(group.mask.numpy(), 1.0 / length, 0.0)
