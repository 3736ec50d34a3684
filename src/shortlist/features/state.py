"""State by key as bytes: a user's history, then a section for each counter of that key. One blob an entity.

K keys, E events, R users asked, S sections. Namespaces: `user` and `item` by key, `value` by the hash of `field=value`.
A blob is a version byte (of 4), a CRC-32 of what follows (4), the number of rows of each section (4 S), the rows.
Of a history: time i64, log offset i64, item i64, action code i16, value f32, 30 bytes a row, ascending by
(time, offset); of interactions (weight above 0) and of exposures the latest are kept, `Caps` of each.

A catalogue says which values of a field a user or an item has when an event is applied; nothing is moved later.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.candidates import Ragged
from shortlist.candidates import owners as owners_of
from shortlist.config import Count, frozen, plain
from shortlist.errors import ArtifactError
from shortlist.features.base import TICK_MS, Counter, Events
from shortlist.features.counters import Layout, Parts, Table, Tally, codes, fold, read, weights
from shortlist.schema import Catalogue, Schema

__all__ = ["Caps", "Change", "History", "Service", "max_bytes", "namespace"]

Ints = NDArray[np.int64]
Blob = bytes | None
Change = tuple[Ints, Sequence[Blob]]  # keys [K], ascending, and their blobs
Get = Callable[[str, Ints], Sequence[Blob]]  # of a namespace and keys [K]: `store.blobs.Blobs.get`

VERSION = 1
HEAD = struct.Struct("<B3xI")
EVENT = np.dtype([("time", "<i8"), ("offset", "<i8"), ("item", "<i8"), ("action", "<i2"), ("value", "<f4")])
NAMESPACES = ("user", "item", "value")


@frozen
class Caps:
    """How many events of a user are kept: interactions, and exposures."""

    history: Count = 1000
    shown: Count = 1000


class History(NamedTuple):
    """Of each user, oldest first: interactions (weight above 0) and exposures (weight 0)."""

    history: Ragged
    shown: Ragged


def namespace(counter: Counter) -> str:
    """Where the counts lie: the first part of the key says whose blob."""
    return counter.by[0] if counter.by[0] in ("user", "item") else "value"


def max_bytes(counters: Sequence[Counter], caps: Caps, space: str) -> int:
    """The most bytes a blob of this namespace takes: every ring full, every cap reached."""
    layouts = [Layout(counter) for counter in counters if namespace(counter) == space]
    events = (caps.history + caps.shown) * EVENT.itemsize if space == "user" else 0
    sections = len(layouts) + (space == "user")
    return HEAD.size + 4 * sections + events + sum(layout.max_bytes() for layout in layouts)


@dataclass(frozen=True)
class _Space:
    """A namespace: the sections of its blobs."""

    name: str
    layouts: tuple[Layout, ...]

    @property
    def dtypes(self) -> list[np.dtype[np.void]]:
        return [*([EVENT] if self.name == "user" else []), *(layout.dtype for layout in self.layouts)]

    def place(self, counter: Counter) -> int:
        """The section of a counter."""
        own = [layout.counter for layout in self.layouts]
        return own.index(counter) + (self.name == "user")


class Service:
    """What is kept of a log for features, and how events change it. Stateless: blobs in, blobs out."""

    def __init__(self, counters: Sequence[Counter], schema: Schema, caps: Caps | None = None) -> None:
        self.counters = tuple(dict.fromkeys(counters))
        self.schema = schema
        self.caps = caps or Caps()
        self._codes = {counter: codes(counter, schema) for counter in self.counters}
        self._interest: NDArray[np.bool_] = schema.weights > 0
        layouts = {counter: Layout(counter) for counter in self.counters}
        spaces = [_Space(name, tuple(layouts[c] for c in self.counters if namespace(c) == name)) for name in NAMESPACES]
        self._spaces = {space.name: space for space in spaces if space.layouts or space.name == "user"}
        self._parts = Parts(Catalogue.empty())

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(self._spaces)

    @property
    def fingerprint(self) -> str:
        """Identity of what the blobs mean: counters in order, actions, caps, layout."""
        words = [VERSION, plain(list(self.counters)), self.schema.action_names, self._interest.tolist()]
        words.append(plain(self.caps))
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()

    # ------------------------------------------------------------------------------------------ writing

    def update(
        self,
        get: Get,
        events: pl.DataFrame | Events,
        catalogue: Catalogue,
        after: int = 0,
        names: Sequence[str] = NAMESPACES,
    ) -> dict[str, Change]:
        """Blobs of every key these events touch, as they are then, in these namespaces. Events at or below the offset
        `after` are ignored: pass the offset of the store, and what is read twice changes nothing.

        Raises ArtifactError for a blob that is damaged.
        """
        told = self._events(events)
        return self._changed(get, told.take(told.offsets > after), self._known(catalogue), names)

    def load(
        self,
        events: pl.DataFrame | Events,
        catalogue: Catalogue,
        block: int = 1_000_000,
        names: Sequence[str] = NAMESPACES,
    ) -> Iterator[dict[str, Change]]:
        """All state of a whole log in these namespaces, in parts with keys of their own, of about `block` events each.
        The first part names every namespace, so that writing it may drop what was there, the others one each."""
        told, parts = self._events(events), self._known(catalogue)
        none: dict[str, Change] = {name: (np.zeros(0, dtype=np.int64), []) for name in self._spaces if name in names}
        first = none
        for name in none:
            for some in self._blocks(told, self._spaces[name], block):
                yield {**first, name: none[name], **self._changed(_nothing, some, parts, (name,), whole=True)}
                first = {}
        if first:
            yield first

    def _blocks(self, events: Events, space: _Space, block: int) -> Iterator[Events]:
        """Events in parts such that those of one key are together."""
        if space.name == "value":  # values are few and an event may have several: all at once
            yield events
            return
        keys = events.users if space.name == "user" else events.items
        order = np.argsort(keys, kind="stable")
        ascending = keys[order]
        low = 0
        while low < len(order):
            # on to the end of the key that the block ends in
            high = int(np.searchsorted(ascending, ascending[min(low + block, len(order)) - 1], "right"))
            yield events.take(np.sort(order[low:high]))
            low = high

    def _changed(
        self, get: Get, events: Events, parts: Parts, names: Iterable[str], whole: bool = False
    ) -> dict[str, Change]:
        changes: dict[str, Change] = {}
        for name in names:
            if name not in self._spaces or not len(events):
                continue
            space = self._spaces[name]
            counted = [self._counted(layout.counter, events, parts) for layout in space.layouts]
            touched = [keys for keys, _ in counted]
            if name == "user":
                touched.append(events.users[events.users >= 0])
            keys = np.unique(np.concatenate(touched))
            if not len(keys):
                continue
            sections = self._unpacked(space, keys, [None] * len(keys) if whole else get(name, keys))
            made: list[tuple[Ints, NDArray[np.void]]] = []
            if name == "user":
                made.append(self._histories(keys, *sections[0], events))
            for layout, (whose, told), (counts, rows) in zip(
                space.layouts, counted, sections[name == "user" :], strict=True
            ):
                placed = Tally(np.searchsorted(keys, whose), told.subs, told.minutes, told.weights)
                table = fold(layout, Table.of(layout, counts, rows), placed)
                made.append((np.diff(table.offsets), table.packed(layout)))
            changes[name] = (keys, _packed(made))
        return changes

    def _counted(self, counter: Counter, events: Events, parts: Parts) -> tuple[Ints, Tally]:
        """Keys [E] of what is counted, and the rest: in order of log offsets."""
        weight = weights(counter, events)
        hit = np.flatnonzero(np.isin(events.actions, self._codes[counter]) & ~np.isnan(weight))
        at, first, second = parts.keys(counter.by, events.users[hit], events.items[hit])
        hit = hit if at is None else hit[at]
        return first, Tally(first, second, events.times[hit] // TICK_MS, weight[hit])

    def _histories(
        self, keys: Ints, counts: Ints, held: NDArray[np.void], events: Events
    ) -> tuple[Ints, NDArray[np.void]]:
        mine = np.flatnonzero(events.users >= 0)
        fresh = np.empty(len(mine), dtype=EVENT)
        fresh["time"], fresh["offset"], fresh["item"] = events.times[mine], events.offsets[mine], events.items[mine]
        fresh["action"], fresh["value"] = events.actions[mine], events.values[mine]
        owner = np.concatenate([np.repeat(np.arange(len(keys)), counts), np.searchsorted(keys, events.users[mine])])
        both = np.concatenate([held, fresh])
        order = np.lexsort((both["time"], owner))  # stable: what is held comes first, and has the smaller offsets
        owner, liked = owner[order], self._interest[both["action"][order]]
        keep = np.ones(len(order), dtype=bool)
        for kind, cap in ((True, self.caps.history), (False, self.caps.shown)):
            at = np.flatnonzero(liked == kind)
            sizes = np.bincount(owner[at], minlength=len(keys))
            keep[at[np.repeat(np.cumsum(sizes), sizes) - np.arange(len(at)) > cap]] = False
        return np.bincount(owner[keep], minlength=len(keys)), both[order[keep]]

    def _events(self, events: pl.DataFrame | Events) -> Events:
        told = events if isinstance(events, Events) else Events.of(events, self.schema)
        if len(told) > 1 and not bool((np.diff(told.offsets) > 0).all()):
            told = told.take(np.argsort(told.offsets, kind="stable"))
        return told

    def _known(self, catalogue: Catalogue) -> Parts:
        if self._parts.catalogue is not catalogue:
            self._parts = Parts(catalogue)
        return self._parts

    # ------------------------------------------------------------------------------------------ reading

    def histories(self, get: Get, users: Ints, now: Ints | int, last: int | None = None) -> History:
        """Events of users [R] up to `now` (ms, one or [R]), at most `last` of each kind. An unknown user has none."""
        space = self._spaces["user"]
        keys, place = np.unique(users, return_inverse=True)
        counts, rows = self._unpacked(space, keys, _known_only(get, "user", keys), 0)[0]
        low, sizes = (np.cumsum(counts) - counts)[place], counts[place]
        starts = np.cumsum(sizes) - sizes
        asked = rows[np.arange(int(sizes.sum())) + np.repeat(low - starts, sizes)]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        owner = owners_of(offsets)
        events = Ragged(offsets, asked["item"].copy(), asked["time"].copy(), asked["action"].copy())
        due = events.times <= np.broadcast_to(np.asarray(now, dtype=np.int64), len(users))[owner]
        liked = self._interest[events.actions]
        history, shown = events.where(due & liked), events.where(due & ~liked)
        return History(history, shown) if last is None else History(history.last(last), shown.last(last))

    def tables(self, counters: Sequence[Counter], keys: Ints, blobs: Sequence[Blob]) -> list[Table]:
        """Of each counter, all of one namespace, the table of these keys [K]. Raises ArtifactError for damage."""
        space = self._spaces[namespace(counters[0])]
        places = [space.place(counter) for counter in counters]
        shift = int(space.name == "user")
        sections = self._unpacked(space, keys, blobs, *places)
        layouts = [space.layouts[place - shift] for place in places]
        return [Table.of(layout, *section) for layout, section in zip(layouts, sections, strict=True)]

    def read(self, counter: Counter, table: Table, owners: Ints, subs: Ints, at: Ints) -> NDArray[np.float64]:
        """Answers [Q, W] of a table to (place of the key, sub, moment)."""
        space = self._spaces[namespace(counter)]
        return read(space.layouts[space.place(counter) - (space.name == "user")], table, owners, subs, at)

    def _unpacked(
        self, space: _Space, keys: Ints, blobs: Sequence[Blob], *only: int
    ) -> list[tuple[Ints, NDArray[np.void]]]:
        """Rows of sections (all, or `only` these), and how many each key has [K]."""
        dtypes = space.dtypes
        sizes = np.array([dtype.itemsize for dtype in dtypes])
        ahead = HEAD.size + 4 * len(dtypes)
        there = [n for n, blob in enumerate(blobs) if blob is not None]
        held = [blob for blob in blobs if blob is not None]
        for n, blob in zip(there, held, strict=True):
            wrong = _damage(blob, ahead)
            if wrong:
                raise _damaged(space.name, int(keys[n]), wrong)
        heads = b"".join([blob[HEAD.size : ahead] for blob in held])
        counts = np.frombuffer(heads, dtype="<i4").reshape(len(held), len(dtypes)).astype(np.int64)
        ends = ahead + np.cumsum(counts * sizes, axis=1)
        lengths = np.fromiter(map(len, held), dtype=np.int64, count=len(held))
        off = np.flatnonzero((ends[:, -1] != lengths) | (counts < 0).any(axis=1))
        if len(off):
            what = f"its rows take {int(ends[off[0], -1])} bytes, it has {int(lengths[off[0]])}"
            raise _damaged(space.name, int(keys[there[int(off[0])]]), what)
        out = []
        for place in only or range(len(dtypes)):
            full = np.zeros(len(blobs), dtype=np.int64)
            full[there] = counts[:, place]
            high = ends[:, place].tolist()
            low = (ends[:, place] - counts[:, place] * sizes[place]).tolist()
            rows = b"".join([blob[a:b] for blob, a, b in zip(held, low, high, strict=True)])
            out.append((full, np.frombuffer(rows, dtype=dtypes[place])))
        return out


def _nothing(_: str, keys: Ints) -> list[Blob]:
    return [None] * len(keys)


def _known_only(get: Get, name: str, keys: Ints) -> Sequence[Blob]:
    """Blobs of keys; one that is no key (-1) has none and is not asked for."""
    if not len(keys) or keys[0] >= 0:
        return get(name, keys)
    return [None, *_known_only(get, name, keys[1:])]


def _packed(sections: Sequence[tuple[Ints, NDArray[np.void]]]) -> list[Blob]:
    """One blob a key of rows one after the other and their counts [K]; None where there are no rows."""
    counts = np.stack([counts for counts, _ in sections], axis=1)
    columns = [_slices(np.ascontiguousarray(counts.astype("<i4")).tobytes(), np.full(len(counts), 4 * len(sections)))]
    columns += [_slices(rows.tobytes(), sizes * rows.dtype.itemsize) for sizes, rows in sections]
    bodies = [b"".join(parts) for parts in zip(*columns, strict=True)]
    blobs: list[Blob] = [HEAD.pack(VERSION, zlib.crc32(body)) + body for body in bodies]
    for empty in np.flatnonzero(counts.sum(axis=1) == 0).tolist():
        blobs[empty] = None
    return blobs


def _slices(data: bytes, sizes: Ints) -> list[bytes]:
    ends = np.cumsum(sizes)
    return [data[a:b] for a, b in zip((ends - sizes).tolist(), ends.tolist(), strict=True)]


def _damage(blob: bytes, ahead: int) -> str:
    if len(blob) < ahead:
        return f"{len(blob)} bytes are less than its head"
    version, checksum = HEAD.unpack_from(blob)
    if version != VERSION:
        return f"it has version {version}, not {VERSION}"
    return "" if zlib.crc32(memoryview(blob)[HEAD.size :]) == checksum else "its checksum differs"


def _damaged(name: str, key: int, what: str) -> ArtifactError:
    return ArtifactError(f"the blob of {name} {key} is damaged: {what}", where="state", hint="backfill the store again")
