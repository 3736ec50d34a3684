"""LDA: topics of groups that share no item, popularity where there is one topic, and users folded in."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.models.test_tags import ask, every

from shortlist.candidates import Requests
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, ConfigError, DataError
from shortlist.forms import Built, Lists, Vectors
from shortlist.funnel.sources.topics import Topics
from shortlist.models.blocks.topics import counted, fold_in
from shortlist.models.recall.lda import Lda, _built
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Schema

SCHEMA = Schema.parse({})
needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed: shortlist[sklearn]"
)


def groups(users: int = 30, items: int = 10, events: int = 12, seed: int = 0) -> Interactions:
    """Even users take items 0 to items - 1, odd ones the next as many."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(users), events)
    taken = np.minimum(rng.geometric(0.25, len(who)) - 1, items - 1)
    return Interactions.of(who, taken + (who % 2) * items)


def solve(log: Interactions, **options: Any) -> Built:
    return Lda(Lda.Config(**options), SCHEMA).solve(log, Catalogue.empty(), 0)


def lists_of(built: Built) -> Lists:
    assert isinstance(built.form, Lists)
    return built.form


def phi_of(built: Built) -> Vectors:
    phi = built.beside["topics"]
    assert isinstance(phi, Vectors)
    return phi


def asks(built: Built, requests: Requests, n: int = 50, **options: Any) -> list[dict[int, float]]:
    part = Topics(Topics.Config(**options), lists_of(built), SCHEMA, built.beside)
    owners, items, scores = part.recall(requests, n, every)
    return [
        {int(i): float(s) for o, i, s in zip(owners, items, scores, strict=True) if o == r}
        for r in range(len(requests))
    ]


def two(a: float = 0.9) -> Built:
    """Two topics over items 0 to 3, 90 of 100 events of each on its own two: written out, not learned."""
    pseudo = 100 * np.array([[a / 2, a / 2, (1 - a) / 2, (1 - a) / 2], [(1 - a) / 2, (1 - a) / 2, a / 2, a / 2]])
    return _built(np.arange(4), pseudo, 0.5, 10)


@needs_sklearn
def test_it_is_a_solver() -> None:
    solver: Any = Lda(Lda.Config(), SCHEMA)
    assert isinstance(solver, Solver)
    assert solver.reads == ("actions",)


@needs_sklearn
def test_topics_are_distributions_and_the_order_of_events_does_not_matter() -> None:
    log = groups()
    built = solve(log, topics=4)
    phi = phi_of(built)
    np.testing.assert_allclose(phi.matrix.sum(axis=0), 1, atol=1e-6)
    assert (phi.matrix > 0).all()
    order = np.random.default_rng(1).permutation(len(log))
    again = solve(Interactions.of(log.users[order], log.items[order]), topics=4)
    np.testing.assert_array_equal(phi.matrix, phi_of(again).matrix)


@needs_sklearn
def test_one_topic_is_popularity_by_capped_counts() -> None:
    users, items = np.array([0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 3]), np.array([5, 5, 5, 5, 5, 5, 5, 6, 6, 7, 5])
    # 5 was taken seven times by one user, of which three count, and once by another: 4; 6 twice, 7 once
    built = solve(Interactions.of(users, items), topics=1, cap=3)
    assert lists_of(built).of(0)[0].tolist() == [5, 6, 7]
    eta = 1.0
    np.testing.assert_allclose(
        lists_of(built).of(0)[1], np.array([4 + eta, 2 + eta, 1 + eta]) / (7 + 3 * eta), rtol=1e-5
    )
    one, other = asks(built, ask([(5, 0)], [(7, 0), (6, 1)]))
    assert list(one) == list(other) == [5, 6, 7]
    assert one == other
    assert lists_of(solve(Interactions.of(users, items), topics=1, cap=None)).of(0)[1][0] == pytest.approx(9 / 14)


@needs_sklearn
@pytest.mark.parametrize("learn", ["batch", "online"])
def test_groups_without_a_common_item_are_the_topics(learn: str) -> None:
    built = solve(groups(), topics=2, learn=learn)
    mass = phi_of(built).matrix[:10].sum(axis=0), phi_of(built).matrix[10:].sum(axis=0)
    own = sorted(zip(*(m.tolist() for m in mass), strict=True))
    assert own[0][1] >= 0.95
    assert own[1][0] >= 0.95
    even, odd = asks(built, ask([(0, 0), (1, 0), (4, 0)], [(11, 0), (10, 0)]))
    assert even
    assert set(even) <= set(range(10))
    assert odd
    assert set(odd) <= set(range(10, 20))


@needs_sklearn
def test_a_user_folded_in_is_what_training_makes_of_the_same_events() -> None:
    from sklearn.decomposition import LatentDirichletAllocation

    log = groups(seed=3)
    built = solve(log, topics=3)
    row, column, count = counted(log.users, log.columns.astype(np.int64), 5)
    table = np.zeros((30, len(log.item_keys)))
    table[row, column] = count
    model = LatentDirichletAllocation(3, max_iter=20, learning_method="batch", random_state=0).fit(table)
    _, gamma = fold_in(row, count, phi_of(built).matrix[column].astype(np.float64), 1 / 3)
    theta = gamma / gamma.sum(axis=1, keepdims=True)
    # the library weighs items by exp(E[log phi]), not by phi: a user between topics may differ by some hundredths
    theirs = model.transform(table)
    assert (theta.argmax(axis=1) == theirs.argmax(axis=1)).all()
    assert np.abs(theta - theirs).mean() < 0.01


