"""Swing, against three loops over its formula."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.candidates import Ragged, Requests
from shortlist.config import build
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, ConfigError
from shortlist.forms import Lists
from shortlist.funnel.sources.neighbours import Neighbours
from shortlist.models.recall.swing import Swing
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Schema

PLAIN = Schema.parse({})
WHOLE: Mapping[str, Any] = {"cap": None, "longest": None}


def log(*histories: tuple[int, ...]) -> Interactions:
    """The items of users 0, 1, 2, ..."""
    users = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    return Interactions.of(users, np.array([i for h in histories for i in h], dtype=np.int64))


def drawn(users: int, items: int, events: int, seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    return Interactions.of(rng.integers(0, users, events), (items * rng.random(events) ** 2).astype(np.int64))


def solve(interactions: Interactions, options: Mapping[str, Any] = WHOLE) -> Lists:
    return Swing(Swing.Config(**options), PLAIN).solve(interactions, Catalogue.empty(), 0)


def score(lists: Lists, i: int, j: int) -> float:
    items, scores = lists.of(i)
    return float(scores[items == j].sum())


def dense(lists: Lists, width: int) -> NDArray[np.float64]:
    out = np.zeros((width, width))
    out[np.repeat(lists.keys, np.diff(lists.offsets)), lists.items] = lists.scores
    return out


def brute_force(world: Interactions, width: int, alpha: float, beta: float) -> NDArray[np.float64]:
    """Over items i, j and pairs of users u < v."""
    sets = {u: set(world.items[world.users == u].tolist()) for u in np.unique(world.users).tolist()}
    out = np.zeros((width, width))
    for i in range(width):
        for j in range(width):
            for u, v in combinations(sorted(sets), 2):
                common = sets[u] & sets[v]
                if i != j and {i, j} <= common:
                    out[i, j] += (len(sets[u]) * len(sets[v])) ** -beta / (alpha + len(common))
    return out


def test_it_is_a_solver() -> None:
    assert isinstance(Swing(Swing.Config(), PLAIN), Solver)
    assert (Swing.cold_users, Swing.cold_items) == (True, False)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.5), (5.0, 0.0), (0.25, 1.0)])
def test_it_equals_three_loops(alpha: float, beta: float) -> None:
    world = drawn(30, 25, 260)
    got = dense(solve(world, {**WHOLE, "alpha": alpha, "beta": beta}), 25)
    np.testing.assert_allclose(got, brute_force(world, 25, alpha, beta), rtol=1e-6)
    np.testing.assert_allclose(got, got.T, rtol=1e-6)
    assert (got > 0).mean() > 0.5


def test_two_users_who_share_just_two_items() -> None:
    # |I_u| = 2, |I_v| = 4: w_u w_v = 1/sqrt(2) * 1/2, alpha 1 and two common items: / 3
    lists = solve(log((7, 8), (7, 8, 1, 2)))
    assert score(lists, 7, 8) == pytest.approx(0.5 / 2**0.5 / 3)
    assert score(lists, 8, 7) == score(lists, 7, 8)
    assert lists.keys.tolist() == [7, 8]


def test_a_large_alpha_leaves_the_weights_of_the_pairs() -> None:
    world, alpha = drawn(30, 25, 260), 1e6
    # for each item pair the sum of w_u w_v over pairs of users who have both: half of (sum)^2 - sum of squares
    x = world.matrix.toarray().astype(np.float64)
    both = x[:, :, None] * x[:, None, :] / np.sqrt(x.sum(axis=1))[:, None, None]
    pairs = (both.sum(axis=0) ** 2 - (both**2).sum(axis=0)) / 2
    np.fill_diagonal(pairs, 0)
    keys = world.item_keys
    got = alpha * dense(solve(world, {**WHOLE, "alpha": alpha}), 25)[np.ix_(keys, keys)]
    np.testing.assert_allclose(got, pairs, rtol=1e-4)


def test_a_pair_that_shares_more_says_less() -> None:
    options = {**WHOLE, "beta": 0.0}
    plain = score(solve(log((1, 2), (1, 2)), options), 1, 2)
    assert plain == pytest.approx(1 / 3)
    # two more in common: 1/(1 + 4); one more of u alone: nothing
    assert score(solve(log((1, 2, 3, 4), (1, 2, 3, 4)), options), 1, 2) == pytest.approx(1 / 5)
    assert score(solve(log((1, 2, 3), (1, 2)), options), 1, 2) == plain
    assert score(solve(log((1, 2, 3), (1, 2))), 1, 2) < score(solve(log((1, 2), (1, 2))), 1, 2)  # with beta 0.5 it does


def test_one_common_user_is_not_enough() -> None:
    # 1 and 2 share user 0 alone, 1 and 3 two users; 4 has one user
    lists = solve(log((1, 2, 3, 4), (1, 3), (2,)))
    assert score(lists, 1, 2) == 0
    assert score(lists, 1, 3) > 0
    assert lists.keys.tolist() == [1, 3]


def test_repeats_count_once() -> None:
    assert solve(log((1, 2, 1), (2, 1, 1, 2))).scores.tolist() == solve(log((1, 2), (1, 2))).scores.tolist()


def test_users_of_very_many_items_are_left_out_as_if_not_there() -> None:
    histories = ((1, 2), (1, 2, 3), tuple(range(1, 8)), tuple(range(1, 9)))
    # a repeat makes no list longer: user 0 has 2 items, not 4
    repeated = log((1, 2, 1, 2), *histories[1:])
    some, few = solve(repeated, {**WHOLE, "longest": 3}), solve(log(*histories[:2]))
    for name in ("keys", "offsets", "items", "scores"):
        np.testing.assert_array_equal(getattr(some, name), getattr(few, name))
    assert score(some, 1, 2) == pytest.approx(6**-0.5 / 3)
    assert len(solve(repeated, {**WHOLE, "longest": 1})) == 0


def test_of_many_users_a_sample_is_asked_and_made_up_for() -> None:
    # three users of the same two items, |I_u| = 2 each: any pair of the three is worth 1/2/3, all three pairs 1/2
    three = log((1, 2), (1, 2), (1, 2))
    assert score(solve(three), 1, 2) == pytest.approx(0.5)
    assert score(solve(three, {"cap": 2}), 1, 2) == pytest.approx(0.5)
    # over many seeds the mean is the full sum
    world = drawn(60, 6, 200)
    full = dense(solve(world), 6)
    found = [dense(solve(world, {"cap": 8, "seed": seed}), 6) for seed in range(200)]
    spread = np.std(found, axis=0) / 200**0.5
    np.testing.assert_array_less(np.abs(np.mean(found, axis=0) - full), 4 * spread + 1e-6)
    assert np.std(found, axis=0).max() > 0.05 * full.max()


def test_the_same_seed_gives_the_same_bits_whoever_else_is_there() -> None:
    world = drawn(80, 10, 500)
    one, same, other = (solve(world, {"cap": 5, "seed": seed}) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.scores, same.scores)
    assert not np.array_equal(one.scores, other.scores)
    # a further item behind the others changes no row but its own
    more = Interactions.of(np.append(world.users, [100, 101]), np.append(world.items, [50, 50]))
    longer = solve(more, {"cap": 5, "seed": 1})
    np.testing.assert_array_equal(longer.scores[: len(one.scores)], one.scores)


def test_a_cap_that_nothing_reaches_is_none() -> None:
    world = drawn(30, 25, 260)
    np.testing.assert_array_equal(solve(world, {"cap": 30}).scores, solve(world).scores)


def test_lists_are_cut_at_keep_with_ties_by_smaller_key() -> None:
    world = drawn(30, 25, 260)
    full, short = solve(world), solve(world, {**WHOLE, "keep": 4})
    for key in full.keys.tolist():
        items, scores = full.of(key)
        assert np.lexsort((items, -scores)).tolist() == list(range(len(items)))
        assert short.of(key)[0].tolist() == items[:4].tolist()
    # all equal: 2 and 3 come before 4
    assert solve(log((1, 4, 3, 2), (1, 4, 3, 2)), {**WHOLE, "keep": 2}).of(1)[0].tolist() == [2, 3]


def test_a_stranger_is_served_from_the_history_a_new_item_is_not() -> None:
    lists = solve(log((1, 2, 3), (1, 2, 3)))
    history = Ragged(np.array([0, 1, 2]), np.array([1, 77]), np.zeros(2, np.int64), np.zeros(2, np.int16))
    none = Ragged.empty(2)
    asked = Requests(np.array([-1, -1]), np.zeros(2, np.int64), 5, history, none, none)
    recalled = Neighbours(Neighbours.Config(), lists, PLAIN).recall(asked, 5, lambda o, i: np.ones(len(i), dtype=bool))
    assert (recalled[0].tolist(), recalled[1].tolist()) == ([0, 0], [2, 3])


def test_bad_input() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert len(solve(Interactions.of(none, none))) == 0
    assert len(solve(log((1,), (2,)), {})) == 0
    with pytest.raises(CapacityError) as large:
        solve(log((1, 2), (1, 2)), {"budget_bytes": 10})
    want = "swing: 2 items need 0.0 GiB, the budget is 0.0 GiB (raise budget_bytes or lower keep)"
    assert str(large.value) == want
    for options, message in (
        ({"keep": 0}, "recall.swing.keep: should be at least 1, got 0 (correct the value)"),
        ({"cap": 1}, "recall.swing.cap: should be at least 2, got 1 (correct the value)"),
        ({"alpha": 0.0}, "recall.swing.alpha: should be more than 0.0, got 0.0 (correct the value)"),
    ):
        with pytest.raises(ConfigError) as wrong:
            build(Swing.Config, options, "recall.swing")
        assert str(wrong.value) == message
