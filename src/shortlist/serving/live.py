"""One release, opened for answering: funnels by scene, guarded sources, the hot list, and words for keys.

Immutable once open; the engine holds one reference and switches it.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.artifact import Release, check_fits
from shortlist.candidates import Mask, Ragged, Requests
from shortlist.config import ExperimentConfig, build
from shortlist.errors import ArtifactError
from shortlist.events.base import Log
from shortlist.experiments.assignment import Layer
from shortlist.forms import Form, Lists, of_region
from shortlist.funnel.filters.excluded import Excluded
from shortlist.funnel.mergers.snake import Snake
from shortlist.funnel.pipeline import Channel, Funnel, Keep, Recalled, Source
from shortlist.funnel.recipes import assemble
from shortlist.funnel.requests import make
from shortlist.funnel.selectors.top import Top
from shortlist.funnel.sources.neighbours import Neighbours
from shortlist.index.lists import Elsewhere
from shortlist.schema import MISSING, Schema
from shortlist.serving.guard import Guard
from shortlist.store.base import State

__all__ = ["Live", "Users", "open_release", "together"]

ITEM_TO_ITEM = "neighbours"
RECENT = 100  # items of the history that reasons are looked for in, where a channel goes from all
SAMPLE = 512  # keys compared with the log when a release is opened


class Users(Protocol):
    """What is known of users at a moment, acknowledged events included: keys [R], `now` [R] ms."""

    def __call__(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        """Raises DataError while the store cannot be had, ArtifactError where it is another log's."""
        ...

    def known(self) -> Any:
        """What answers for features in one request (`features.base.Known`), None where there are no features.

        Raises DataError while the store cannot be had.
        """

    def past(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        """The same without the store: histories of the release, and what the log has had since."""
        ...

    def close(self) -> None:
        """No longer needed: another release has its own."""


class Fixed:
    """A list in memory: what is shown when nothing else can be."""

    def __init__(self, items: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        self.items = items
        self.scores = scores

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """The n best eligible items, the same for every request."""
        rows = [
            np.flatnonzero(keep(np.full(len(self.items), r), self.items))[:n].astype(np.int64)
            for r in range(len(requests))
        ]
        owners = np.repeat(np.arange(len(requests)), [len(row) for row in rows])
        at = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        return owners, self.items[at], self.scores[at]


@dataclass(frozen=True)
class Live:
    """`funnels` by scene, the first is the default; `hot` needs no state, no channel and no thread."""

    release: Release
    schema: Schema
    funnels: Mapping[str, Funnel]
    forms: Mapping[str, Form]
    hot: Funnel
    experiments: tuple[Layer, ...]
    users: Users

    @property
    def id(self) -> str:
        return self.release.id

    @property
    def scenes(self) -> tuple[str, ...]:
        return tuple(self.funnels)

    @cached_property
    def channels(self) -> dict[str, dict[str, Any]]:
        """Entries of the document by channel name."""
        return {entry["name"]: entry for entry in self.release.document["channels"]}

    def page(self, scene: str) -> int:
        return int(self.release.document["scenes"][scene]["page"])

    def source(self, channel: str) -> str:
        """The query builder of a channel, empty for an unknown one."""
        return str(self.channels.get(channel, {}).get("source", ""))

    @cached_property
    def item_to_item(self) -> tuple[str, ...]:
        """Channels that go from items to items."""
        return tuple(n for n, form in self.forms.items() if self.source(n) == ITEM_TO_ITEM and isinstance(form, Lists))

    def looks_back(self, channel: str) -> int:
        """How many items of the history an item-to-item channel goes from."""
        default = Neighbours.Config.last
        last = self.channels[channel]["options"].get("last", default)
        return RECENT if last is None else int(last)

    def name(self, key: int) -> str:
        """Raw id of an item key. A key given after the release has none here."""
        return self._names[key] if 0 <= key < len(self._names) else f"(new item {key})"

    @cached_property
    def _names(self) -> list[str]:
        return self.release.items.ids.to_list()

    @cached_property
    def shown_fields(self) -> tuple[str, ...]:
        """Item fields a page may print: no vectors, no sequences, not the title and the image."""
        own = (self.schema.title, self.schema.image)
        columns = self.release.catalogue.items.columns
        return tuple(
            name
            for name, field in self.schema.items.items()
            if field.kind not in ("vec", "seq") and name not in own and name in columns and columns[name].ndim == 1
        )

    def titles(self, keys: NDArray[np.int64]) -> list[str | None]:
        """Title of each item key [N], None where there is none."""
        return [None if title is None else str(title) for title in self.column(self.schema.title, keys)]

    def column(self, name: str | None, keys: NDArray[np.int64]) -> list[Any]:
        """Values of an item field [N], None where missing."""
        if name is None or name not in self.release.catalogue.items.columns:
            return [None] * len(keys)
        values = self.release.catalogue.items.take(name, keys).tolist()
        return [None if v is None or v != v else v for v in values]

    def region(self, requests: Requests) -> str | None:
        """The first request's region, where a hot list has one of its own for it."""
        column = requests.context.get(self.schema.region or "")
        value = None if column is None or not len(column) else column[0]
        return str(value) if value is not None and of_region(value) in self._labels else None

    @cached_property
    def _labels(self) -> frozenset[str]:
        return frozenset(label for form in self.forms.values() if isinstance(form, Lists) for label in form.labels)

    def search(self, text: str, limit: int) -> NDArray[np.int64]:
        """Keys of items whose title or id holds the text, ids first, in catalogue order."""
        key = self.release.items.key(text)
        exact = np.array([key] if key != MISSING else [], dtype=np.int64)
        found = [exact]
        if self._lower is not None:
            rows = self._lower.str.contains(text.lower(), literal=True).fill_null(False).arg_true().to_numpy()
            found.append(self.release.catalogue.items.keys[rows[:limit]])
        both = np.concatenate(found)
        _, first = np.unique(both, return_index=True)
        return both[np.sort(first)][:limit]

    @cached_property
    def _lower(self) -> pl.Series | None:
        column = self.release.catalogue.items.columns.get(self.schema.title or "")
        if column is None:
            return None
        return pl.Series([None if v is None else str(v) for v in column.tolist()], dtype=pl.String).str.to_lowercase()


def open_release(
    release: Release,
    log: Log,
    users: Users,
    pool: ThreadPoolExecutor,
    slots: int,
    hot: int,
    now: int,
    lists: Callable[[str], Elsewhere] | None = None,
) -> Live:
    """Build everything an answer needs and ask it once in every scene. Raises when any of it does not work.

    `slots` bounds the calls under way in one channel, `hot` is the length of the last resort's list. `lists(channel)`
    gives the forms of a channel where they lie elsewhere than in the release.
    """
    document = release.document
    for entity, keys in (("user", release.users), ("item", release.items)):
        _same_keys(release.id, entity, keys.ids, log)
    forms = {entry["name"]: release.artifact(entry["name"]).form() for entry in document["channels"]}
    schema = _schema(release)
    for name in release.artifacts:
        check_fits(release.artifact(name).manifest, schema)
    guards: dict[int, Guard] = {}

    def guarded(name: str, source: Source) -> Source:
        return guards.setdefault(id(source), Guard(name, source, slots, len(release.items)))

    funnels = {}
    for scene, funnel in assemble(document, release.artifact, release.catalogue, pool, lists).items():
        channels = tuple(Channel(c.name, guarded(c.name, c.source), c.quota) for c in funnel.channels)
        fallback = None if funnel.fallback is None else guarded(document["fallback"], funnel.fallback)
        funnels[scene] = replace(funnel, channels=channels, fallback=fallback)
    if not funnels:
        raise ArtifactError("it has no scene", where=f"release {release.id}", hint="add [scene.home] and publish again")
    experiments = tuple(
        Layer.of(build(ExperimentConfig, table, f"release.experiments[{n}]"))
        for n, table in enumerate(document.get("experiments") or ())
    )
    live = Live(release, schema, funnels, forms, _hot(release, schema, funnels, hot, now), experiments, users)
    _warm(live, now)
    return live


def together(state: State, session: Ragged | None = None) -> Ragged:
    """All events of one user by time; at equal times those of the session come last."""
    parts = [state.history, state.shown] if session is None else [state.history, state.shown, session]
    parts = [part for part in parts if len(part.items)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    times = np.concatenate([part.times for part in parts])
    order = np.argsort(times, kind="stable")
    return Ragged(
        np.array([0, len(order)], dtype=np.int64),
        np.concatenate([part.items for part in parts])[order],
        times[order],
        np.concatenate([part.actions for part in parts])[order],
    )


def _schema(release: Release) -> Schema:
    """The release's own. Raises ArtifactError for a document without one."""
    if "schema" not in release.document:
        raise ArtifactError("its document has no schema", where=f"release {release.id}", hint="publish again")
    return Schema.parse(release.document["schema"], "release.schema")


def _hot(release: Release, schema: Schema, funnels: Mapping[str, Funnel], n: int, now: int) -> Funnel:
    """A funnel over a list in memory: the fallback's items for a stranger, available ones."""
    first = next(iter(funnels.values()))
    items, scores = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    if first.fallback is not None:
        stranger = _request(release, schema, MISSING, n, now, Ragged.empty(1))

        def keep(owners: NDArray[np.int64], found: NDArray[np.int64]) -> Mask:
            mask = np.ones(len(found), dtype=bool)
            for part in first.filters.values():
                mask &= part.keep(stranger, owners, found)
            return mask

        owners, items, scores = first.fallback.recall(stranger, n, keep)
        good = keep(owners, items)
        items, scores = items[good], scores[good]
    excluded = Excluded(Excluded.Config(), schema, release.catalogue.items)
    return Funnel(
        channels=(),
        merger=Snake(Snake.Config(), ()),
        filters={"excluded": excluded},
        selector=Top(Top.Config(), schema, release.catalogue.items),
        fallback=Fixed(items, scores),
    )


def _warm(live: Live, now: int) -> None:
    """One request of every scene, for a stranger and for the first user; a part that fails raises here."""
    _ = live._names, live._lower, live.release.items.key(""), live.release.users.key("")
    for scene, funnel in live.funnels.items():
        for key in (MISSING, 0) if len(live.release.users) else (MISSING,):
            events = together(live.users(np.array([key]), np.array([now]))) if key != MISSING else Ragged.empty(1)
            n = live.page(scene)
            funnel.run(_request(live.release, live.schema, key, n, now, events, live.users.known()), strict=True)
    live.hot.run(_request(live.release, live.schema, MISSING, 1, now, Ragged.empty(1)))


def _request(
    release: Release, schema: Schema, key: int, n: int, now: int, events: Ragged, known: Any = None
) -> Requests:
    return make(np.array([key]), np.array([now]), n, events, schema, release.catalogue, known=known)


def _same_keys(release: str, entity: Any, ids: pl.Series, log: Log) -> None:
    """Raises ArtifactError when the release was made from another log, so that keys would mean other things."""
    for n in np.unique(np.linspace(0, len(ids) - 1, min(len(ids), SAMPLE)).astype(np.int64)).tolist():
        if log.key(entity, ids[n]) != n and not (entity == "user" and log.gone(n)):
            what = f"{entity} {ids[n]!r} has another key in this project's log"
            raise ArtifactError(what, where=f"release {release}", hint="publish it from this project")
