"""ItemCF, against a brute force that is written straight from the formulas."""

import tomllib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.candidates import Ragged, Requests
from shortlist.config import build
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, ConfigError, DataError
from shortlist.forms import Lists
from shortlist.funnel.sources.neighbours import Neighbours
from shortlist.models.recall.item_cf import HOUR_MS, ItemCF
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.simulation.toy import Toy

PLAIN = Schema.parse({})
NEUTRAL: Mapping[str, Any] = {
    "iuf": False,
    "back": 1.0,
    "position_decay": 1.0,
    "click_half_life_hours": None,
    "publish_half_life_hours": None,
    "same_category": 0.0,
}


def log(*events: tuple[int, int, float], value: float = np.nan) -> Interactions:
    """Events (user, item, hour)."""
    users, items, hours = (np.array(column) for column in zip(*events, strict=True))
    times = (hours * HOUR_MS).astype(np.int64)
    return Interactions.of(users, items, times, values=np.full(len(users), value, dtype=np.float32))


def solve(
    interactions: Interactions, options: Mapping[str, Any], catalogue: Catalogue | None = None, schema: Schema = PLAIN
) -> Lists:
    return ItemCF(ItemCF.Config(**options), schema).solve(interactions, catalogue or Catalogue.empty(), 0)


def score(lists: Lists, i: int, j: int) -> float:
    items, scores = lists.of(i)
    return float(scores[items == j].sum())


def dense(lists: Lists, width: int) -> NDArray[np.float64]:
    out = np.zeros((width, width))
    out[np.repeat(lists.keys, np.diff(lists.offsets)), lists.items] = lists.scores
    return out


def brute_force(
    world: Interactions, config: ItemCF.Config, width: int, published: Any, category: Any
) -> NDArray[np.float64]:
    """s_ij by loops over users and pairs."""
    total = np.zeros((width, width))
    audience = np.zeros(width)
    for u in np.unique(world.users):
        mine = np.flatnonzero(world.users == u)
        last = [e for e in mine if not (world.items[mine[mine > e]] == world.items[e]).any()]
        audience[world.items[last]] += 1
        for p, a in enumerate(last):
            for q, b in enumerate(last):
                if p == q:
                    continue
                i, j = world.items[a], world.items[b]
                c = 1 / np.log(1 + len(last)) if config.iuf else 1.0
                c *= (1.0 if q > p else config.back) * config.position_decay ** (abs(p - q) - 1)
                if config.click_half_life_hours is not None:
                    c *= 0.5 ** (abs(world.times[a] - world.times[b]) / HOUR_MS / config.click_half_life_hours)
                if config.publish_half_life_hours is not None:
                    c *= 0.5 ** (abs(published[i] - published[j]) / HOUR_MS / config.publish_half_life_hours)
                if category[i] == category[j]:
                    c *= 1 + config.same_category
                total[i, j] += c
    audience = np.maximum(audience, 1)
    return total / audience[:, None] ** (1 - config.alpha) / audience[None, :] ** config.alpha


@pytest.fixture(scope="module")
def world() -> Toy:
    return Toy.draw(60, 40, 900, seed=7, days=3, categories=4)


def test_it_is_a_solver() -> None:
    assert isinstance(ItemCF(ItemCF.Config(), PLAIN), Solver)


def test_toml_turns_half_lives_and_the_cap_off_with_inf() -> None:
    config = build(ItemCF.Config, tomllib.loads("click_half_life_hours = inf\ncap = inf"), "recall[0]")
    assert config == ItemCF.Config(click_half_life_hours=None, cap=None)


def test_reads_what_its_weights_need() -> None:
    schema = Toy.schema()
    assert ItemCF(ItemCF.Config(), schema).reads == ("actions", "item.published", "item.category")
    assert ItemCF(ItemCF.Config(same_category=0), schema).reads == ("actions", "item.published")
    assert ItemCF(ItemCF.Config(weights="binary"), schema).reads == ("actions",)


def test_cosine_by_hand() -> None:
    # users of 1: {0, 1}; of 2: {0}; of 3: {0, 1, 2}. s(1,2) = 1/sqrt(2*1), s(1,3) = 2/sqrt(2*3), s(2,3) = 1/sqrt(1*3)
    events = log((0, 1, 0), (0, 2, 1), (0, 3, 2), (1, 1, 0), (1, 3, 1), (2, 3, 0))
    lists = solve(events, {"weights": "binary"})
    assert lists.of(1)[0].tolist() == [3, 2]
    assert lists.of(1)[1] == pytest.approx([2 / 6**0.5, 1 / 2**0.5])
    assert lists.of(2)[0].tolist() == [1, 3]
    assert score(lists, 2, 3) == pytest.approx(1 / 3**0.5)


