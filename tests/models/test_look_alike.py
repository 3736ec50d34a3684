"""Look-alike: items by their first users, on vectors written out by hand and on those of two towers."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.models.towers import asked, drawn, every, model, trained

from shortlist.artifact import Artifact, load, save
from shortlist.candidates import Requests
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError, DataError
from shortlist.forms import Built, Lists, Vectors
from shortlist.funnel.sources.nearest import Nearest
from shortlist.models.recall.look_alike import LookAlike, _starters, averaged, indexable, joined
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.simulation.toy import Toy

WEIGHTS = np.array([0.0, 1.0, 3.0], dtype=np.float32)  # shown, clicked, bought
UNIT = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], dtype=np.float32)


def pairs(*events: tuple[int, int, int]) -> Interactions:
    """User, item, action."""
    users, items, actions = (np.array(column) for column in zip(*events, strict=True))
    return Interactions.of(users, items, actions=actions.astype(np.int16))


def starters(log: Interactions, least: int) -> list[tuple[int, int]]:
    return [(int(i), int(u)) for i, u in zip(*_starters(log, WEIGHTS, least), strict=True)]


@pytest.fixture(scope="module")
def world() -> Toy:
    return drawn(40, 30, 700, 4)


@pytest.fixture(scope="module")
def towers(world: Toy, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return trained(world, tmp_path_factory.mktemp("towers"))


def solve(world: Toy, towers: Artifact, log: Interactions | None = None, **options: Any) -> Built:
    solver = LookAlike(LookAlike.Config(of="towers", **options), world.schema())
    return solver.solve(world.interactions if log is None else log, world.catalogue, world.now, towers)


def form_of(built: Built) -> Vectors:
    assert isinstance(built.form, Vectors)
    return built.form


def test_it_is_a_solver(world: Toy) -> None:
    solver: Any = LookAlike(LookAlike.Config(of="towers"), world.schema())
    assert isinstance(solver, Solver)
    assert solver.reads == ("actions", "item.published")
    assert LookAlike(LookAlike.Config(of="towers", max_age_days=None), world.schema()).reads == ("actions",)


def test_means_by_hand() -> None:
    # item 7 by users 0 and 1: (1/2, 1/2); item 9 by user 2 alone
    means = averaged(np.array([7, 9, 7]), UNIT, np.array([1, 2, 0]))
    np.testing.assert_allclose(means.matrix, [[0.5, 0.5, 2], [0.6, 0.8, 1]])
    form = indexable(means, 1)
    np.testing.assert_allclose(form.matrix, [[np.sqrt(0.5), np.sqrt(0.5)], [0.6, 0.8]], atol=1e-7)
    assert form.metric == "cos"
    assert indexable(means, 2).keys.tolist() == [7]


def test_a_running_mean_is_the_mean_of_all() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    batch = averaged(np.full(50, 3), vectors, np.arange(50))
    empty = averaged(np.zeros(0, dtype=np.int64), np.zeros((0, 6), dtype=np.float32), np.zeros(0, dtype=np.int64))
    running = Built(indexable(empty, 4), {"means": empty})
    for n, vector in enumerate(rng.permutation(vectors)):
        running = joined(running, 3, 2 * vector, least=4)  # of any length
        assert form_of(running).keys.tolist() == ([3] if n >= 3 else [])
    means = running.beside["means"]
    assert isinstance(means, Vectors)
    np.testing.assert_allclose(means.matrix, batch.matrix, atol=1e-5)
    np.testing.assert_allclose(form_of(running).matrix, indexable(batch, 4).matrix, atol=1e-5)


def test_a_user_counts_once_and_the_order_does_not() -> None:
    events = [(0, 5, 1), (1, 5, 1), (0, 5, 1), (2, 6, 1), (0, 5, 1)]
    assert starters(pairs(*events), 9) == [(5, 0), (5, 1), (6, 2)]
    assert starters(pairs(*events[::-1]), 9) == starters(pairs(*events), 9)


def test_who_did_more_counts_alone_where_they_are_enough() -> None:
    # of item 5 two bought, of item 6 one
    log = pairs((0, 5, 1), (1, 5, 2), (2, 5, 2), (2, 5, 1), (0, 6, 1), (1, 6, 2))
    assert starters(log, 2) == [(5, 1), (5, 2), (6, 0), (6, 1)]
    assert starters(log, 1) == [(5, 1), (5, 2), (6, 1)]
    assert starters(log, 3) == [(5, 0), (5, 1), (5, 2), (6, 0), (6, 1)]


def test_vectors_that_cancel_out_have_none() -> None:
    assert len(indexable(averaged(np.array([1, 1]), UNIT, np.array([0, 3])), 1).keys) == 0


def test_the_only_user_of_an_item_finds_it_first_with_cosine_one(world: Toy, towers: Artifact) -> None:
    item = 9
    log = world.interactions.where(world.interactions.items != item)
    mine = Interactions.of(
        np.append(log.users, 7), np.append(log.items, item), np.append(log.times, world.now - 1)
    )  # fmt: skip
    built = solve(world, towers, mine, least=1)
    requests = asked(Toy(mine, world.catalogue, world.now), [7])
    owners, items, scores = Nearest(
        Nearest.Config(), form_of(built), world.schema(), model(towers, world)
    ).recall(requests, 5, every)  # fmt: skip
    assert owners.tolist() == [0] * 5
    assert items[0] == item
    assert scores[0] == pytest.approx(1.0, abs=1e-6)


def test_vectors_are_means_of_the_vectors_users_ask_with(world: Toy, towers: Artifact) -> None:
    built = solve(world, towers, max_age_days=None)
    form = form_of(built)
    queries = model(towers, world).query(asked(world, list(range(40)))).astype(np.float64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for item in (int(form.keys[0]), int(form.keys[-1])):
        users = np.unique(world.interactions.users[world.interactions.items == item])
        mean = queries[users].mean(axis=0)
        np.testing.assert_allclose(form.matrix[form.keys == item][0], mean / np.linalg.norm(mean), atol=1e-5)


def test_old_items_and_those_nobody_took_are_not_in(world: Toy, towers: Artifact) -> None:
    form = form_of(solve(world, towers, least=1, max_age_days=10.0))
    times = world.catalogue.items.take("published", form.keys)
    assert (times >= world.now - 10 * 86_400_000).all()
    assert 0 < len(form.keys) < 30
    untaken = int(form.keys[0])
    less = world.interactions.where(world.interactions.items != untaken)
    assert untaken not in form_of(solve(world, towers, less, least=1, max_age_days=10.0)).keys
    assert not LookAlike.cold_items


def test_a_user_without_events_of_training_is_served(world: Toy, towers: Artifact) -> None:
    log = world.interactions.where(world.interactions.users != 3)
    form = form_of(solve(world, towers, log, least=1))
    part = Nearest(Nearest.Config(), form, world.schema(), model(towers, world))
    assert len(part.recall(asked(world, [3]), 5, every)[1]) == 5
    assert LookAlike.cold_users


def test_a_log_of_nothing_young_gives_no_vectors(world: Toy, towers: Artifact) -> None:
    old = Profiles(world.catalogue.items.keys, {"published": np.zeros(30), "category": np.zeros(30)})
    catalogue = Catalogue(world.catalogue.users, old)
    solver = LookAlike(LookAlike.Config(of="towers"), world.schema())
    assert form_of(solver.solve(world.interactions, catalogue, world.now, towers)).matrix.shape == (0, 4)


class Told:
    """A model that gives users the vectors written here, zeros otherwise."""

    def __init__(self, vectors: dict[int, list[Any]], shape: tuple[int, ...] = (4,)) -> None:
        self.vectors, self.shape = vectors, shape

    def query(self, requests: Requests) -> NDArray[np.float32]:
        none = np.zeros(self.shape, dtype=np.float32)
        rows = [np.array(self.vectors.get(user, none), dtype=np.float32) for user in requests.users.tolist()]
        return np.stack(rows)


def told(monkeypatch: pytest.MonkeyPatch, vectors: dict[int, list[Any]], shape: tuple[int, ...] = (4,)) -> None:
    monkeypatch.setattr("shortlist.models.learned.restore", lambda *given: Told(vectors, shape))


def test_a_user_whose_vector_is_of_zeros_counts_for_nothing(
    world: Toy, towers: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    # item 5 was taken by 0, 1 and 2, of whom 1 and 2 have vectors; item 6 by 3, who has none
    log = pairs((0, 5, 0), (1, 5, 0), (2, 5, 0), (3, 6, 0))
    told(monkeypatch, {1: [2, 0, 0, 0], 2: [0, 3, 0, 0]})
    built = solve(world, towers, log, least=1, max_age_days=None)
    means = built.beside["means"]
    assert isinstance(means, Vectors)
    assert means.keys.tolist() == [5]
    np.testing.assert_allclose(means.matrix, [[0.5, 0.5, 0, 0, 2]])
    assert form_of(solve(world, towers, log, least=3, max_age_days=None)).keys.tolist() == []
    # between trainings too
    assert joined(built, 5, np.zeros(4, dtype=np.float32), least=1) is built


def test_users_vectors_that_are_no_numbers_are_refused_with_their_keys(
    world: Toy, towers: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = pairs(*[(user, 5, 0) for user in range(8)])
    nan, inf = [float("nan")] * 4, [float("inf"), 0, 0, 0]
    told(monkeypatch, {0: [1, 0, 0, 0], 2: nan, 3: nan, 5: inf, 7: nan})
    with pytest.raises(DataError) as caught:
        solve(world, towers, log, max_age_days=None)
    assert str(caught.value) == (
        "look_alike.of: towers gives users vectors of NaN or infinity: user key 2, 3, 5 and 1 more "
        "(train that channel again)"
    )
    means = averaged(np.array([5]), UNIT[:1], np.array([0]))
    with pytest.raises(DataError) as one:
        joined(Built(indexable(means, 1), {"means": means}), 5, np.array([np.nan, 1], dtype=np.float32), least=1)
    assert str(one.value) == (
        "look_alike, item 5: the user's vector holds NaN or infinity (look at the model that made it)"
    )


def test_an_interest_that_a_user_has_not_is_no_bad_vector(
    world: Toy, towers: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of two interests of user 0 one is there: (0, 2), at length 1; the mean of both of user 1 is (1, 1), at length 1
    nan = float("nan")
    told(monkeypatch, {0: [[nan, nan], [0, 2]], 1: [[3, 0], [0, 1]]}, (2, 2))
    built = solve(world, towers, pairs((0, 5, 0), (1, 6, 0)), least=1, max_age_days=None)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(form_of(built).matrix, [[0, 1], [half, half]], atol=1e-6)


def test_it_must_be_of_a_channel_with_users(world: Toy, tmp_path: Any) -> None:
    lists = Lists.ranked(np.array([0]), np.array([1]), np.array([1.0], dtype=np.float32))
    fits = Schema.parse({}).fingerprint()
    for name, form in (("hot", lists), ("ials", Vectors(np.arange(2), UNIT[:2]))):
        save(tmp_path / name, kind="recall", name=name, form=form, fingerprint=fits, created_ms=0)
        with pytest.raises(ConfigError) as caught:
            solve(world, load(tmp_path / name))
        assert caught.value.what == f"{name} has no vectors of users"
        assert caught.value.where == "look_alike.of"
        assert caught.value.hint == "name a channel that is trained: its users and items are vectors"


def test_ages_need_times() -> None:
    with pytest.raises(ConfigError) as caught:
        LookAlike(LookAlike.Config(of="towers"), Schema.parse({}))
    assert caught.value.what == "ages need a time of publication"
    assert caught.value.where == "look_alike.max_age_days"
