"""Ranking examples from what was served: rows of slates, joined with what became of them within a window.

R requests, N rows (a request and an item), E events, T tasks. An event that names a request and an item belongs to that
row; one that names none belongs to the latest row of its user and item shown in the window before it; none belongs to
two. The order in which events came in, and how often, changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from shortlist.batch import Batch
from shortlist.candidates import Candidates, Requests, owners
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.ranking import OBSERVED, Examples, Outcomes, labelled, picked
from shortlist.errors import DataError
from shortlist.events import slates
from shortlist.events.log import FUTURE_MS
from shortlist.features.assemble import Assembler
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.encoders import PLACE
from shortlist.schema import MISSING, Catalogue, Keys, Schema

__all__ = ["Asked", "Joined", "Logged", "LoggedData", "Report", "Seen", "join", "served"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Report:
    """What a join did. Of `rows` (those written twice are `doubled`, cut-off files `torn`): `young` ones are left out,
    their window was still open at the log's end; `contradictory` ones, by task, had an outcome without what it rests
    on; `met` ones were not shown and still the user took the item. Of `events`, the `again` came twice; `named` joined
    by request, `near` by time, `stray` nothing."""

    rows: int
    requests: int
    shown: int
    doubled: int
    torn: int
    young: int
    met: int
    contradictory: Mapping[str, int]
    kept: int
    events: int
    again: int
    named: int
    near: int
    stray: int
    labels: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # task -> (rows with a label, positive ones)

    def words(self) -> str:
        """In one line."""
        lost = {"not yet mature": self.young, "taken elsewhere": self.met, **self.contradictory}
        told = ", ".join(f"{n} {name}" for name, n in lost.items() if n) or "none left out"
        return (
            f"{self.kept} of {self.rows} logged rows ({told}); {self.named + self.near} of {self.events} events joined"
        )


@dataclass(frozen=True)
class Joined:
    """Rows that are learned from, by (time, request, position), with `labels` and `valid` [N, T] and `weights` [N]."""

    rows: pl.DataFrame
    labels: Floats
    valid: Mask
    weights: Floats
    report: Report

    def where(self, mask: Mask) -> "Joined":
        rows = self.rows.filter(pl.Series(mask))
        return Joined(rows, self.labels[mask], self.valid[mask], self.weights[mask], self.report)


def served(folder: Path, users: Keys) -> slates.Found:
    """What a project's servers wrote; users that were strangers when they asked have the key they have now.

    Raises DataError where nothing was served yet."""
    found = slates.read(folder)
    if not len(found.rows):
        hint = 'serve for a while, or set ranking.rows = "sampled"'
        raise DataError("no served slate is logged yet", where="ranking.rows", hint=hint)
    keys = found.rows["user"].to_numpy()
    strange = keys == MISSING
    if strange.any():
        keys = keys.copy()
        keys[strange] = users.encode(found.rows["user_id"].filter(pl.Series(strange)))
    return replace(found, rows=found.rows.with_columns(user=pl.Series(keys)))


def join(found: slates.Found, events: pl.DataFrame, schema: Schema, window_ms: int, until: int | None = None) -> Joined:
    """Rows with their labels. `events` have `offset`, `user`, `item` (keys), `action`, `value`, `time_ms` and, where
    the log has them, `request_id` and `event_id`.

    A row is mature when its window ended before `until`, by default the last moment that the log knows of. A row that
    was shown has the labels that events gave it; one that was not is a negative of the tasks that draw theirs
    (`on = { sample = ... }`), as many times as its probability of having been kept says. Raises ConfigError for a
    task's expression that does not fit.
    """
    rows = found.rows.sort("time_ms", "request_id", pl.col("position") == 0, "position", "item").with_row_index("row")
    rows = rows.with_columns(pl.col("row").cast(pl.Int64))
    known, again = _events(events, schema)
    pairs, named, near = _pairs(rows, known, window_ms)
    pairs = pairs.sort("time_ms", "offset")
    shown = rows["shown"].to_numpy()
    labels, valid, broken = labelled(
        schema,
        pairs["row"].to_numpy(),
        pairs["code"].to_numpy(),
        pairs["value"].fill_null(np.nan).to_numpy(),
        pairs["time_ms"].cast(pl.Float64).to_numpy(),
        len(rows),
    )
    drawn = np.array([not isinstance(task.on, str) for task in schema.tasks.values()], dtype=bool)
    valid &= shown[:, None] | drawn
    end = (
        int(max(rows["time_ms"].to_numpy().max(), known["time_ms"].to_numpy().max(initial=0)))
        if until is None
        else until
    )
    young = rows["time_ms"].to_numpy() + window_ms >= end
    met = ~shown & _taken(rows, known, schema, window_ms)
    wrong = broken & ~young[:, None]
    keep = ~young & ~met & ~wrong.any(axis=1)
    weights = np.where(shown, 1.0, 1.0 / rows["sampled"].to_numpy()).astype(np.float32)
    tasks = list(schema.tasks)
    report = Report(
        rows=len(rows), requests=rows["request_id"].n_unique(), shown=int(shown.sum()), doubled=found.doubled,
        torn=found.torn, young=int(young.sum()), met=int((met & ~young).sum()),
        contradictory={f"{name} without {schema.tasks[name].on}": int(wrong[:, t].sum())
                       for t, name in enumerate(tasks) if wrong[:, t].any()},
        kept=int(keep.sum()), events=len(known), again=again, named=named, near=near,
        stray=len(known) - named - near,
        labels={name: (int(valid[keep, t].sum()), int((valid & (labels > 0))[keep, t].sum()))
                for t, name in enumerate(tasks)},
    )  # fmt: skip
    mature = rows.drop("row").filter(pl.Series(keep))
    return Joined(mature, labels[keep], valid[keep], weights[keep], report)


def _events(events: pl.DataFrame, schema: Schema) -> tuple[pl.DataFrame, int]:
    """Events of declared actions, each once, and how many came again."""
    codes = pl.DataFrame(
        {"action": schema.action_names, "code": range(len(schema.action_names))},
        schema={"action": pl.String, "code": pl.Int16},
    )
    for name in ("request_id", "event_id"):
        if name not in events.columns:
            events = events.with_columns(pl.lit(None, pl.String).alias(name))
    names = ("offset", "user", "item", "action", "value", "time_ms", "request_id", "event_id")
    known = events.select(names).join(codes, on="action").sort("offset")
    once = known.unique("offset", keep="first", maintain_order=True)
    ids = pl.col("event_id")
    once = once.filter(ids.is_null() | ids.is_first_distinct())
    return once, len(known) - len(once)


def _pairs(rows: pl.DataFrame, events: pl.DataFrame, window_ms: int) -> tuple[pl.DataFrame, int, int]:
    """(row, code, value, time_ms, offset) of every event that joined, and how many did by name and by time."""
    columns = ("row", "code", "value", "time_ms", "offset")
    shown = rows.filter("shown").select("row", "request_id", "user", "item", at="time_ms")
    told = events.filter(pl.col("request_id").is_not_null())
    since = pl.col("time_ms") - pl.col("at")
    # a client's clock may be behind ours: what names its request belongs to it all the same
    named = told.join(shown.drop("user"), on=["request_id", "item"]).filter(
        (since >= -FUTURE_MS) & (since <= window_ms)
    )
    alone = events.filter(pl.col("request_id").is_null()).sort("time_ms", "offset")
    near = alone.join_asof(
        shown.drop("request_id").sort("at", "row"), left_on="time_ms", right_on="at", by=["user", "item"],
        strategy="backward", tolerance=window_ms, check_sortedness=False,
    ).filter(pl.col("row").is_not_null())  # fmt: skip
    return pl.concat([named.select(columns), near.select(columns)]), len(named), len(near)


def _taken(rows: pl.DataFrame, events: pl.DataFrame, schema: Schema, window_ms: int) -> Mask:
    """Rows [N] whose user took the item within the window, wherever it was found."""
    interest = events.filter(pl.Series(schema.weights[events["code"].to_numpy()] > 0)).select(
        "user", "item", "time_ms", hit=pl.lit(True)
    )
    found = rows.select("row", "user", "item", at="time_ms").sort("at", "row").join_asof(
        interest.sort("time_ms"), left_on="at", right_on="time_ms", by=["user", "item"],
        strategy="forward", tolerance=window_ms, check_sortedness=False,
    )  # fmt: skip
    return found.sort("row")["hit"].fill_null(False).to_numpy()


class Seen:
    """Features as they were when a slate was made, for requests and rows in this order.

    `of_request` columns [R] and `of_row` columns [N] are raw, by name; `logged` [R] says by name whether the request's
    rows have the column at all. What was not logged is computed from the log by `known`, as of the offset the request
    knew, and missing without it. `features` are the columns that are asked for.
    """

    def __init__(
        self,
        request_of: Ints,
        items: Ints,
        of_request: Mapping[str, NDArray[Any]],
        of_row: Mapping[str, NDArray[Any]],
        logged: Mapping[str, Mask],
        features: Mapping[str, Column],
        known: Known | None,
    ) -> None:
        self.request_of, self.items, self.of_request, self.of_row = request_of, items, of_request, of_row
        self.logged, self.features, self.known = logged, features, known
        self._width = int(items.max(initial=0)) + 2
        codes = request_of * self._width + items
        self._order = np.argsort(codes)
        self._codes = codes[self._order]

    @property
    def catalogue(self) -> Catalogue:
        return self.known.catalogue if self.known is not None else Catalogue.empty()

    def counts(self, counter: Counter, rows: Rows) -> NDArray[np.float64]:
        """As the log has them. Raises DataError where there is no log to ask."""
        if self.known is None:
            raise DataError("no log is given to count in", where="logged rows", hint="give `known`")
        return self.known.counts(counter, rows)

    def columns(self, rows: Rows) -> Mapping[str, NDArray[Any]]:
        """Raw columns of the side that is asked about [N]."""
        side, kept = ("request", self.of_request) if rows.items is None else ("row", self.of_row)
        names = [name for name, column in self.features.items() if column.side == side]
        there, place = self._places(rows)
        use = {name: there & self.logged[name][rows.owners] for name in names if name in kept}
        missing = any(name not in use or not use[name].all() for name in names)
        computed = self.known.columns(rows) if missing and self.known is not None else {}
        out = {}
        for name in names:
            if name not in kept:
                out[name] = computed.get(name, np.full(len(there), np.nan))
                continue
            kind = kept[name].dtype
            empty = np.full(len(there), None if kind.hasobject else np.nan, dtype=kind)
            out[name] = computed[name].astype(kind) if name in computed else empty
            out[name][use[name]] = kept[name][place[use[name]]]
        return out

    def _places(self, rows: Rows) -> tuple[Mask, Ints]:
        """Which of the rows asked about were logged, and their places."""
        if rows.items is None:
            return np.ones(len(rows.owners), dtype=bool), rows.owners
        if not len(self._codes):
            return np.zeros(len(rows.items), dtype=bool), rows.items
        known = (rows.items >= 0) & (rows.items < self._width)
        codes = rows.owners * self._width + np.where(known, rows.items, self._width - 1)
        near = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return self._codes[near] == codes, self._order[near]

    def take(self, asked: Ints, at: Ints, request_of: Ints) -> "Seen":
        """Of some requests, by place, and their rows `at`."""
        return Seen(
            request_of,
            self.items[at],
            {name: column[asked] for name, column in self.of_request.items()},
            {name: column[at] for name, column in self.of_row.items()},
            {name: mask[asked] for name, mask in self.logged.items()},
            self.features,
            self.known,
        )


class Asked(NamedTuple):
    """The requests of logged rows [R], in order of time, and what each knew: histories up to the offset `as_of`,
    counters up to `counted`, where the store stood."""

    users: Ints
    now: Ints
    as_of: Ints
    counted: Ints
    context: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LoggedData:
    """Everything that rankers learn from: requests with what they knew, rows as candidates, labels, and which requests
    are `held` [R] to say when to stop. `log` is what encoders are fitted on."""

    requests: Requests
    candidates: Candidates
    labels: Floats
    valid: Mask
    weights: Floats
    held: Mask
    log: Interactions
    contradictory: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        joined: Joined,
        ask: Callable[[Asked], Requests],
        schema: Schema,
        channels: Sequence[str],
        held: float,
        log: Interactions,
        features: Mapping[str, Column],
        rng: np.random.Generator,
        position: bool = False,
    ) -> "LoggedData":
        """`ask` makes requests as they are made everywhere; a share of the users is `held`; `position` makes the place
        on the page a feature. Raises DataError where
        no row has a label, or all are of one user."""
        used = np.asarray(joined.valid.any(axis=1))
        if not used.any():
            hint = "log impressions, check schema.tasks, or wait for the window to pass"
            raise DataError(f"no logged row has a label: {joined.report.words()}", where="ranking.rows", hint=hint)
        joined = joined.where(used)
        rows = joined.rows
        first = (rows["request_id"] != rows["request_id"].shift()).fill_null(True).to_numpy()
        offsets = np.append(np.flatnonzero(first), len(rows)).astype(np.int64)
        of_request = rows.filter(pl.Series(first))
        asked = Asked(
            of_request["user"].to_numpy(writable=True),
            of_request["time_ms"].to_numpy(writable=True),
            of_request["as_of_offset"].to_numpy(writable=True),
            _counted(of_request).to_numpy(writable=True),
            {name: _array(of_request, f"context.{name}") for name in schema.context},
        )
        users = np.unique(asked.users)
        if len(users) < 2:
            hint = "serve more users"
            raise DataError("rankers learn from at least 2 users' slates", where="ranking.rows", hint=hint)
        late = rng.choice(users, max(1, int(held * len(users))), replace=False)
        candidates = _candidates(rows, offsets, tuple(channels), position)
        requests = ask(asked)
        seen = _seen(rows, offsets, features, requests.known)
        requests = replace(requests, known=seen if features else requests.known, as_of=asked.counted)
        mask = np.isin(asked.users, late)
        return cls(requests, candidates, joined.labels, joined.valid, joined.weights, mask, log,
                   joined.report.contradictory)  # fmt: skip

    @property
    def outcomes(self) -> Outcomes:
        """None: rows that stand for others are weighted, so that probabilities need no correction."""
        none = np.zeros((0, self.labels.shape[1]))
        offsets = np.zeros(len(self.requests) + 1, dtype=np.int64)
        labels, valid = none.astype(np.float32), none.astype(bool)
        return Outcomes(offsets, np.zeros(0, dtype=np.int64), labels, valid, self.contradictory)

    def some(self, mask: Mask, assembler: Assembler, seed: int) -> "Logged":
        """Units of the requests under the mask."""
        return Logged(self, np.flatnonzero(mask), assembler)


def _counted(of_request: pl.DataFrame) -> pl.Series:
    """Where counters stood; rows that do not say were counted where histories were."""
    told, known = "counted_offset" in of_request.columns, of_request["as_of_offset"]
    return of_request["counted_offset"].fill_null(known) if told else known


class Logged:
    """One unit a request: its logged rows with labels, in the order of the page, those not shown behind it. No dice."""

    def __init__(self, data: LoggedData, at: Ints, assembler: Assembler) -> None:
        """Raises DataError when there is no unit."""
        self.data, self.at, self.assembler = data, at, assembler
        self.tasks = tuple(assembler.schema.tasks)
        if not len(at):
            what = "no logged request is left to learn from"
            raise DataError(what, where="ranking", hint="serve more users, or lower ranking.held")

    def __len__(self) -> int:
        return len(self.at)

    def at_epoch(self, epoch: int) -> "Logged":
        """The same in every epoch: nothing is drawn."""
        return self

    def batch(self, rows: Ints) -> Batch:
        """Units by place, all rows of a request together, with weights."""
        return self._batch(rows, self.assembler)

    def bare(self, rows: Ints) -> Batch:
        """As `batch`, for a file: without the columns that `Assembler.sides` has."""
        return self._batch(rows, self.assembler.bare)

    @property
    def drawn(self) -> bool:
        """Whether an epoch has rows of its own: none is drawn."""
        return False

    def _batch(self, rows: Ints, encode: Callable[[Requests, Candidates], Batch]) -> Batch:
        made, at = self._rows(rows)
        batch = encode(made.requests, made.candidates)
        return replace(
            batch,
            tasks=self.tasks,
            labels=torch.from_numpy(made.labels),
            valid=torch.from_numpy(made.valid),
            weights=torch.from_numpy(self.data.weights[at]),
        )

    def examples(self, rows: Ints) -> Examples:
        """Rows of units by place, not yet encoded."""
        return self._rows(rows)[0]

    def _rows(self, rows: Ints) -> tuple[Examples, Ints]:
        """Rows of units, and their places in the data."""
        data, own, asked = self.data, self.data.candidates, self.at[rows]
        request_of, at = _slices(own.offsets[asked], own.offsets[asked + 1])
        counts = np.bincount(request_of, minlength=len(asked))
        requests = picked(data.requests, asked)
        if isinstance(requests.known, Seen):
            requests = replace(requests, known=requests.known.take(asked, at, request_of))
        candidates = Candidates(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), own.items[at], own.channels, own.rank[at],
            own.score[at], {name: column[at] for name, column in own.scores.items()}, own.fate[at],
        )  # fmt: skip
        brought = np.asarray((candidates.rank > 0).any(axis=1))
        origin = np.full(len(at), OBSERVED, dtype=np.int8)
        return Examples(requests, candidates, data.labels[at], data.valid[at], origin, brought), at


def _candidates(rows: pl.DataFrame, offsets: Ints, channels: tuple[str, ...], position: bool) -> Candidates:
    """Logged rows as what a ranker is given. A channel that did not exist yet brought nothing."""
    n = len(rows)
    rank, score = np.zeros((n, len(channels)), dtype=np.int32), np.zeros((n, len(channels)), dtype=np.float32)
    for c, name in enumerate(channels):
        if f"channel_rank.{name}" in rows.columns:
            rank[:, c] = rows[f"channel_rank.{name}"].fill_null(0).to_numpy()
            score[:, c] = rows[f"channel_score.{name}"].fill_null(0).to_numpy()
    place = rows["position"].cast(pl.Float32).to_numpy()
    scores = {PLACE: np.where(place > 0, place, np.nan).astype(np.float32)} if position else {}
    for name in ("merge", "coarse"):
        if f"score.{name}" in rows.columns:
            scores[name] = rows[f"score.{name}"].cast(pl.Float32).fill_null(np.nan).to_numpy()
    return Candidates(offsets, rows["item"].to_numpy(), channels, rank, score, scores, np.zeros(n, dtype=np.int16))


def _seen(rows: pl.DataFrame, offsets: Ints, features: Mapping[str, Column], known: Known | None) -> Seen:
    request_of = owners(offsets)
    of_request, of_row, logged = {}, {}, {}
    for name, column in features.items():
        if f"feature.{name}" not in rows.columns:
            continue
        values = _array(rows, f"feature.{name}")
        present = rows[f"feature.{name}"].is_not_null().to_numpy()
        logged[name] = np.bincount(request_of[present], minlength=len(offsets) - 1) > 0
        if column.side == "request":
            of_request[name] = values[offsets[:-1]]
        else:
            of_row[name] = values
    return Seen(request_of, rows["item"].to_numpy(), of_request, of_row, logged, features, known)


def _array(rows: pl.DataFrame, name: str) -> NDArray[Any]:
    """A column as features take it: numbers with NaN, or objects with None, where it is missing."""
    if name not in rows.columns:
        return np.full(len(rows), None, dtype=object)
    column = rows[name]
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        numbers: NDArray[Any] = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        return numbers
    out = np.empty(len(rows), dtype=object)
    out[:] = column.to_list()
    return out


def _slices(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Row of each element, and its place: low[r]..high[r] one after the other."""
    counts = high - low
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) + (low - (np.cumsum(counts) - counts))[row]