def test_neutral_weights_equal_binary_cosine_by_brute_force(world: Toy) -> None:
    x = world.interactions.matrix.toarray().astype(np.float64)
    count = x.T @ x
    norm = np.sqrt(np.diag(count))
    cosine = count / np.outer(norm, norm)
    np.fill_diagonal(cosine, 0)
    keys = world.interactions.item_keys
    for options in (NEUTRAL, {"weights": "binary"}):
        got = dense(solve(world.interactions, {**options, "cap": None}), 40)[np.ix_(keys, keys)]
        np.testing.assert_allclose(got, cosine, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.8}, {"back": 0.0}, {"position_decay": 0.0}, {"iuf": False}])
def test_all_weights_equal_brute_force(world: Toy, options: Mapping[str, Any]) -> None:
    config = ItemCF.Config(**options)
    columns = world.catalogue.items.columns
    wanted = brute_force(world.interactions, config, 40, columns["published"], columns["category"])
    got = dense(solve(world.interactions, options, world.catalogue, Toy.schema()), 40)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-30)


def test_without_direction_it_is_symmetric(world: Toy) -> None:
    got = dense(solve(world.interactions, {"back": 1.0}, world.catalogue, Toy.schema()), 40)
    np.testing.assert_allclose(got, got.T, rtol=1e-6)
    assert got.max() > 0
    directed = dense(solve(world.interactions, {}, world.catalogue, Toy.schema()), 40)
    assert not np.allclose(directed, directed.T, rtol=1e-3)


def test_a_gap_of_the_half_life_halves() -> None:
    options = {**NEUTRAL, "click_half_life_hours": 6.0}
    near, far = solve(log((0, 1, 0), (0, 2, 0)), options), solve(log((0, 1, 0), (0, 2, 6)), options)
    assert score(near, 1, 2) == 1.0
    assert score(far, 1, 2) == 0.5


def test_direction_and_position_by_hand() -> None:
    # One user, items 1 2 3 in order, every |U_i| = 1. 3 follows 1 two places on: 0.9; 1 comes before 3: 0.7 * 0.9.
    lists = solve(log((0, 1, 0), (0, 2, 1), (0, 3, 2)), {**NEUTRAL, "back": 0.7, "position_decay": 0.9})
    assert lists.of(1)[1] == pytest.approx([1.0, 0.9])
    assert lists.of(3)[0].tolist() == [2, 1]
    assert lists.of(3)[1] == pytest.approx([0.7, 0.63])


