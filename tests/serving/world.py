"""A world whose answers are visible: ten war films, ten love films, and a few items with difficult ids.

Every war film is a neighbour of every other war film, the nearer in number the more similar; love films likewise.
The hot list is every item in the order of their keys. Three fans of war, three of love, one who never did a thing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist import artifact
from shortlist.artifact import Release, Releases
from shortlist.config import ProjectConfig, ServeConfig, parse, plain
from shortlist.events.log import EventLog
from shortlist.features.featureset import FeatureSet
from shortlist.features.state import Service
from shortlist.feedback.follow import state
from shortlist.forms import Lists
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.serving.engine import Engine
from shortlist.store.base import State
from shortlist.store.memory import Memory
from shortlist.store.states import States

NOW = 1_767_225_600_000  # 2026-01-01 00:00:00 UTC
HOUR_MS = 3_600_000
ODD = ("a/b?c#d", "<script>alert(1)</script>", "line\nbreak", "日本 ü", "q\"uo'te", "5", "%2F..", " ")
WAR, LOVE = tuple(f"war{n}" for n in range(10)), tuple(f"love{n}" for n in range(10))
ITEMS = (*WAR, *LOVE, *ODD)
USERS = ("ann", "bob", "cid", "dot", "eve", "fay", "idle", "ü/\n<b>")
TITLES = (
    *(f"War part {n}" for n in range(10)),
    *(f"Love part {n}" for n in range(10)),
    *(f"Odd <i>{n}</i>" for n in range(8)),
)
SCHEMA: dict[str, Any] = {
    "action": "action",
    "actions": {"impression": {"weight": 0.0}, "click": {}, "like": {"weight": 3.0}},
    "users": {"region": "sparse"},
    "items": {"title": "text", "genres": "varlen", "year": "dense", "poster": "text"},
    "title": "title",
    "image": "poster",
    "category": "genres",
    "region": "region",
}
PROJECT: dict[str, Any] = {
    "schema": SCHEMA,
    "recall": [
        {"name": "similar", "use": "item_cf", "quota": 8},
        {"name": "popular", "use": "hot", "quota": 6},
    ],
    "scene": {"home": {"page": 5}, "plain": {"page": 3, "channels": ["popular"]}},
}


def objects(values: Sequence[Any]) -> NDArray[Any]:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def catalogue() -> Catalogue:
    genres: list[Any] = [["War"]] * 10 + [["Love", "Drama"]] * 10 + [["Odd"]] * 6 + [None, []]
    items = {
        "title": objects(TITLES),
        "genres": objects(genres),
        "year": np.array([1990.0 + n for n in range(27)] + [np.nan]),
        "poster": objects(["https://example.org/a.png"] + [None] * 27),
    }
    region = objects(["north"] * 3 + ["south"] * 3 + [None, "<b>"])
    return Catalogue(Profiles(np.arange(8), {"region": region}), Profiles(np.arange(28), items))


def neighbours() -> Lists:
    """sim(i, j) = 1 / (1 + |i - j|) inside a group of ten, nothing across."""
    i, j = (grid.ravel() for grid in np.meshgrid(np.arange(20), np.arange(20)))
    pairs = (i // 10 == j // 10) & (i != j)
    i, j = i[pairs], j[pairs]
    return Lists.ranked(i, j, (1.0 / (1 + np.abs(i - j))).astype(np.float32))


def hot() -> Lists:
    """Item k has score 100 - k, everywhere."""
    keys = np.arange(len(ITEMS))
    return Lists.ranked(
        np.zeros(len(keys), dtype=np.int64), keys, (100.0 - keys).astype(np.float32), labels=("global",)
    )


def histories() -> pl.DataFrame:
    """Fans of war clicked war0..war2, of love love0..love2; the oddly named user clicked the oddly named items."""
    rows = [(user, item, k) for user in range(3) for k, item in enumerate((0, 1, 2))]
    rows += [(user, item, k) for user in range(3, 6) for k, item in enumerate((10, 11, 12))]
    rows += [(7, item, k) for k, item in enumerate((20, 21, 22))]
    users, items, ages = zip(*rows, strict=True)
    return pl.DataFrame(
        {
            "offset": np.arange(1, len(rows) + 1),
            "user": np.array(users),
            "item": np.array(items),
            "action": ["click"] * len(rows),
            "time_ms": NOW - (10 - np.array(ages)) * HOUR_MS,
        }
    )


def document(project: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The words of a release, written here without any model."""
    config: ProjectConfig = parse({**PROJECT, **(project or {})})
    names = [channel.name for channel in config.recall]
    scenes = {}
    for name, scene in config.scene.items():
        table = plain(scene)
        table["channels"] = table["channels"] or names
        for part in ("merge", "filters", "boosts", "rerank"):
            table[part] = table[part] if table[part] is not None else plain(getattr(config, part))
        scenes[name] = table
    source = {"item_cf": "neighbours", "hot": "popular"}
    return {
        "schema": plain(Schema.parse(config.schema)),
        "features": FeatureSet.of(config.feature, Schema.parse(config.schema)).words(),
        "channels": [
            {"name": c.name, "model": c.use, "source": source[c.use], "quota": c.quota, "options": {}}
            for c in config.recall
        ],
        "scenes": scenes,
        "fallback": "popular",
        "experiments": plain(config.experiment),
        "offset": 21,
        "snapshot": "5a" * 32,
    }


