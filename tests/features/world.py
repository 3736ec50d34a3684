"""A small world whose features can be worked out by hand: four users, five items, an hour of events."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.config import FeatureConfig
from shortlist.features.base import Events, Rows
from shortlist.features.featureset import FeatureSet
from shortlist.features.replay import Replayed
from shortlist.schema import Catalogue, Profiles, Schema

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOW = 1_735_052_400_000  # Tuesday, 2024-12-24 15:00:00 UTC
SCHEMA = Schema.parse({
    "action": "action",
    "actions": {"impression": {"weight": 0}, "click": {}, "like": {"weight": 3}, "follow": {}},
    "users": {"gender": "sparse", "joined": "time", "lat": "dense", "lon": "dense", "brand": "sparse", "note": "text"},
    "items": {
        "category": "sparse", "tags": "varlen", "creator": "sparse", "published": "time", "title": "text",
        "images": "varlen", "price": "dense",
    },
    "context": {"agent": "text", "lat": "dense", "lon": "dense"},
    "category": "category", "published": "published", "title": "title",
    "tasks": {"click": {"on": "impression", "positive": "click"}},
})  # fmt: skip


def column(*values: Any) -> NDArray[Any]:
    return np.fromiter(values, dtype=object, count=len(values))


USERS = Profiles(
    np.arange(3),
    {
        "gender": column("f", "m", None),
        "joined": np.array([NOW - 40 * DAY, NOW - 2 * HOUR, np.nan]),
        "lat": np.array([59.91, 41.9, np.nan]),
        "lon": np.array([10.75, 12.5, np.nan]),
        "brand": column(None, "Nokia", None),
    },
)
ITEMS = Profiles(
    np.arange(5),
    {
        "category": column("war", "war", "love", "sport", None),
        "tags": column(["a", "b"], ["b"], [], ["c"], None),
        "creator": column("ann", "ann", "bob", "ann", None),
        "published": np.array([NOW - 3 * DAY, NOW - DAY, NOW - 5 * HOUR, NOW - HOUR, np.nan]),
        "title": column("War and peace", "Ænima", "", None, "one  two"),
        "images": column(["i", "j"], [], ["k"], None, ["l"]),
        "price": np.array([1.0, 2.0, 3.0, 4.0, np.nan]),
    },
)
CATALOGUE = Catalogue(USERS, ITEMS)
# user, item, action, minutes before NOW; user 0 has two sessions, user 1 one, user 2 none
TOLD = (
    (0, 0, "impression", 300), (0, 0, "click", 300), (0, 2, "click", 290),
    (1, 0, "impression", 90), (1, 3, "follow", 80),
    (0, 1, "impression", 25), (0, 1, "click", 20), (0, 0, "like", 10), (0, 4, "click", 5),
    (1, 0, "click", 4), (1, 1, "impression", 3),
)  # fmt: skip


def events(told: Sequence[tuple[int, int, str, int]] = TOLD) -> Events:
    users, items, actions, ago = zip(*told, strict=True)
    codes = np.array([SCHEMA.action_names.index(name) for name in actions], dtype=np.int16)
    n = len(told)
    times = NOW - np.array(ago, dtype=np.int64) * MINUTE
    return Events(
        np.arange(1, n + 1), np.array(users), np.array(items), times, codes, np.full(n, np.nan, dtype=np.float32)
    )


def history(users: Sequence[int], now: NDArray[np.int64], told: Events) -> Ragged:
    """What shows interest, of each user, strictly before a moment."""
    parts, counts = [], []
    for user, at in zip(users, now.tolist(), strict=True):
        mine = np.flatnonzero((told.users == user) & (told.times < at) & (SCHEMA.weights[told.actions] > 0))
        mine = mine[np.lexsort((told.offsets[mine], told.times[mine]))]
        parts.append(mine)
        counts.append(len(mine))
    at_ = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Ragged(offsets, told.items[at_], told.times[at_], told.actions[at_])


def features(*options: Mapping[str, Any]) -> FeatureSet:
    """`{"name": ..., "use": ..., ...}` as a project writes them."""
    return FeatureSet.of(
        [
            FeatureConfig(
                str(o["name"]), str(o["use"]), {k: v for k, v in o.items() if k not in ("name", "use")}
            )
            for o in options
        ],
        SCHEMA,
    )  # fmt: skip


def requests(
    users: Sequence[int],
    chosen: FeatureSet | None = None,
    at: Sequence[int] | None = None,
    context: Mapping[str, NDArray[Any]] | None = None,
) -> Requests:
    now = np.full(len(users), NOW) if at is None else np.array(at, dtype=np.int64)
    told, none = events(), Ragged.empty(len(users))
    known = None if chosen is None else Replayed(told, CATALOGUE, SCHEMA, chosen)
    past = history(users, now, told)
    return Requests(np.array(users, dtype=np.int64), now, 5, past, none, none, context or {}, known=known)


def candidates(rows: Sequence[Sequence[int]]) -> Candidates:
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    wide = np.zeros((len(items), 0), dtype=np.int32)
    return Candidates(offsets, items, (), wide, wide.astype(np.float32), {}, np.zeros(len(items), dtype=np.int16))


def read(
    option: Mapping[str, Any],
    users: Sequence[int],
    items: Sequence[Sequence[int]] | None = None,
    at: Sequence[int] | None = None,
    context: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, list[Any]]:
    """Columns of one feature for requests of users, or for candidates of each."""
    chosen = features(option)
    asked = requests(users, chosen, at, context)
    among = None if items is None else candidates(items)
    owners = np.arange(len(users)) if among is None else among.owners
    found = asked.known.columns(Rows(asked, owners, None if among is None else among.items))
    assert set(found) == set(chosen.columns)
    return {name: values.tolist() for name, values in found.items()}
