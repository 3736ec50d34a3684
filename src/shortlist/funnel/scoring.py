"""The ranker of a release asked about given users and items, without a server: what the funnel's stage would say.

A release is enough, or one ranker's artifact with the catalogue and the keys it was made with. R requests, N rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.artifact import Artifact, Release, Releases, check_fits
from shortlist.candidates import Candidates, Ragged, Requests, located
from shortlist.config import nearest
from shortlist.errors import ArtifactError, DataError, RequestError
from shortlist.events.context import typed
from shortlist.expressions import Expression
from shortlist.features.base import Counter, Known, Rows
from shortlist.funnel import recipes
from shortlist.funnel.pipeline import Funnel, Stage
from shortlist.funnel.requests import make
from shortlist.schema import MISSING, Catalogue, Keys, Schema
from shortlist.store.base import State, entries, overlay

__all__ = ["Scored", "Scoring", "of_artifact", "of_release", "open_scoring"]

Ints = NDArray[np.int64]
Past = Callable[[Ints, Ints], Ragged]
BLOCK = 256  # requests whose channels are asked together
USER, ITEM, TIME = "user", "item", "time_ms"
RANK, SCORE, MERGE, FEATURE, CONTEXT = "channel_rank.", "channel_score.", "score.merge", "feature.", "context."


@dataclass(frozen=True)
class Scored:
    """Of rows [N], in the order they were asked: probabilities (or values) by task, and the one score fused of them."""

    tasks: Mapping[str, NDArray[np.float32]]
    score: NDArray[np.float32]


@dataclass(frozen=True)
class Scoring:
    """A scoring stage with what it needs to be asked in raw ids. Unknown ids are strangers, never errors.

    `past(users, now)` gives what users [R] did by a moment [R]; `funnel` brings candidates, so that a row has the ranks
    and scores that recall channels give its item, as when it serves; without it no channel brought anything. `known()`
    gives what answers for features, for some requests. `now` is the moment of a request that names none.
    """

    stage: Stage
    schema: Schema
    catalogue: Catalogue
    users: Keys
    items: Keys
    now: int
    past: Past
    funnel: Funnel | None = None
    known: Callable[[], Known | None] = lambda: None
    n: int = 1

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it has a probability or a value of."""
        return tuple(self._learned.layout.tasks)

    @property
    def silent(self) -> tuple[str, ...]:
        """Feature columns that nobody answers for: they have their defaults."""
        return tuple(self._learned.assembler.features.columns) if self.known() is None else ()

    @property
    def _learned(self) -> Any:
        return self.stage.scorer

    def score(
        self,
        user: str | int,
        items: Sequence[str | int],
        context: Mapping[str, Any] | None = None,
        history: Sequence[Mapping[str, Any]] | None = None,
        now: int | None = None,
    ) -> Scored:
        """One user's items [N], in any order, some perhaps more than once.

        `history` is everything the user did (`item`, `action`, `time_ms`), in place of what is known of them. Raises
        RequestError for a context or an action that the schema does not have.
        """
        moment = np.array([self.now if now is None else now], dtype=np.int64)
        key = np.array([self.users.key(user)], dtype=np.int64)
        told = {name: [value] for name, value in (context or {}).items()}
        events = self.past(key, moment) if history is None else self._told(history, int(moment[0]))
        requests = self._requests(key, moment, events, told)
        keys = np.array([self.items.key(item) for item in items], dtype=np.int64)
        return self.rows(requests, np.zeros(len(keys), dtype=np.int64), keys)

    def frame(self, table: pl.DataFrame) -> pl.DataFrame:
        """Rows of a table: `user`, `item`, and where they are there `time_ms` (the moment asked about), fields of the
        context, what channels gave (`channel_rank.C`, `channel_score.C`, `score.merge`) and features (`feature.F`),
        as served rows are logged. Returns `score.T` of each task and `score` [N].

        Rows that share user, moment and context are one request. Raises DataError for a column that is needed and not
        there, or that is not what its name says.
        """
        for name in (USER, ITEM):
            if name not in table.columns:
                raise DataError(f"no column is called {name!r}", where="rows", hint=nearest(name, table.columns))
        named = {name: f"{CONTEXT}{name}" if f"{CONTEXT}{name}" in table.columns else name for name in self.context}
        context = {name: column for name, column in named.items() if column in table.columns}
        by = [USER, *([TIME] if TIME in table.columns else []), *context.values()]
        codes = table.select(pl.struct(by).rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()
        _, first, owners = np.unique(codes, return_index=True, return_inverse=True)
        asked = table[first]
        users = self.users.encode(asked[USER])
        moments = self._moments(asked)
        told = {name: asked[column].to_list() for name, column in context.items()}
        requests = self._requests(users, moments, self.past(users, moments), told)
        items = self.items.encode(table[ITEM])
        brought = self._given(table, owners, items, len(requests))
        return self._framed(self.rows(requests, owners, items, brought, self._features(table)))

    def rows(
        self,
        requests: Requests,
        owners: Ints,
        items: Ints,
        brought: Candidates | None = None,
        features: Mapping[str, NDArray[Any]] | None = None,
    ) -> Scored:
        """Rows [N] of items by key (-1: unknown), `owners` [N] naming their requests.

        `brought` are candidates of these requests, whose ranks and scores in the channels the rows are given; by
        default those that `funnel` brings. `features` are raw columns [N] in place of what `known` answers. A row's
        scores do not depend on where it stands.
        """
        parts: list[tuple[Ints, Scored]] = []
        order = np.argsort(owners, kind="stable")
        ends = np.searchsorted(owners[order], np.arange(0, len(requests) + BLOCK, BLOCK))
        for block, (low, high) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
            if low == high:
                continue
            at, start = order[low:high], block * BLOCK
            stop = min(start + BLOCK, len(requests))
            mine = None if brought is None else _span(brought, start, stop)
            given = {name: column[at] for name, column in (features or {}).items()}
            parts.append((at, self._block(requests.take(start, stop), owners[at] - start, items[at], mine, given)))
        out = {name: np.zeros(len(items), dtype=np.float32) for name in (*self.tasks, "")}
        for at, scored in parts:
            for name in self.tasks:
                out[name][at] = scored.tasks[name]
            out[""][at] = scored.score
        return Scored({name: out[name] for name in self.tasks}, out[""])

    def _block(
        self,
        requests: Requests,
        owners: Ints,
        items: Ints,
        brought: Candidates | None,
        features: Mapping[str, NDArray[Any]],
    ) -> Scored:
        if brought is None:
            brought = self._brought(requests)
        width = int(max(items.max(initial=0), brought.items.max(initial=0))) + 2
        codes, first, back = np.unique(owners * width + items + 1, return_index=True, return_inverse=True)
        owner, item = codes // width, codes % width - 1
        candidates = provenance(brought, owner, item, width)
        if features:
            given = {name: column[first] for name, column in features.items()}
            requests = replace(requests, known=Given(given, owner, requests.known, self.catalogue, len(requests)))
        tasks = self.stage.scorer.score(requests, candidates)
        merged = np.nan_to_num(candidates.scores["merge"])  # what nobody brought has no part in the merge
        fused = self.stage.fused(tasks, candidates.scored("merge", merged)).astype(np.float32)
        return Scored({name: column[back] for name, column in tasks.items()}, fused[back])

    def _brought(self, requests: Requests) -> Candidates:
        """What the channels bring, and the merge makes of it."""
        if self.funnel is None:
            return replace(Candidates.empty(len(requests)), scores={"merge": np.zeros(0, dtype=np.float32)})
        return self.funnel.run(requests).candidates

    @property
    def context(self) -> tuple[str, ...]:
        """Fields of the context that a request may tell."""
        return (*self.schema.context, *([self.schema.region] if self.schema.region else []))

    def _requests(self, users: Ints, moments: Ints, events: Ragged, context: Mapping[str, Sequence[Any]]) -> Requests:
        columns: dict[str, NDArray[Any]] = {}
        for name, values in context.items():
            if name not in self.context:
                hint = nearest(name, self.context)
                raise RequestError(f"unknown context {name!r}", where="context", hint=hint)
            declared = self.schema.context.get(name)
            columns[name] = np.empty(len(users), dtype=object)
            columns[name][:] = list(values) if declared is None else typed(values, declared).to_list()
        events = events.where(events.times <= moments[events.owners])
        return make(users, moments, self.n, events, self.schema, self.catalogue, context=columns, known=self.known())

    def _told(self, history: Sequence[Mapping[str, Any]], now: int) -> Ragged:
        """Events as they were told, by time; those of items that are not known say nothing."""
        names = self.schema.action_names
        rows: list[tuple[int, int, int]] = []
        for n, event in enumerate(history):
            where = f"history[{n}]"
            for name in event:
                if name not in (ITEM, "action", TIME):
                    hint = nearest(name, (ITEM, "action", TIME))
                    raise RequestError(f"unknown key {name!r}", where=where, hint=hint)
            if ITEM not in event:
                raise RequestError("an event without an item", where=where, hint="send item, action and time_ms")
            action = event.get("action", names[int(np.argmax(self.schema.weights > 0))])
            if action not in names:
                hint = nearest(str(action), names)
                raise RequestError(f"unknown action {action!r}", where=f"{where}.action", hint=hint)
            moment = event.get(TIME, now)
            if not isinstance(moment, int) or not 0 <= moment <= now:
                hint = f"send UTC milliseconds up to the moment asked about, {now}"
                raise RequestError(f"time_ms is {moment!r}", where=f"{where}.time_ms", hint=hint)
            key = self.items.key(event[ITEM])
            if key != MISSING:
                rows.append((moment, key, names.index(action)))
        table = np.array(sorted(rows, key=lambda row: row[0]), dtype=np.int64).reshape(-1, 3)
        offsets = np.array([0, len(table)], dtype=np.int64)
        return Ragged(offsets, table[:, 1].copy(), table[:, 0].copy(), table[:, 2].astype(np.int16))

    def _moments(self, asked: pl.DataFrame) -> Ints:
        if TIME not in asked.columns:
            return np.full(len(asked), self.now, dtype=np.int64)
        return number(asked[TIME], TIME, pl.Int64, "write UTC milliseconds").to_numpy(writable=True)

    def _given(self, table: pl.DataFrame, owners: Ints, items: Ints, requests: int) -> Candidates | None:
        """Ranks and scores that the table has of its own; None where it has none."""
        channels = tuple(name.removeprefix(RANK) for name in table.columns if name.startswith(RANK))
        if not channels and MERGE not in table.columns:
            return None
        known = self._learned.layout.row.dense
        for name in channels:
            if f"recall.{name}" not in known:
                names = [column.removeprefix("recall.") for column in known if column.startswith("recall.")]
                hint = nearest(name, names)
                raise DataError(f"the {self.stage.name}er has no channel {name!r}", where=f"{RANK}{name}", hint=hint)
        width = int(items.max(initial=0)) + 2
        codes, first = np.unique(owners * width + items + 1, return_index=True)
        owner = codes // width
        rank = np.zeros((len(first), len(channels)), dtype=np.int32)
        score = np.full(rank.shape, np.nan, dtype=np.float32)
        some, hint = table[first], "ranks count from 1, 0 is not brought; scores are numbers"
        for c, name in enumerate(channels):
            rank[:, c] = number(some[f"{RANK}{name}"], f"{RANK}{name}", pl.Int32, hint, 0).to_numpy()
            if f"{SCORE}{name}" in table.columns:
                score[:, c] = number(some[f"{SCORE}{name}"], f"{SCORE}{name}", pl.Float32, hint, np.nan).to_numpy()
        merged = np.full(len(first), np.nan, dtype=np.float32)
        if MERGE in table.columns:
            merged = number(some[MERGE], MERGE, pl.Float32, hint, np.nan).to_numpy()
        return Candidates(
            _offsets(owner, requests), codes % width - 1, channels, rank, score, {"merge": merged},
            np.zeros(len(first), dtype=np.int16),
        )  # fmt: skip

    def _features(self, table: pl.DataFrame) -> dict[str, NDArray[Any]]:
        """Raw feature columns that the table has of its own."""
        columns = self._learned.assembler.features.columns
        out: dict[str, NDArray[Any]] = {}
        for name in table.columns:
            own = name.removeprefix(FEATURE)
            if not name.startswith(FEATURE):
                continue
            if own not in columns:
                raise DataError(f"the release has no feature {own!r}", where=name, hint=nearest(own, list(columns)))
            values = typed(table[name].to_list(), columns[own].field)
            if values.dtype.is_numeric():
                out[own] = values.cast(pl.Float64).fill_null(np.nan).to_numpy()
            else:
                out[own] = np.empty(len(values), dtype=object)
                out[own][:] = values.to_list()
        return out

    def _framed(self, scored: Scored) -> pl.DataFrame:
        columns = {f"score.{name}": column for name, column in scored.tasks.items()}
        return pl.DataFrame(columns | {"score": scored.score})


@dataclass(frozen=True)
class Given:
    """Features as they are told for rows [N] of `owners`, and what `others` answer for the rest."""

    raw: Mapping[str, NDArray[Any]]
    owners: Ints
    others: Known | None
    catalogue: Catalogue
    requests: int

    def counts(self, counter: Counter, rows: Rows) -> NDArray[np.float64]:
        """Raises DataError where nobody else counts."""
        if self.others is None:
            raise DataError("nobody counts events here", where="features", hint="give every feature, or a project")
        return self.others.counts(counter, rows)

    def columns(self, rows: Rows) -> Mapping[str, NDArray[Any]]:
        """Raw columns [N] of the side that is asked about, a request's own that of its first row."""
        known = {} if self.others is None else dict(self.others.columns(rows))
        if rows.items is not None:
            return known | dict(self.raw)
        first = np.searchsorted(self.owners, np.arange(self.requests))
        first = np.minimum(first, len(self.owners) - 1)
        return known | {name: column[first[rows.owners]] for name, column in self.raw.items()}


def provenance(brought: Candidates, owner: Ints, items: Ints, width: int) -> Candidates:
    """Distinct rows [N], ascending by request and item, with what channels gave them among the `brought`: rank 0 and no
    score where they did not."""
    codes = brought.owners * width + brought.items + 1
    order = np.argsort(codes)
    at, there = located(codes[order], owner * width + items + 1)
    source = order[at[there]] if len(codes) else at[there]
    rank = np.zeros((len(items), len(brought.channels)), dtype=np.int32)
    score = np.full(rank.shape, np.nan, dtype=np.float32)
    merged = np.full(len(items), np.nan, dtype=np.float32)
    rank[there], score[there] = brought.rank[source], brought.score[source]
    merged[there] = brought.scores["merge"][source]
    offsets = _offsets(owner, len(brought.offsets) - 1)
    return Candidates(
        offsets, items, brought.channels, rank, score, {"merge": merged}, np.zeros(len(items), dtype=np.int16)
    )


def of_release(
    release: Release,
    scene: str | None = None,
    stage: str | None = None,
    *,
    past: Past | None = None,
    known: Callable[[], Known | None] = lambda: None,
    recall: bool = True,
    now: int | None = None,
) -> Scoring:
    """The last scoring stage of a scene (the first one by default), or the one named.

    Without `past` users did what the release knows of them; without `known` features that count have their defaults;
    without `recall` no channel is asked. `now` is by default the moment the release was made. Raises ArtifactError
    where there is no such scene or stage.
    """
    document, where = release.document, f"release {release.id}"
    scenes = list(document["scenes"])
    scene = scenes[0] if scene is None else scene
    if scene not in scenes:
        raise ArtifactError(f"no scene is called {scene!r}", where=where, hint=nearest(scene, scenes))
    schema = Schema.parse(document["schema"], "release.schema")
    for name in release.artifacts:
        check_fits(release.artifact(name).manifest, schema)
    funnel = recipes.assemble(document, release.artifact, release.catalogue)[scene]
    names = [part.name for part in funnel.stages]
    if not names:
        hint = "add [rank] to the project, train and publish"
        raise ArtifactError(f"scene {scene!r} has no ranker", where=where, hint=hint)
    stage = names[-1] if stage is None else stage
    if stage not in names:
        raise ArtifactError(f"scene {scene!r} has no stage {stage!r}", where=where, hint=nearest(stage, names))
    return Scoring(
        stage=funnel.stages[names.index(stage)],
        schema=schema,
        catalogue=release.catalogue,
        users=release.users,
        items=release.items,
        now=release.manifest.created_ms if now is None else now,
        past=_histories(release, schema) if past is None else past,
        funnel=replace(funnel, stages=(), boosters=()) if recall else None,
        known=known,
        n=int(document["scenes"][scene]["page"]),
    )


def of_artifact(
    artifact: Artifact, schema: Schema, catalogue: Catalogue, users: Keys, items: Keys, fuse: str = ""
) -> Scoring:
    """One ranker's artifact: no channel is asked, and users did nothing but what a call tells. `fuse` is an expression
    over tasks, by default the first."""
    from shortlist.models.learned import restore  # loads torch

    check_fits(artifact.manifest, schema)
    learned = restore(artifact, schema, catalogue)
    expression = Expression.parse(fuse or learned.layout.tasks[0], "fuse", ranks=True)
    stage = Stage(artifact.manifest.name, learned, expression, items=catalogue.items)
    nothing: Past = lambda users, now: Ragged.empty(len(users))  # noqa: E731
    return Scoring(stage, schema, catalogue, users, items, artifact.manifest.created_ms, nothing)


def open_scoring(
    folder: str | Path, scene: str | None = None, stage: str | None = None, *, recall: bool = True
) -> Scoring:
    """A release's folder, from it alone: `var/releases/current`, or a copy of one. Raises ArtifactError."""
    place = Path(folder).resolve()
    return of_release(Releases(place.parent).load(place.name), scene, stage, recall=recall)


def _histories(release: Release, schema: Schema) -> Past:
    """What the release knows that users did."""
    known = None

    def past(users: Ints, now: Ints) -> Ragged:
        nonlocal known
        if known is None:
            known = entries(release.table("histories"), schema, "histories")[0]
        asked = np.unique(users)
        events = known.take(known.spans(asked)[0])
        none = Ragged.empty(len(users))
        return together(overlay(State(none, none, 0), events, users, now, schema))

    return past


def together(state: State) -> Ragged:
    """Interactions and exposures of requests [R] as one, each request's by time."""
    parts = [state.history, state.shown]
    owners, items, times, actions = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("owners", "items", "times", "actions")
    )
    order = np.lexsort((times, owners))
    offsets = _offsets(owners, len(state.history.offsets) - 1)
    return Ragged(offsets, items[order], times[order], actions[order].astype(np.int16))


def number(column: pl.Series, name: str, kind: Any, hint: str, missing: Any = None) -> pl.Series:
    """A column as numbers. Raises DataError naming the first row that is none."""
    made = column.cast(kind, strict=False)
    wrong = made.is_null() & (column.is_not_null() if missing is not None else pl.Series([True]))
    if bool(wrong.any()):
        row = int(wrong.arg_true()[0])
        raise DataError(f"{column[row]!r} is no number", where=f"{name}, row {row}", hint=hint)
    return made if missing is None else made.fill_null(missing)


def _span(candidates: Candidates, start: int, stop: int) -> Candidates:
    """Those of requests start..stop."""
    low, high = int(candidates.offsets[start]), int(candidates.offsets[stop])
    return Candidates(
        candidates.offsets[start : stop + 1] - low,
        candidates.items[low:high],
        candidates.channels,
        candidates.rank[low:high],
        candidates.score[low:high],
        {name: column[low:high] for name, column in candidates.scores.items()},
        candidates.fate[low:high],
        candidates.reasons,
    )


def _offsets(owner: Ints, requests: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=requests))]).astype(np.int64)
