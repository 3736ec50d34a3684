"""A small log, blobs in a dict, and counting as one would by hand: event by event, in plain Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Ragged, Requests
from shortlist.features.base import TICK_MS, WINDOWS, Counter, Events, Known, Rows
from shortlist.features.counters import Parts
from shortlist.features.state import Blob, Change
from shortlist.schema import Action, Catalogue, Field, Profiles, Schema

MINUTE, HOUR, DAY = TICK_MS, 60 * TICK_MS, 1440 * TICK_MS
T0 = 1_700_000_000_123  # 2023-11-14 22:13:20.123: at the start of nothing
Ints = NDArray[np.int64]

SCHEMA = Schema(
    action="action",
    actions={"view": Action(0), "click": Action(1), "buy": Action(2)},
    users={"gender": Field("sparse")},
    items={"category": Field("sparse"), "labels": Field("varlen")},
)
COUNTERS = (
    Counter(("item",), ("view",)),
    Counter(("user",), ("click", "buy"), ("1d",)),
    Counter(("item",), ("click",), ("7d", "1h")),
    Counter(("item.category",), ("click",), ("30d",)),
    Counter(("item", "user.gender"), ("view", "click")),
    Counter(("user", "item.labels"), ("click", "view"), ("1h", "30d")),
    Counter(("item.labels", "user"), ("click",), ("7d",)),
    Counter(("item",), ("buy",), ("7d",), sum=True),
    Counter(("user",), ("click",), half_life_ms=2 * HOUR),
    Counter(("user", "item.category"), ("click", "view"), half_life_ms=DAY, sum=False),
    Counter(("item",), ("buy",), half_life_ms=3 * DAY, sum=True),
)
CAPPED = (
    Counter(("user", "item"), ("view", "click"), ("1h", "1d", "7d"), cap=2),
    Counter(("user", "item"), ("view", "click"), ("1h",), cap=3),
    Counter(("user", "item"), ("view",), half_life_ms=5 * HOUR, cap=2),
    Counter(("item", "user"), ("click",), ("30d",), cap=1),
)


@dataclass
class Dict:
    """Blobs in a dict."""

    offset: int = 0
    spaces: dict[str, dict[int, bytes]] = field(default_factory=dict)
    asked: int = 0

    def get(self, namespace: str, keys: Ints) -> list[Blob]:
        self.asked += len(keys)
        return [self.spaces.get(namespace, {}).get(key) for key in keys.tolist()]

    def put(self, changes: Mapping[str, Change], offset: int, *, replace: bool = False) -> None:
        for name, (keys, blobs) in changes.items():
            space = self.spaces.setdefault(name, {})
            if replace:
                space.clear()
            for key, blob in zip(keys.tolist(), blobs, strict=True):
                if blob is None:
                    space.pop(key, None)
                else:
                    space[key] = blob
        self.offset = offset


@dataclass
class Each:
    """Features of which every counter's answers are columns, named by place."""

    counters: Sequence[Counter]

    def read(self, side: Literal["request", "row"], rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        asked = [c for c in self.counters if (side == "row") == any(part.startswith("item") for part in c.by)]
        return {
            f"{n}.{column}": values
            for n, counter in enumerate(asked)
            for column, values in enumerate(known.counts(counter, rows).T)
        }


def catalogue(users: int, items: int) -> Catalogue:
    """Gender f, m or none by turns; categories c0..c2 by turns; labels: item n has those of its binary digits."""
    labels = [[f"l{bit}" for bit in range(3) if n >> bit & 1] for n in range(items)]
    return Catalogue(
        Profiles(np.arange(users), {"gender": column([["f", "m", None][n % 3] for n in range(users)])}),
        Profiles(np.arange(items), {"category": column([f"c{n % 3}" for n in range(items)]), "labels": column(labels)}),
    )


def column(values: list[Any]) -> NDArray[Any]:
    return np.fromiter(values, dtype=object, count=len(values))


def log(rng: np.random.Generator, size: int, users: int, items: int, span_ms: int, late_ms: int) -> Events:
    """Events in offset order, their times up to `late_ms` away from it. Buys have a value, or none."""
    times = T0 + np.sort(rng.integers(0, span_ms, size))
    order = np.argsort(times + rng.integers(0, late_ms + 1, size) * (rng.random(size) < 0.3), kind="stable")
    actions = rng.choice(3, size, p=[0.5, 0.3, 0.2]).astype(np.int16)
    values = np.where((actions == 2) & (rng.random(size) < 0.8), rng.integers(1, 9, size), np.nan)
    return Events(
        1 + np.cumsum(rng.integers(1, 3, size)),
        rng.integers(0, users, size),
        rng.integers(0, items, size),
        times[order],
        actions,
        values.astype(np.float32),
    )


def rows(users: Ints, items: Ints | None, at: Ints, as_of: Ints | None) -> Rows:
    """One request a row."""
    n = len(users)
    requests = Requests(users, at, 1, Ragged.empty(n), Ragged.empty(n), Ragged.empty(n), as_of=as_of)
    return Rows(requests, np.arange(n), items)


def recount(
    counter: Counter, events: Events, known: Catalogue, user: int, item: int, at: int, as_of: int | None
) -> list[float]:
    """What a counter answers, by going through the log. Without `as_of` the log is taken in order of time."""
    names = SCHEMA.action_names
    parts = Parts(known)

    def keys(user: int, item: int) -> list[tuple[int, int]]:
        _, first, second = parts.keys(counter.by, np.array([user]), np.array([item]))
        return list(zip(first.tolist(), second.tolist(), strict=True))

    told = list(zip(*(c.tolist() for c in vars(events).values()), strict=True))
    if as_of is None:
        told = sorted((t for t in told if t[3] < at), key=lambda t: (t[3], t[0]))
    else:
        told = sorted(t for t in told if t[0] <= as_of)
    kept: dict[tuple[int, int], list[tuple[int, float]]] = {}  # lives of subs that may be pushed out
    past: dict[tuple[int, int], list[tuple[int, float]]] = {}  # what is too old for that
    newest: dict[int, int] = {}
    for _, who, what, time, action, value in told:
        weight = value if counter.sum else 1.0
        if names[action] not in counter.actions or weight != weight:
            continue
        minute = time // MINUTE
        for first, second in keys(who, what):
            newest[first] = max(newest.get(first, 0), minute)
            reach, key = expired(counter, newest[first]), (first, second)
            if key in kept and max(m for m, _ in kept[key]) < reach:
                past.setdefault(key, []).extend(kept.pop(key))
            (past if minute < reach else kept).setdefault(key, []).append((minute, weight))
            if len(counter.by) == 2 and minute >= reach:
                push_out(counter, kept, first, reach)
    until = at // MINUTE
    out = [0.0] * (1 if counter.half_life_ms else len(counter.windows))
    for key in keys(user, item):
        for minute, weight in kept.get(key, []) + past.get(key, []):
            if minute >= until:
                continue
            if counter.half_life_ms:
                out[0] += weight * 2.0 ** (-(until - minute) * MINUTE / counter.half_life_ms)
                continue
            for place, name in enumerate(counter.windows):
                length, step = WINDOWS[name]
                if minute * MINUTE >= at // step * step - length:
                    out[place] += weight
    return out


def expired(counter: Counter, newest: int) -> int:
    """The minute before which nothing is kept of a key whose newest is this."""
    since = newest - 5
    if counter.half_life_ms:
        return since - int(np.ceil(64 * counter.half_life_ms / MINUTE))
    return min(
        since * MINUTE // step * step - length for length, step in (WINDOWS[name] for name in counter.windows)
    ) // MINUTE  # fmt: skip


def push_out(counter: Counter, kept: dict[tuple[int, int], list[tuple[int, float]]], first: int, reach: int) -> None:
    """Of more than `cap` live subs the one with the least (newest minute, sub) loses everything."""
    live = [(max(m for m, _ in held), key) for key, held in kept.items() if key[0] == first]
    live = [(minute, key) for minute, key in live if minute >= reach]
    if len(live) > counter.cap:
        del kept[min(live)[1]]
