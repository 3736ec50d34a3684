"""Vectors of new items from items of similar content."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.models.test_content import random
from tests.models.towers import asked, drawn, every, model, trained

from shortlist.artifact import Artifact, load, save
from shortlist.config import parse
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.forms import Lists, Vectors
from shortlist.funnel.recipes import assemble, document, split_options
from shortlist.funnel.sources.nearest import Nearest
from shortlist.models.blocks.content import unit
from shortlist.models.recall.content_mean import ContentMean, mean_of
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.simulation.toy import Toy
from shortlist.training.fit import fit, models_of
from shortlist.training.plan import plan_of

OLD = np.arange(20)


@pytest.fixture(scope="module")
def world() -> Toy:
    return drawn(40, 30, 900, 8)


@pytest.fixture(scope="module")
def towers(world: Toy, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Trained on items 0 to 19."""
    return trained(world, tmp_path_factory.mktemp("towers"), OLD)


def before(world: Toy) -> Interactions:
    return world.interactions.where(np.isin(world.interactions.items, OLD))


def solve(world: Toy, towers: Artifact, catalogue: Catalogue | None = None, **options: Any) -> Vectors:
    config = ContentMean.Config(of="towers", **{"mature": 1, **options})
    return ContentMean(config, world.schema()).solve(before(world), catalogue or world.catalogue, world.now, towers)


def rows(form: Vectors, keys: NDArray[np.int64]) -> NDArray[np.float32]:
    return form.matrix[np.searchsorted(form.keys, keys)]


def content(world: Toy) -> NDArray[np.float32]:
    return unit(np.stack(list(world.catalogue.items.columns["content"])))


def own(towers: Artifact) -> Vectors:
    form = towers.form()
    assert isinstance(form, Vectors)
    return form


def test_it_is_a_solver(world: Toy) -> None:
    solver: Any = ContentMean(ContentMean.Config(of="towers"), world.schema())
    assert isinstance(solver, Solver)
    assert solver.reads == ("actions", "item.content")


def test_means_by_hand() -> None:
    # the new item is at 0.8 and 0.6 of the two axes; their vectors are (2, 0) and (0, 4)
    new, mature = np.array([[0.8, 0.6]], dtype=np.float32), np.eye(2, dtype=np.float32)
    vectors = np.array([[2, 0], [0, 4]], dtype=np.float32)
    keys = np.array([3, 5])
    np.testing.assert_allclose(mean_of(new, keys, mature, vectors, 1, False), [[2, 0]])
    np.testing.assert_allclose(mean_of(new, keys, mature, vectors, 2, False), [[1, 2]])
    # (0.8 (2, 0) + 0.6 (0, 4)) / 1.4
    np.testing.assert_allclose(mean_of(new, keys, mature, vectors, 2, True), [[1.6 / 1.4, 2.4 / 1.4]], rtol=1e-6)
    # one behind counts nothing, and where all are, they count alike
    np.testing.assert_allclose(mean_of(np.array([[0.8, -0.6]], np.float32), keys, mature, vectors, 2, True), [[2, 0]])
    np.testing.assert_allclose(mean_of(np.array([[-0.8, -0.6]], np.float32), keys, mature, vectors, 2, True), [[1, 2]])


@pytest.mark.parametrize("weighted", [False, True])
def test_it_equals_a_loop(weighted: bool) -> None:
    new, mature, vectors = unit(random(20, 5)), unit(random(50, 5, 1)), random(50, 3, 2)
    made = mean_of(new, np.arange(50), mature, vectors, 7, weighted)
    for n in range(20):
        cosine = mature.astype(np.float64) @ new[n]
        best = np.argsort(-cosine, kind="stable")[:7]
        weight = np.maximum(cosine[best], 0) if weighted else np.ones(7)
        np.testing.assert_allclose(made[n], weight @ vectors[best] / weight.sum(), rtol=1e-4, atol=1e-5)