def test_a_share_of_each_event_by_hand() -> None:
    # a single event of an item that only topic 0 has: all of it belongs there. theta = (1 + 1/2, 1/2) / 2
    who, gamma = fold_in(np.array([7]), np.array([1.0]), np.array([[0.5, 0.0]]), 0.5)
    assert who.tolist() == [7]
    np.testing.assert_allclose(gamma, [[1.5, 0.5]], atol=1e-3)
    # as likely in both: half and half. An item unknown to both says nothing
    np.testing.assert_allclose(
        fold_in(np.array([7, 8]), np.array([2.0, 1.0]), np.array([[0.2, 0.2], [0, 0]]), 0.5)[1], [[1.5, 1.5]]
    )


def test_theta_and_scores_are_distributions_whoever_else_asks() -> None:
    rng = np.random.default_rng(2)
    phi: NDArray[np.float64] = rng.dirichlet(np.ones(30), 5).T
    users, items, counts = counted(rng.integers(0, 20, 200), rng.integers(0, 30, 200), 5)
    who, gamma = fold_in(users, counts, phi[items], 0.2)
    theta = gamma / gamma.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(theta.sum(axis=1), 1)
    np.testing.assert_allclose((theta @ phi.T).sum(axis=1), 1)
    sums = np.array([counts[users == u].sum() for u in who])
    np.testing.assert_allclose(gamma.sum(axis=1), sums + 5 * 0.2)
    for u in (0, 7):
        mine = users == u
        np.testing.assert_array_equal(
            fold_in(users[mine], counts[mine], phi[items[mine]], 0.2)[1][0], gamma[who == u][0]
        )


def test_counts_are_capped() -> None:
    users, items, counts = counted(np.array([1, 0, 1, 1]), np.array([5, 5, 5, 6]), 1)
    assert (users.tolist(), items.tolist(), counts.tolist()) == ([0, 1, 1], [5, 5, 6], [1, 1, 1])
    assert counted(np.array([1, 0, 1, 1]), np.array([5, 5, 5, 6]), None)[2].tolist() == [1, 2, 1]


def test_quotas_go_by_topic_and_scores_are_sums() -> None:
    built = two()
    (mixed,) = asks(built, ask([(0, 0), (1, 0), (2, 0)]), alpha=0.5)
    # both topics are asked for: an item scores theta_0 phi_0i + theta_1 phi_1i
    _, gamma = fold_in(np.zeros(3, dtype=np.int64), np.ones(3), phi_of(built).matrix[:3].astype(np.float64), 0.5)
    theta = gamma[0] / gamma[0].sum()
    expected = phi_of(built).matrix @ theta
    assert mixed == pytest.approx({i: float(expected[i]) for i in range(4)}, rel=1e-5)
    # of two items that are asked for, topic 0 brings ceil(2 theta_0) = 2 and topic 1 one; the two best are topic 0's
    (few,) = asks(built, ask([(0, 0), (1, 0), (2, 0)]), n=2, alpha=0.5)
    assert list(few) == [0, 1]
    (sure,) = asks(two(0.999), ask([(0, 0), (1, 0)]), alpha=0.5)
    assert sorted(sure) == [0, 1]  # topic 1 has less than a tenth of the events, and its items are in its list alone


def test_one_request_is_as_among_many() -> None:
    rng = np.random.default_rng(4)
    built = _built(np.arange(40), 200 * rng.dirichlet(np.full(40, 0.1), 6) + 0.5, 0.5, 20)
    asked = ask(*[[(int(i), 0.0) for i in rng.integers(0, 45, 8)] for _ in range(12)], [])
    together = asks(built, asked, n=7)
    assert together == [asks(built, asked.take(r, r + 1), n=7)[0] for r in range(13)]
    assert together[12] == {}


def test_an_item_is_in_its_best_topic_whatever_it_has() -> None:
    # of the last item a third of one event is in each topic, a little more in the second
    built = _built(np.array([4, 5, 9]), 0.5 + np.array([[3, 0, 0.3], [0, 2, 0.4], [1, 0.2, 0.3]]), 0.5, 10)
    lists = lists_of(built)
    assert [lists.of(k)[0].tolist() for k in range(3)] == [[4], [5, 9], [4]]


@needs_sklearn
def test_new_users_are_served_and_items_that_nobody_took_are_not() -> None:
    built = solve(groups(), topics=2)
    assert asks(built, ask([(0, 0)], [(999, 0)]))[1] == {}
    assert asks(built, ask([(0, 0)]))[0]
    assert 999 not in lists_of(built).items
    assert Lda.cold_users
    assert not Lda.cold_items


@needs_sklearn
def test_bad_input() -> None:
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(DataError) as empty:
        solve(Interactions.of(none, none))
    assert empty.value.what == "there is nothing to learn from"
    assert empty.value.hint == "no event has an action of weight above 0"
    with pytest.raises(CapacityError) as over:
        solve(groups(), budget_bytes=1)
    assert over.value.what == "30 users and 20 items need 0.0 GiB, the budget is 0.0 GiB"
    # one user, one item, more topics than items, and everything kept
    assert len(lists_of(solve(Interactions.of(np.array([0]), np.array([3])), topics=7, keep=10**6))) >= 1


def test_without_the_library_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        Lda(Lda.Config(), SCHEMA)
    assert caught.value.what == "sklearn is not installed"
    assert caught.value.where == "lda"
    assert caught.value.hint == "pip install 'shortlist[sklearn]', or leave this channel out"
