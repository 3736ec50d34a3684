"""Counters as they stood at any moment of a log, without a store: what training and evaluation read.

E events, N rows, Q questions, W windows. What is known at (at, as_of) are events of minutes before `at`'s whose log
offset is at most `as_of`; without `as_of`, every event counts from its own time on.

A counter's events are sorted once, on first use, by (key, minute); a window is the difference of two places. Log order
needs a correction only where it differs from the order of time: an event that came after later ones of its key is taken
out and counted by itself (`loops.dominated`), in O((L + Q) log L) for L of them. What a cap pushed out counts back from
the offset that did it.

Memory, beside the log's own columns: 12 bytes for each event a counter counts, 8 more for sums and decayed sums, some
50 while sorting; shared by counters with the same key and actions. A log that is not in order of time takes 8 more,
and keeps what is asked with `as_of` and without it apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.features.base import TICK_MS, WINDOWS, Counter, Events, Features, Rows
from shortlist.features.counters import SLACK, Layout, Parts, codes
from shortlist.schema import Catalogue, Schema

__all__ = ["Replayed"]

Ints = NDArray[np.int64]
Minutes = NDArray[np.int32]
Real = NDArray[np.float64]
BLOCK = 1_000_000  # questions answered at once


class Replayed:
    """Implements `base.Known` over a log that is at hand."""

    def __init__(self, events: Events, catalogue: Catalogue, schema: Schema, features: Features) -> None:
        if len(events) > 1 and not bool((np.diff(events.offsets) > 0).all()):
            events = events.take(np.argsort(events.offsets, kind="stable"))
        self.events = events
        self.catalogue = catalogue
        self.schema = schema
        self.features = features
        self._parts = Parts(catalogue)
        self._books: dict[tuple[Counter, bool], _Book] = {}
        self._gone: dict[tuple[Counter, bool], _Points] = {}

    def columns(self, rows: Rows) -> Mapping[str, NDArray[Any]]:
        return self.features.read("request" if rows.items is None else "row", rows, self)

    def counts(self, counter: Counter, rows: Rows) -> NDArray[np.float64]:
        codes(counter, self.schema)  # raises for a counter of what is not declared
        layout = Layout(counter)
        users, items, at, as_of = rows.users, rows.items, rows.at, rows.as_of
        out = np.zeros((len(users), layout.width))
        for low in range(0, len(users), BLOCK):
            some = slice(low, low + BLOCK)
            of, first, second = self._parts.keys(counter.by, users[some], None if items is None else items[some])
            row = np.arange(len(users[some])) if of is None else of
            known = self._before(at[some]) if as_of is None else self.events.offsets.searchsorted(as_of[some], "right")
            recorded = as_of is not None or self._in_order
            found = self._answer(layout, recorded, first, second, at[some][row] // TICK_MS, known[row])
            if of is None:
                out[some] = found
            else:
                for column in range(layout.width):
                    out[some, column] = np.bincount(row, found[:, column], len(users[some]))
        return out

    def _before(self, at: Ints) -> Ints:
        """How many events are of a time before `at`."""
        return self.events.times.searchsorted(at, sorter=None if self._in_order else self._by_time)

    @cached_property
    def _in_order(self) -> bool:
        """Whether the log came to know everything in order of time."""
        return bool((self.events.times[1:] >= self.events.times[:-1]).all())

    @cached_property
    def _by_time(self) -> Ints:
        """Places of events by (time, offset)."""
        return np.argsort(self.events.times, kind="stable")

    # ------------------------------------------------------------------------------------------ answers

    def _answer(
        self, layout: Layout, recorded: bool, first: Ints, second: Ints, minute: Ints, known: Ints
    ) -> NDArray[np.float64]:
        """[Q, W] of keys at minutes, of the first `known` events."""
        book = self._book(layout, recorded)
        extra = [points for points in (book.late, self._pushed_out(layout, book, recorded)) if len(points.codes)]
        group = book.groups(first, second)
        there = np.flatnonzero(group >= 0)
        order = there[np.argsort(book.code(group[there], minute[there]))]  # questions in order find their places fast
        out = np.zeros((len(group), layout.width))
        out[order] = self._ordered(layout, book, extra, group[order], minute[order], known[order])
        return out

    def _ordered(
        self, layout: Layout, book: "_Book", extra: "list[_Points]", group: Ints, minute: Ints, known: Ints
    ) -> NDArray[np.float64]:
        start, end = book.code(group, 0), book.code(group, minute)
        low, high = book.codes.searchsorted(start), book.codes.searchsorted(end)
        last = np.maximum(high - 1, 0)
        ahead = np.flatnonzero((high > low) & (book.ranks[last] >= known)) if len(book.codes) else low[:0]
        if len(ahead):  # some of them were not known yet: in a key ranks ascend as minutes do
            high[ahead] = book.known(low[ahead], high[ahead], known[ahead])
        if layout.decayed:
            sums, since = book.sums(layout.half_life), np.maximum(high - 1, 0)
            age = minute - book.minutes(since) if len(book.codes) else minute
            total = np.where(high > low, sums[since] * np.exp2(-np.maximum(age, 0) / layout.half_life), 0.0)
            for points in extra:
                total += points.trailing(start, end, known, minute - book.base, layout)
            return total[:, None]
        out = np.zeros((len(group), layout.width))
        for column, name in enumerate(layout.counter.windows):
            length, step = WINDOWS[name]
            begin = book.code(group, minute * TICK_MS // step * (step // TICK_MS) - length // TICK_MS)
            place = np.minimum(book.codes.searchsorted(begin), high)
            out[:, column] = book.total(place, high, low)
            for points in extra:
                out[:, column] += points.between(begin, end, known)
        return out

    # ------------------------------------------------------------------------------------------ books

    def _book(self, layout: Layout, recorded: bool) -> "_Book":
        counter = layout.counter
        key = replace(counter, windows=(), half_life_ms=None, cap=1), recorded
        if key not in self._books:
            self._books[key] = _Book.of(*self._told(counter, recorded))
        return self._books[key]

    def _told(self, counter: Counter, recorded: bool) -> tuple[Ints, Ints | None, Minutes, Minutes, Real | None]:
        """First and second keys (None: one part), minutes, ranks and weights (None: 1) of what it counts, by rank."""
        events = self.events
        hit = np.isin(events.actions, codes(counter, self.schema))
        if counter.sum:
            hit &= ~np.isnan(events.values)
        at = ranks = np.flatnonzero(hit)
        if not recorded:
            ranks = np.flatnonzero(hit[self._by_time])
            at = self._by_time[ranks]
        of, first, second = self._parts.keys(counter.by, events.users[at], events.items[at])
        if of is not None:
            at, ranks = at[of], ranks[of]
        minutes = (events.times[at] // TICK_MS).astype(np.int32)
        weight = events.values[at].astype(np.float64) if counter.sum else None
        return first, second if len(counter.by) == 2 else None, minutes, ranks.astype(np.int32), weight

    def _pushed_out(self, layout: Layout, book: "_Book", recorded: bool) -> "_Points":
        """What a cap took back: each event of a sub that was pushed out, at the rank of the event that did it."""
        key = layout.counter, recorded
        if key not in self._gone:
            self._gone[key] = _Points.none()
            crowded = book.crowded(layout.counter.cap) if layout.paired else np.zeros(0, dtype=np.int64)
            if len(crowded):
                self._gone[key] = self._ended(layout, book, recorded, crowded)
        return self._gone[key]

    def _ended(self, layout: Layout, book: "_Book", recorded: bool, crowded: Ints) -> "_Points":
        from shortlist.features.loops import lives

        first, second, minutes, ranks, weight = self._told(layout.counter, recorded)
        assert second is not None
        at = np.flatnonzero(np.isin(first, crowded))
        at = at[np.argsort(first[at], kind="stable")]
        _, counts = np.unique(first[at], return_counts=True)
        bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        ends = lives(bounds, second[at], minutes[at].astype(np.int64), layout.counter.cap, SLACK, *layout.reach())
        out = np.flatnonzero(ends < len(at))
        at, ended = at[out], ranks[at[ends[out]]]
        code = book.code(book.groups(first[at], second[at]), minutes[at])
        return _Points.of(code, ended.astype(np.int64), -np.ones(len(at)) if weight is None else -weight[at])


@dataclass
class _Book:
    """A counter's events, sorted by code = (place of the key) * span + minute - base, and by rank in a minute."""

    pairs: tuple[Ints, Ints, Ints]  # distinct first keys, distinct second keys, distinct pairs of their places
    base: int
    span: int
    codes: Ints
    ranks: Minutes
    weights: Real | None
    late: "_Points"

    @classmethod
    def of(cls, first: Ints, second: Ints | None, minutes: Minutes, ranks: Minutes, weight: Real | None) -> "_Book":
        base = int(minutes.min()) if len(minutes) else 0
        span = int(minutes.max(initial=0)) - base + 2 if len(minutes) else 1
        heads, group = _distinct(first)
        tails = np.zeros(1, dtype=np.int64)
        if second is not None:
            tails, inner = _distinct(second)
            group = group * len(tails) + inner
        groups, group = _distinct(group)
        code = group * span
        code += minutes - base
        del group
        order = np.argsort(code, kind="stable")
        code, rank, weight = code[order], ranks[order], None if weight is None else weight[order]
        del order
        # in time and in log order alike, or behind something of its key that is later: the suffix minimum of ranks
        chain = code // span
        chain *= int(ranks.max(initial=0)) + 1
        chain += rank
        late = chain > np.minimum.accumulate(chain[::-1])[::-1]
        del chain
        points = _Points.none()
        if late.any():
            points = _Points.of(
                code[late], rank[late].astype(np.int64), np.ones(int(late.sum())) if weight is None else weight[late]
            )
            code, rank, weight = code[~late], rank[~late], None if weight is None else weight[~late]
        return cls((heads, tails, groups), base, span, code, rank, weight, points)

    def code(self, group: Ints, minute: Ints | Minutes | int) -> Ints:
        return np.asarray(group * self.span + np.clip(np.asarray(minute) - self.base, 0, self.span - 1))

    def groups(self, first: Ints, second: Ints) -> Ints:
        """Place of each pair of keys, -1 where it has no event."""
        heads, tails, groups = self.pairs
        head, tail = _place(heads, first), _place(tails, second)
        return np.where((head >= 0) & (tail >= 0), _place(groups, head * len(tails) + tail), -1)

    def crowded(self, cap: int) -> Ints:
        """First keys with more than `cap` second ones."""
        heads, tails, groups = self.pairs
        return heads[np.bincount(groups // max(len(tails), 1), minlength=len(heads)) > cap]

    def minutes(self, at: Ints) -> Ints:
        return np.asarray(self.codes[at] % self.span + self.base)

    def known(self, low: Ints, high: Ints, known: Ints) -> Ints:
        """Of events `low` to `high` of one key [Q], of ascending ranks, the end of those below `known`."""
        low, high = low.copy(), high.copy()
        while bool((low < high).any()):
            middle = (low + high) // 2
            below = (self.ranks[np.minimum(middle, len(self.ranks) - 1)] < known) & (low < high)
            low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
        return low

    def sums(self, half_life: float) -> Real:
        """Sums up to and with each event of its key, decayed to its minute where `half_life` is above 0."""
        if half_life not in self._sums:
            from shortlist.features.loops import running

            group, minute = np.divmod(self.codes, self.span)
            one = np.ones(len(self.codes)) if self.weights is None else self.weights
            self._sums[half_life] = running(group, minute, one, half_life)
        return self._sums[half_life]

    @cached_property
    def _sums(self) -> dict[float, Real]:
        return {}

    def total(self, begin: Ints, end: Ints, first: Ints) -> Real:
        """Of events `begin` to `end` of a key whose first is `first`."""
        if self.weights is None:
            return np.asarray(np.maximum(end - begin, 0), dtype=np.float64)
        if not len(self.codes):
            return np.zeros(len(begin))
        sums = self.sums(0.0)
        upper = np.where(end > first, sums[end - 1], 0.0)
        return np.asarray(np.where(end > begin, upper - np.where(begin > first, sums[begin - 1], 0.0), 0.0))


@dataclass
class _Points:
    """Events that count only where a rank is known, sorted by code."""

    codes: Ints
    ranks: Ints
    values: Real

    @classmethod
    def none(cls) -> "_Points":
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))

    @classmethod
    def of(cls, code: Ints, ranks: Ints, values: Real) -> "_Points":
        order = np.argsort(code, kind="stable")
        return cls(code[order], ranks[order], values[order])

    @cached_property
    def order(self) -> Ints:
        return np.argsort(self.ranks, kind="stable")

    def between(self, begin: Ints, end: Ints, known: Ints) -> Real:
        """Sum of those from code `begin` up to `end` [Q] with a rank below `known` [Q]."""
        from shortlist.features.loops import dominated

        low, high = self.codes.searchsorted(begin), self.codes.searchsorted(end)
        some = np.flatnonzero(high > low)
        out = np.zeros(len(begin))
        if len(some):
            asked = np.argsort(known[some])
            out[some] = dominated(self.order, self.ranks, self.values, asked, known[some], low[some], high[some])
        return out

    def trailing(self, start: Ints, end: Ints, known: Ints, minute: Ints, layout: Layout) -> Real:
        """The same, decayed to `minute` [Q] (from the base on), of those that decay leaves anything of."""
        from shortlist.features.loops import trailing

        reach = int(layout.reach()[1][0])
        low = self.codes.searchsorted(np.maximum(start, start + minute - reach))
        high = self.codes.searchsorted(end)
        at = start + minute
        return trailing(self.codes, self.ranks, self.values, low, high, known, at, layout.half_life)


def _distinct(keys: Ints) -> tuple[Ints, Ints]:
    """Distinct keys, ascending, and the place of each. Keys that are nearly dense need no sort."""
    top = int(keys.max(initial=-1))
    if len(keys) and keys.min() >= 0 and top <= 4 * len(keys) + 1024:
        there = np.zeros(top + 1, dtype=bool)
        there[keys] = True
        if there.all():
            return np.arange(top + 1), keys
        return np.flatnonzero(there), (np.cumsum(there) - 1)[keys]
    distinct, place = np.unique(keys, return_inverse=True)
    return distinct, place


def _place(known: Ints, keys: Ints) -> Ints:
    if not len(known):
        return np.full(len(keys), -1, dtype=np.int64)
    at = np.minimum(known.searchsorted(keys), len(known) - 1)
    return np.where(known[at] == keys, at, -1)
