"""Ranking examples: what was shown or done after a request, and where a log has no impressions, negatives drawn for it.

R requests, P (request, item) pairs with events, N rows, T tasks. Negatives are drawn anew in every epoch, by a hash of
(seed, epoch, request, item): neither the batch a request is in nor a restart changes them.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shortlist.batch import Batch
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.config import build
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError, DataError
from shortlist.expressions import Expression
from shortlist.features.assemble import Assembler
from shortlist.features.hashing import mix
from shortlist.schema import Sample, Schema

__all__ = ["Ranking", "Outcomes", "Examples", "labelled", "picked", "OBSERVED", "RECALLED", "UNIFORM"]

OBSERVED, RECALLED, UNIFORM = range(3)  # where a row is from: the log, the request's candidates, the catalogue
TRIES = 16  # draws for one uniform negative before it is given up: the user has met nearly everything

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcomes:
    """What happened after each request: its pairs are `offsets[r]:offsets[r+1]`, `items` [P] ascending.

    `labels` [P, T] in the order of the schema's tasks, `valid` [P, T] says which rows carry them. `contradictory`
    pairs, counted by what is wrong with them, carry none: they have an outcome without what it rests on.
    """

    offsets: Ints
    items: Ints
    labels: Floats
    valid: Mask
    contradictory: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        events: Interactions,
        requests: Requests,
        schema: Schema,
        window_ms: int | None = None,
        log: Interactions | None = None,
    ) -> "Outcomes":
        """Events of each request's user from its moment on, for `window_ms` where that is given. `log` is all that is
        known to have happened, where `events` are a part of it.

        Labels are those of `labelled`. What an outcome rests on may have happened before the moment: then the pair has
        no label either, but contradicts nothing. Raises ConfigError for an expression that does not fit.
        """
        low = _place(events, requests.users, requests.now)
        until = np.full(len(requests), np.iinfo(np.int64).max) if window_ms is None else requests.now + window_ms
        high = _place(events, requests.users, until)
        owners, at = _slices(low, high)
        codes = owners * (int(events.items.max(initial=0)) + 1) + events.items[at]
        _, first, pair = np.unique(codes, return_index=True, return_inverse=True)
        labels, valid, broken = labelled(
            schema, pair, events.actions[at], events.values[at], events.times[at].astype(np.float64), len(first)
        )
        counts = np.bincount(owners[first], minlength=len(requests))
        users, items = events.users[at][first], events.items[at][first]
        valid &= ~broken.any(axis=1, keepdims=True)
        wrong = _contradictory(events if log is None else log, users, items, broken, schema)
        return cls(_offsets(counts), items, labels, valid, wrong)


def labelled(
    schema: Schema, pair: Ints, actions: NDArray[np.int16], values: Floats, times: NDArray[np.float64], n: int
) -> tuple[Floats, Mask, Mask]:
    """Labels [n, T] of pairs from their events, in order of time, which rows carry them, and which rows break a funnel.

    `positive` of a task reads, of a pair: each action's name (whether it happened), `<action>.value` and `value` (the
    last one given, of that action or of any), `time_ms` (of the first event). Its result is the label: true is 1, a
    number stays. A task on an action is labelled where that happened, one on a task where that is positive, a sampled
    one everywhere, and none where the result is missing. A funnel is broken where events alone made a label positive
    that rests on an action which did not happen, or on a task which is not positive. Raises ConfigError for an
    expression that does not fit.
    """
    columns = _columns(schema, pair, actions, values, times, n)
    none = np.zeros(0, dtype=np.int64)
    silence = _columns(schema, none, actions[:0], values[:0], times[:0], 1)
    labels = np.zeros((n, len(schema.tasks)), dtype=np.float32)
    valid, broken = np.zeros(labels.shape, dtype=bool), np.zeros(labels.shape, dtype=bool)
    told: dict[str, NDArray[np.float32]] = {}
    made: dict[str, Mask] = {}  # labels that events alone made positive
    for name, task in schema.tasks.items():
        expression = Expression.parse(task.positive, f"schema.tasks.{name}.positive")
        told[name] = expression(columns, n).astype(np.float32)
        made[name] = (told[name] > 0) & (told[name] != expression(silence, 1).astype(np.float32)[0])
    for t, name in enumerate(schema.tasks):
        happened, unknown = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
        step: str | None = name
        while step is not None:  # up to the action that all of them rest on
            before, on = schema.before(step), schema.tasks[step].on
            if before is not None:
                unknown |= happened & np.isnan(told[before])
                happened &= told[before] > 0
            elif isinstance(on, str):
                happened &= columns[on]
            step = before
        valid[:, t] = np.isfinite(told[name]) & happened
        labels[:, t] = np.where(valid[:, t], told[name], 0)
        broken[:, t] = ~happened & ~unknown & made[name]
    return labels, valid, broken


def _contradictory(events: Interactions, users: Ints, items: Ints, broken: Mask, schema: Schema) -> dict[str, int]:
    """How many pairs [P] are broken in the light of all their user's events, by what is wrong with them."""
    if not broken.any():
        return {}
    some = np.flatnonzero(broken.any(axis=1))
    width = int(events.items.max()) + 1
    codes, pair = np.unique(users[some] * width + items[some], return_inverse=True)
    of_event = events.users * width + events.items
    at = np.flatnonzero(np.isin(of_event, codes))
    at = at[np.argsort(events.times[at], kind="stable")]
    place = np.searchsorted(codes, of_event[at])
    times = events.times[at].astype(np.float64)
    whole = labelled(schema, place, events.actions[at], events.values[at], times, len(codes))[2]
    counts = (broken[some] & whole[pair]).sum(axis=0)
    return {
        f"{name} without {task.on}": int(count)
        for (name, task), count in zip(schema.tasks.items(), counts, strict=True) if count
    }  # fmt: skip


