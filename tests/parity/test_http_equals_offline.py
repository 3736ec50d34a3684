"""The server shows what the offline funnel shows: same release, same moment, same items, scores and order.

Uses a generated log, so that it runs anywhere: a small world, hot and item-to-item channels fitted on all of it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient
from tests.serving.world import Users

from shortlist import artifact
from shortlist.artifact import Releases
from shortlist.candidates import Slates
from shortlist.config import ServeConfig, parse, plain
from shortlist.dataset.interactions import Interactions
from shortlist.events.log import EventLog
from shortlist.funnel.pipeline import Funnel
from shortlist.funnel.recipes import assemble, document
from shortlist.funnel.requests import make
from shortlist.models.recall.hot import Hot
from shortlist.models.recall.item_cf import ItemCF
from shortlist.schema import Schema
from shortlist.serving.engine import Engine
from shortlist.serving.http import application
from shortlist.simulation.toy import Toy

PROJECT: dict[str, Any] = {
    "schema": plain(Toy.schema()),
    "recall": [{"name": "similar", "use": "item_cf", "quota": 60}, {"name": "popular", "use": "hot", "quota": 40}],
    "rerank": {"use": "mmr", "theta": 0.8, "rules": [{"at_most": 3, "of": "category", "per": 5}]},
    "merge": {"use": "rrf"},
    "scene": {"home": {"page": 12, "budget": 80}, "plain": {"rerank": "top", "merge": "snake"}},
}


class Both(NamedTuple):
    client: TestClient
    funnels: dict[str, Funnel]
    world: Toy
    events: Interactions


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("project")
    world = Toy.draw(120, 90, 3000, seed=7)
    log = EventLog(folder / "log.db")
    users = log.register("user", pl.Series([f"u{n}" for n in range(120)]))
    items = log.register("item", pl.Series([f"i{n}" for n in range(90)]))
    log.reserve(3000)
    config = parse(PROJECT)
    models: dict[str, Any] = {
        "similar": ItemCF(ItemCF.Config(), Toy.schema()),
        "popular": Hot(Hot.Config(), Toy.schema()),
    }
    for name, model in models.items():
        form = model.solve(world.interactions, world.catalogue, world.now)
        fits = Schema.parse({}).fingerprint()
        artifact.save(folder / name, kind="recall", name=name, form=form, fingerprint=fits, created_ms=world.now)
    events = world.interactions
    histories = pl.DataFrame(
        {"offset": np.arange(1, 3001), "user": events.users, "item": events.items, "time_ms": events.times}
    ).with_columns(action=pl.lit("click"))
    releases = Releases(folder / "releases")
    releases.publish(
        None, {name: folder / name for name in models},
        {**document(config, Schema.parse(config.schema), models), "offset": 3000, "snapshot": "generated"},
        users, items, world.catalogue, {"histories": histories}, created_ms=world.now,
    )  # fmt: skip
    release = releases.load()
    funnels = assemble(release.document, release.artifact, release.catalogue)
    engine = Engine(releases, log, lambda r: Users(r, log), ServeConfig(deadline_ms=60_000.0), lambda: world.now)
    try:
        assert engine.reload(), engine.refused
        with TestClient(application(engine), "http://127.0.0.1") as client:
            yield Both(client, funnels, world, events)
    finally:
        engine.close()
        log.close()


def offline(both: Both, users: list[int], scene: str, n: int) -> Slates:
    """The batch an evaluation would run, strictly."""
    keys = np.array(users, dtype=np.int64)
    now = np.full(len(keys), both.world.now)
    requests = make(keys, now, n, both.events.histories(keys), Toy.schema(), both.world.catalogue)
    return both.funnels[scene].run(requests, strict=True)


@pytest.mark.parametrize("scene", ["home", "plain"])
def test_one_request_is_the_same_online_and_offline(both: Both, scene: str) -> None:
    for user in range(0, 120, 3):
        slates = offline(both, [user], scene, 12)
        answer = both.client.post("/v1/recommend", json={"user": f"u{user}", "scene": scene, "n": 12}).json()
        assert [shown["item"] for shown in answer["items"]] == [f"i{key}" for key in slates.items.tolist()]
        assert [shown["score"] for shown in answer["items"]] == slates.scores.astype(float).tolist()
        assert answer["degraded"] == slates.notes(0)


def test_a_batch_of_many_agrees_with_each_alone(both: Both) -> None:
    users = list(range(0, 120, 5))
    slates = offline(both, users, "home", 12)
    for row, user in enumerate(users):
        answer = both.client.get(f"/v1/recommend/u{user}?scene=home&n=12").json()
        mine = slice(int(slates.offsets[row]), int(slates.offsets[row + 1]))
        assert [shown["item"] for shown in answer["items"]] == [f"i{key}" for key in slates.items[mine].tolist()]
        np.testing.assert_allclose(
            [shown["score"] for shown in answer["items"]], slates.scores[mine], rtol=1e-5, atol=1e-7
        )


def test_the_trace_is_the_offline_trace(both: Both) -> None:
    from shortlist.funnel.trace import trace

    slates = offline(both, [4], "home", 12)
    answer = both.client.post("/v1/recommend", json={"user": "u4", "scene": "home", "n": 12}).json()
    online = both.client.get(f"/v1/trace/{answer['request_id']}").json()["funnel"]
    mine = trace(slates, 0, lambda key: f"i{key}")
    assert online["candidates"] == mine["candidates"]
    assert online["counts"] == mine["counts"]


def test_a_stranger_sees_the_same(both: Both) -> None:
    answer = both.client.get("/v1/recommend/nobody?scene=plain&n=5").json()
    slates = offline(both, [-1], "plain", 5)
    assert [shown["item"] for shown in answer["items"]] == [f"i{key}" for key in slates.items.tolist()]
    assert answer["degraded"] == ["unknown_user"]
