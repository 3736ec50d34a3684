"""The world's clockwork: dice, blocks, time, visits, shelves, memory."""

import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest
from tests.simulation.logs import generate, only, run

from shortlist.errors import ConfigError
from shortlist.simulation.events import Events
from shortlist.simulation.policy import named
from shortlist.simulation.recent import Recent
from shortlist.simulation.sizes import SIZES
from shortlist.simulation.toy import Toy
from shortlist.simulation.truth import CLICK, DAY_MS, HOUR_MS, IMPRESSION
from shortlist.simulation.world import World

TINY = SIZES["tiny"]


@pytest.fixture(scope="module")
def world() -> World:
    return generate(TINY)


@pytest.fixture(scope="module")
def log(world: World) -> Events:
    return run(world, "popularity")


def equal(one: Events, other: Events) -> bool:
    return all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name), equal_nan=f.name in ("values", "propensities"))
        for f in fields(Events)
    )


def test_same_dice_same_world_same_log(world: World, log: Events) -> None:
    assert equal(run(generate(TINY), "popularity"), log)
    assert not equal(run(world, "popularity", seed=2), log)
    assert not np.array_equal(generate(TINY, 1).truth.quality, world.truth.quality)


@pytest.mark.parametrize("block", [1_000, 7_777, 10**9])
def test_the_log_does_not_depend_on_the_block(world: World, log: Events, block: int) -> None:
    blocks = list(world.simulate(named("popularity", world.truth), np.random.default_rng(1), block=block))
    assert [len(b) for b in blocks[:-1]] == [block] * (len(blocks) - 1)
    assert 0 < len(blocks[-1]) <= block
    assert equal(Events.joined(blocks), log)


def test_columns_are_in_order_of_time_and_say_what_they_should(log: Events) -> None:
    assert (np.diff(log.times) >= 0).all()
    assert log.times[0] >= TINY.start_ms
    assert log.times[-1] < TINY.start_ms + 30 * DAY_MS
    shown = log.actions == IMPRESSION
    assert ((log.propensities > 0) == shown).all()
    assert (np.isnan(log.propensities) == ~shown).all()
    assert (~np.isnan(log.values) == (log.actions == CLICK)).all()
    assert ((log.requests >= 0) == (log.positions > 0)).all()
    assert (log.requests[shown] >= 0).all()


def test_a_click_answers_a_slate_that_holds_it_or_none(log: Events) -> None:
    shown = only(log, IMPRESSION)
    slates, counts = np.unique(shown.requests, return_counts=True)
    assert set(counts.tolist()) == {10}
    key = np.sort((shown.requests * 1000 + shown.items) * 100 + shown.positions)
    acted = log.take(np.flatnonzero((log.actions != IMPRESSION) & (log.requests >= 0)))
    asked = (acted.requests * 1000 + acted.items) * 100 + acted.positions
    assert np.isin(asked, key).all()
    assert len(slates) * 10 == len(shown)
    alone = only(log, CLICK)
    share = (alone.requests < 0).mean()
    # 35 % of requests with a click go on by themselves, where there is somewhere to go
    assert 0.1 < share < 0.3


def test_nothing_is_shown_or_clicked_before_it_is_published(world: World, log: Events) -> None:
    published = world.truth.shelf.published
    assert (log.times >= published[log.items]).all()
    # and what comes later is shown: three tenths of the shelf
    later = published > TINY.start_ms
    assert later.mean() == pytest.approx(0.3, abs=0.08)
    shown = np.bincount(only(log, IMPRESSION).items, minlength=TINY.items)
    out = published < TINY.start_ms + 25 * DAY_MS
    assert (shown[later & out] > 0).all()


def test_nobody_comes_before_joining(world: World, log: Events) -> None:
    joined = world.truth.people.joined
    assert (log.times >= joined[log.users]).all()
    assert (joined > TINY.start_ms).mean() == pytest.approx(0.3, abs=0.1)


def test_half_an_hour_of_silence_ends_a_visit_and_nothing_else_does(log: Events) -> None:
    order = np.lexsort((log.times, log.users))
    gaps = np.diff(log.times[order])[np.diff(log.users[order]) == 0]
    assert not ((gaps > 25 * 60_000) & (gaps < 45 * 60_000)).any()
    visits = (gaps >= 45 * 60_000).sum() + len(np.unique(log.users))
    requests = len(np.unique(log.requests)) - 1  # -1 is none
    # 3 requests a visit on average, cut at 12, which takes 1 - (2/3)^12 = 0.8 % of them
    assert requests / visits == pytest.approx(3.0, rel=0.1)


def test_policies_are_compared_on_the_same_visits(world: World) -> None:
    """The first request of the first tick's visitors comes to the same user at the same moment under any policy."""
    firsts = []
    for name in ("uniform", "taste"):
        shown = only(run(world, name, days=1), IMPRESSION)
        order = np.lexsort((shown.times, shown.users))
        _, first = np.unique(shown.users[order], return_index=True)
        firsts.append(list(zip(shown.users[order][first].tolist(), shown.times[order][first].tolist(), strict=True)))
    assert firsts[0] == firsts[1]


