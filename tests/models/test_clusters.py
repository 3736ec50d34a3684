"""Clusters of content: spherical k-means on points whose groups are visible, lists by time, and new items."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.models.test_content import NOBODY, SCHEMA, catalogue, random
from tests.models.test_tags import ask, every

from shortlist.candidates import Requests
from shortlist.errors import CapacityError, ConfigError, DataError
from shortlist.forms import Built, Lists, Vectors
from shortlist.funnel.sources.clusters import Clusters as Source
from shortlist.models.blocks.content import unit
from shortlist.models.blocks.spherical import Grouped, closest, cluster, refined
from shortlist.models.recall.clusters import Clusters, placed
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Schema

NOW = 1_700_000_000_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def bunches(k: int = 4, each: int = 12, d: int = 8) -> NDArray[np.float32]:
    """k bunches of vectors around axes; item n is of bunch n % k."""
    made = 0.1 * random(k * each, d)
    made[np.arange(k * each), np.arange(k * each) % k] += 1
    return made


def world(vectors: Any, hours: Any = None) -> Catalogue:
    """Published so many hours ago, one after the other where nothing is said."""
    hours = np.arange(len(vectors)) if hours is None else hours
    return catalogue(vectors, published=[np.nan if h is None else NOW - h * HOUR_MS for h in hours])


def solve(made: Catalogue, **options: Any) -> Built:
    return Clusters(Clusters.Config(**options), SCHEMA).solve(NOBODY, made, NOW)


def lists_of(built: Built, name: str = "") -> Lists:
    form = built.beside[name] if name else built.form
    assert isinstance(form, Lists)
    return form


def groups_of(built: Built) -> dict[int, int]:
    """Cluster of each item."""
    every = lists_of(built, "clusters")
    return dict(zip(every.items.tolist(), np.repeat(every.keys, np.diff(every.offsets)).tolist(), strict=True))


def asks(built: Built, made: Catalogue, requests: Requests, n: int = 100, **options: Any) -> list[list[int]]:
    part = Source(Source.Config(**options), lists_of(built), SCHEMA, built.beside, made.items)
    owners, items, _ = part.recall(requests, n, every)
    return [items[owners == r].tolist() for r in range(len(requests))]


def test_it_is_a_solver() -> None:
    assert isinstance(Clusters(Clusters.Config(), SCHEMA), Solver)
    assert Clusters(Clusters.Config(), SCHEMA).reads == ("item.look", "item.published")


@pytest.mark.parametrize("k", [2, 7, 30])
def test_the_objective_never_falls(k: int) -> None:
    x = unit(random(300, 6))
    rounds = list(refined(x, x[:k], 50))
    assert len(rounds) > 2
    gains = np.diff([made.objective for made in rounds])
    assert (gains >= -1e-5 * len(x)).all()  # rounding of 300 cosines in single precision
    assert gains[-1] < 1e-6 * len(x) + 1e-9  # and it has come to rest


def test_as_many_clusters_as_points_fit_them_exactly() -> None:
    points = unit(random(9, 5))
    x = points[np.arange(36) % 9]
    for seed in range(5):
        assert cluster(x, 9, 1, 20, rng(seed)).objective == pytest.approx(36, abs=1e-4)
    assert len(cluster(x, 100, 1, 5, rng()).centres) == 36  # not more than vectors


def test_bunches_are_found_and_restarts_keep_the_best() -> None:
    x = unit(bunches())
    made = cluster(x, 4, 5, 30, rng())
    assert all(len(set(made.groups[np.arange(48) % 4 == b].tolist())) == 1 for b in range(4))
    assert len(set(made.groups[:4].tolist())) == 4
    starts = rng()  # the same dice: one start after the other
    alone = [cluster(x, 3, 1, 30, starts).objective for _ in range(4)]
    assert cluster(x, 3, 4, 30, rng()).objective == max(alone)


def test_an_empty_cluster_is_seated_again() -> None:
    # nobody is nearest to (0, -1): the worst fit moves there, (0.6, 0.8), whose cosine to (1, 0) is 0.6
    x = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], dtype=np.float32)
    first: Grouped = next(iter(refined(x, np.array([[1, 0], [0, -1]], dtype=np.float32), 1)))
    assert first.groups.tolist() == [0, 0, 1]
    np.testing.assert_allclose(first.centres[1], x[2], atol=1e-6)
    np.testing.assert_allclose(first.centres[0], unit(np.array([[1.8, 0.6]]))[0], atol=1e-6)


def test_scaling_changes_nothing() -> None:
    vectors = bunches()
    plain = solve(world(vectors), clusters=5)
    scaled = solve(world(vectors * np.exp2(np.arange(48) % 5)[:, None].astype(np.float32)), clusters=5)
    assert groups_of(plain) == groups_of(scaled)
    np.testing.assert_array_equal(plain.beside["centres"].matrix, scaled.beside["centres"].matrix)  # type: ignore[union-attr]


def test_lists_are_the_newest_of_each_cluster() -> None:
    hours = rng().permutation(48)
    built = solve(world(bunches(), hours), clusters=4, keep=5)
    lists, groups = lists_of(built), groups_of(built)
    assert len(lists) == 4
    for key in lists.keys.tolist():
        mine = sorted((i for i, g in groups.items() if g == key), key=lambda i: hours[i])
        assert lists.of(key)[0].tolist() == mine[:5]


def test_what_is_brought_is_bounded_and_newest_first_in_each_cluster() -> None:
    made = world(bunches(), rng().permutation(48))
    built = solve(made, clusters=4)
    groups, times = groups_of(built), made.items.columns["published"]
    got, stranger = asks(built, made, ask([(0, 3), (4, 2), (1, 1)], []), per_cluster=5)
    assert len(got) == 2 * 5  # items 0 and 4 are of one bunch
    assert stranger == []
    for group in (groups[0], groups[1]):
        mine = [times[i] for i in got if groups[i] == group]
        assert mine == sorted(mine, reverse=True)
    # two of the three items are of the first bunch: 2/3, 1/3, 2/9... against 1/3, 1/6, ...
    assert [groups[i] == groups[0] for i in got[:2]] == [True, True]
    only = asks(built, made, ask([(0, 3), (4, 2), (1, 1)]), last=1)[0]
    assert {groups[i] for i in only} == {groups[1]}


def test_age_is_that_of_the_moment_of_the_request() -> None:
    made = world([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]], [5, 2, -1, None])
    built = solve(made, clusters=1)
    requests = ask([(0, 0)])
    later = Requests(requests.users, requests.now + 2 * HOUR_MS, 3, requests.history, requests.shown, requests.exclude)
    assert asks(built, made, requests) == [[1, 0]]
    assert asks(built, made, later) == [[2, 1, 0]]
    assert asks(built, made, later, max_age_hours=4.0) == [[2, 1]]
    assert asks(built, made, ask([(3, 0)])) == [[1, 0]]  # without a time an item is not shown, and tells what is liked


def test_the_same_content_is_shown_once() -> None:
    made = world([[1.0, 0.0], [2.0, 0.0], [1.0, 0.1], [1.0, 0.0]], [3, 1, 2, -5])
    built = solve(made, clusters=1)
    # 0 and 1 are one content: 1 came out last; so is 3, when its time has come
    assert lists_of(built).items.tolist() == [3, 1, 2]
    assert sorted(groups_of(built)) == [0, 1, 2, 3]


def test_a_new_item_goes_where_its_content_is_at_once() -> None:
    made = world(bunches())
    built = solve(made, clusters=4)
    groups = groups_of(built)
    for key in range(48):  # what is known already lands where training put it
        vector = np.asarray(made.items.columns["look"][key], dtype=np.float32)
        assert groups_of(placed(built, 1000 + key, 3 * vector))[1000 + key] == groups[key]
    new = placed(built, 1000, bunches()[7], keep=200)
    assert lists_of(new).of(groups[7])[0].tolist() == [1000, *lists_of(built).of(groups[7])[0].tolist()]
    assert asks(new, made, ask([(7, 0)]), per_cluster=1) == [[1000]]
    assert groups_of(placed(new, 1000, bunches()[8]))[1000] == groups[8]  # and moves with its content


def test_items_that_nobody_took_are_brought_and_new_users_are_served() -> None:
    made = world(bunches())
    assert len(asks(solve(made, clusters=4), made, ask([(5, 0)]))[0]) == 5  # learned from no event at all
    assert Clusters.cold_items
    assert Clusters.cold_users


def test_more_clusters_than_contents_are_as_many() -> None:
    built = solve(world([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.0], None]), clusters=1000)
    centres = built.beside["centres"]
    assert isinstance(centres, Vectors)
    assert len(centres.keys) == 2
    assert sorted(groups_of(built)) == [0, 1, 2]
    np.testing.assert_allclose(closest(centres.matrix, np.eye(2, dtype=np.float32))[1], 1, atol=1e-6)


def test_opposite_vectors_have_a_centre() -> None:
    built = solve(world([[1.0, 0.0], [-1.0, 0.0]]), clusters=1)
    assert sorted(lists_of(built).items.tolist()) == [0, 1]


def test_old_items_are_pruned() -> None:
    made = world(np.tile(random(1), (3, 1)) + 0.1 * random(3), [0, 24 * 29, 24 * 31])
    assert lists_of(solve(made, clusters=1)).items.tolist() == [0, 1]
    assert lists_of(solve(made, clusters=1, prune_days=None)).items.tolist() == [0, 1, 2]


def test_bad_vectors_and_schemas() -> None:
    with pytest.raises(DataError) as caught:
        solve(world([[1.0, np.nan], [1.0, 0.0]]))
    assert caught.value.what == "vectors hold NaN or infinity: item key 0"
    with pytest.raises(DataError) as caught:
        solve(world([[0.0, 0.0], None]))
    assert caught.value.what == "every vector is zero"
    with pytest.raises(DataError) as caught:
        solve(world([None, None]))
    assert caught.value.what == "no item has a vector"
    with pytest.raises(CapacityError) as over:
        solve(world(random(8)), budget_bytes=1)
    assert over.value.what == "8 items need 0.1 GiB, the budget is 0.0 GiB"
    with pytest.raises(ConfigError) as wrong:
        Clusters(Clusters.Config(), Schema.parse({"items": {"look": "vec"}}))
    assert wrong.value.what == "what is newest needs a time of publication"
