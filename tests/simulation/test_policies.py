"""Policies: what they log as a propensity is the frequency with which it happens."""

import numpy as np
import pytest
from tests.simulation.logs import generate, only, run

from shortlist.config import catalogue
from shortlist.errors import ConfigError
from shortlist.simulation.policies.popularity import Popularity
from shortlist.simulation.policy import Deck, named
from shortlist.simulation.truth import CLICK, IMPRESSION
from shortlist.simulation.world import World

CONFIG = World.Config(users=200, items=80, categories=4)
NAMES = catalogue("shortlist.simulation.policies")


@pytest.fixture(scope="module")
def world() -> World:
    return generate(CONFIG)


def test_the_policies_there_are() -> None:
    assert NAMES == ("popularity", "taste", "uniform")


def test_a_deck_by_hand() -> None:
    # two slots hold half of the weight each: item 0 has the first alone, in the second 2 : 1 : 1
    deck = Deck.of(np.array([[4.0, 2.0, 1.0, 1.0]]), 2)
    assert deck.slot.tolist() == [[0, 1, 1, 1]]
    assert deck.chance.tolist() == [[1.0, 0.5, 0.25, 0.25]]


def test_an_item_of_more_than_a_slot_is_cut_to_one() -> None:
    # of 12, the first item has 8, more than half: it fills the first slot, the others share the second 3 : 1
    deck = Deck.of(np.array([[8.0, 3.0, 1.0]]), 2)
    assert deck.slot.tolist() == [[0, 1, 1]]
    assert deck.chance.tolist() == [[1.0, 0.75, 0.25]]


def test_as_many_items_as_slots_stand_in_order() -> None:
    deck = Deck.of(np.array([[9.0, 3.0, 1.0]]), 3)
    assert deck.draw(5, np.random.default_rng(0)).tolist() == [[0, 1, 2]] * 5


@pytest.mark.parametrize("width", [10, 11, 50, 1000])
def test_a_deck_of_any_weights_fills_every_slot_once(width: int) -> None:
    rng = np.random.default_rng(width)
    weights = np.sort(np.exp(3 * rng.standard_normal((40, width))), axis=1)[:, ::-1]
    deck = Deck.of(weights, 10)
    assert (np.diff(deck.slot, axis=1) >= 0).all()
    for row in range(40):
        assert np.bincount(deck.slot[row], deck.chance[row], 10) == pytest.approx(np.ones(10))
    places = deck.draw(40, rng)
    assert (deck.slot[np.arange(40)[:, None], places] == np.arange(10)).all()


@pytest.mark.parametrize("name", NAMES)
def test_propensities_are_frequencies(world: World, name: str) -> None:
    """One user, one moment, many times: every (item, position) comes as often as its propensity says."""
    policy = named(name, world.truth, {"shuffle": 0.3} if name != "uniform" else {})
    for events in world.simulate(named("uniform", world.truth), np.random.default_rng(2), days=5):
        policy.observe(events)
    R, K = 60_000, 5
    available = world.truth.shelf.available(CONFIG.start_ms + 5 * 86_400_000)
    users, now = np.full(R, 3), np.full(R, CONFIG.start_ms + 5 * 86_400_000)
    items, odds = policy.show(users, now, available, K, np.random.default_rng(4))
    assert items.shape == odds.shape == (R, K)
    assert np.isin(items, available).all()
    assert (np.diff(np.sort(items, axis=1), axis=1) > 0).all()
    cells = (items * K + np.arange(K)).ravel()
    count = np.bincount(cells, minlength=CONFIG.items * K)
    told = np.zeros(CONFIG.items * K)
    told[cells] = odds.ravel()
    # one cell, one propensity, whatever else stands in the slate
    np.testing.assert_allclose(told[cells], odds.ravel(), rtol=1e-5)
    # what was never seen in 60 000 slates has next to no probability; the rest adds up to 1 at each position
    assert told.reshape(-1, K).sum(axis=0) == pytest.approx(np.ones(K), abs=2e-3)
    spread = np.sqrt(R * told * (1 - told))
    often = R * told > 20
    assert (np.abs(count - R * told)[often] < 5 * spread[often] + 1e-6).all()


def test_uniform_shows_everything_alike_at_every_position(world: World) -> None:
    available = np.arange(CONFIG.items)
    for A in (80, 12):  # by drawing again, and by shuffling
        _, odds = named("uniform", world.truth).show(
            np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64), available[:A], 4, np.random.default_rng(0)
        )
        assert odds == pytest.approx(np.full((3, 4), 1 / A))


def test_weighted_by_propensity_a_popular_log_counts_every_item_alike(world: World) -> None:
    """Sum of 1/propensity over what stood at a position: every item there could be counts once per request."""
    policy = Popularity(Popularity.Config(shuffle=0.5), world.truth)
    log = only(run(world, policy, days=10), IMPRESSION)
    day = (log.times - CONFIG.start_ms) // 86_400_000
    some = log.take(np.flatnonzero(day >= 5))
    requests = len(np.unique(some.requests))
    available = len(world.truth.shelf.available(CONFIG.start_ms + 7 * 86_400_000))
    for position in (1, 10):
        weights = 1 / some.propensities[some.positions == position]
        # over a week's half the shelf grows by a few items; the mean's own error is below 5 percent
        assert weights.sum() / requests == pytest.approx(available, rel=0.15)
        assert weights.std() / np.sqrt(requests) / available < 0.05


def test_popularity_shows_what_was_clicked(world: World) -> None:
    clicks = only(run(world, "popularity"), CLICK)
    shown = only(run(world, "popularity"), IMPRESSION)
    late = shown.take(np.flatnonzero(shown.times > CONFIG.start_ms + 15 * 86_400_000))
    by_clicks = np.argsort(-np.bincount(clicks.items, minlength=CONFIG.items))
    counts = np.bincount(late.items, minlength=CONFIG.items)
    assert counts[by_clicks[:8]].mean() > 2 * counts[by_clicks[-40:]].mean()


def test_the_oracle_is_worth_more_than_popularity_and_that_more_than_chance() -> None:
    """True utility: likes of what was shown, by the truth, so that no luck of the dice is in it."""
    world = generate(World.Config(users=400, items=300, categories=8))
    worth = {}
    for name in NAMES:
        shown = only(run(world, name), IMPRESSION)
        worth[name] = float(world.truth.worth(shown.users, shown.items, shown.times).mean())
    # popularity knows what all like, a seventh more here; chance alone moves a mean over 150 000 impressions by less
    # than a hundredth
    assert worth["popularity"] > 1.05 * worth["uniform"]
    assert worth["taste"] > 2 * worth["popularity"]


def test_an_unknown_policy_is_named(world: World) -> None:
    with pytest.raises(ConfigError) as error:
        named("popularty", world.truth)
    assert str(error.value) == "policy: nothing is called 'popularty' (did you mean popularity?)"
    with pytest.raises(ConfigError) as error:
        named("popularity", world.truth, {"powr": 0.5})
    assert "powr" in str(error.value)