def test_a_world_goes_on_where_it_was(world: World) -> None:
    state = world.begin()
    before = run(world, "popularity", days=3, state=state)
    known = state.recent.items.copy()
    after = run(world, "taste", seed=9, days=3, state=state)
    assert before.times[-1] < TINY.start_ms + 3 * DAY_MS <= after.times[0]
    assert after.times[-1] < TINY.start_ms + 6 * DAY_MS
    assert only(after, IMPRESSION).requests.min() > only(before, IMPRESSION).requests.max()
    # what users clicked before is still known: each known item was clicked by its user in the first three days
    clicks = only(before, CLICK)
    user, place = np.nonzero(known >= 0)
    assert set(zip(user.tolist(), known[user, place].tolist(), strict=True)) >= set(
        zip(clicks.users[-50:].tolist(), clicks.items[-50:].tolist(), strict=True)
    )


def test_events_behind_the_end_wait_for_who_goes_on(world: World) -> None:
    state = world.begin()
    run(world, "uniform", days=2, state=state)
    assert (state.ahead.times >= TINY.start_ms + 2 * DAY_MS).all()
    assert (state.ahead.actions != IMPRESSION).all()  # nobody asks past the end: these answer what was shown before
    waiting = len(state.ahead)
    more = run(world, "uniform", days=1, state=state)
    early = more.take(np.flatnonzero(more.requests < only(more, IMPRESSION).requests.min()))
    assert ((early.requests >= 0) | (early.requests == -1)).all()
    assert len(more) > waiting


def test_recent_by_hand() -> None:
    recent = Recent(2, 3)
    recent.add(np.array([0, 1, 0]), np.array([5, 6, 7]))
    assert sorted(recent.of(np.array([0]))[0].tolist()) == [-1, 5, 7]
    recent.add(np.array([0, 0]), np.array([8, 9]))  # the oldest, 5, goes
    assert sorted(recent.of(np.array([0, 1]))[0].tolist()) == [7, 8, 9]
    recent.add(np.array([0] * 5), np.array([1, 2, 3, 4, 5]))  # more than fit: the last three stay
    assert sorted(recent.items[0].tolist()) == [3, 4, 5]
    recent.add(np.array([0]), np.array([6]))  # and then the oldest of those goes
    assert sorted(recent.items[0].tolist()) == [4, 5, 6]
    assert sorted(recent.items[1].tolist()) == [-1, -1, 6]


def test_sizes_hold_about_as_many_events_as_they_say(log: Events) -> None:
    assert len(log) == pytest.approx(100_000, rel=0.15)
    assert len(run(generate(SIZES["S"]), "popularity")) == pytest.approx(1_000_000, rel=0.1)


def test_memory_does_not_grow_with_the_log() -> None:
    """Beside the world itself: three times the days, the same peak. A day of size S is some 33 000 events."""
    world = generate(SIZES["S"])

    def peak(days: int) -> int:
        policy = named("popularity", world.truth)
        tracemalloc.start()
        rows = sum(len(block) for block in world.simulate(policy, np.random.default_rng(0), days=days))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows > 20_000 * days
        return found

    peak(1)
    assert peak(9) < 1.5 * peak(3)


def test_ticks_divide_a_day() -> None:
    with pytest.raises(ConfigError) as error:
        generate(replace(TINY, tick_hours=5))
    assert str(error.value) == "tick_hours: 5 hours do not divide a day (take 1, 2, 3, 4, 6, 8, 12 or 24)"


def test_a_small_world_needs_a_slate_of_items() -> None:
    with pytest.raises(ConfigError) as error:
        generate(replace(TINY, items=9))
    assert str(error.value) == "items: 9 items do not fill a slate of 10 (more items, or a smaller slate)"


def test_too_many_words() -> None:
    with pytest.raises(ConfigError) as error:
        generate(replace(TINY, categories=100, words=50))
    assert str(error.value) == "words: 100 categories of 50 words: there are 4900 words (fewer of either)"


def test_a_toy_is_so_many_clicks() -> None:
    toy = Toy.draw(60, 40, 900, seed=7, days=3, categories=4)
    log = toy.interactions
    assert len(log) == 900
    assert log.times.max() == toy.now - 1
    assert np.lexsort((log.times, log.users)).tolist() == list(range(900))
    assert (log.times >= toy.catalogue.items.columns["published"][log.items]).all()
    assert toy.now - log.times.min() < 6 * DAY_MS
    schema = Toy.schema()
    assert set(toy.catalogue.items.columns) == set(schema.items)
    assert set(toy.catalogue.users.columns) == set(schema.users)
    again = Toy.draw(60, 40, 900, seed=7, days=3, categories=4).interactions
    assert again.items.tolist() == log.items.tolist()


def test_hours_are_of_utc() -> None:
    # 2023-11-13T00:00Z is the start: a Monday, hour 0
    assert World.Config().start_ms % DAY_MS == 0
    assert (World.Config().start_ms // DAY_MS + 3) % 7 == 0
    assert HOUR_MS * 24 == DAY_MS
