"""Requests and candidates become a Batch: the same code offline and online, a gather per column.

R requests, N candidates, L steps of history. The catalogue is encoded once; nothing is encoded per request but its own
context. Fields of kind `text` are left out: they become `vec` in training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.batch import Batch, Columns
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.features.encoders import HOURS, Buckets, Encoders, lists
from shortlist.schema import FIRST, UNKNOWN, Catalogue, Entity, Schema

__all__ = ["Assembler"]

HOUR_MS = 3_600_000
AGE = Buckets(HOURS)
Padded = tuple[NDArray[np.int64], Mapping[str, NDArray[np.int64]]]


@dataclass
class Table:
    """Encoded fields of N entities; row N, behind the last, holds the defaults of an entity without a profile."""

    sparse: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    dense: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    groups: dict[str, Padded] = field(default_factory=dict)
    vecs: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    times: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def take(self, rows: NDArray[np.int64], now: NDArray[np.int64]) -> "Table":
        """Fields of entities by row (-1: the defaults); times become ages at `now`, in buckets."""
        ages = {name: AGE((now - times[rows]) / HOUR_MS) for name, times in self.times.items()}
        return Table(
            {name: column[rows] for name, column in self.sparse.items()} | ages,
            {name: column[rows] for name, column in self.dense.items()},
            {
                name: (length[rows], {key: channel[rows] for key, channel in channels.items()})
                for name, (length, channels) in self.groups.items()
            },
            {name: vec[rows] for name, vec in self.vecs.items()},
        )

    def columns(self, n: int) -> Columns:
        return Columns.of(n, self.sparse, self.dense, self.groups, self.vecs)


class Assembler:
    """Batches under one schema and one set of fitted encoders, for one catalogue. `history` is the L kept.

    Request columns: `user.id`, the fields of users and of the context, and the group `history` (channels `item`,
    `action`, `age` and each sparse item field). Row columns: `item.id`, the fields of items, and `recall.<channel>`,
    1 / rank in that channel (0: it did not bring the item).
    """

    def __init__(self, schema: Schema, encoders: Encoders, catalogue: Catalogue, history: int = 50) -> None:
        self.schema = schema
        self.encoders = encoders
        self.history = history
        self.users, self.items = catalogue.users, catalogue.items
        self._users = self._encode("user", self.users.columns, len(self.users))
        self._items = self._encode("item", self.items.columns, len(self.items))

    def __call__(self, requests: Requests, candidates: Candidates) -> Batch:
        """All candidates as rows, in their order. Unknown users, items and values get defaults and never raise."""
        return Batch.of(self.requests(requests), self.rows(candidates, requests.now), candidates.owners)

    def requests(self, requests: Requests) -> Columns:
        """Request columns [R]."""
        table = self._users.take(self.users.rows(requests.users), requests.now)
        asked = {name: requests.context[name] for name in self.schema.context if name in requests.context}
        here = self._encode("context", asked, len(requests)).take(np.arange(len(requests)), requests.now)
        table.sparse = {"user.id": self.encoders.users(requests.users), **table.sparse, **here.sparse}
        table.dense |= here.dense
        table.groups |= here.groups | {"history": self._history(requests.history, requests.now)}
        table.vecs |= here.vecs
        return table.columns(len(requests))

    def rows(self, candidates: Candidates, now: NDArray[np.int64]) -> Columns:
        """Row columns [N] at the time of each candidate's request."""
        table = self._items.take(self.items.rows(candidates.items), now[candidates.owners])
        table.sparse = {"item.id": self.encoders.items(candidates.items), **table.sparse}
        rank = candidates.rank.astype(np.float32)
        brought = np.divide(1.0, rank, out=np.zeros_like(rank), where=rank > 0)
        table.dense |= {f"recall.{name}": brought[:, n] for n, name in enumerate(candidates.channels)}
        return table.columns(len(candidates))

    def _history(self, events: Ragged, now: NDArray[np.int64]) -> Padded:
        """The latest L events of each request, oldest first."""
        events = events.last(self.history)
        rows = self.items.rows(events.items)
        channels = {
            "item": self.encoders.items(events.items),
            "action": events.actions.astype(np.int64) + FIRST,
            "age": AGE((now[events.owners] - events.times) / HOUR_MS),
        }
        for name, declared in self.schema.items.items():
            if declared.kind == "sparse":
                channels[f"item.{name}"] = self._items.sparse[f"item.{name}"][rows]
        return pad(np.diff(events.offsets), channels, self.history)

    def _encode(self, entity: Entity, columns: Mapping[str, NDArray[Any]], n: int) -> Table:
        """The declared fields of n entities, with one more row of defaults. An absent column is all defaults."""
        table, fitted = Table(), self.encoders
        missing = np.full(n, np.nan)
        for name, declared in self.schema.fields(entity).items():
            full = f"{entity}.{name}"
            column = columns.get(name, missing)
            if declared.kind == "sparse":
                vocabulary = fitted.vocabularies.get(self.schema.vocab_of(entity, name))
                ids = vocabulary.encode(column) if vocabulary else np.full(n, UNKNOWN)
                table.sparse[full] = np.append(ids, UNKNOWN)
            elif declared.kind in ("varlen", "seq"):
                vocabulary = fitted.vocabularies.get(self.schema.vocab_of(entity, name))
                lengths, flat = lists(column)
                ids = vocabulary.encode(flat) if vocabulary else np.full(len(flat), UNKNOWN)
                table.groups[full] = pad(np.append(lengths, 0), {"value": ids}, fitted.widths.get(full, 1))
            elif declared.kind == "dense" and declared.buckets:
                bucket = fitted.buckets.get(full, Buckets(()))
                table.sparse[full] = np.append(bucket(column), UNKNOWN)
            elif declared.kind == "dense":
                scale = fitted.scales.get(full)
                values = scale(column) if scale else np.zeros(n, dtype=np.float32)
                table.dense[full] = np.append(values, np.float32(0))
            elif declared.kind == "vec":
                table.vecs[full] = _vectors(column, n, fitted.widths.get(full, 0))
            elif declared.kind == "time":
                times = np.array([np.nan if v is None else v for v in column], dtype=np.float64)
                table.times[full] = np.append(times, np.nan)
        return table


def pad(lengths: NDArray[np.int64], channels: Mapping[str, NDArray[np.int64]], width: int) -> Padded:
    """Flat channels as [N, width], right padded with 0; a longer row keeps its first values."""
    ends = np.cumsum(lengths)
    place = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    owner, kept = np.repeat(np.arange(len(lengths)), lengths), place < width
    out = {}
    for name, channel in channels.items():
        out[name] = np.zeros((len(lengths), width), dtype=np.int64)
        out[name][owner[kept], place[kept]] = channel[kept]
    return np.minimum(lengths, width), out


def _vectors(column: NDArray[Any], n: int, width: int) -> NDArray[np.float32]:
    """Content vectors [n + 1, width]; a missing one, and one of another width, is zero."""
    out = np.zeros((n + 1, width), dtype=np.float32)
    if column.dtype == object:
        fits = np.array([v is not None and len(v) == width for v in column], dtype=bool)
        if fits.any():
            out[np.flatnonzero(fits)] = np.stack([np.asarray(v, dtype=np.float32) for v in column[fits]])
    return out
