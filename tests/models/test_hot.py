"""Hot, against its formula by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import Lists
from shortlist.models.recall.hot import DAY_MS, Hot, decayed
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.simulation.toy import Toy

SHOP = Schema.parse(
    {
        "action": "what",
        "value": "paid",
        "actions": {"impression": {"weight": 0}, "click": {}, "purchase": {"weight": 1}},
        "users": {"town": "sparse"},
        "region": "town",
    }
)
TOWNS = Catalogue(
    Profiles(np.arange(3), {"town": np.array(["north", "north", "south"], dtype=object)}), Catalogue.empty().items
)
PLAIN: Mapping[str, Any] = {"half_life_days": None, "per_user": None}


def shop() -> Interactions:
    # (user, item, day, action, paid)
    rows = [(0, 7, 0, 1, 0), (0, 7, 1, 2, 30), (1, 7, 1, 1, 0), (1, 8, 2, 2, 5), (2, 8, 3, 1, 0), (2, 9, 4, 0, 0)]
    users, items, days, actions, paid = (np.array(column) for column in zip(*rows, strict=True))
    return Interactions.of(users, items, days * DAY_MS, actions.astype(np.int16), paid.astype(np.float32))


def solve(options: Mapping[str, Any], now: int = 5 * DAY_MS) -> Lists:
    return Hot(Hot.Config(**{**PLAIN, **options}), SHOP).solve(shop(), TOWNS, now)


def table(lists: Lists, label: str = "global") -> dict[int, float]:
    items, scores = lists.of(int(lists.keys[lists.labels.index(label)]))
    return dict(zip(items.tolist(), scores.tolist(), strict=True))


def test_it_is_a_solver() -> None:
    assert isinstance(Hot(Hot.Config(), SHOP), Solver)


def test_without_half_life_it_counts_and_sums() -> None:
    assert table(solve({"actions": ("click",)})) == {7: 2.0, 8: 1.0}
    assert table(solve({})) == {7: 3.0, 8: 2.0}  # clicks and purchases, both of weight 1; an impression is no interest
    assert table(solve({"by": "purchases"})) == {7: 1.0, 8: 1.0}
    assert table(solve({"by": "amount"})) == {7: 30.0, 8: 5.0}


def test_ties_go_to_the_smaller_key() -> None:
    assert list(table(solve({"by": "purchases"}))) == [7, 8]


def test_an_event_of_one_half_life_ago_counts_half() -> None:
    # item 7 bought on day 1, item 8 on day 2; now day 3, half-life 1 day: 1/4 and 1/2
    assert table(solve({"by": "purchases", "half_life_days": 1.0}, now=3 * DAY_MS)) == {8: 0.5, 7: 0.25}


def test_the_order_does_not_depend_on_now() -> None:
    world = Toy.draw(50, 30, 500, seed=1)
    hot = Hot(Hot.Config(), Toy.schema())
    today, later = (hot.solve(world.interactions, world.catalogue, world.now + days * DAY_MS) for days in (0, 20))
    assert today.items.tolist() == later.items.tolist()


def test_the_incremental_form_equals_the_batch_at_any_now() -> None:
    world = Toy.draw(50, 30, 500, seed=1)
    events = world.interactions
    half_life_ms = 7.0 * DAY_MS
    score, since = np.zeros(30), np.full(30, events.times.min())
    for e in np.random.default_rng(2).permutation(len(events)):  # in any order: late events count right too
        i = events.items[e : e + 1]
        score[i], since[i] = decayed(score[i], since[i], np.ones(1), events.times[e : e + 1], half_life_ms)
    hot = Hot(Hot.Config(per_user=None), Toy.schema())
    for now in (world.now, world.now + 3 * DAY_MS):
        batch = table(hot.solve(events, world.catalogue, now))
        wanted = score * 0.5 ** ((now - since) / half_life_ms)
        assert batch == pytest.approx({int(i): wanted[i] for i in events.item_keys}, rel=1e-6)


def test_regions_sum_to_the_global_list() -> None:
    lists = solve({"by": "region", "least": 1})
    assert lists.labels == ("global", "region:north", "region:south")
    assert table(lists, "region:north") == {7: 3.0, 8: 1.0}
    assert table(lists, "region:south") == {8: 1.0}
    assert table(lists) == {7: 3.0, 8: 2.0}


def test_a_region_of_few_events_has_no_list_of_its_own() -> None:
    # north has 4 counted events, south 1
    assert solve({"by": "region", "least": 2}).labels == ("global", "region:north")
    assert solve({"by": "region", "least": 5}).labels == ("global",)


def test_users_of_no_region_count_globally() -> None:
    lists = Hot(Hot.Config(by="region", least=1, **PLAIN), SHOP).solve(shop(), Catalogue.empty(), 0)
    assert lists.labels == ("global",)
    assert table(lists) == {7: 3.0, 8: 2.0}


def test_of_one_users_events_on_an_item_the_latest_count() -> None:
    users, items = np.array([0] * 6 + [1]), np.array([7] * 6 + [8])
    events = Interactions.of(users, items, np.array([0, 1, 2, 3, 4, 5, 5]) * DAY_MS)
    hot = Hot(Hot.Config(per_user=2, half_life_days=1.0), Schema.parse({}))
    # item 7: days 4 and 5 of 0..5 count, now day 5: 1/2 + 1
    assert table(hot.solve(events, Catalogue.empty(), 5 * DAY_MS)) == {7: 1.5, 8: 1.0}


def test_lists_are_cut_at_keep() -> None:
    assert table(solve({"keep": 1})) == {7: 3.0}


def test_unknown_actions_and_missing_regions_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        Hot(Hot.Config(by="purchases"), Schema.parse({}))
    assert str(error.value) == "hot.actions: no action is called 'purchase' (set actions; known: click)"
    with pytest.raises(ConfigError) as error:
        Hot(Hot.Config(by="region"), Schema.parse({}))
    assert (
        str(error.value) == "hot.by: regions need a field of the users (set schema.region to a field of [schema.users])"
    )


def test_an_empty_log_gives_no_items() -> None:
    none = np.zeros(0, dtype=np.int64)
    for config in (Hot.Config(), Hot.Config(by="region")):
        assert len(Hot(config, SHOP).solve(Interactions.of(none, none), TOWNS, 0).items) == 0
