"""PureSVD and GF-CF, against their definitions."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.candidates import Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, DataError
from shortlist.forms import Lists, Vectors
from shortlist.funnel.sources.summed import Summed
from shortlist.models.recall.gf_cf import GfCf, _largest
from shortlist.models.recall.pure_svd import PureSvd
from shortlist.schema import Catalogue, Schema
from shortlist.simulation.toy import Toy

SCHEMA = Schema.parse({})
NONE = Interactions.of(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


@pytest.fixture(scope="module", params=[(80, 30, 900), (40, 70, 900), (300, 150, 9000)])
def log(request: pytest.FixtureRequest) -> Interactions:
    """Two that are decomposed whole, by items and by users, and one that is iterated."""
    return Toy.draw(*request.param).interactions


def svd(log: Interactions, dim: int) -> Vectors:
    return PureSvd(PureSvd.Config(dim=dim), SCHEMA).solve(log, Catalogue.empty(), 0)


def gf(log: Interactions, **options: float | int) -> Lists:
    return GfCf(GfCf.Config(**options), SCHEMA).solve(log, Catalogue.empty(), 0)  # type: ignore[arg-type]


def dense(log: Interactions) -> NDArray[np.float64]:
    return np.asarray(log.matrix.toarray(), dtype=np.float64)


def rows(lists: Lists) -> NDArray[np.float64]:
    out = np.zeros((len(lists), len(lists)))
    owner = np.repeat(np.arange(len(lists)), np.diff(lists.offsets))
    out[owner, np.searchsorted(lists.keys, lists.items)] = lists.scores
    return out


def test_the_projection_is_the_best_of_its_rank(log: Interactions) -> None:
    q = svd(log, 8).matrix.astype(np.float64)
    p = q @ q.T
    np.testing.assert_allclose(p @ p, p, atol=1e-5)  # a projection, whatever the signs of q
    x = dense(log)
    values = np.linalg.svd(x, compute_uv=False)
    # Eckart-Young: what is lost is the sum of the squares left out
    assert np.square(x - x @ p).sum() == pytest.approx(np.square(values[8:]).sum(), rel=1e-5)


def test_full_rank_returns_the_row(log: Interactions) -> None:
    x = dense(log)
    q = svd(log, 10_000).matrix.astype(np.float64)
    assert q.shape[1] == np.linalg.matrix_rank(x)
    np.testing.assert_allclose(x @ q @ q.T, x, atol=1e-4)


def test_the_same_twice(log: Interactions) -> None:
    np.testing.assert_array_equal(svd(log, 8).matrix, svd(log, 8).matrix)
    np.testing.assert_array_equal(gf(log, dim=8).scores, gf(log, dim=8).scores)


def test_the_funnel_asks_with_the_sum_of_the_history(log: Interactions) -> None:
    form = svd(log, 8)
    users = log.user_keys[:5]
    requests = Requests(
        users, np.full(5, 2**50), 4, log.histories(users), Ragged.empty(5), Ragged.empty(5)
    )  # fmt: skip
    owners, items, scores = Summed(Summed.Config(), form, SCHEMA).recall(
        requests, len(form.keys), lambda owners, items: np.ones(len(items), dtype=bool)
    )
    q = form.matrix.astype(np.float64)
    wanted = dense(log)[:5] @ q @ q.T  # a repeated event counts once
    np.testing.assert_allclose(scores, wanted[owners, np.searchsorted(form.keys, items)], atol=1e-4)
    unknown, nothing = Ragged.of(np.array([0, 1]), np.array([10**6])), Ragged.empty(1)
    stranger = Requests(np.array([-1]), np.array([5]), 4, unknown, nothing, nothing)
    found = Summed(Summed.Config(), form, SCHEMA).recall(stranger, 5, lambda o, i: np.ones(len(i), dtype=bool))
    assert [len(column) for column in found] == [0, 0, 0]


def test_filters_by_hand() -> None:
    # users {1, 2}, {1}: Du = 2, 1; Di = 2, 1. R~ = [[1/2, 1/sqrt 2], [1/sqrt 2, 0]]
    # R~'R~ = [[3/4, 1/(2 sqrt 2)], [1/(2 sqrt 2), 1/2]]
    log = Interactions.of(np.array([0, 0, 1]), np.array([1, 2, 1]))
    half = 1 / (2 * np.sqrt(2))
    np.testing.assert_allclose(rows(gf(log, alpha=0.0)), [[0.75, half], [half, 0.5]], atol=1e-6)
    # the leading right vector of R~ is Di^1/2 / |.|: (sqrt 2, 1) / sqrt 3, of singular value 1
    # Di^-1/2 v v' Di^1/2 = [[1/sqrt 3], [1/sqrt 3]] (2/sqrt 3, 1/sqrt 3) = [[2/3, 1/3], [2/3, 1/3]]
    ideal = np.array([[2 / 3, 1 / 3], [2 / 3, 1 / 3]])
    want = np.array([[0.75, half], [half, 0.5]]) + 0.3 * ideal
    np.testing.assert_allclose(rows(gf(log, dim=1, alpha=0.3)), want, atol=1e-6)


def test_filters_against_dense_arithmetic(log: Interactions) -> None:
    x = dense(log)
    d_u, d_i = x.sum(axis=1), x.sum(axis=0)
    r = x / np.sqrt(d_u)[:, None] / np.sqrt(d_i)[None, :]
    v = np.linalg.svd(r)[2][:12].T
    want = r.T @ r + 0.5 * (v @ v.T) * np.sqrt(d_i)[None, :] / np.sqrt(d_i)[:, None]
    np.testing.assert_allclose(rows(gf(log, dim=12, alpha=0.5)), want, atol=2e-5)


def test_a_cut_keeps_the_largest(log: Interactions) -> None:
    whole, cut = gf(log, dim=8), gf(log, dim=8, keep=7)
    for key in whole.keys[:10].tolist():
        np.testing.assert_array_equal(whole.of(key)[0][:7], cut.of(key)[0])
        np.testing.assert_array_equal(whole.of(key)[1][:7], cut.of(key)[1])


def test_of_weights_as_large_as_each_other_the_smaller_keys_are_kept(log: Interactions) -> None:
    block = np.array([[1, 3, 3, 0, 3], [0, 0, 5, 0, 0], [4, 3, 2, 1, 0]], dtype=np.float32)
    assert _largest(block, 2).tolist() == [[1, 2], [2, 0], [0, 1]]
    assert _largest(block, 4).tolist() == [[1, 2, 4, 0], [2, 0, 1, 3], [0, 1, 2, 3]]
    assert _largest(block, 5).tolist() == [[1, 2, 4, 0, 3], [2, 0, 1, 3, 4], [0, 1, 2, 3, 4]]
    whole, cut = gf(log, alpha=0.0), gf(log, alpha=0.0, keep=9)  # of common users alone: many are equal, or nothing
    np.testing.assert_array_equal(cut.items.reshape(-1, 9), whole.items.reshape(len(whole), -1)[:, :9])


def test_what_does_not_fit_or_is_empty_is_refused(log: Interactions) -> None:
    kinds: list[tuple[Any, str]] = [(PureSvd, "pure_svd"), (GfCf, "gf_cf")]
    for kind, name in kinds:
        with pytest.raises(CapacityError) as caught:
            kind(kind.Config(budget_bytes=1000), SCHEMA).solve(log, Catalogue.empty(), 0)
        assert "the budget is 0.0 GiB" in str(caught.value)
        with pytest.raises(DataError) as empty:
            kind(kind.Config(), SCHEMA).solve(NONE, Catalogue.empty(), 0)
        want = f"{name}: there is nothing to learn from (no event has an action of weight above 0)"
        assert str(empty.value) == want


def test_a_long_log_of_few_items_is_not_made_dense() -> None:
    # ten million users by sixty items: dense in double precision 4.5 GiB, by the Gram matrix of the items a few MB
    svd = PureSvd(PureSvd.Config(), SCHEMA)
    assert svd.estimate(10**7, 60, 10**7) - svd.estimate(100, 60, 10**7) == 0
    assert svd.estimate(10**7, 60, 10**7) < 2**28