def test_times_in_seconds_declared_give_the_same() -> None:
    in_ms = log((0, 1, 0), (0, 2, 1.5), (0, 3, 30), (1, 1, 2), (1, 3, 2.25))
    read = Interactions.of(
        in_ms.users, in_ms.items, (in_ms.times // 1000) * 1000
    )  # a reader multiplies seconds by 1000
    assert solve(in_ms, {}).scores.tolist() == solve(read, {}).scores.tolist()


@pytest.mark.parametrize("options", [{"weights": "binary"}, NEUTRAL, {"alpha": 0.8}])
def test_a_more_popular_neighbour_counts_less(options: Mapping[str, Any]) -> None:
    pair = [(0, 1, 0), (0, 2, 1)]
    alone = score(solve(log(*pair), options), 1, 2)
    hot = score(solve(log(*pair, (5, 2, 0), (6, 2, 0)), options), 1, 2)
    assert 0 < hot < alone


def test_long_lists_weigh_less_and_by_their_full_length() -> None:
    # 5 items, the 2 latest count: items 4 and 5 pair once, at 1/log(1 + 5), not 1/log(1 + 2). |U_4| = |U_5| = 1.
    events = log(*[(0, item, item) for item in range(1, 6)])
    lists = solve(events, {**NEUTRAL, "iuf": True, "cap": 2})
    assert lists.keys.tolist() == [4, 5]
    assert score(lists, 4, 5) == pytest.approx(1 / np.log(6))


def test_a_repeat_counts_once_at_its_latest_time() -> None:
    # 1 at 0 h is forgotten for 1 at 12 h: the gap to 2 at 6 h is 6 h, and 1 follows 2.
    lists = solve(log((0, 1, 0), (0, 2, 6), (0, 1, 12)), {**NEUTRAL, "click_half_life_hours": 6.0, "back": 0.5})
    assert score(lists, 2, 1) == 0.5
    assert score(lists, 1, 2) == 0.25


def test_publish_gap_and_category_by_hand() -> None:
    schema = Toy.schema()
    items = {"published": np.array([0, 72, 0]) * HOUR_MS, "category": np.array(["a", "b", "a"], dtype=object)}
    catalogue = Catalogue(Catalogue.empty().users, Profiles(np.arange(3), items))
    options = {**NEUTRAL, "publish_half_life_hours": 72.0, "same_category": 0.5}
    lists = solve(log((9, 0, 0), (9, 1, 0), (9, 2, 0)), options, catalogue, schema)
    assert score(lists, 0, 1) == 0.5  # published one half-life apart
    assert score(lists, 0, 2) == 1.5  # at once, same category


def test_unknown_publish_time_and_category_are_neutral() -> None:
    schema = Toy.schema()
    items = {"published": np.array([0.0, np.nan]), "category": np.array([None, None], dtype=object)}
    catalogue = Catalogue(Catalogue.empty().users, Profiles(np.arange(2), items))
    options = {**NEUTRAL, "publish_half_life_hours": 72.0, "same_category": 0.5}
    assert score(solve(log((9, 0, 0), (9, 1, 0)), options, catalogue, schema), 0, 1) == 1.0


def test_a_category_of_several_values_agrees_when_one_is_shared() -> None:
    schema = Schema.parse({"items": {"genres": {"kind": "varlen", "split": "|"}}, "category": "genres"})
    genres = np.array(["action|drama", "drama", "war", None], dtype=object)
    catalogue = Catalogue(Catalogue.empty().users, Profiles(np.arange(4), {"genres": genres}))
    events = log((9, 0, 0), (9, 1, 0), (9, 2, 0), (9, 3, 0))
    lists = solve(events, {**NEUTRAL, "same_category": 0.5}, catalogue, schema)
    assert score(lists, 0, 1) == 1.5
    assert score(lists, 0, 2) == 1.0
    assert score(lists, 0, 3) == 1.0


def test_more_than_64_categories_of_several_values() -> None:
    schema = Schema.parse({"items": {"tags": "varlen"}, "category": "tags"})
    tags = np.empty(70, dtype=object)
    tags[:] = [[f"t{n}"] for n in range(69)] + [["t68", "x"]]
    catalogue = Catalogue(Catalogue.empty().users, Profiles(np.arange(70), {"tags": tags}))
    lists = solve(log((9, 68, 0), (9, 69, 0), (9, 1, 0)), {**NEUTRAL, "same_category": 0.5}, catalogue, schema)
    assert score(lists, 68, 69) == 1.5
    assert score(lists, 68, 1) == 1.0


def ratings(world: Toy) -> Interactions:
    log = world.interactions
    values = np.random.default_rng(3).integers(1, 6, len(log)).astype(np.float32)
    return Interactions(log.users, log.items, log.times, log.actions, values)


def test_adjusted_cosine_by_hand() -> None:
    # user 0 rates 1: 5, 2: 3, 3: 1 (mean 3: +2, 0, -2); user 1 rates 1: 4, 2: 4, 3: 1 (mean 3: +1, +1, -2)
    # s(1,2) = (2*0 + 1*1) / sqrt((4 + 1)(0 + 1)) = 1/sqrt(5); s(1,3) = (-4 - 2) / ... < 0: not a neighbour
    users, items = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 2, 3, 1, 2, 3])
    events = Interactions.of(users, items, values=np.array([5, 3, 1, 4, 4, 1], dtype=np.float32))
    lists = solve(events, {"weights": "rating"})
    assert lists.of(1)[0].tolist() == [2]
    assert lists.of(1)[1] == pytest.approx([5**-0.5])


def test_adjusted_cosine_ignores_a_users_level(world: Toy) -> None:
    rated = ratings(world)
    lists = solve(rated, {"weights": "rating"})
    user = rated.users[0]
    values = np.where(rated.users == user, rated.values + 2, rated.values).astype(np.float32)
    shifted = Interactions(rated.users, rated.items, rated.times, rated.actions, values)
    np.testing.assert_allclose(dense(solve(shifted, {"weights": "rating"}), 40), dense(lists, 40), atol=1e-6)


def test_ratings_need_values() -> None:
    with pytest.raises(DataError) as error:
        solve(log((0, 1, 0), (0, 2, 0)), {"weights": "rating"})
    assert str(error.value) == 'item_cf: no event has a value (set schema.value, or weights = "binary")'


