"""Hot, against its formula by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from shortlist.candidates import Ragged
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import Lists
from shortlist.funnel.requests import make
from shortlist.funnel.sources.popular import Popular
from shortlist.models.recall.hot import DAY_MS, Hot, Standing, decayed, updated
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


@pytest.mark.parametrize("options", [{}, {"per_user": 1}, {"per_user": 2, "half_life_days": 1.0}, {"keep": 3}, PLAIN])
@pytest.mark.parametrize("blocks", [1, 7])
def test_a_standing_kept_up_equals_the_batch_at_any_now(options: Mapping[str, Any], blocks: int) -> None:
    """Events come in blocks and in any order: late ones, and those that push others out, count right too."""
    rng = np.random.default_rng(5)
    users, items, times = rng.integers(0, 6, 300), rng.integers(0, 8, 300), rng.integers(0, 20 * DAY_MS, 300)
    actions, paid = rng.integers(0, 3, 300).astype(np.int16), rng.integers(0, 50, 300).astype(np.float32)
    for by in ("clicks", "amount"):
        hot = Hot(Hot.Config(**{**options, "by": by}), SHOP)
        standing = Standing.empty()
        for some in np.array_split(np.arange(300), blocks):
            columns = (users[some], items[some], times[some], actions[some], paid[some])
            standing = updated(hot, standing, Interactions.of(*columns, log_offsets=some))
        log = Interactions.of(users, items, times, actions, paid)
        for now in (20 * DAY_MS, 29 * DAY_MS):
            batch = table(hot.solve(log, Catalogue.empty(), now))
            assert table(standing.lists(now, hot.config)) == pytest.approx(batch, rel=1e-5)
            assert len(batch) == min(8, hot.config.keep)


def test_what_a_newer_event_pushes_out_is_taken_away_again() -> None:
    # half-life 1 day, one event of a user on an item counts: 1 at day 0; at day 2 that of day 2 alone, not 1/4 + 1
    hot = Hot(Hot.Config(per_user=1, half_life_days=1.0), Schema.parse({}))
    one = np.zeros(1, dtype=np.int64)
    standing = updated(hot, Standing.empty(), Interactions.of(one, one, one))
    assert table(standing.lists(0, hot.config)) == {0: 1.0}
    newer = updated(hot, standing, Interactions.of(one, one, one + 2 * DAY_MS))
    assert table(newer.lists(2 * DAY_MS, hot.config)) == {0: 1.0}
    late = updated(hot, newer, Interactions.of(one, one, one + DAY_MS))  # behind the one that counts
    assert table(late.lists(2 * DAY_MS, hot.config)) == {0: 1.0}


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


LANDS = Schema.parse({"users": {"town": "sparse", "land": "sparse"}, "region": "town"})
# towns p q r in land x, s in y, t in z; user 6 is of no town, user 7 of a town without events, in x; user 8 of nothing
PEOPLE = Profiles(
    np.arange(9),
    {
        "town": np.array(["p", "p", "q", "r", "s", "t", None, "empty", None], dtype=object),
        "land": np.array(["x", "x", "x", "x", "y", "z", "x", "x", None], dtype=object),
    },
)


def travels() -> Interactions:
    # user 0 (p) takes 1 three times, user 2 (q) 2, user 3 (r) 2, user 4 (s) 3 twice, user 5 (t) 4, user 6 (x) 5
    users = np.array([0, 0, 0, 2, 3, 4, 4, 5, 6])
    return Interactions.of(users, np.array([1, 1, 1, 2, 2, 3, 3, 4, 5]), np.arange(9))


def test_countries_stand_between_regions_and_all() -> None:
    hot = Hot(Hot.Config(by="region", country="land", least=2, **PLAIN), LANDS)
    assert hot.reads == ("actions", "region", "user.land", "user.town")
    lists = hot.solve(travels(), Catalogue(PEOPLE, Catalogue.empty().items), 0)
    # q and r have one event each, t and z one: no list of their own
    assert lists.labels == ("global", "country:x", "country:y", "region:p", "region:s")
    assert table(lists, "region:p") == {1: 3.0}
    assert table(lists, "country:x") == {1: 3.0, 2: 2.0, 5: 1.0}
    assert table(lists) == {1: 3.0, 2: 2.0, 3: 2.0, 4: 1.0, 5: 1.0}
    every = Hot(Hot.Config(by="region", country="land", least=1, **PLAIN), LANDS)
    whole = every.solve(travels(), Catalogue(PEOPLE, Catalogue.empty().items), 0)
    sums: dict[int, float] = {}
    for label in ("country:x", "country:y", "country:z"):
        for item, worth in table(whole, label).items():
            sums[item] = sums.get(item, 0.0) + worth
    assert sums == table(whole)


def test_a_region_without_a_list_gets_its_countrys_and_then_everybodys() -> None:
    hot = Hot(Hot.Config(by="region", country="land", least=2, **PLAIN), LANDS)
    catalogue = Catalogue(PEOPLE, Catalogue.empty().items)
    source = Popular(Popular.Config(country="land"), hot.solve(travels(), catalogue, 0), LANDS, PEOPLE)

    def best(users: list[int], **told: list[str | None]) -> list[list[int]]:
        n = len(users)
        context = {name: np.array(values, dtype=object) for name, values in told.items()}
        now = np.zeros(n, dtype=np.int64)
        asked = make(np.array(users), now, 3, Ragged.empty(n), LANDS, catalogue, context=context)
        owners, items, _ = source.recall(asked, 3, lambda owners, items: np.ones(len(items), dtype=bool))
        return [items[owners == r].tolist() for r in range(n)]

    region, country, world = [1], [1, 2, 5], [1, 2, 3]
    # of p; of q: too few events; of a town without any; of a town whose land has too few; of no town; of nothing
    assert best([0, 2, 7, 5, 6, 8]) == [region, country, country, world, country, world]
    # strangers by what they tell: a region, a thin one, one nobody knows, one in a land that is told
    assert best([-1] * 4, town=["p", "q", "far", "far"], land=[None, None, None, "y"]) == [region, country, world, [3]]
    # a traveller's country is that of where the request comes from
    assert best([4], town=["q"]) == [country]
    plain = Popular(Popular.Config(), hot.solve(travels(), catalogue, 0), LANDS, PEOPLE)
    asked = make(np.array([2]), np.zeros(1, np.int64), 3, Ragged.empty(1), LANDS, catalogue)
    assert plain.recall(asked, 3, lambda owners, items: np.ones(len(items), dtype=bool))[1].tolist() == world


def test_regions_that_are_numbers_are_named_as_requests_name_them() -> None:
    # a column with a gap holds 5.0, a request says 5 or "5"
    people = Profiles(np.arange(3), {"town": np.array([5.0, 5.0, np.nan])})
    catalogue = Catalogue(people, Catalogue.empty().items)
    lists = Hot(Hot.Config(by="region", least=1, **PLAIN), SHOP).solve(shop(), catalogue, 0)
    assert lists.labels == ("global", "region:5")


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
    for options, message in (
        ({"country": "land"}, 'a country is what a region is in (set by = "region", or take country away)'),
        ({"by": "region", "country": "twn"}, "no user field is called 'twn' (did you mean town?)"),
    ):
        with pytest.raises(ConfigError) as error:
            Hot(Hot.Config(**options), SHOP)  # type: ignore[arg-type]
        assert str(error.value) == f"hot.country: {message}"


def test_whoever_is_new_is_served_what_nobody_took_is_not() -> None:
    assert (Hot.cold_users, Hot.cold_items) == (True, False)
    assert 9 not in table(solve({}))  # shown, and taken by nobody


def test_an_empty_log_gives_no_items() -> None:
    none = np.zeros(0, dtype=np.int64)
    for config in (Hot.Config(), Hot.Config(by="region")):
        hot = Hot(config, SHOP)
        assert len(hot.solve(Interactions.of(none, none), TOWNS, 0).items) == 0
        assert len(updated(hot, Standing.empty(), Interactions.of(none, none)).items) == 0
