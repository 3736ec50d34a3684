"""Clusters: the generated world has the shape it promises."""

import numpy as np
import pytest

from shortlist.simulation.clusters import DAY_MS, Clusters


@pytest.fixture(scope="module")
def world() -> Clusters:
    return Clusters.generate(Clusters.Config(), np.random.default_rng(0))


def test_same_dice_same_world(world: Clusters) -> None:
    again = Clusters.generate(Clusters.Config(), np.random.default_rng(0)).interactions
    assert again.items.tolist() == world.interactions.items.tolist()
    assert again.times.tolist() == world.interactions.times.tolist()
    other = Clusters.generate(Clusters.Config(), np.random.default_rng(1)).interactions
    assert other.items.tolist() != world.interactions.items.tolist()


def test_events_are_in_order_of_user_and_time(world: Clusters) -> None:
    log = world.interactions
    assert len(log) == 50_000
    assert np.lexsort((log.times, log.users)).tolist() == list(range(len(log)))


def test_nothing_is_clicked_before_it_is_published_or_after_now(world: Clusters) -> None:
    log = world.interactions
    published = world.catalogue.items.columns["published"]
    assert (log.times >= published[log.items]).all()
    assert log.times.max() == world.now - 1
    start = Clusters.Config().start_ms
    assert log.times.min() >= start
    assert world.now < start + 31 * DAY_MS


def test_users_keep_to_their_cluster(world: Clusters) -> None:
    log = world.interactions
    home = world.user_cluster[log.users] == world.item_cluster[log.items]
    # taste 0.8, and of the 0.2 drawn from everything about 1 in 20 clusters falls home too: 0.8 + 0.2 / 20 = 0.81
    assert home.mean() == pytest.approx(0.81, abs=0.02)


def test_without_taste_popularity_follows_zipf() -> None:
    config = Clusters.Config(taste=0.0, zipf=1.0, items=100, events=200_000)
    world = Clusters.generate(config, np.random.default_rng(0))
    counts = np.sort(np.bincount(world.interactions.items))[::-1]
    # rank 1 to rank 10 falls tenfold under exponent 1
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)


def test_categories_name_the_clusters_and_fit_the_schema(world: Clusters) -> None:
    schema = Clusters.schema()
    assert world.catalogue.items.columns["category"].tolist() == [f"c{n}" for n in world.item_cluster]
    assert set(world.catalogue.items.columns) == set(schema.items)
    assert set(world.catalogue.users.columns) == set(schema.users)
