"""Age pools: one model's vectors, searched among the items young enough at the moment of a request."""

from typing import Any

import numpy as np
import pytest
from tests.models.towers import asked, drawn, every, model, moved, trained

from shortlist.artifact import Artifact, load, save
from shortlist.candidates import Requests
from shortlist.errors import ConfigError
from shortlist.forms import Lists, Vectors
from shortlist.funnel.sources.within_age import WithinAge
from shortlist.models.recall.age_pool import AgePool
from shortlist.models.roles import Solver
from shortlist.schema import Profiles, Schema
from shortlist.simulation.toy import Toy

HOUR_MS = 3_600_000
POOLS = (24.0, 96.0, 240.0, 720.0)


@pytest.fixture(scope="module")
def world() -> Toy:
    return drawn(40, 60, 900, 6)


@pytest.fixture(scope="module")
def towers(world: Toy, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return trained(world, tmp_path_factory.mktemp("towers"))


def solve(world: Toy, towers: Artifact, hours: float) -> Vectors:
    config = AgePool.Config(of="towers", max_age_hours=hours)
    return AgePool(config, world.schema()).solve(world.interactions, world.catalogue, world.now, towers)


def asks(world: Toy, towers: Artifact, hours: float, requests: Requests, n: int = 100) -> list[dict[int, float]]:
    part = WithinAge(
        WithinAge.Config(max_age_hours=hours), solve(world, towers, hours), world.schema(), model(towers, world),
        world.catalogue.items,
    )  # fmt: skip
    owners, items, scores = part.recall(requests, n, every)
    return [
        {int(i): float(s) for o, i, s in zip(owners, items, scores, strict=True) if o == r}
        for r in range(len(requests))
    ]


def ages(world: Toy, items: Any, now: int) -> Any:
    return (now - world.catalogue.items.take("published", np.array(list(items), dtype=np.int64))) / HOUR_MS


def test_it_is_a_solver(world: Toy) -> None:
    solver: Any = AgePool(AgePool.Config(of="towers"), world.schema())
    assert isinstance(solver, Solver)
    assert solver.reads == ("item.published",)


def test_pools_are_nested_and_keep_their_ages_and_scores(world: Toy, towers: Artifact) -> None:
    requests = asked(world, [1, 5, 9], hours=6.0)
    found = [asks(world, towers, hours, requests) for hours in POOLS]
    for r in range(3):
        for n, hours in enumerate(POOLS):
            mine = found[n][r]
            assert (
                (ages(world, mine, int(requests.now[r])) >= 0) & (ages(world, mine, int(requests.now[r])) <= hours)
            ).all()
            if n:
                smaller = found[n - 1][r]
                assert set(smaller) <= set(mine)
                assert smaller == {item: mine[item] for item in smaller}  # the same bits
    assert 0 < len(found[1][0]) < len(found[3][0])


def test_a_pool_is_filter_and_exact_search(world: Toy, towers: Artifact) -> None:
    form = towers.form()
    assert isinstance(form, Vectors)
    requests = moved(asked(world, [0, 2, 4]), [0.0, 30.0, 100.0])
    queries = model(towers, world).query(requests).astype(np.float64)
    for n in (3, 100):
        for r, got in enumerate(asks(world, towers, 200.0, requests, n)):
            age = ages(world, form.keys, int(requests.now[r]))
            young = np.flatnonzero((age >= 0) & (age <= 200))
            matrix = form.matrix[young].astype(np.float64)
            score = matrix @ queries[r] / np.linalg.norm(matrix, axis=1)
            if form.metric == "cos":
                score /= np.linalg.norm(queries[r])
            best = np.argsort(-score, kind="stable")[:n]
            assert list(got) == form.keys[young[best]].tolist()
            assert list(got.values()) == pytest.approx(score[best].tolist(), abs=1e-5)


def test_items_leave_a_pool_by_themselves(world: Toy, towers: Artifact) -> None:
    (now,) = asks(world, towers, 96.0, asked(world, [1]))
    (later,) = asks(world, towers, 96.0, asked(world, [1], hours=48.0))
    (gone,) = asks(world, towers, 96.0, asked(world, [1], hours=1000.0))
    assert set(later) < set(now)
    assert gone == {}


def test_what_is_not_eligible_does_not_use_up_the_quota(world: Toy, towers: Artifact) -> None:
    part = WithinAge(
        WithinAge.Config(max_age_hours=720.0), solve(world, towers, 720.0), world.schema(), model(towers, world),
        world.catalogue.items,
    )  # fmt: skip
    _, items, _ = part.recall(asked(world, [1]), 4, lambda owners, items: items % 2 == 0)
    assert (items % 2 == 0).sum() == 4


def test_the_vectors_are_those_of_the_other_channel(world: Toy, towers: Artifact) -> None:
    form, pool = towers.form(), solve(world, towers, 240.0)
    assert isinstance(form, Vectors)
    np.testing.assert_array_equal(pool.matrix, form.matrix[np.isin(form.keys, pool.keys)])
    assert pool.metric == form.metric
    assert (ages(world, pool.keys, world.now) <= 240).all()
    # whom nobody took has no vector there, and none here
    assert set(pool.keys.tolist()) <= set(world.interactions.item_keys.tolist())
    assert not AgePool.cold_items


def test_new_users_are_served_and_strangers_are_not(world: Toy, towers: Artifact) -> None:
    known = asked(world, [1, 77])  # 77 is nobody; 1 asks under a key that training has not met
    new = Requests(np.array([555, 77]), known.now, 5, known.history, known.shown, known.exclude, known.context)
    first, stranger = asks(world, towers, 720.0, new)
    assert first
    assert stranger == {}
    assert AgePool.cold_users


def test_items_without_a_time_are_in_no_pool(world: Toy, towers: Artifact) -> None:
    columns = dict(world.catalogue.items.columns)
    columns["published"] = np.where(world.catalogue.items.keys % 2 == 0, columns["published"], np.nan)
    items = Profiles(world.catalogue.items.keys, columns)
    form = towers.form()
    assert isinstance(form, Vectors)
    part = WithinAge(WithinAge.Config(max_age_hours=720.0), form, world.schema(), model(towers, world), items)
    _, found, _ = part.recall(asked(world, [1, 2]), 100, every)
    assert len(found)
    assert (found % 2 == 0).all()


def test_it_must_be_of_a_channel_with_users(world: Toy, tmp_path: Any) -> None:
    lists = Lists.ranked(np.array([0]), np.array([1]), np.array([1.0], dtype=np.float32))
    save(tmp_path / "hot", kind="recall", name="hot", form=lists, fingerprint=Schema().fingerprint(), created_ms=0)
    with pytest.raises(ConfigError) as caught:
        solve(world, load(tmp_path / "hot"), 24.0)
    assert caught.value.what == "hot has no vectors of users"
    assert caught.value.where == "age_pool.of"


def test_ages_need_times() -> None:
    with pytest.raises(ConfigError) as caught:
        AgePool(AgePool.Config(of="towers"), Schema.parse({}))
    assert caught.value.what == "ages need a time of publication"
    assert caught.value.where == "age_pool.max_age_hours"
