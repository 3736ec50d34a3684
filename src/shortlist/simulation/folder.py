"""A world as files: a log and a catalogue for `shortlist init`, and beside them the truth, which it does not read.

`events/<day>-<part>.parquet` in order of time, `items.parquet`, `users.parquet`; `truth/items.parquet`,
`truth/users.parquet`, and `truth/world.json`, from which `reopen` makes the world again. Of the log a part at a time
is in memory.
"""

__all__ = ["save", "reopen", "frame"]

import datetime
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import build, plain
from shortlist.errors import DataError
from shortlist.schema import Profiles
from shortlist.simulation.events import Events
from shortlist.simulation.ground import DEVICES
from shortlist.simulation.policy import Policy
from shortlist.simulation.truth import ACTIONS, DAY_MS
from shortlist.simulation.world import World

ROWS_PER_PART = 2_000_000


def save(
    folder: Path,
    config: World.Config,
    policy: Callable[[World], Policy],
    seed: int,
    progress: Callable[[int, int, str], None],
) -> dict[str, int]:
    """Make a world and its log. Returns counts of events by action. Raises DataError when the folder has a log already.

    The same config, policy and seed write the same bytes. `events/` is there when the whole log is; what was broken off
    is begun anew.
    """
    if (folder / "events").exists():
        raise DataError(
            "there is a log already", where=str(folder / "events"), hint="remove it, or name another folder"
        )
    world = World.generate(config, np.random.default_rng([seed, 0]))
    ticks = world.simulate(policy(world), np.random.default_rng([seed, 1]))
    parts = folder / ".events"
    if parts.exists():
        shutil.rmtree(parts)
    parts.mkdir(parents=True)
    (folder / "truth").mkdir(exist_ok=True)
    for name, table in _tables(world):
        table.write_parquet(folder / name)
    counts = np.zeros(len(ACTIONS), dtype=np.int64)
    done = 0
    for day, part, events in _parts(ticks):
        date = datetime.datetime.fromtimestamp(day * DAY_MS / 1000, datetime.UTC).date()
        frame(events).write_parquet(parts / f"{date}-{part:03d}.parquet", compression_level=1)
        counts += np.bincount(events.actions, minlength=len(ACTIONS))
        done += len(events)
        progress(day - config.start_ms // DAY_MS + 1, config.days, f"{done} events")
    parts.rename(folder / "events")
    words = {"seed": seed, "config": plain(config)}
    (folder / "truth" / "world.json").write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    return dict(zip(ACTIONS, counts.tolist(), strict=True))


def reopen(folder: Path) -> World:
    """The world behind a folder's log. Raises DataError where the folder has none."""
    file = folder / "truth" / "world.json"
    if not file.is_file():
        raise DataError("no truth is kept here", where=str(file), hint="write the world with `shortlist simulate`")
    words = json.loads(file.read_text(encoding="utf-8"))
    config = build(World.Config, words["config"], str(file))
    return World.generate(config, np.random.default_rng([words["seed"], 0]))


def frame(events: Events) -> pl.DataFrame:
    """Events as the table that is written: ids are the keys, nulls where there is nothing to say."""
    e = events
    return pl.DataFrame(
        {
            "user": e.users, "item": e.items, "time_ms": e.times, "action": _words(e.actions, ACTIONS),
            "value": e.values, "request_id": e.requests, "position": e.positions, "propensity": e.propensities,
            "device": _words(e.devices, DEVICES),
        }
    ).with_columns(
        pl.col("value", "propensity").fill_nan(None),
        pl.when(pl.col("request_id") >= 0).then("request_id"),
        pl.when(pl.col("position") > 0).then("position"),
    )  # fmt: skip


def _words(codes: NDArray[Any], names: tuple[str, ...]) -> pl.Series:
    return pl.Series(names, dtype=pl.Enum(names)).gather(codes.astype(np.uint32))


def _parts(ticks: Iterator[Events]) -> Iterator[tuple[int, int, Events]]:
    """(day, part of it, events): ticks put together, but not over a day's end and not past `ROWS_PER_PART`."""
    held: list[Events] = []
    at = part = 0
    for events in ticks:
        if not len(events):
            continue
        day = int(events.times[0]) // DAY_MS
        if held and (day != at or sum(map(len, held)) + len(events) > ROWS_PER_PART):
            yield at, part, Events.joined(held)
            part = part + 1 if day == at else 0
            held = []
        at = day
        held.append(events)
    if held:
        yield at, part, Events.joined(held)


def _tables(world: World) -> Iterator[tuple[str, pl.DataFrame]]:
    truth, catalogue = world.truth, world.catalogue
    people, shelf = truth.people, truth.shelf
    items, users = catalogue.items, catalogue.users
    yield "items.parquet", _profiles("item", items)
    yield "users.parquet", _profiles("user", users)
    yield (
        "truth/items.parquet",
        _table(
            "item",
            items.keys,
            {"quality": shelf.quality, "bait": shelf.bait, "appeal": shelf.appeal, "after": truth.after},
        ),
    )
    yield "truth/users.parquet", _table(
        "user", users.keys,
        {name: getattr(people, name) for name in ("here", "there", "speed", "rate", "joined")},
    )  # fmt: skip


def _profiles(name: str, profiles: Profiles) -> pl.DataFrame:
    vectors = {k: np.stack(list(v)) for k, v in profiles.columns.items() if k == "content"}
    return _table(name, profiles.keys, {**profiles.columns, **vectors})


def _table(name: str, keys: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> pl.DataFrame:
    plain_ = {k: v.tolist() if v.dtype == object else v for k, v in columns.items()}
    return pl.DataFrame({name: keys, **plain_})