class Users:
    """State as a server has it: a memory store loaded from the release, the log's tail laid over it."""

    def __init__(self, release: Release, log: EventLog) -> None:
        self.schema = Schema.parse(release.document["schema"])
        self.log = log
        self.store = States(Memory(), Service((), self.schema), release.catalogue)
        self.store.load(release.table("histories"), release.document["offset"])
        self.closed = False

    def __call__(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        return state(self.log, self.store, self.schema, users, now)

    def known(self) -> None:
        return None

    def past(self, users: NDArray[np.int64], now: NDArray[np.int64]) -> State:
        return self(users, now)

    def close(self) -> None:
        self.closed = True


class World:
    """A project folder with a log and a published release."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = EventLog(folder / "log.db")
        self.log.register("user", pl.Series(USERS))
        self.log.register("item", pl.Series(ITEMS))
        self.log.reserve(21)
        self.releases = Releases(folder / "releases")
        self.now = NOW

    def publish(self, name: str | None = None, project: Mapping[str, Any] | None = None, **forms: Lists) -> str:
        made = {"similar": neighbours(), "popular": hot(), **forms}
        for label, form in made.items():
            fits = Schema.parse(document(project)["schema"]).fingerprint()
            place = self.folder / "parts" / label
            artifact.save(place, kind="recall", name=label, form=form, fingerprint=fits, created_ms=NOW)
        return self.releases.publish(
            name,
            {label: self.folder / "parts" / label for label in made},
            document(project),
            self.log.keys("user"),
            self.log.keys("item"),
            catalogue(),
            {"histories": histories()},
            created_ms=self.now,
            metrics={"test": {"recall@10": 0.25, "ndcg@10": 0.125}},
        )

    def engine(self, users: Callable[[Release], Any] | None = None, **config: Any) -> Engine:
        serve = ServeConfig(**{"deadline_ms": 60_000.0, **config})
        return Engine(
            self.releases, self.log, users or (lambda release: Users(release, self.log)), serve, lambda: self.now
        )


@contextmanager
def serving(folder: Path, project: Mapping[str, Any] | None = None, **config: Any) -> Iterator[tuple[World, Engine]]:
    """A world and a warm engine over it."""
    world = World(folder)
    world.publish(project=project)
    engine = world.engine(**config)
    try:
        assert engine.reload(), engine.refused
        yield world, engine
    finally:
        engine.close()
        world.log.close()
