"""A store that lags: a slate says where its history stood and where its counters did, and replay gives what it read."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.serving import world as serving

from shortlist.candidates import Ragged, Requests
from shortlist.config import load
from shortlist.dataset.logged import _counted
from shortlist.events import slates
from shortlist.features.base import Events, Rows
from shortlist.features.featureset import FeatureSet
from shortlist.features.replay import Replayed
from shortlist.feedback.live import Following
from shortlist.schema import Schema
from shortlist.serving.engine import Engine
from shortlist.serving.wire import Event

NOW, MINUTE = serving.NOW, 60_000
FEATURES: dict[str, Any] = {
    "feature": [
        {"name": "clicks", "use": "count", "actions": ["click"], "by": "item", "windows": ["1d"]},
        {"name": "mine", "use": "count", "actions": ["click"], "by": "user", "windows": ["1d"]},
        {"name": "visit", "use": "session"},
    ]
}


@contextmanager
def lagging(folder: Path) -> Iterator[tuple[serving.World, Engine]]:
    """A server whose store nobody writes after it was filled."""
    (folder / "shortlist.toml").write_text("[serve]\ndeadline_ms = 60000.0\n", encoding="utf-8")
    project, world = load(folder), serving.World(folder / "var")
    world.publish(project=FEATURES)
    engine = world.engine(lambda release: Following(release, world.log, project, follow=False))
    with closing(world.log), closing(engine):
        assert engine.reload(), engine.refused
        yield world, engine


def test_both_offsets_are_logged_and_counters_are_replayed_at_theirs(tmp_path: Path) -> None:
    with lagging(tmp_path) as (world, engine):
        told = [Event("ann", f"war{n}", "click", time_ms=NOW - minutes * MINUTE) for n, minutes in ((4, 5), (3, 4))]
        assert engine.events(told).accepted == 2  # offsets 22 and 23, behind the store
        answer = engine.recommend("ann", now=NOW)
        assert not {"war3", "war4"} & {shown.item for shown in answer.items}  # the history has them at once
        engine.flush()
        found = slates.read(tmp_path / "var" / "rows").rows
        assert set(found["as_of_offset"]) == {23}
        assert set(found["counted_offset"]) == {21}
        served = world.log.served(answer.request_id)
        assert served is not None
        body = json.loads(served.body)
        assert (body["as_of_offset"], body["counted_offset"]) == (23, 21)

        release = world.releases.load()
        schema = Schema.parse(release.document["schema"])
        features = FeatureSet.restored(release.document["features"], schema)
        late = pl.DataFrame({
            "offset": [22, 23], "user": [0, 0], "item": [4, 3], "action": ["click"] * 2,
            "time_ms": [NOW - 5 * MINUTE, NOW - 4 * MINUTE],
        })  # fmt: skip
        events = Events.of(pl.concat([serving.histories(), late], how="vertical_relaxed"), schema)
        items = found["item"].to_numpy()

        def replayed(as_of: int) -> dict[str, list[float]]:
            history = Ragged(*(np.array(column) for column in ([0, 0], [], [], [])))
            requests = Requests(np.array([0]), np.array([NOW]), 1, history, history, history, as_of=np.array([as_of]))
            known = Replayed(events, release.catalogue, schema, features)
            alone = known.columns(Rows(requests, np.zeros(1, dtype=np.int64), None))
            each = known.columns(Rows(requests, np.zeros(len(items), dtype=np.int64), items))
            return {"clicks_1d": each["clicks_1d"].tolist(), "mine_1d": alone["mine_1d"].tolist() * len(items)}

        read = {name: found[f"feature.{name}"].to_list() for name in ("clicks_1d", "mine_1d")}
        assert replayed(21) == read
        assert read["mine_1d"][0] == 3  # war0, war1, war2
        assert replayed(23)["mine_1d"][0] == 5  # what a replay at the history's offset would say


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        ({"as_of_offset": [5, 6], "counted_offset": [4, None]}, [4, 6]),
        ({"as_of_offset": [5, 6]}, [5, 6]),
    ],
)
def test_rows_that_do_not_say_were_counted_where_histories_were(columns: dict[str, Any], want: list[int]) -> None:
    assert _counted(pl.DataFrame(columns)).to_list() == want
