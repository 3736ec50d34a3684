"""Requests and candidates become a Batch: the same code offline and online, a gather per column.

R requests, N candidates, L steps of history. The catalogue is encoded once; nothing is encoded per request but its own
context. Fields of kind `text` are left out: they become `vec` in training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.features.base import Rows
from shortlist.features.encoders import HOURS, LIVE, MERGED, PLACE, Buckets, Encoders, lists, numbers
from shortlist.features.featureset import FeatureSet
from shortlist.schema import ENTITIES, FIRST, PAD, UNKNOWN, Catalogue, Entity, Field, Schema

__all__ = ["Assembler"]

HOUR_MS = 3_600_000
AGE = Buckets(HOURS)
PLACES = Buckets((2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 21.0, 51.0))  # 1 to 10 each, then further down
Padded = tuple[NDArray[np.int64], Mapping[str, NDArray[np.int64]]]
Declared = Mapping[str, tuple[str, Field, str]]  # column of a batch -> raw column, field, vocabulary


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

    def join(self, other: "Table") -> None:
        """Take in the columns of another table of the same rows."""
        self.sparse |= other.sparse
        self.dense |= other.dense
        self.groups |= other.groups
        self.vecs |= other.vecs

    def columns(self, n: int) -> Columns:
        return Columns.of(n, self.sparse, self.dense, self.groups, self.vecs)


class Assembler:
    """Batches under one schema and one set of fitted encoders, for one catalogue. `history` is the L kept.

    Request columns: `user.id`, the fields of users and of the context, and the group `history` (channels `item`,
    `action`, `age` and each sparse item field). Row columns: `item.id`, the fields of items, and for each channel
    `recall.<channel>`, 1 / rank, and `recall_score.<channel>`, its score scaled as in training; both are 0 where it did
    not bring the item. `recall_score.merge` is the merge's, its training mean where there is none.

    Where training knew the place of rows on their page, `live.position` is its bucket: 0, no information, when nothing
    has a place yet.

    Columns of `features` are `live.<column>` on either side, as `requests.known` answers for them; where nobody does,
    they have their defaults.
    """

    def __init__(
        self,
        schema: Schema,
        encoders: Encoders,
        catalogue: Catalogue,
        history: int = 50,
        features: FeatureSet | None = None,
    ) -> None:
        self.schema = schema.encoded()
        self.encoders = encoders
        self.history = history
        self.features = features or FeatureSet()
        self.users, self.items = catalogue.users, catalogue.items
        self._users = self._encode(self._fields("user"), self.users.columns, len(self.users))
        self._items = self._encode(self._fields("item"), self.items.columns, len(self.items))

    def __call__(self, requests: Requests, candidates: Candidates) -> Batch:
        """All candidates as rows, in their order. Unknown users, items and values get defaults and never raise."""
        made = Batch.of(self.requests(requests), self.rows(candidates, requests), candidates.owners)
        return replace(made, now=torch.from_numpy(requests.now))

    def bare(self, requests: Requests, candidates: Candidates) -> Batch:
        """As a call, with `user.row` and `item.row` in place of the columns of `sides`: what a file keeps."""
        request, row = self.requests(requests, bare=True), self.rows(candidates, requests, bare=True)
        return Batch.of(request, row, candidates.owners)

    def sides(self) -> dict[str, Columns]:
        """Fields of users and items that do not change with time, one line an entity, the last one the defaults."""
        tables = {"user.row": (self._users, len(self.users)), "item.row": (self._items, len(self.items))}
        return {name: replace(table, times={}).columns(n + 1) for name, (table, n) in tables.items()}

    def layout(self, channels: Sequence[str] = (), tasks: Sequence[str] = ()) -> Layout:
        """What a model for these batches is built for, with candidates of these recall channels."""
        user, context, item = (self._side(self._fields(entity)) for entity in ("user", "context", "item"))
        asked, live = (self._side(self._live(side)) for side in ("request", "row"))
        history = {"item": "item.id", "action": "history.action", "age": "history.age"}
        history |= {f"item.{n}": self.schema.vocab_of("item", n) for n, f in self._sparse_items()}
        request = Side(
            {"user.id": "user.id", **user.sparse, **context.sparse, **asked.sparse},
            (*user.dense, *context.dense, *asked.dense),
            {**user.groups, **context.groups, "history": history, **asked.groups},
            {**user.vecs, **context.vecs, **asked.vecs},
        )
        recalled = tuple(f"{what}.{name}" for name in channels for what in ("recall", "recall_score"))
        recalled += (MERGED,) if channels else ()
        place = {f"{LIVE}{PLACE}": f"{LIVE}{PLACE}"} if self.encoders.placed else {}
        row = Side(
            {"item.id": "item.id", **item.sparse, **place, **live.sparse},
            (*item.dense, *recalled, *live.dense),
            {**item.groups, **live.groups},
            {**item.vecs, **live.vecs},
        )
        groups = [*request.groups.values(), *row.groups.values()]
        used = [*request.sparse.values(), *row.sparse.values(), *(v for g in groups for v in g.values())]
        sizes = self._sizes()
        return Layout(request, row, {name: sizes.get(name, FIRST) for name in dict.fromkeys(used)}, tuple(tasks))

    def requests(self, requests: Requests, *, bare: bool = False) -> Columns:
        """Request columns [R]."""
        table = self._entities("user", requests.users, requests.now, bare)
        asked = {name: requests.context[name] for name in self.schema.context if name in requests.context}
        rows = np.arange(len(requests))
        table.join(self._encode(self._fields("context"), asked, len(requests)).take(rows, requests.now))
        table.groups["history"] = self._history(requests.history, requests.now)
        table.join(self._asked("request", Rows(requests, rows, None)))
        return table.columns(len(requests))

    def rows(self, candidates: Candidates, requests: Requests, *, bare: bool = False) -> Columns:
        """Row columns [N] at the time of each candidate's request."""
        table = self._entities("item", candidates.items, requests.now[candidates.owners], bare)
        for n, name in enumerate(candidates.channels):
            rank, score = candidates.rank[:, n].astype(np.float32), candidates.score[:, n]
            table.dense[f"recall.{name}"] = np.divide(1.0, rank, out=np.zeros_like(rank), where=rank > 0)
            full = f"recall_score.{name}"
            scale = self.encoders.scales.get(full)
            scaled = scale(score) if scale else score.astype(np.float32)
            table.dense[full] = np.where((rank > 0) & np.isfinite(scaled), scaled, np.float32(0))
        if candidates.channels:
            merged = candidates.scores.get("merge", np.full(len(candidates), np.nan, dtype=np.float32))
            scale = self.encoders.scales.get(MERGED)
            table.dense[MERGED] = scale(merged) if scale else np.nan_to_num(merged)
        if self.encoders.placed:
            nowhere = np.full(len(candidates), np.nan, dtype=np.float32)
            place = candidates.scores.get(PLACE, nowhere)
            table.sparse[f"{LIVE}{PLACE}"] = np.where(np.isfinite(place), PLACES(place), PAD)
        table.join(self._asked("row", Rows(requests, candidates.owners, candidates.items)))
        return table.columns(len(candidates))

    def entries(self, keys: NDArray[np.int64], now: NDArray[np.int64]) -> Columns:
        """Row columns of items by key, without what a request adds: the item side, for an index or a cache."""
        return self._entities("item", keys, now, False).columns(len(keys))

    def ages(self, keys: NDArray[np.int64], now: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Numbers [M, N] that tell apart what `entries` of items by key [N] are at moments [M]: an item's own are equal
        where all its ages are. None where no column of items is an age."""
        if not self._items.times:
            return None
        rows, out = self.items.rows(keys), np.zeros((len(now), len(keys)), dtype=np.int64)
        for times in self._items.times.values():
            age = AGE(((now[:, None] - times[rows]) / HOUR_MS).ravel()).reshape(out.shape)
            out = out * len(AGE) + age
        return out

    def _entities(self, entity: Entity, keys: NDArray[np.int64], now: NDArray[np.int64], bare: bool) -> Table:
        """The id and the fields of users or items by key; `bare` leaves the place of the fields instead of them."""
        known, encode, fields = (
            (self.users, self.encoders.users, self._users)
            if entity == "user"
            else (self.items, self.encoders.items, self._items)
        )
        rows = known.rows(keys)
        table = (Table(times=fields.times) if bare else fields).take(rows, now)
        place = {f"{entity}.row": np.where(rows < 0, len(known), rows)} if bare else {}
        table.sparse = {f"{entity}.id": encode(keys), **place, **table.sparse}
        return table

    def _history(self, events: Ragged, now: NDArray[np.int64]) -> Padded:
        """The latest L events of each request, oldest first."""
        events = events.last(self.history)
        age = AGE((now[events.owners] - events.times) / HOUR_MS)
        channels = self.steps(events)
        channels = {"item": channels.pop("item"), "action": channels.pop("action"), "age": age, **channels}
        return pad(np.diff(events.offsets), channels, self.history)

    def steps(self, events: Ragged) -> dict[str, NDArray[np.int64]]:
        """Channels [H] of events that no request's moment changes: `item`, `action`, sparse item fields."""
        rows = self.items.rows(events.items)
        channels = {
            "item": self.encoders.items(events.items),
            "action": events.actions.astype(np.int64) + FIRST,
        }
        for name, _ in self._sparse_items():
            channels[f"item.{name}"] = self._items.sparse[f"item.{name}"][rows]
        return channels

    def _sparse_items(self) -> list[tuple[str, Field]]:
        return [(name, declared) for name, declared in self.schema.items.items() if declared.kind == "sparse"]

    def _fields(self, entity: Entity) -> Declared:
        """The declared fields of an entity."""
        fields = self.schema.fields(entity).items()
        return {f"{entity}.{name}": (name, f, self.schema.vocab_of(entity, name)) for name, f in fields}

    def _live(self, side: Literal["request", "row"]) -> Declared:
        """The feature columns of a side."""
        columns = {name: column for name, column in self.features.columns.items() if column.side == side}
        return {f"{LIVE}{name}": (name, c.field, c.field.vocab or f"{LIVE}{name}") for name, c in columns.items()}

    def _asked(self, side: Literal["request", "row"], rows: Rows) -> Table:
        """Feature columns [N] of a side, as they are known at the moments of the requests."""
        declared, known = self._live(side), rows.requests.known
        if not declared:
            return Table()
        raw: dict[str, NDArray[Any]] = dict(known.columns(rows)) if known is not None else {}
        for full, rate in self.encoders.rates.items():
            name = full.removeprefix(LIVE)
            column = self.features.columns.get(name)
            if column is not None and column.trials is not None and {name, column.trials} <= raw.keys():
                raw[name] = rate(numbers(raw[name]), numbers(raw[column.trials]))
        n = len(rows.owners)
        return self._encode(declared, raw, n).take(np.arange(n), rows.at)

    def _side(self, declared: Declared) -> Side:
        """Fields as columns, in the order of `Table.take`: ages behind the rest."""
        sparse, groups = {}, {}
        for full, (_, f, vocabulary) in declared.items():
            if f.kind == "sparse" or (f.kind == "dense" and f.buckets):
                sparse[full] = vocabulary if f.kind == "sparse" else full
            elif f.kind in ("varlen", "seq"):
                groups[full] = {"value": vocabulary}
        ages = {full: f"{full}.age" for full, (_, f, _) in declared.items() if f.kind == "time"}
        return Side(
            sparse | ages,
            tuple(full for full, (_, f, _) in declared.items() if f.kind == "dense" and not f.buckets),
            groups,
            {full: self.encoders.widths.get(full, 0) for full, (_, f, _) in declared.items() if f.kind == "vec"},
        )

    def _sizes(self) -> dict[str, int]:
        """Ids of every vocabulary, the two reserved ones included; one that training never met has just these."""
        fitted = self.encoders
        sizes = {"user.id": len(fitted.users), "item.id": len(fitted.items), "history.age": len(AGE)}
        sizes["history.action"] = FIRST + len(self.schema.actions)
        sizes[f"{LIVE}{PLACE}"] = len(PLACES)
        declared = [*(self._fields(entity) for entity in ENTITIES), self._live("request"), self._live("row")]
        for full, (_, field_, vocabulary) in (entry for part in declared for entry in part.items()):
            if field_.kind == "time":
                sizes[f"{full}.age"] = len(AGE)
            elif field_.kind == "dense":
                sizes[full] = len(fitted.buckets.get(full, Buckets(())))
            elif vocabulary in fitted.vocabularies:
                sizes[vocabulary] = len(fitted.vocabularies[vocabulary])
        return sizes

    def _encode(self, fields: Declared, columns: Mapping[str, NDArray[Any]], n: int) -> Table:
        """Fields of n entities, with one more row of defaults. An absent column is all defaults."""
        table, fitted = Table(), self.encoders
        missing = np.full(n, np.nan)
        for full, (name, declared, words) in fields.items():
            column = columns.get(name, missing)
            vocabulary = fitted.vocabularies.get(words)
            if declared.kind == "sparse":
                ids = vocabulary.encode(column) if vocabulary else np.full(n, UNKNOWN)
                table.sparse[full] = np.append(ids, UNKNOWN)
            elif declared.kind in ("varlen", "seq"):
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
                table.times[full] = np.append(numbers(column), np.nan)
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
