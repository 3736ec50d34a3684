"""The state of one counter, for many entities at once: a ragged table of rows of fixed width, and nothing but columns.

E events, K entities, N rows, Q questions, W windows. A row is (sub, slot, value): `sub` is the second part of a
counter's key (0 where it has one part), `slot` a ring and a number in it, `value` an int32 count, or a float64 sum.

Windows. An event is counted in up to three rings at once: its minute, its hour, its day. A window is whole coarse
steps, then the finer steps since the last coarse boundary, so that `7d` at 15:07 is the seven days before today, the
hours before 15, the minutes before 7. With n the newest minute of an entity and p = n - 5 (`base.SLACK_MS`), a ring
keeps what any moment from p on can ask for:
    minutes from p - 60 (`1h`) and from the start of p's hour (where hours are kept),
    hours   from p's hour - 24 (`1d`) and from the start of p's day (where days are kept),
    days    from p's day - 30 (`30d`), or - 7.
Rings that no window needs are not kept. With two parts the fourth ring holds a sub's newest minute, valued 0.

Decayed sums. Minutes from p on stand alone; older ones are one settled row in the fourth ring, whose number is its
newest minute and whose value is decayed to it. A settled row ends 64 half-lives behind p, when less than 1e-19 of it
is left.

What is kept depends on n alone, and n only grows: rows that are dropped today would be dropped tomorrow, and events in
whatever order and batches end in the same rows (sums of fractions to rounding). Only the cap knows order. Of an
entity's subs the `cap` with the newest (minute, sub) stay, event by event in order of log offsets: one that is pushed
out loses its counts and begins anew when it comes again. This is the same for every way to cut the log into batches,
and replay follows it; another order of offsets may push out another sub.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.candidates import owners as owners_of
from shortlist.config import nearest
from shortlist.errors import ConfigError
from shortlist.features.base import SLACK_MS, TICK_MS, WINDOWS, Counter, Events
from shortlist.features.encoders import lists, numbers
from shortlist.features.hashing import fnv1a, mix
from shortlist.schema import Catalogue, Profiles, Schema, text

__all__ = [
    "Layout", "Parts", "Table", "Tally", "codes", "cut", "fold", "merge", "read", "sliced", "tally", "valued",
    "weights",
]  # fmt: skip

RINGS = (1, 60, 1440)  # minutes a step of each ring takes
LAST = 3  # the ring of a sub's newest minute, or of what has settled
SLACK = SLACK_MS // TICK_MS
HALVINGS = 64
SHIFT = 29  # bits of a number: minutes until the year 2990
NUMBER = (1 << SHIFT) - 1
SIGN = np.uint64((1 << 63) - 1)

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Layout:
    """How the rows of a counter look, and which of them are kept."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.paired = len(counter.by) == 2
        self.decayed = counter.half_life_ms is not None
        self.half_life = (counter.half_life_ms or 0) / TICK_MS  # minutes
        spans = [] if self.decayed else [WINDOWS[name] for name in counter.windows]
        # (ring of the step, steps) of every window
        self.windows = [(RINGS.index(step // TICK_MS), length // step) for length, step in spans]
        self.rings = max((ring for ring, _ in self.windows), default=0) + 1
        self.width = 1 if self.decayed else len(self.windows)
        value = "<f8" if self.decayed or counter.sum else "<i4"
        self.dtype = np.dtype([*([("sub", "<i8")] if self.paired else []), ("slot", "<i4"), ("value", value)])

    def reach(self) -> tuple[Ints, Ints]:
        """Steps and lengths in minutes, such that nothing before the least `floor(p, step) - length` is ever kept."""
        if self.decayed:
            return np.ones(1, dtype=np.int64), np.array([self._tail], dtype=np.int64)
        steps = np.array([RINGS[ring] for ring, _ in self.windows], dtype=np.int64)
        return steps, steps * np.array([count for _, count in self.windows], dtype=np.int64)

    @property
    def _tail(self) -> int:
        return int(np.ceil(HALVINGS * self.half_life))

    def limits(self, newest: Ints) -> Ints:
        """The least number each ring keeps, by newest minute [K]: [K, 4]."""
        since = newest - SLACK
        least = np.zeros((len(newest), 4), dtype=np.int64)
        if self.decayed:
            least[:, 0] = since
            least[:, LAST] = since - self._tail
            return least
        for ring in range(self.rings):
            asked = [since // RINGS[ring] - count for own, count in self.windows if own == ring]
            if ring + 1 < self.rings:
                coarse = RINGS[ring + 1]
                asked.append(since // coarse * (coarse // RINGS[ring]))
            least[:, ring] = np.minimum.reduce(asked)
        steps, lengths = self.reach()
        least[:, LAST] = (since[:, None] // steps * steps - lengths).min(axis=1)
        return least

    def rows(self) -> int:
        """The most rows one sub of an entity can have, with an event in every minute."""
        if self.decayed:
            return SLACK + 2
        newest = 100 * 1440 + np.arange(1440, dtype=np.int64)  # rings are longest at some moment of the day
        steps = np.array(RINGS[: self.rings])
        kept = newest[:, None] // steps - self.limits(newest)[:, : self.rings] + 1
        return int(kept.sum(axis=1).max()) + self.paired

    def max_bytes(self) -> int:
        """The most bytes the rows of one entity can take."""
        return self.rows() * self.dtype.itemsize * (self.counter.cap if self.paired else 1)


@dataclass(frozen=True)
class Table:
    """Rows of K entities: entity k owns `offsets[k]:offsets[k+1]`, ascending by (sub, slot), each pair once."""

    offsets: Ints
    subs: Ints
    slots: NDArray[np.int32]
    values: NDArray[np.int32] | NDArray[np.float64]

    @classmethod
    def empty(cls, layout: Layout, entities: int) -> "Table":
        return cls.of(layout, np.zeros(entities, dtype=np.int64), np.zeros(0, dtype=layout.dtype))

    @classmethod
    def of(cls, layout: Layout, counts: Ints, packed: NDArray[np.void]) -> "Table":
        """From rows one after the other, `counts` [K] for each entity."""
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        subs = packed["sub"].copy() if layout.paired else np.zeros(len(packed), dtype=np.int64)
        return cls(offsets, subs, packed["slot"].copy(), packed["value"].copy())

    def packed(self, layout: Layout) -> NDArray[np.void]:
        """The rows as one array of fixed width [N]."""
        out = np.empty(len(self), dtype=layout.dtype)
        if layout.paired:
            out["sub"] = self.subs
        out["slot"], out["value"] = self.slots, self.values
        return out

    def __len__(self) -> int:
        return len(self.subs)

    @cached_property
    def owners(self) -> Ints:
        return owners_of(self.offsets)

    def where(self, mask: Flags) -> "Table":
        counts = np.bincount(self.owners[mask], minlength=len(self.offsets) - 1)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Table(offsets, self.subs[mask], self.slots[mask], self.values[mask])

    @cached_property
    def runs(self) -> tuple[Ints, Ints, Ints]:
        """Of each distinct (owner, sub), ascending: first row, owner, sub."""
        if not len(self):
            none = np.zeros(0, dtype=np.int64)
            return none, none, none
        new = (self.subs[1:] != self.subs[:-1]) | (self.owners[1:] != self.owners[:-1])
        starts = np.concatenate([[0], np.flatnonzero(new) + 1])
        return starts, self.owners[starts], self.subs[starts]


@dataclass(frozen=True)
class Tally:
    """What a counter counts, E times: whose (`owners`: places of entities), of which sub, when, how much. In order of
    log offsets."""

    owners: Ints
    subs: Ints
    minutes: Ints
    weights: NDArray[np.float64]

    def where(self, mask: Flags) -> "Tally":
        return Tally(self.owners[mask], self.subs[mask], self.minutes[mask], self.weights[mask])


# ---------------------------------------------------------------------------------------------- keys


class Parts:
    """Keys of a counter's parts for users and items [N]: the entity's own, or a hash of each of a field's values."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._values: dict[str, tuple[Ints, Ints]] = {}

    def keys(self, by: Sequence[str], users: Ints, items: Ints | None) -> tuple[Ints | None, Ints, Ints]:
        """Rows the keys come from (None: one key each, in order), first keys, second keys (0 where there is none).

        A user or an item without a key, or without a value of the field, has no row; one with several has several.
        """
        at, first = self._part(by[0], users, items)
        if len(by) == 1:
            return at, first, np.zeros(len(first), dtype=np.int64)
        inner = (users, items) if at is None else (users[at], None if items is None else items[at])
        again, second = self._part(by[1], *inner)
        if again is None:
            return at, first, second
        return again if at is None else at[again], first[again], second

    def _part(self, part: str, users: Ints, items: Ints | None) -> tuple[Ints | None, Ints]:
        entity, _, field = part.partition(".")
        keys = users if entity == "user" else items
        if keys is None:
            raise ValueError(f"a counter by {part} is asked without items")
        if not field:
            if bool((keys >= 0).all()):
                return None, keys
            known = np.flatnonzero(keys >= 0)
            return known, keys[known]
        offsets, values = self._hashes(part)
        rows = (self.catalogue.users if entity == "user" else self.catalogue.items).rows(keys)
        rows = np.where(rows < 0, len(offsets) - 2, rows)  # the last row has no values
        low, counts = offsets[rows], offsets[rows + 1] - offsets[rows]
        if bool((counts == 1).all()):
            return None, values[low]
        starts = np.cumsum(counts) - counts
        at = np.repeat(np.arange(len(keys)), counts)
        return at, values[np.arange(int(counts.sum())) + np.repeat(low - starts, counts)]

    def _hashes(self, part: str) -> tuple[Ints, Ints]:
        """Values of a field by row of its profiles, as CSR, with one empty row behind."""
        if part not in self._values:
            profiles = self.catalogue.users if part.startswith("user.") else self.catalogue.items
            self._values[part] = _hashes(profiles, part)
        return self._values[part]


def sliced(word: str, edges: Sequence[float]) -> str:
    """A part's word with its edges."""
    return f"{word}[{','.join(map(_short, edges))}]"


def _short(edge: float) -> str:
    return str(float(edge)).removesuffix(".0")


def cut(part: str) -> tuple[str, NDArray[np.float64] | None]:
    """A part's word and its edges, ascending, None where its values are counted as they are: `user.age[18,25]`."""
    word, bracket, told = part.partition("[")
    return word, np.array([float(edge) for edge in told[:-1].split(",")]) if bracket else None


def valued(profiles: Profiles, part: str) -> tuple[Ints, pl.Series]:
    """Values of a part's field as lengths [N] and texts one after the other: null where there is none. Numbers that are
    cut by edges are `<18`, `18-25` (up to 25, without it), `25+`; what is no number is null."""
    word, edges = cut(part)
    column = profiles.columns.get(word.partition(".")[2], np.full(len(profiles), None, dtype=object))
    lengths, flat = lists(column)
    if edges is None:
        return lengths, text(flat)
    told = [_short(edge) for edge in edges]
    labels = np.array([f"<{told[0]}", *map("-".join, pairwise(told)), f"{told[-1]}+"], dtype=object)
    values = numbers(flat)
    known = ~np.isnan(values)
    words = np.full(len(values), None, dtype=object)
    words[known] = labels[np.searchsorted(edges, values[known], side="right")]
    return lengths, pl.Series(words.tolist(), dtype=pl.String)


def _hashes(profiles: Profiles, part: str) -> tuple[Ints, Ints]:
    lengths, words = valued(profiles, part)
    known = words.is_not_null().to_numpy()
    rows = np.repeat(np.arange(len(profiles)), lengths)[known]
    distinct = words.filter(words.is_not_null()).unique(maintain_order=True)
    hashed = pl.DataFrame({"value": distinct, "hash": (mix(fnv1a(part + "=" + distinct)) & SIGN).astype(np.int64)})
    found = words.rename("value").to_frame().join(hashed, on="value", how="left", maintain_order="left")["hash"]
    pairs = pl.DataFrame({"row": rows, "hash": found.drop_nulls()}).unique(maintain_order=True)  # a value counts once
    counts = np.bincount(pairs["row"].to_numpy(), minlength=len(profiles) + 1)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), pairs["hash"].to_numpy()


def codes(counter: Counter, schema: Schema) -> NDArray[np.int16]:
    """Codes of the actions it counts. Raises ConfigError for an undeclared one, or an unknown window or part."""
    where = f"a counter by {', '.join(counter.by)}"
    for name in counter.actions:
        if name not in schema.action_names:
            what, hint = f"no action is called {name!r}", nearest(name, list(schema.action_names))
            raise ConfigError(what, where=where, hint=hint)
    if not counter.windows and counter.half_life_ms is None:
        raise ConfigError("it has neither windows nor a half-life", where=where, hint=f"windows = {list(WINDOWS)}")
    for name in counter.windows:
        if name not in WINDOWS:
            raise ConfigError(f"no window is called {name!r}", where=where, hint=nearest(name, list(WINDOWS)))
    fields = ["user", "item", *(f"user.{name}" for name in schema.users), *(f"item.{name}" for name in schema.items)]
    for part in counter.by:
        if cut(part)[0] not in fields:
            raise ConfigError(f"nothing is called {part!r}", where=where, hint=nearest(part, fields))
    return np.array([schema.action_names.index(name) for name in counter.actions], dtype=np.int16)


def weights(counter: Counter, events: Events) -> NDArray[np.float64]:
    """What each event adds: 1, or its value; NaN where it has none."""
    return events.values.astype(np.float64) if counter.sum else np.ones(len(events), dtype=np.float64)


# ---------------------------------------------------------------------------------------------- state


def tally(layout: Layout, told: Tally, entities: int) -> Table:
    """Events as rows, those the newest of them leaves. The cap is not looked at."""
    if not len(told.owners):
        return Table.empty(layout, entities)
    newest = np.full(entities, -1, dtype=np.int64)
    np.maximum.at(newest, told.owners, told.minutes)
    least = layout.limits(newest)
    run, run_owner, run_sub = _runs_of(layout, told.owners, told.subs, entities)
    codes_, values = [], []
    if layout.decayed:
        codes_, values = [run << 31 | told.minutes], [told.weights]
    else:
        for ring in range(layout.rings):
            number = told.minutes // RINGS[ring]
            kept = number >= least[told.owners, ring]
            codes_.append(run[kept] << 31 | ring << SHIFT | number[kept])
            values.append(told.weights[kept])
        if layout.paired:
            kept = told.minutes >= least[told.owners, LAST]
            codes_.append(run[kept] << 31 | LAST << SHIFT | told.minutes[kept])
            values.append(np.zeros(int(kept.sum())))
    code, value = np.concatenate(codes_), np.concatenate(values)
    order = np.argsort(code, kind="stable")
    return _squeezed(layout, code[order], value[order], run_owner, run_sub, entities)


def merge(layout: Layout, old: Table, new: Table) -> Table:
    """Rows of both, added up, and pruned by the newest minute of each entity."""
    if not len(new):
        return old
    entities = len(old.offsets) - 1
    owners = np.concatenate([old.owners, new.owners])
    if layout.paired:
        starts = [old.runs[0], new.runs[0]]
        joint = np.concatenate([old.runs[1], new.runs[1]]), np.concatenate([old.runs[2], new.runs[2]])
        of_run, run_owner, run_sub = _runs_of(layout, *joint, entities)
        sizes = np.concatenate([np.diff(s, append=len(t)) for s, t in zip(starts, (old, new), strict=True)])
        run = np.repeat(of_run, sizes)
    else:
        run, run_owner, run_sub = owners, np.arange(entities), np.zeros(entities, dtype=np.int64)
    code = run << 31 | np.concatenate([old.slots, new.slots])
    order = np.argsort(code, kind="stable")  # two ascending runs: a merge
    values = np.concatenate([old.values, new.values])
    return _squeezed(layout, code[order], values[order], run_owner, run_sub, entities)


def fold(layout: Layout, old: Table, told: Tally) -> Table:
    """The table after these events, in their order: the cap included."""
    entities = len(old.offsets) - 1
    if layout.paired and len(told.owners):
        old, told = _capped(layout, old, told)
    return merge(layout, old, tally(layout, told, entities))


def _runs_of(layout: Layout, owners: Ints, subs: Ints, entities: int) -> tuple[Ints, Ints, Ints]:
    """Place of each (owner, sub) [E] among the distinct ones, ascending; their owners and subs."""
    if not layout.paired:
        return owners, np.arange(entities), np.zeros(entities, dtype=np.int64)
    order = np.lexsort((subs, owners))
    owner, sub = owners[order], subs[order]
    new = np.concatenate([[True], (owner[1:] != owner[:-1]) | (sub[1:] != sub[:-1])])
    run = np.empty(len(owners), dtype=np.int64)
    run[order] = np.cumsum(new) - 1
    return run, owner[new], sub[new]


def _squeezed(
    layout: Layout, code: Ints, value: NDArray[np.float64], run_owner: Ints, run_sub: Ints, entities: int
) -> Table:
    """Rows by ascending code (run, ring, number), equal ones added up, and only what is kept."""
    first = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
    if len(first) < len(code):
        code, value = code[first], np.add.reduceat(value, first)
    run, number = code >> 31, code & NUMBER
    ring, owner = (code >> SHIFT) & 3, run_owner[run]
    mine = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
    newest = np.maximum.reduceat(np.where((ring == 0) | (ring == LAST), number, -1), mine)
    least = layout.limits(newest)
    place = np.repeat(np.arange(len(mine)), np.diff(mine, append=len(owner)))
    if layout.decayed:
        code, value = _settled(layout, code, value, run, number, ring, least[place])
        run = code >> 31
    else:
        keep = number >= least[place, ring]
        if layout.paired:  # of a sub's newest minutes only the last
            keep &= (ring != LAST) | np.concatenate([run[1:] != run[:-1], [True]])
        code, value, run = code[keep], value[keep], run[keep]
    counts = np.bincount(run_owner[run], minlength=entities)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    kept = value.astype(layout.dtype["value"])
    return Table(offsets, run_sub[run], (code & ((1 << 31) - 1)).astype(np.int32), kept)


def _settled(
    layout: Layout, code: Ints, value: NDArray[np.float64], run: Ints, number: Ints, ring: Ints, least: Ints
) -> tuple[Ints, NDArray[np.float64]]:
    old = np.flatnonzero((ring == LAST) | (number < least[:, 0]))
    if not len(old):
        return code, value
    first = np.flatnonzero(np.concatenate([[True], run[old][1:] != run[old][:-1]]))
    newest = np.maximum.reduceat(number[old], first)
    age = np.repeat(newest, np.diff(first, append=len(old))) - number[old]
    total = np.add.reduceat(value[old] * np.exp2(-age / layout.half_life), first)
    live = newest >= least[old[first], LAST]
    settled = run[old[first]][live] << 31 | LAST << SHIFT | newest[live]
    young = np.ones(len(code), dtype=bool)
    young[old] = False
    code, value = np.concatenate([code[young], settled]), np.concatenate([value[young], total[live]])
    order = np.argsort(code, kind="stable")
    return code[order], value[order]


def _capped(layout: Layout, old: Table, told: Tally) -> tuple[Table, Tally]:
    """Without the rows and events of subs that were pushed out on the way: at most `cap` subs are left of anybody."""
    starts, owner, sub = old.runs
    owners, subs = np.concatenate([owner, told.owners]), np.concatenate([sub, told.subs])
    _, run_owner, _ = _runs_of(layout, owners, subs, len(old.offsets) - 1)
    many = np.bincount(run_owner, minlength=len(old.offsets) - 1) > layout.counter.cap
    if not bool(many.any()):
        return old, told
    from shortlist.features.loops import lives

    # what is held acts as events before all others: they push out nobody, as they fit
    numbers = np.where(np.isin(old.slots >> SHIFT, (0, LAST)), old.slots & NUMBER, -1)
    held = np.maximum.reduceat(numbers, starts) if len(starts) else np.zeros(0, dtype=np.int64)
    minutes = np.concatenate([held, told.minutes]).astype(np.int64)
    at = np.flatnonzero(many[owners])
    at = at[np.argsort(owners[at], kind="stable")]
    _, counts = np.unique(owners[at], return_counts=True)
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ends = lives(bounds, subs[at], minutes[at], layout.counter.cap, SLACK, *layout.reach())
    alive = np.ones(len(owners), dtype=bool)
    alive[at[ends < len(at)]] = False
    kept = np.repeat(alive[: len(starts)], np.diff(starts, append=len(old)))
    return old.where(kept), told.where(alive[len(starts) :])


# ---------------------------------------------------------------------------------------------- answers


def read(layout: Layout, table: Table, owners: Ints, subs: Ints, at: Ints) -> NDArray[np.float64]:
    """Of entities `owners` [Q] and their `subs` [Q] at moments `at` [Q] (ms): [Q, W]. Unknown ones are 0."""
    minute = at // TICK_MS
    low, counts = _found(layout, table, owners, subs)
    starts = np.cumsum(counts) - counts
    asked = np.repeat(np.arange(len(owners)), counts)
    rows = np.arange(int(counts.sum())) + np.repeat(low - starts, counts)
    slot = table.slots[rows].astype(np.int64)
    ring, number, value = slot >> SHIFT, slot & NUMBER, table.values[rows].astype(np.float64)
    out = np.zeros((len(owners), layout.width))
    if layout.decayed:
        age = minute[asked] - number
        fresh = age > 0
        value = np.where(fresh, value * np.exp2(-np.maximum(age, 0) / layout.half_life), 0.0)
        out[:, 0] = np.bincount(asked, value, len(owners))
        return out
    steps = np.array([*RINGS, 1])
    ends = minute[:, None] // steps  # [Q, 4]
    ends[:, LAST] = -1
    coarse = np.full_like(ends, NUMBER)
    for finer, (step, longer) in enumerate(pairwise(RINGS[: layout.rings])):
        coarse[:, finer] = minute // longer * (longer // step)
    place = asked * 4 + ring
    before = number < ends.ravel()[place]
    tail = before & (number >= coarse.ravel()[place])
    for column, (own, length) in enumerate(layout.windows):
        low_end = ends[:, own] - length
        inside = (before & (ring == own) & (number >= low_end[asked])) | (tail & (ring < own))
        out[:, column] = np.bincount(asked[inside], value[inside], len(owners))
    return out


def _found(layout: Layout, table: Table, owners: Ints, subs: Ints) -> tuple[Ints, Ints]:
    """First row and number of rows of each (owner, sub) [Q]."""
    if not layout.paired:
        return table.offsets[owners], np.diff(table.offsets)[owners]
    starts, owner, sub = table.runs
    if not len(starts):
        return np.zeros(len(owners), dtype=np.int64), np.zeros(len(owners), dtype=np.int64)
    distinct = np.unique(sub)
    code = owner * len(distinct) + np.searchsorted(distinct, sub)
    place = np.minimum(np.searchsorted(distinct, subs), len(distinct) - 1)
    run = np.minimum(np.searchsorted(code, owners * len(distinct) + place), len(code) - 1)
    there = (owner[run] == owners) & (sub[run] == subs)
    sizes = np.diff(starts, append=len(table))
    return starts[run], np.where(there, sizes[run], 0)
