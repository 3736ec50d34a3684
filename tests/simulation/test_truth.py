"""What happens in a world is what its truth says: frequencies against probabilities.

A sum of N yes/no events with probabilities p lies within 5 sqrt(sum p(1-p)) of sum p but for one in 1.7 million; seeds
are fixed, so a test that passes goes on passing.
"""

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.simulation.logs import generate, only, run

from shortlist.simulation.events import Events
from shortlist.simulation.truth import ACTIONS, AFTER, BIAS, CLICK, DAY_MS, HOUR_MS, IMPRESSION, Click
from shortlist.simulation.visits import intensity
from shortlist.simulation.world import World

CONFIG = World.Config(users=600, items=200, categories=6, visits=1.0)


@pytest.fixture(scope="module")
def world() -> World:
    return generate(CONFIG)


@pytest.fixture(scope="module")
def log(world: World) -> Events:
    return run(world)


def z(happened: NDArray[Any], chance: NDArray[Any]) -> float:
    """Deviation of a count from its expectation, in standard deviations."""
    p = chance.astype(np.float64)
    return float((happened.sum() - p.sum()) / np.sqrt((p * (1 - p)).sum()))


def met(world: World, log: Events) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`last` [E] and `recent` [E, M] as each event's user knew them when it happened, counted from the log alone: a
    visit ends with half an hour of silence."""
    memory = world.config.click.memory
    last, recent = np.full(len(log), -1), np.full((len(log), memory), -1)
    known: dict[int, deque[int]] = {}
    before: dict[int, tuple[int, int]] = {}
    for n, (user, item, time, action) in enumerate(
        zip(log.users.tolist(), log.items.tolist(), log.times.tolist(), log.actions.tolist(), strict=True)
    ):
        mine = known.setdefault(user, deque(maxlen=memory))
        seen, clicked = before.get(user, (0, -1))
        if time - seen > HOUR_MS // 2:
            clicked = -1
        last[n] = clicked
        recent[n, : len(mine)] = mine
        if action == CLICK:
            mine.append(item)
            clicked = item
        before[user] = (time, clicked)
    return last, recent


def test_clicks_are_as_likely_as_the_truth_says(world: World, log: Events) -> None:
    last, recent = met(world, log)
    at = np.flatnonzero(log.actions == IMPRESSION)
    shown, last, recent = log.take(at), last[at], recent[at]
    clicks = only(log, CLICK)
    clicked = np.isin(shown.requests * 10_000 + shown.items, clicks.requests * 10_000 + clicks.items)
    devices = shown.devices.astype(np.int64)
    chance = world.truth.click(
        shown.users, shown.items, shown.times, shown.positions.astype(np.int64), devices, last, recent
    )
    assert len(shown) > 300_000
    edges = np.quantile(chance, np.arange(1, 10) / 10)
    part = np.searchsorted(edges, chance)
    for tenth in range(10):
        assert abs(z(clicked[part == tenth], chance[part == tenth])) < 5
    awaited = shown.items == np.where(last >= 0, world.truth.after[last], -2)
    bored = (shown.items[:, None] == recent).any(axis=1)
    for some in (awaited & ~bored, bored, ~awaited & ~bored):
        assert some.sum() > 500
        assert abs(z(clicked[some], chance[some])) < 5
    # and the log would tell if the truth left one of the two out: the item awaited, or one known already
    blind = world.truth.click(shown.users, shown.items, shown.times, shown.positions.astype(np.int64), devices)
    assert z(clicked[awaited & ~bored], blind[awaited & ~bored]) > 5
    assert z(clicked[bored], blind[bored]) < -5


def test_the_planted_item_adds_its_logits_and_a_known_one_loses_its_own(world: World) -> None:
    truth = world.truth
    user, now = np.array([3]), np.array([CONFIG.start_ms])
    item = np.array([7])
    before = np.flatnonzero(truth.after == 7)

    def logit(chance: NDArray[Any]) -> float:
        return float(np.log(chance / (1 - chance))[0])

    plain = logit(truth.attraction(user, item, now))
    assert logit(truth.attraction(user, item, now, last=before)) == pytest.approx(plain + 2.0, abs=1e-3)
    assert logit(truth.attraction(user, item, now, last=np.array([-1]))) == pytest.approx(plain, abs=1e-3)
    assert logit(truth.attraction(user, item, now, recent=np.array([[5, 7]]))) == pytest.approx(plain - 3.0, abs=1e-3)


def test_position_bias_is_found_where_items_are_shown_at_random(log: Events) -> None:
    """A uniform policy puts the same mix of items at every position: click rates fall as positions are looked at."""
    shown, clicks = only(log, IMPRESSION), only(log, CLICK)
    for device, bias in enumerate(BIAS):
        seen = np.bincount(shown.positions[shown.devices == device], minlength=11)[1:]
        clicked = np.bincount(clicks.positions[(clicks.devices == device) & (clicks.positions > 0)], minlength=11)[1:]
        wanted = np.arange(1, 11.0) ** -bias
        base = clicked.sum() / (seen * wanted).sum()  # click rate of what is looked at
        spread = np.sqrt(seen * base * wanted)  # of a count, a little too wide
        assert (np.abs(clicked - seen * base * wanted) < 5 * spread).all()
        # a log without position bias is excluded: its counts would not fall from the first position to the last
        assert clicked[0] / seen[0] - clicked[9] / seen[9] > 5 * (spread[0] + spread[9]) / seen[0]


@pytest.mark.parametrize("action", list(AFTER))
def test_what_follows_a_click_is_as_likely_as_the_truth_says(world: World, log: Events, action: str) -> None:
    clicks, acts = only(log, CLICK), only(log, ACTIONS.index(action))
    # an action lies between its click and the end of what was watched
    order = np.lexsort((clicks.times, clicks.items, clicks.users))
    mine = clicks.take(order)
    key = (mine.users * 1000 + mine.items) * 2**32 + (mine.times - CONFIG.start_ms)
    asked = (acts.users * 1000 + acts.items) * 2**32 + (acts.times - CONFIG.start_ms)
    at = np.searchsorted(key, asked, side="right") - 1
    assert (mine.users[at] == acts.users).all()
    assert (mine.items[at] == acts.items).all()
    assert (acts.times - mine.times[at] <= mine.values[at] * 1000 + 1).all()
    assert len(np.unique(at)) == len(at)
    happened = np.zeros(len(mine))
    happened[at] = 1
    # tastes move by some 0.02 a day: between a slate and a click in it that is nothing
    chance = world.truth.then(action, mine.users, mine.items, mine.times)
    inside = mine.times < mine.times.max() - HOUR_MS  # what follows the last clicks may lie behind the end
    assert abs(z(happened[inside], chance[inside])) < 5
    # at a click that answers no request the same holds
    alone = inside & (mine.requests < 0)
    assert alone.sum() > 500
    assert abs(z(happened[alone], chance[alone])) < 5


def test_bait_is_clicked_and_not_liked() -> None:
    """Three items of ten are bait here, so that their own appeal averages out."""
    full = generate(replace(CONFIG, bait=0.3))
    log, bait = run(full), full.truth.bait
    slates = log.take(np.flatnonzero(log.requests >= 0))
    rates = {}
    for name, some in (("bait", bait), ("other", ~bait)):
        shown, clicks, likes = (int(some[only(slates, n).items].sum()) for n in (0, 1, 2))
        rates[name] = clicks / shown, likes / clicks
    # its appeal is 0.8 logits higher, 5 logits of a like are gone: a like is e^-5 = 1/148 as likely, odds for odds
    assert rates["bait"][0] > 1.2 * rates["other"][0]
    assert rates["bait"][1] < 0.1 * rates["other"][1]


def test_quality_shows_in_likes_not_in_clicks_alone(world: World, log: Events) -> None:
    clicks, likes = (np.bincount(only(log, n).items, minlength=CONFIG.items) for n in (1, 2))
    honest = ~world.truth.bait & (clicks > 30)
    assert np.corrcoef((likes / np.maximum(clicks, 1))[honest], world.truth.quality[honest])[0, 1] > 0.5


def test_tastes_turn_by_their_speed(world: World) -> None:
    truth, users = world.truth, np.arange(CONFIG.users)
    start = np.full(len(users), CONFIG.start_ms)
    first, last = truth.taste(users, start), truth.taste(users, start + 30 * DAY_MS)
    np.testing.assert_allclose(np.linalg.norm(last, axis=1), 1, atol=1e-5)
    # an angle of speed * days between them: 0.02 * 30 = 0.6 on average, so that they keep cos 0.6 = 0.83 in common
    np.testing.assert_allclose((first * last).sum(axis=1), np.cos(truth.people.speed * 30), atol=1e-5)
    assert truth.people.speed.mean() * 30 == pytest.approx(0.6, rel=0.05)


def test_late_clicks_follow_the_taste_of_the_day_not_that_of_the_start() -> None:
    fast = generate(replace(CONFIG, drift=0.06))
    clicks = only(run(fast), CLICK)
    late = clicks.take(np.flatnonzero(clicks.times > CONFIG.start_ms + 20 * DAY_MS))
    now = fast.truth.affinity(late.users, late.items, late.times)
    then = fast.truth.affinity(late.users, late.items, np.full(len(late), CONFIG.start_ms))
    assert now.mean() > then.mean() + 0.1


def test_visits_follow_the_hour_and_the_weekday(log: Events, world: World) -> None:
    shown = only(log, IMPRESSION)
    _, first = np.unique(shown.requests, return_index=True)
    # who was there from the start, in the three whole weeks from the second day on
    low = CONFIG.start_ms + DAY_MS
    asked = shown.take(first)
    old = world.truth.people.joined[asked.users] <= CONFIG.start_ms
    times = asked.times[old & (asked.times >= low) & (asked.times < low + 21 * DAY_MS)]
    hours = low + np.arange(7 * 24) * HOUR_MS
    wanted = intensity(hours) / 168 * len(times)
    assert wanted.sum() == pytest.approx(len(times))
    found = np.bincount((times - low) // HOUR_MS % 168, minlength=168)
    # requests of a visit come together: a count varies about 5 times as much as independent ones would
    assert ((found - wanted) ** 2 / wanted).mean() < 8
    flat = np.full(168, len(times) / 168)
    assert ((found - flat) ** 2 / flat).mean() > 20
    assert np.corrcoef(found, wanted)[0, 1] > 0.9


def test_a_category_is_clicked_more_at_its_hour() -> None:
    strong = generate(replace(CONFIG, click=Click(season=1.0)))
    log = run(strong)
    truth = strong.truth
    shown, clicks = only(log, IMPRESSION), only(log, CLICK)
    clicks = clicks.take(np.flatnonzero(clicks.requests >= 0))
    rates = []
    for near in (True, False):
        counts = []
        for some in (shown, clicks):
            wave = truth.season(some.items, some.times)
            counts.append(int((wave > 0.7).sum() if near else (wave < -0.7).sum()))
        rates.append(counts[1] / counts[0])
    # at least 1.4 logits apart: 4 times the odds. Rates differ by less, as most clicks are of items that are likely at
    # any hour; without seasons they would not differ
    assert rates[0] > 1.6 * rates[1]


def test_the_planted_order_is_found_by_counting(world: World, log: Events) -> None:
    """After which item comes which: of the clicks that follow one on the same item in a visit, the most frequent."""
    clicks = only(log, CLICK)
    order = np.lexsort((clicks.times, clicks.users))
    mine = clicks.take(order)
    same = (mine.users[1:] == mine.users[:-1]) & (np.diff(mine.times) < HOUR_MS // 2)
    pairs = np.bincount(mine.items[:-1][same] * CONFIG.items + mine.items[1:][same], minlength=CONFIG.items**2)
    table = pairs.reshape(CONFIG.items, -1)
    out = world.truth.shelf.published <= CONFIG.start_ms
    often = (table.sum(axis=1) >= 50) & out & out[world.truth.after]  # both there all the time
    assert often.sum() > 80
    # a third of requests with a click end at the planted item; any other of 200 is far behind
    assert (table.argmax(axis=1) == world.truth.after)[often].mean() > 0.97


def test_every_item_is_the_successor_of_one_other_of_its_category(world: World) -> None:
    after, category = world.truth.after, world.truth.shelf.category
    assert sorted(after.tolist()) == list(range(CONFIG.items))
    assert (after != np.arange(CONFIG.items)).all()
    assert (category[after] == category).all()


def test_keywords_tell_the_category_and_the_content(world: World) -> None:
    shelf, ground = world.truth.shelf, world.truth.ground
    assert (shelf.keywords // ground.per_category == shelf.category[:, None]).all()
    fields = shelf.fields(ground)
    assert [words.split() for words in fields["title"]] == fields["keywords"].tolist()
    told = ground.word[shelf.keywords].mean(axis=1)
    near = (told / np.linalg.norm(told, axis=1, keepdims=True) * shelf.content).sum(axis=1)
    assert near.mean() > 0.8
