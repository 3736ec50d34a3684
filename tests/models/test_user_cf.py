"""UserCF, against a brute force over all pairs of users that is written straight from the formulas."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.candidates import Ragged, Requests
from shortlist.config import build, plain
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, ConfigError, DataError
from shortlist.forms import Built, Lists
from shortlist.funnel.requests import make
from shortlist.funnel.sources.similar_users import SimilarUsers
from shortlist.models.blocks.likeness import cosine, jaccard, pearson
from shortlist.models.recall.user_cf import UserCF, concerned, renewed
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.simulation.toy import Toy

PLAIN = Schema.parse({})
BARE: Mapping[str, Any] = {"lam": 0.0, "beta": 0.0, "keep": 1000}
MEASURES: tuple[Mapping[str, Any], ...] = (
    {"measure": "jaccard"}, {"measure": "cosine"}, {"measure": "iuf"}, {"measure": "pearson"},
    {"measure": "pearson", "means": "own"},
)  # fmt: skip
TOWNS = Schema.parse({"users": {"town": "sparse"}, "region": "town"})
Dense = NDArray[np.float64]


def log(*events: tuple[int, int], values: tuple[float, ...] | None = None) -> Interactions:
    """Events (user, item), one after the other."""
    users, items = (np.array(column) for column in zip(*events, strict=True))
    rated = None if values is None else np.array(values, dtype=np.float32)
    return Interactions.of(users, items, np.arange(len(users)), values=rated)


def solve(
    interactions: Interactions, options: Mapping[str, Any], catalogue: Catalogue | None = None, schema: Schema = PLAIN
) -> Built:
    return UserCF(UserCF.Config(**options), schema).solve(interactions, catalogue or Catalogue.empty(), 0)


def lists(built: Built, name: str = "form") -> Lists:
    form = built.form if name == "form" else built.beside[name]
    assert isinstance(form, Lists)
    return form


def score(built: Built, u: int, v: int) -> float:
    users, scores = lists(built).of(u)
    return float(scores[users == v].sum())


def dense(form: Lists, width: int) -> Dense:
    out = np.zeros((width, width))
    out[np.repeat(form.keys, np.diff(form.offsets)), form.items] = form.scores
    return out


def brute_force(world: Interactions, options: Mapping[str, Any], width: int) -> Dense:
    """s_uv by a loop over all pairs, likeness of 0 or less left out."""
    config = UserCF.Config(**options)
    rated: dict[int, dict[int, float]] = {u: {} for u in range(width)}
    for u, i, value in zip(world.users.tolist(), world.items.tolist(), world.values.tolist(), strict=True):
        rated[u][i] = value
    audience: dict[int, int] = {}
    for mine in rated.values():
        for i in mine:
            audience[i] = audience.get(i, 0) + 1
    out = np.zeros((width, width))
    for u in range(width):
        for v in range(width):
            common = sorted(set(rated[u]) & set(rated[v]))
            if u == v or not common:
                continue
            a, b = len(rated[u]), len(rated[v])
            if config.measure == "jaccard":
                s = len(common) / len(set(rated[u]) | set(rated[v]))
            elif config.measure == "cosine":
                s = len(common) / (a * b) ** 0.5
            elif config.measure == "iuf":
                s = sum(1 / np.log(1 + audience[i]) for i in common) / (a * b) ** 0.5
            else:
                x, y = (np.array([rated[w][i] for i in common]) for w in (u, v))
                own = config.means == "own"
                x = x - (np.mean(list(rated[u].values())) if own else x.mean())
                y = y - (np.mean(list(rated[v].values())) if own else y.mean())
                norms = np.sqrt((x**2).sum() * (y**2).sum())
                s = float((x * y).sum() / norms) if norms > 1e-9 else 0.0
            out[u, v] = max(0.0, s * len(common) / (len(common) + config.lam))
    return out


@pytest.fixture(scope="module")
def world() -> Toy:
    return Toy.draw(60, 40, 900, seed=7, days=3, categories=4)


@pytest.fixture(scope="module")
def rated(world: Toy) -> Interactions:
    events = world.interactions
    return replace(events, values=np.random.default_rng(3).integers(1, 6, len(events)).astype(np.float32))


def asked(history: Mapping[int, list[int]], users: list[int] | None = None, towns: list[str] | None = None) -> Requests:
    """A request for each history (by place), of these users, else of people nobody knows."""
    offsets = np.concatenate([[0], np.cumsum([len(h) for h in history.values()])]).astype(np.int64)
    items = np.array([i for h in history.values() for i in h], dtype=np.int64)
    events = Ragged(offsets, items, np.arange(len(items)), np.zeros(len(items), dtype=np.int16))
    n = len(history)
    keys = np.full(n, -1) if users is None else np.array(users)
    none = Ragged.empty(n)
    context = {} if towns is None else {"town": np.array(towns, dtype=object)}
    return Requests(keys, np.full(n, 10**6), 5, events, none, none, context)


def source(built: Built, options: Mapping[str, Any], schema: Schema = PLAIN, people: Profiles | None = None) -> Any:
    config = build(SimilarUsers.Config, dict(options), "recall")
    return SimilarUsers(config, lists(built), schema, built.beside, people or Catalogue.empty().users)


def everything(owners: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.ones(len(items), dtype=bool)


def test_it_is_a_solver() -> None:
    assert isinstance(UserCF(UserCF.Config(), PLAIN), Solver)
    assert (UserCF.cold_users, UserCF.cold_items) == (True, False)


def test_measures_by_hand() -> None:
    # user 0: {1, 2, 3}, user 1: {2, 3, 4, 5}: 2 common of 5; 2/sqrt(12). |U_2| = |U_3| = 2, so IUF 2/log(3)/sqrt(12)
    events = log((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (1, 4), (1, 5))
    for measure, want in (("jaccard", 0.4), ("cosine", 2 / 12**0.5), ("iuf", 2 / np.log(3) / 12**0.5)):
        assert score(solve(events, {**BARE, "measure": measure}), 0, 1) == pytest.approx(want)
        # 2 common items and lam 2: half of it
        assert score(solve(events, {**BARE, "measure": measure, "lam": 2.0}), 0, 1) == pytest.approx(want / 2)


def test_pearson_by_hand() -> None:
    # common items 1 2 3: user 0 has 1 2 3 (-1 0 1), user 1 has 2 2 5 (-1 -1 2): 3 / sqrt(2 * 6); user 0's own mean over
    # 1 2 3 and 6 is 3: -2 -1 0, user 1's over 2 2 5 is 3: -1 -1 2: 3 / sqrt(5 * 6)
    pairs = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3))
    events = log(*pairs, values=(1, 2, 3, 6, 2, 2, 5))
    options = {**BARE, "measure": "pearson"}
    assert score(solve(events, options), 0, 1) == pytest.approx(3 / 12**0.5)
    assert score(solve(events, {**options, "means": "own"}), 0, 1) == pytest.approx(3 / 30**0.5)


@pytest.mark.parametrize("options", MEASURES)
@pytest.mark.parametrize("lam", [0.0, 10.0])
def test_every_measure_equals_brute_force(rated: Interactions, options: Mapping[str, Any], lam: float) -> None:
    options = {**BARE, **options, "lam": lam}
    got = dense(lists(solve(rated, options)), 60)
    np.testing.assert_allclose(got, brute_force(rated, options, 60), rtol=1e-6, atol=1e-9)
    assert (got > 0).sum() > 500


@pytest.mark.parametrize("measure", ["jaccard", "cosine"])
def test_jaccard_and_cosine_are_symmetric_and_within_one(world: Toy, measure: str) -> None:
    got = dense(lists(solve(world.interactions, {**BARE, "measure": measure})), 60)
    np.testing.assert_allclose(got, got.T, rtol=1e-6)
    assert got.max() <= 1
    # a user with the same items is as like as can be: 1
    twins = log((0, 1), (0, 2), (1, 2), (1, 1), (2, 2))
    assert score(solve(twins, {**BARE, "measure": measure}), 0, 1) == 1.0
    own = np.array([7.0])
    assert (jaccard(own, 7.0, own)[0], cosine(own, 7.0, own)[0]) == (1.0, 1.0)


@pytest.mark.parametrize("means", ["common", "own"])
def test_pearson_does_not_see_how_a_user_uses_the_scale_cosine_of_values_does(rated: Interactions, means: str) -> None:
    options = {**BARE, "measure": "pearson", "means": means}
    user = rated.users == rated.users[0]
    moved = replace(rated, values=np.where(user, 2 * rated.values + 3, rated.values).astype(np.float32))
    one, other = (dense(lists(solve(events, options)), 60) for events in (rated, moved))
    np.testing.assert_allclose(one, other, atol=1e-6)
    x, y = np.array([1.0, 2.0, 4.0]), np.array([2.0, 1.0, 5.0])
    # cosine of the values themselves: 24/sqrt(21 * 30), and of 5 7 11 and 2 1 5 72/sqrt(195 * 30)
    plain, scaled = ((a @ y) / np.sqrt((a @ a) * (y @ y)) for a in (x, 2 * x + 3))
    assert (plain, scaled) == pytest.approx((24 / 630**0.5, 72 / (195 * 30) ** 0.5))
    assert abs(plain - scaled) > 0.01


def test_pearson_of_constant_values_is_nothing() -> None:
    events = log((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), values=(1, 1, 1, 1, 5, 2))
    for means in ("common", "own"):
        assert len(lists(solve(events, {**BARE, "measure": "pearson", "means": means}))) == 0
    ones = np.ones(1)  # one common item is constant on both sides, whatever was rated
    assert pearson(ones, ones / 3, ones * 7, ones * 7 / 3, ones / 9, ones * 49).tolist() == [0.0]


def test_iuf_is_cosine_where_all_items_are_as_popular() -> None:
    # a ring: user u has items u, u+1, u+2 of 10, so every item has 3 users: 1/log(4) each
    events = log(*[(u, (u + d) % 10) for u in range(10) for d in range(3)])
    plain, weighted = (dense(lists(solve(events, {**BARE, "measure": m})), 10) for m in ("cosine", "iuf"))
    np.testing.assert_allclose(weighted, plain / np.log(4), rtol=1e-6)
    assert (plain > 0).sum() == 40


def test_a_common_item_says_less_the_more_users_have_it() -> None:
    found = []
    for others in range(5):
        events = log((0, 1), (1, 1), *[(10 + n, 1) for n in range(others)])
        found.append(score(solve(events, {**BARE, "measure": "iuf"}), 0, 1))
    # 2 to 6 users: 1/log(3), 1/log(4), ...
    assert found == pytest.approx([1 / np.log(n) for n in (3, 4, 5, 6, 7)])


def towns(*names: str | None) -> Catalogue:
    people = Profiles(np.arange(len(names)), {"town": np.array(names, dtype=object)})
    return Catalogue(people, Catalogue.empty().items)


def test_users_of_one_region_are_more_alike() -> None:
    events = log((0, 1), (1, 1), (2, 1), (3, 1))
    options = {**BARE, "measure": "jaccard"}
    where = towns("a", "a", "b", None)
    off = solve(events, options, where, TOWNS)
    none = solve(events, options)
    np.testing.assert_array_equal(lists(off).scores, lists(none).scores)  # beta 0 is no rule
    on = solve(events, {**options, "beta": 0.2}, where, TOWNS)
    assert [score(on, 0, v) for v in (1, 2, 3)] == pytest.approx([1.2, 1.0, 1.0])
    assert score(on, 3, 0) == 1.0  # unknown is no region
    assert UserCF(UserCF.Config(), TOWNS).reads == ("actions", "region", "user.town")
    assert UserCF(UserCF.Config(beta=0.0), TOWNS).reads == ("actions",)
    assert UserCF(UserCF.Config(), PLAIN).reads == ("actions",)


def test_hard_regions_back_off_where_too_few_remain() -> None:
    # users 0 1 2 in a, 3 4 in b; all have item 1. Two neighbours wanted: a has two others, b only one
    events = log(*[(u, 1) for u in range(5)])
    options = {**BARE, "measure": "jaccard", "hard": True, "keep": 2}
    built = solve(events, options, towns("a", "a", "a", "b", "b"), TOWNS)
    assert lists(built).of(0)[0].tolist() == [1, 2]
    assert lists(built).of(2)[0].tolist() == [0, 1]
    assert lists(built).of(3)[0].tolist() == [0, 1]  # backed off: all are equally alike, the smaller key first
    near = solve(events, {**options, "beta": 0.5}, towns("a", "a", "a", "b", "b"), TOWNS)
    assert lists(near).of(3)[0].tolist() == [4, 0]  # backed off, its own region still ahead
    with pytest.raises(ConfigError) as error:
        UserCF(UserCF.Config(hard=True), PLAIN)
    want = "user_cf.hard: regions need a field of the users (set schema.region to a field of [schema.users])"
    assert str(error.value) == want


@pytest.mark.parametrize("options", MEASURES[:3])
def test_the_log_twice_is_the_log_once(world: Toy, options: Mapping[str, Any]) -> None:
    one = world.interactions
    twice = Interactions.of(np.tile(one.users, 2), np.tile(one.items, 2), np.tile(one.times, 2))
    np.testing.assert_array_equal(lists(solve(twice, options)).scores, lists(solve(one, options)).scores)
    np.testing.assert_array_equal(lists(solve(twice, options)).items, lists(solve(one, options)).items)


def test_only_the_latest_items_count() -> None:
    # with cap 2 user 0 is {2, 3}, user 1 {1, 2}: 1 of 3; item 1 of user 0 is forgotten. A repeat is at its latest place
    events = log((0, 1), (0, 2), (0, 3), (1, 2), (1, 1), (1, 2))
    built = solve(events, {**BARE, "measure": "jaccard", "cap": 2})
    assert score(built, 0, 1) == pytest.approx(1 / 3)
    taken = lists(built, "taken")
    assert [taken.of(u)[0].tolist() for u in (0, 1)] == [[3, 2], [2, 1]]
    assert taken.of(0)[1].tolist() == [2.0, 1.0]
    everything_ = solve(events, {**BARE, "measure": "jaccard", "cap": None})
    assert score(everything_, 0, 1) == pytest.approx(2 / 3)


def test_lists_are_cut_at_keep_with_ties_by_smaller_key(world: Toy) -> None:
    full, short = (lists(solve(world.interactions, {"keep": k, "measure": "jaccard"})) for k in (1000, 7))
    for key in full.keys.tolist():
        users, scores = full.of(key)
        assert np.lexsort((users, -scores)).tolist() == list(range(len(users)))
        assert short.of(key)[0].tolist() == users[:7].tolist()


@pytest.mark.parametrize("options", MEASURES)
def test_rows_of_some_users_are_those_of_all(rated: Interactions, options: Mapping[str, Any]) -> None:
    solver = UserCF(UserCF.Config(**options), Toy.schema())
    some = np.array([3, 17, 41])
    rows, full = solver.rows(rated, Catalogue.empty(), some), lists(solver.solve(rated, Catalogue.empty(), 0))
    assert rows.keys.tolist() == some.tolist()
    for user in some.tolist():
        for got, want in zip(rows.of(user), full.of(user), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("options", MEASURES)
def test_after_new_events_the_rows_concerned_are_enough(options: Mapping[str, Any]) -> None:
    """Two groups of users who share nothing: what one user of the first does leaves the second alone."""
    rng = np.random.default_rng(4)
    users = np.concatenate([rng.integers(0, 20, 150), rng.integers(20, 40, 150)])
    items = np.concatenate([rng.integers(0, 30, 150), rng.integers(30, 60, 150)])
    values = rng.integers(1, 6, 302).astype(np.float32)
    before = Interactions.of(users, items, np.arange(300), values=values[:300])
    more = (np.append(users, [5, 99]), np.append(items, [7, 29]))
    after = Interactions.of(*more, np.arange(302), values=values)
    solver = UserCF(UserCF.Config(**options), PLAIN)
    some = np.array([5, 99])
    those = np.union1d(concerned(before, some), concerned(after, some))
    assert 1 < len(those) < 23
    assert not np.isin(np.arange(20, 40), those).any()
    old, new = (lists(solver.solve(events, Catalogue.empty(), 0)) for events in (before, after))
    patched = renewed(old, solver.rows(after, Catalogue.empty(), those), those)
    for name in ("keys", "offsets", "items", "scores"):
        np.testing.assert_array_equal(getattr(patched, name), getattr(new, name))
    assert not np.array_equal(old.scores, new.scores)


# At serving time


def test_what_the_channel_counts_with_is_what_the_solver_counted_with() -> None:
    model, channel = plain(UserCF.Config()), plain(SimilarUsers.Config())
    shared = {"measure", "predict", "keep", "cap", "lam", "beta", "hard"}
    assert set(model) & set(channel) == shared
    assert {name: model[name] for name in shared} == {name: channel[name] for name in shared}


def test_similar_users_sum_what_their_latest_items_are_worth_by_hand() -> None:
    # user 0 has {1, 2}, user 1 {1, 2, 3}: 2/3; user 2 {1, 4, 5}: 1/4. Item 3 from user 1: 2/3; 4 and 5 from user 2:
    # 1/4; item 1, which user 0 has, from both: 11/12; item 2 2/3
    events = log((0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1), (2, 4), (2, 5))
    options = {**BARE, "measure": "jaccard"}
    built = solve(events, options)
    recalled = source(built, options).recall(asked({0: [1, 2]}, [0]), 10, everything)
    assert recalled[1].tolist() == [1, 2, 3, 4, 5]
    assert recalled[2].tolist() == pytest.approx([11 / 12, 2 / 3, 2 / 3, 1 / 4, 1 / 4])
    unseen = source(built, options).recall(asked({0: [1, 2]}, [0]), 2, lambda owners, items: items > 2)
    assert unseen[1].tolist() == [1, 2, 3, 4]  # what is not wanted ranks above, and does not count
    # of each neighbour only the latest item
    late = source(built, {**options, "last": 1}).recall(asked({0: [1, 2]}, [0]), 10, everything)
    assert (late[1].tolist(), late[2].tolist()) == ([3, 5], pytest.approx([2 / 3, 1 / 4]))


def test_values_weigh_what_neighbours_took() -> None:
    # s(0,1) = 2/3 as above, s(0,2) = 1/4; user 1 gives item 3 a 4, user 2 gives it a 2
    events = log((0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (2, 5), values=(5, 3, 2, 3, 4, 4, 2, 3))
    options = {**BARE, "measure": "jaccard"}
    near = {1: 2 / 3, 2: 1 / 4}
    rated = source(solve(events, {**options, "predict": "rated"}), {**options, "predict": "rated"})
    items, scores = rated.recall(asked({0: [1, 2]}, [0]), 10, everything)[1:]
    assert dict(zip(items.tolist(), scores.tolist(), strict=True))[3] == pytest.approx(near[1] * 4 + near[2] * 2)
    # means: user 0 4, user 1 3, user 2 3: 4 + (2/3 * 1 - 1/4 * 1) / (2/3 + 1/4); item 5: 4 + 0
    mean = source(solve(events, {**options, "predict": "mean"}), {**options, "predict": "mean"})
    items, scores = mean.recall(asked({0: [1, 2]}, [0]), 10, everything)[1:]
    got = dict(zip(items.tolist(), scores.tolist(), strict=True))
    assert got[3] == pytest.approx(4 + (near[1] - near[2]) / (near[1] + near[2]))
    assert got[5] == pytest.approx(4.0)
    assert got[2] == pytest.approx(4.0)  # user 1 alone, a 3 as on average
    both = source(solve(events, {**options, "predict": "mean"}), {**options, "predict": "mean", "support": 2})
    assert sorted(both.recall(asked({0: [1, 2]}, [0]), 10, everything)[1].tolist()) == [1, 3]
    # who is new has everybody's mean, (4 + 3 + 3) / 3; likeness to {1, 2} is 1, 2/3, 1/4, and user 0 counts too
    new = mean.recall(asked({0: [1, 2]}), 10, everything)
    assert dict(zip(new[1].tolist(), new[2].tolist(), strict=True))[5] == pytest.approx(10 / 3)


@pytest.mark.parametrize("options", MEASURES[:3])
def test_a_stored_user_and_the_same_history_of_a_stranger_have_the_same_neighbours(
    world: Toy, options: Mapping[str, Any]
) -> None:
    """What is counted at the request is what the solver counts: with its own items left to it, also in the index."""
    catalogue, schema = world.catalogue, Toy.schema()
    options = {**options, "keep": 10}
    built = solve(world.interactions, options, catalogue, schema)
    users = np.arange(60)
    events = world.interactions.histories(users)
    requests = make(users, np.full(60, world.now), 10, events, schema, catalogue)
    stored = source(built, options, schema, catalogue.users).similar(requests)
    fresh = source(built, {**options, "fresh": True}, schema, catalogue.users).similar(requests)
    for one, other in zip(stored, fresh, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(stored[0]) > 400


class Elsewhere:
    """Lists that lie elsewhere, read by key."""

    def __init__(self, form: Lists) -> None:
        self.form = form

    def take(self, keys: NDArray[np.int64]) -> Lists:
        there = np.isin(np.repeat(self.form.keys, np.diff(self.form.offsets)), keys)
        owners = np.repeat(self.form.keys, np.diff(self.form.offsets))
        return Lists.ranked(owners[there], self.form.items[there], self.form.scores[there])

    def named(self, labels: object) -> Lists:
        return self.form


def test_similar_users_may_lie_elsewhere(world: Toy) -> None:
    built = solve(world.interactions, BARE)
    requests = asked({0: [], 1: [], 2: []}, [5, -1, 7])
    config = SimilarUsers.Config()
    forms: tuple[Any, Any] = (lists(built), Elsewhere(lists(built)))
    near, far = (
        SimilarUsers(config, form, PLAIN, built.beside, world.catalogue.users).recall(requests, 9, everything)
        for form in forms
    )
    for one, other in zip(near, far, strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(near[0].tolist()) == {0, 2}


def test_hard_regions_are_kept_to_at_the_request_as_well() -> None:
    events = log(*[(u, 1) for u in range(5)])
    options = {**BARE, "measure": "jaccard", "hard": True, "keep": 2}
    where = towns("a", "a", "a", "b", "b")
    built = solve(events, options, where, TOWNS)
    made = source(built, options, TOWNS, where.users)
    told = asked({0: [1], 1: [1], 2: [1]}, towns=["a", "b", "c"])
    owners, users, _ = made.similar(told)
    assert [users[owners == r].tolist() for r in range(3)] == [[0, 1], [3, 4], [0, 1]]


def test_a_new_click_counts_at_once_where_it_is_asked_for() -> None:
    events = log((0, 1), (0, 2), (1, 1), (1, 2), (2, 8), (2, 9))
    options = {**BARE, "measure": "jaccard"}
    built = solve(events, options)
    clicked = asked({0: [1, 2, 8]}, [0])
    for fresh, want in ((False, [1]), (True, [1, 2])):
        assert source(built, {**options, "fresh": fresh}).similar(clicked)[1].tolist() == want


def test_cold_users_are_served_from_the_history_cold_items_are_not() -> None:
    events = log((0, 1), (0, 2), (1, 2), (1, 3))
    options = {**BARE, "measure": "cosine"}
    made = source(solve(events, options), options)
    # a stranger who took 3; one without history; one who took what nobody did, 77
    owners, items, _ = made.recall(asked({0: [3], 1: [], 2: [77]}), 10, everything)
    assert (owners.tolist(), items.tolist()) == ([0, 0], [2, 3])
    # an item unknown to everybody still lengthens the history: 1/sqrt(2 * 2), not 1/sqrt(1 * 2)
    assert made.similar(asked({0: [3, 77]}))[2].tolist() == pytest.approx([0.5])


def test_by_pearson_only_users_of_training_are_served(rated: Interactions) -> None:
    options = {"measure": "pearson"}
    built = solve(rated, options)
    made = source(built, options)
    owners, _, _ = made.recall(asked({0: [1, 2, 3], 1: [1, 2, 3]}, [-1, 5]), 10, everything)
    assert set(owners.tolist()) == {1}
    with pytest.raises(ConfigError) as error:
        source(built, {**options, "fresh": True})
    want = 'a request has no values to correlate (take fresh away, or set measure = "iuf")'
    assert str(error.value) == f"fresh: {want}"


def test_isolated_items_and_users_have_no_lists() -> None:
    # user 2 shares nothing; item 9 has one user
    built = solve(log((0, 1), (1, 1), (2, 9)), BARE)
    assert lists(built).keys.tolist() == [0, 1]
    assert lists(built, "taken").keys.tolist() == [0, 1, 2]
    none = np.zeros(0, dtype=np.int64)
    empty = solve(Interactions.of(none, none), BARE)
    assert (len(lists(empty)), len(lists(empty, "taken"))) == (0, 0)
    assert source(empty, BARE).recall(asked({0: [1]}, [0]), 5, everything)[1].tolist() == []
    mean = solve(Interactions.of(none, none), {**BARE, "predict": "mean"})
    assert source(mean, {**BARE, "predict": "mean"}).recall(asked({0: [1]}, [0]), 5, everything)[1].tolist() == []


def test_bad_input() -> None:
    with pytest.raises(DataError) as unrated:
        solve(log((0, 1), (1, 1)), {"measure": "pearson"})
    assert str(unrated.value) == (
        'user_cf: no event has a value (set schema.value, or measure = "iuf" and predict = "sum")'
    )
    with pytest.raises(CapacityError) as large:
        solve(log((0, 1), (1, 1)), {"budget_bytes": 10})
    assert str(large.value) == (
        "user_cf: 2 users need 0.0 GiB, the budget is 0.0 GiB (raise budget_bytes or lower keep)"
    )
    with pytest.raises(ConfigError) as none:
        build(UserCF.Config, {"keep": 0}, "recall.alike")
    assert str(none.value) == "recall.alike.keep: should be at least 1, got 0 (correct the value)"
    # an event without a value, or with one that is no number, is left out where values count
    events = log((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), values=(1, 2, np.nan, 1, 2, np.inf))
    built = solve(events, {**BARE, "measure": "pearson"})
    assert lists(built, "taken").items.tolist() == [2, 1, 2, 1]
    assert score(built, 0, 1) == pytest.approx(1.0)