@pytest.mark.parametrize("options", [{"weights": "binary"}, {}])
def test_lists_are_cut_at_keep_with_ties_by_smaller_key(world: Toy, options: Mapping[str, Any]) -> None:
    full = solve(world.interactions, options, world.catalogue, Toy.schema())
    short = solve(world.interactions, {**options, "keep": 7}, world.catalogue, Toy.schema())
    for key in full.keys.tolist():
        items, scores = full.of(key)
        order = np.lexsort((items, -scores))
        assert order.tolist() == list(range(len(items)))
        assert short.of(key)[0].tolist() == items[:7].tolist()


def test_normalized_lists_start_at_one(world: Toy) -> None:
    plain, normal = (solve(world.interactions, {"normalize": on}) for on in (False, True))
    assert np.all(normal.scores[normal.offsets[:-1]] == 1)
    assert normal.items.tolist() == plain.items.tolist()


def test_exposures_are_no_interest() -> None:
    schema = Schema.parse({"action": "what", "actions": {"impression": {"weight": 0}, "click": {}}})
    users, items, actions = np.array([0, 0, 0]), np.array([1, 2, 3]), np.array([1, 1, 0], dtype=np.int16)
    lists = ItemCF(ItemCF.Config(), schema).solve(Interactions.of(users, items, actions=actions), Catalogue.empty(), 0)
    assert lists.keys.tolist() == [1, 2]


def test_an_empty_log_gives_no_lists() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert len(solve(Interactions.of(none, none), {})) == 0


def test_large_keys_with_gaps() -> None:
    lists = solve(log((0, 10**12, 0), (0, 7, 1)), {"weights": "binary"})
    assert lists.keys.tolist() == [7, 10**12]
    assert score(lists, 7, 10**12) == 1.0


def test_an_isolated_item_and_a_user_with_one_event_have_no_neighbours() -> None:
    lists = solve(log((0, 1, 0), (0, 2, 1), (1, 9, 0), (2, 1, 0)), {"weights": "binary"})
    assert lists.keys.tolist() == [1, 2]
    assert score(lists, 1, 2) == pytest.approx(1 / 2**0.5)  # |U_1| = 2, |U_2| = 1


def test_a_strangers_history_counts_by_its_age_an_item_nobody_took_does_not() -> None:
    # user 9 is not in the log: took 1 a day ago (half of it, half-life a day), 2 just now, 77 that nobody has. With
    # equal |U_i| = 2: s(1,3) = 1/2, s(2,4) = 1/2
    assert (ItemCF.cold_users, ItemCF.cold_items) == (True, False)
    events = log((0, 1, 0), (0, 3, 0), (1, 2, 0), (1, 4, 0), (2, 1, 0), (3, 2, 0), (4, 3, 0), (5, 4, 0))
    lists = solve(events, {"weights": "binary"})
    times = np.array([0, 24, 24]) * HOUR_MS
    history = Ragged(np.array([0, 3]), np.array([1, 77, 2]), times, np.zeros(3, dtype=np.int16))
    asked = Requests(np.array([9]), np.array([24 * HOUR_MS]), 5, history, Ragged.empty(1), Ragged.empty(1))
    recalled = Neighbours(Neighbours.Config(half_life_hours=24.0), lists, PLAIN).recall(
        asked, 5, lambda owners, items: np.ones(len(items), dtype=bool)
    )
    assert recalled[1].tolist() == [4, 3]
    assert recalled[2].tolist() == pytest.approx([0.5, 0.25])


def test_bad_input() -> None:
    with pytest.raises(CapacityError) as large:
        solve(log((0, 1, 0), (0, 2, 0)), {"budget_bytes": 10})
    assert str(large.value) == (
        "item_cf: 2 items need 0.0 GiB, the budget is 0.0 GiB (raise budget_bytes or lower keep)"
    )
    with pytest.raises(ConfigError) as none:
        build(ItemCF.Config, {"keep": 0}, "recall.similar")
    assert str(none.value) == "recall.similar.keep: should be at least 1, got 0 (correct the value)"
    # an event without a value, or with one that is no number, is left out where values count
    users, items = np.array([0, 0, 0, 1, 1]), np.array([1, 2, 3, 1, 2])
    values = np.array([1, 3, np.nan, 1, 5], dtype=np.float32)
    rated = solve(Interactions.of(users, items, values=values), {"weights": "rating"})
    assert len(rated) == 0  # 1 and 2 are opposite for both, 3 was never rated
    constant = solve(Interactions.of(users, items, values=np.full(5, 4, dtype=np.float32)), {"weights": "rating"})
    assert len(constant) == 0