def test_one_neighbour_is_copied(world: Toy, towers: Artifact) -> None:
    form, x = solve(world, towers, k=1), content(world)
    for new in range(20, 30):
        near = own(towers).keys[np.argmax(x[own(towers).keys] @ x[new])]
        np.testing.assert_array_equal(rows(form, np.array([new])), rows(own(towers), np.array([near])))


def test_all_neighbours_are_the_mean_of_the_catalogue(world: Toy, towers: Artifact) -> None:
    form = solve(world, towers, k=1000)
    mean = own(towers).matrix.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(rows(form, np.arange(20, 30)), np.tile(mean, (10, 1)), atol=1e-6)


def test_only_mature_items_are_asked(world: Toy, towers: Artifact) -> None:
    keys, counts = np.unique(before(world).items, return_counts=True)
    least = int(np.sort(counts)[-3])
    mature = keys[counts >= least]
    form = solve(world, towers, k=1000, mature=least)
    mean = rows(own(towers), mature).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(rows(form, np.array([25])), mean[None, :], atol=1e-6)


def test_vectors_that_were_learned_stay(world: Toy, towers: Artifact) -> None:
    form = solve(world, towers)
    np.testing.assert_array_equal(rows(form, own(towers).keys), own(towers).matrix)
    assert form.metric == own(towers).metric
    assert form.keys.tolist() == list(range(30))


def test_items_that_nobody_took_are_found(world: Toy, towers: Artifact) -> None:
    part = Nearest(Nearest.Config(), solve(world, towers), world.schema(), model(towers, world))
    _, found, _ = part.recall(asked(world, [0, 1]), 30, every)
    assert set(range(20, 30)) <= set(found.tolist())
    assert ContentMean.cold_items
    assert ContentMean.cold_users


def test_a_pool_of_it_asks_with_the_vectors_of_the_towers(world: Toy, tmp_path: Path) -> None:
    channels: list[dict[str, Any]] = [
        {"name": "towers", "use": "dssm", "dim": 4, "hidden": [8], "out": 4, "train": {"epochs": 1, "history": 10}},
        {"name": "filled", "use": "content_mean", "of": "towers", "mature": 1},
        {"name": "pool", "use": "age_pool", "of": "filled", "max_age_hours": 350.0},
    ]
    config = parse({"recall": channels, "filters": [], "rerank": "top"})
    models = models_of(config.recall)
    options = {c.name: split_options(c, models[c.name])[0] for c in config.recall}
    plans = [plan_of(c, c.name, options[c.name]) for c in config.recall]
    fit(plans, before(world), world.catalogue, world.schema(), tmp_path, snapshot="", created_ms=world.now)
    words = document(config, world.schema(), models)
    funnel = assemble(words, lambda name: load(tmp_path / name), world.catalogue)["home"]
    pool = {channel.name: channel.source for channel in funnel.channels}["pool"]
    requests = asked(world, [0, 1])
    _, found, scores = pool.recall(requests, 100, every)
    form = load(tmp_path / "pool").form()
    assert isinstance(form, Vectors)
    assert set(found.tolist()) == set(range(30))  # published up to 29 times 12 hours ago, 20 to 29 untaken
    query = model(load(tmp_path / "towers"), world).query(requests)[0].astype(np.float64)
    own_vector = rows(form, found[:1])[0].astype(np.float64)
    cosine = query @ own_vector / np.linalg.norm(query) / np.linalg.norm(own_vector)
    assert scores[0] == pytest.approx(cosine, abs=1e-5)


def test_new_items_without_content_get_no_vector(world: Toy, towers: Artifact) -> None:
    vectors = world.catalogue.items.columns["content"].copy()
    vectors[25], vectors[26] = None, np.zeros_like(vectors[26])
    items = Profiles(world.catalogue.items.keys, {"content": vectors})
    form = solve(world, towers, Catalogue(world.catalogue.users, items))
    assert sorted(set(range(30)) - set(form.keys.tolist())) == [25, 26]