def _columns(
    schema: Schema, pair: Ints, actions: NDArray[np.int16], values: Floats, times: NDArray[np.float64], n: int
) -> dict[str, NDArray[Any]]:
    """What `positive` reads of n pairs."""
    first = np.full(n, np.nan)
    first[pair[::-1]] = times[::-1]  # of repeated places the last one stays
    columns: dict[str, NDArray[Any]] = {"value": _last(pair, values, n), "time_ms": first}
    for code, name in enumerate(schema.action_names):
        mine = actions == code
        columns[name] = np.bincount(pair[mine], minlength=n) > 0
        columns[f"{name}.value"] = _last(pair[mine], values[mine], n)
    return columns


@dataclass(frozen=True)
class Examples:
    """Rows before they are encoded: `candidates` with provenance, `origin` int8 [N] (OBSERVED, RECALLED, UNIFORM),
    `recalled` bool [N], whether any channel brought the item."""

    requests: Requests
    candidates: Candidates
    labels: Floats
    valid: Mask
    origin: NDArray[np.int8]
    recalled: Mask


class Ranking:
    """One unit per request with a labelled pair: all its labelled pairs, recalled or not, and `per` negatives for each
    of its positives where the schema's tasks say so.

    A negative is alive among the candidates or one of `items` (all of the catalogue by default), never in the request's
    history, never a pair itself, never twice. What the candidates cannot give, the catalogue gives where the rule
    allows it. Request columns are kept once.
    """

    def __init__(
        self,
        requests: Requests,
        candidates: Candidates,
        outcomes: Outcomes,
        assembler: Assembler,
        *,
        seed: int = 0,
        items: Ints | None = None,
    ) -> None:
        """Raises ConfigError for tasks that do not go together, DataError when no request has a labelled pair."""
        sizes = (len(requests), len(candidates.offsets) - 1, len(outcomes.offsets) - 1)
        if len(set(sizes)) > 1:
            raise ValueError(f"requests, candidates and outcomes are of {sizes} requests")
        self.requests, self.candidates, self.outcomes, self.assembler = requests, candidates, outcomes, assembler
        self.seed, self.epoch = seed, 0
        self.items = assembler.items.keys if items is None else items
        self.tasks = tuple(assembler.schema.tasks)
        self.rule, self._sampled = _rule(assembler.schema)
        used = outcomes.valid.any(axis=1)
        owners = np.repeat(np.arange(len(requests)), np.diff(outcomes.offsets))[used]
        self._offsets = _offsets(np.bincount(owners, minlength=len(requests)))
        self._pairs, self._labels, self._valid = outcomes.items[used], outcomes.labels[used], outcomes.valid[used]
        hit = ((self._labels > 0) & self._valid & self._sampled).any(axis=1)
        self._positives = np.bincount(owners[hit], minlength=len(requests))
        columns = (self.items, candidates.items, requests.history.items, outcomes.items)
        self._width = max(int(column.max(initial=0)) for column in columns) + 1
        self.at = np.flatnonzero(np.diff(self._offsets) > 0)
        if not len(self.at):
            what = f"no event after {len(requests)} requests has a label"
            raise DataError(what, where="ranking", hint="check schema.tasks and the moments of the requests")

    def __len__(self) -> int:
        return len(self.at)

    def at_epoch(self, epoch: int) -> "Ranking":
        """The same units with the negatives of this epoch."""
        other = copy(self)
        other.epoch = epoch
        return other

    def batch(self, rows: Ints) -> Batch:
        """Units by place: all rows of a request together, its pairs first."""
        return self._batch(rows, self.assembler)

    def bare(self, rows: Ints) -> Batch:
        """As `batch`, for a file: without the columns that `Assembler.sides` has."""
        return self._batch(rows, self.assembler.bare)

    @property
    def drawn(self) -> bool:
        """Whether an epoch has rows of its own: negatives are drawn."""
        return self.rule is not None

    def _batch(self, rows: Ints, encode: Callable[[Requests, Candidates], Batch]) -> Batch:
        made = self.examples(rows)
        batch = encode(made.requests, made.candidates)
        labels, valid = torch.from_numpy(made.labels), torch.from_numpy(made.valid)
        return replace(batch, tasks=self.tasks, labels=labels, valid=valid)

    def examples(self, rows: Ints) -> Examples:
        """Rows of units by place, not yet encoded."""
        asked = self.at[rows]
        owners, pairs = _slices(self._offsets[asked], self._offsets[asked + 1])
        parts = [(owners, self._pairs[pairs]), *self._negatives(asked)]
        origin = np.repeat([OBSERVED, RECALLED, UNIFORM], [len(part[0]) for part in parts]).astype(np.int8)
        owner, item = (np.concatenate([part[n] for part in parts]) for n in (0, 1))
        order = np.argsort(owner, kind="stable")
        owner, item, origin = owner[order], item[order], origin[order]
        labels = np.zeros((len(order), len(self.tasks)), dtype=np.float32)
        valid = np.tile(self._sampled, (len(order), 1))
        labels[origin == OBSERVED], valid[origin == OBSERVED] = self._labels[pairs], self._valid[pairs]
        candidates = self._provenance(asked, owner, item)
        recalled = np.asarray((candidates.rank > 0).any(axis=1))
        return Examples(picked(self.requests, asked), candidates, labels, valid, origin, recalled)

    def keep(self) -> dict[str, float]:
        """Share of the possible negatives that an epoch keeps, by where they are from: `recalled` ones are
        what a ranker meets when it serves."""
        kept, possible = np.zeros(2), np.zeros(2)
        for start in range(0, len(self), 1024):
            rows = np.arange(start, min(start + 1024, len(self)))
            owners, _ = self._pool(self.at[rows])
            origin = self.examples(rows).origin
            met = self._met(self.at[rows])
            free = len(rows) * len(self.items) - int(np.isin(met % self._width, self.items).sum())
            kept += [(origin == RECALLED).sum(), (origin == UNIFORM).sum()]
            possible += [len(owners), free]
        shares = np.divide(kept, possible, out=np.zeros(2), where=possible > 0)
        return {"recalled": float(shares[0]), "catalogue": float(shares[1])}

    def _negatives(self, asked: Ints) -> list[tuple[Ints, Ints]]:
        """(request, item) of negatives from the candidates and from the catalogue."""
        none = np.zeros(0, dtype=np.int64)
        wanted = self._positives[asked] * (self.rule.per if self.rule else 0)
        if self.rule is None or not wanted.any():
            return [(none, none), (none, none)]
        share = {"recalled": wanted, "uniform": wanted * 0, "mixed": (wanted + 1) // 2}[self.rule.sample]
        owners, items = self._pool(asked)
        order = np.lexsort((self._dice(asked[owners], items), owners))
        owners, items = owners[order], items[order]
        starts = _offsets(np.bincount(owners, minlength=len(asked)))
        first = np.arange(len(owners)) - starts[owners] < share[owners]
        drawn = (owners[first], items[first])
        rest = wanted - np.bincount(drawn[0], minlength=len(asked))
        if self.rule.sample == "recalled":
            return [drawn, (none, none)]
        return [drawn, self._uniform(asked, rest, np.append(self._met(asked), drawn[0] * self._width + drawn[1]))]

    def _uniform(self, asked: Ints, wanted: Ints, taken: Ints) -> tuple[Ints, Ints]:
        """Up to `wanted` [r] distinct items for each request, none of whose codes is taken."""
        owner = np.repeat(np.arange(len(asked)), wanted)
        slot = np.arange(len(owner)) - _offsets(wanted)[owner]
        found = [np.zeros(0, dtype=np.int64)]
        for turn in range(TRIES if len(self.items) else 0):
            if not len(owner):
                break
            dice = self._dice(asked[owner], -1 - slot * TRIES - turn)
            code = owner * self._width + self.items[(dice % np.uint64(len(self.items))).astype(np.int64)]
            fresh = np.zeros(len(code), dtype=bool)
            fresh[np.unique(code, return_index=True)[1]] = True
            fresh &= ~np.isin(code, taken)
            found.append(code[fresh])
            taken = np.append(taken, code[fresh])
            owner, slot = owner[~fresh], slot[~fresh]
        codes = np.concatenate(found)
        return codes // self._width, codes % self._width

    def _pool(self, asked: Ints) -> tuple[Ints, Ints]:
        """(request, item) of the living candidates that may be negatives."""
        owners, at = _slices(self.candidates.offsets[asked], self.candidates.offsets[asked + 1])
        items = self.candidates.items[at]
        free = self.candidates.alive[at] & ~np.isin(owners * self._width + items, self._met(asked))
        return owners[free], items[free]

    def _met(self, asked: Ints) -> Ints:
        """Codes of what is no negative, each once: the history and the pairs, labelled or not."""
        codes = []
        for offsets, items in (
            (self.outcomes.offsets, self.outcomes.items),
            (self.requests.history.offsets, self.requests.history.items),
        ):
            owners, at = _slices(offsets[asked], offsets[asked + 1])
            codes.append(owners * self._width + items[at])
        return np.unique(np.concatenate(codes))

    def _provenance(self, asked: Ints, owner: Ints, items: Ints) -> Candidates:
        """Rows as candidates, with the ranks and scores they have among the request's own, 0 where they have none."""
        own = self.candidates
        owners, at = _slices(own.offsets[asked], own.offsets[asked + 1])
        codes = owners * self._width + own.items[at]
        order = np.argsort(codes)
        rows = owner * self._width + items
        place = np.minimum(np.searchsorted(codes, rows, sorter=order), max(len(codes) - 1, 0))
        rank = np.zeros((len(rows), len(own.channels)), dtype=np.int32)
        score = np.zeros(rank.shape, dtype=np.float32)
        if len(codes):
            there = codes[order[place]] == rows
            source = at[order[place[there]]]
            rank[there], score[there] = own.rank[source], own.score[source]
        scores = {name: np.full(len(rows), np.nan, dtype=np.float32) for name in own.scores}
        if len(codes):
            for name, column in own.scores.items():
                scores[name][there] = column[source]
        offsets = _offsets(np.bincount(owner, minlength=len(asked)))
        return Candidates(offsets, items, own.channels, rank, score, scores, np.zeros(len(rows), dtype=np.int16))

    def _dice(self, request: Ints, number: Ints) -> NDArray[np.uint64]:
        """Random numbers that depend on nothing but seed, epoch, request and number."""
        base = np.array([self.seed, self.epoch], dtype=np.int64).view(np.uint64)
        start = mix(mix(base[:1] + np.uint64(1)) ^ base[1:])
        return mix(mix(start ^ request.view(np.uint64)) ^ np.ascontiguousarray(number).view(np.uint64))


def _rule(schema: Schema) -> tuple[Sample | None, Mask]:
    """How negatives are drawn, and which tasks [T] they are examples of. Raises ConfigError."""
    if not schema.tasks:
        hint = 'add tasks.click = { on = "impression", positive = "click" }'
        raise ConfigError("no task is declared", where="schema.tasks", hint=hint)
    rules = {
        name: build(Sample, task.on, f"schema.tasks.{name}.on")
        for name, task in schema.tasks.items()
        if not isinstance(task.on, str)
    }
    first = next(iter(rules), "")
    for name, found in rules.items():
        if found != rules[first]:
            what = f"draws other negatives than {first}"
            raise ConfigError(what, where=f"schema.tasks.{name}.on", hint="tasks of one ranker share their rows")
    return rules.get(first), np.array([name in rules for name in schema.tasks])


def _place(events: Interactions, users: Ints, times: Ints) -> Ints:
    """Where in the log, sorted by (user, time), the events of each user from a time on begin."""
    asked = np.concatenate([np.ones(len(users), dtype=bool), np.zeros(len(events), dtype=bool)])
    order = np.lexsort((~asked, np.concatenate([times, events.times]), np.concatenate([users, events.users])))
    before = np.cumsum(~asked[order])
    out = np.empty(len(users), dtype=np.int64)
    mine = asked[order]
    out[order[mine]] = before[mine]
    return out


def _last(pair: Ints, values: Floats, n: int) -> NDArray[np.float64]:
    """The last value of each pair [n], NaN where none was given."""
    out = np.full(n, np.nan)
    known = ~np.isnan(values)
    out[pair[known]] = values[known]  # of repeated places the last one stays
    return out


def picked(requests: Requests, at: Ints) -> Requests:
    """Requests by place, with the history and context that features are made of."""
    history, none = requests.history, Ragged.empty(len(at))
    _, steps = _slices(history.offsets[at], history.offsets[at + 1])
    offsets = _offsets(history.offsets[at + 1] - history.offsets[at])
    events = Ragged(offsets, history.items[steps], history.times[steps], history.actions[steps])
    context = {name: column[at] for name, column in requests.context.items()}
    as_of = None if requests.as_of is None else requests.as_of[at]
    return Requests(
        requests.users[at], requests.now[at], requests.n, events, none, none, context,
        known=requests.known, as_of=as_of,
    )  # fmt: skip


def _slices(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Row of each element, and its place: low[r]..high[r] one after the other."""
    counts = high - low
    owners = np.repeat(np.arange(len(counts)), counts)
    return owners, np.arange(len(owners)) + (low - _offsets(counts)[:-1])[owners]


def _offsets(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