def test_without_a_new_item_nothing_is_asked_of_mature_ones(world: Toy, towers: Artifact) -> None:
    known = Profiles(OLD, {name: column[:20] for name, column in world.catalogue.items.columns.items()})
    form = solve(world, towers, Catalogue(world.catalogue.users, known), mature=10**6)
    assert form.keys.tolist() == own(towers).keys.tolist()
    np.testing.assert_array_equal(form.matrix, own(towers).matrix)
    bare = np.full(30, None, dtype=object)  # nor where none of them has content
    items = Profiles(world.catalogue.items.keys, {"content": bare})
    assert solve(world, towers, Catalogue(world.catalogue.users, items)).keys.tolist() == own(towers).keys.tolist()


def of_towers(folder: Path, towers: Artifact, vectors: NDArray[np.float32], keys: NDArray[np.int64] = OLD) -> Artifact:
    """The towers with other vectors of items."""
    manifest = towers.manifest
    save(
        folder, kind=manifest.kind, name="towers", form=Vectors(keys, vectors, "cos"), config=manifest.config,
        fingerprint=manifest.fingerprint, reads=manifest.reads, created_ms=0,
    )  # fmt: skip
    return load(folder)


def test_a_mature_item_whose_vector_is_of_zeros_is_not_asked(world: Toy, towers: Artifact, tmp_path: Path) -> None:
    # of 20 items only 3 and 8 say something; all of them are asked, so each new one is at the mean of these two
    vectors = np.zeros((20, 4), dtype=np.float32)
    vectors[3], vectors[8] = [2, 0, 0, 0], [0, 4, 0, 0]
    form = solve(world, of_towers(tmp_path / "some", towers, vectors), k=1000)
    np.testing.assert_array_equal(rows(form, np.arange(20, 30)), np.tile([[1, 2, 0, 0]], (10, 1)))
    np.testing.assert_array_equal(rows(form, OLD), vectors)
    with pytest.raises(DataError) as caught:
        solve(world, of_towers(tmp_path / "none", towers, np.zeros((20, 4), dtype=np.float32)))
    assert str(caught.value) == "content_mean.mature: no item with a vector has 1 events (lower mature)"


def test_vectors_of_the_channel_that_are_no_numbers_are_refused_with_their_keys(
    world: Toy, towers: Artifact, tmp_path: Path
) -> None:
    made = of_towers(tmp_path / "some", towers, np.ones((20, 4), dtype=np.float32))
    spoilt = np.ones((20, 4), dtype=np.float32)
    spoilt[[2, 4, 9, 17], 1] = np.nan
    with pytest.raises(ArtifactError) as caught:
        of_towers(tmp_path / "nan", towers, spoilt)
    assert caught.value.what == "the matrix holds NaN or infinity for key 2, 4, 9 and 1 more"
    items = world.catalogue.items
    column = items.columns["content"].copy()
    column[25] = np.full_like(column[25], np.nan)
    with pytest.raises(DataError) as content:
        solve(world, made, Catalogue(world.catalogue.users, Profiles(items.keys, {"content": column})))
    assert str(content.value) == (
        "content_mean, item.content: vectors hold NaN or infinity: item key 25 "
        "(leave the vectors of these items out, or mend them)"
    )


def test_bad_input(world: Toy, towers: Artifact, tmp_path: Any) -> None:
    with pytest.raises(DataError) as nothing:
        solve(world, towers, mature=10**6)
    assert nothing.value.what == "no item with a vector has 1000000 events"
    assert (nothing.value.where, nothing.value.hint) == ("content_mean.mature", "lower mature")
    lists = Lists.ranked(np.array([0]), np.array([1]), np.array([1.0], dtype=np.float32))
    save(tmp_path / "hot", kind="recall", name="hot", form=lists, fingerprint=Schema().fingerprint(), created_ms=0)
    with pytest.raises(ConfigError) as caught:
        solve(world, load(tmp_path / "hot"))
    assert caught.value.what == "hot has no vectors of users"
    assert caught.value.where == "content_mean.of"
    with pytest.raises(ConfigError) as field:
        ContentMean(ContentMean.Config(of="towers"), Schema.parse({}))
    assert field.value.what == "no field of items holds vectors"
