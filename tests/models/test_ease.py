"""EASE, against its definition."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, DataError
from shortlist.forms import Lists
from shortlist.models.recall.ease import Ease, weights
from shortlist.models.roles import Solver
from shortlist.schema import Catalogue, Schema
from shortlist.simulation.toy import Toy

SCHEMA = Schema.parse({})


def real_or_generated(data_folder: Path | None) -> Interactions:
    """MovieLens-1M pairs where SHORTLIST_DATA is set, a generated log of the same kind otherwise."""
    if data_folder is not None:
        frame = pl.read_parquet(data_folder / "ml-1m" / "interactions.parquet").cast(pl.Int64)
        return Interactions.of(frame["user_id"].to_numpy(), frame["movie_id"].to_numpy())
    return Toy.draw(900, 300, 60_000).interactions


@pytest.fixture(scope="module")
def small() -> Interactions:
    return Toy.draw(80, 30, 900).interactions


def solve(interactions: Interactions, **options: float | int | None) -> Lists:
    return Ease(Ease.Config(**options), SCHEMA).solve(interactions, Catalogue.empty(), 0)  # type: ignore[arg-type]


def gram(interactions: Interactions) -> NDArray[np.float64]:
    x = interactions.matrix.astype(np.float64)
    return np.asarray((x.T @ x).todense())


def test_it_is_a_solver() -> None:
    assert isinstance(Ease(Ease.Config(), SCHEMA), Solver)


def test_two_items_by_hand() -> None:
    # users {1, 2}, {1}, {2}: X'X = [[2, 1], [1, 2]]; lam 1: P^-1 = [[3, 1], [1, 3]], P = [[3, -1], [-1, 3]] / 8
    # B_12 = -P_12 / P_22 = 1/3
    events = Interactions.of(np.array([0, 0, 1, 2]), np.array([1, 2, 1, 2]))
    lists = solve(events, lam=1.0)
    assert lists.of(1)[0].tolist() == [2]
    assert lists.of(1)[1] == pytest.approx([1 / 3])


@pytest.mark.parametrize("lam", [100.0, 1000.0])
def test_diagonal_is_zero_and_the_residual_diagonal(data_folder: Path | None, lam: float) -> None:
    log = real_or_generated(data_folder)
    g = gram(log)
    b = weights(log.matrix, lam)
    assert not b.diagonal().any()
    some = np.arange(0, len(g), 8)  # columns are solved alike
    residual = (g + lam * np.eye(len(g))) @ b[:, some] - g[:, some]
    residual[some, np.arange(len(some))] = 0
    assert np.abs(residual).max() < 2e-6 * g.max()  # single precision is enough: 2e-6 of the largest count


def test_a_column_is_the_ridge_regression_of_its_item_on_all_others(small: Interactions) -> None:
    b = weights(small.matrix, 10.0)
    x = small.matrix.toarray().astype(np.float64)
    for j in (0, 7, len(b) - 1):
        others = np.delete(np.arange(len(b)), j)
        z = x[:, others]
        ridge = np.linalg.solve(z.T @ z + 10.0 * np.eye(len(others)), z.T @ x[:, j])
        np.testing.assert_allclose(b[others, j], ridge, atol=1e-5)


def test_a_large_lambda_gives_the_counts(small: Interactions) -> None:
    g = gram(small)
    np.fill_diagonal(g, 0)
    lam = 1e7
    np.testing.assert_allclose(lam * weights(small.matrix, lam), g, atol=1e-2)


def test_every_user_twice_and_lambda_doubled_change_nothing(small: Interactions) -> None:
    again = Interactions.of(
        np.concatenate([small.users, small.users + 1000]), np.concatenate([small.items, small.items])
    )
    np.testing.assert_allclose(weights(again.matrix, 20.0), weights(small.matrix, 10.0), atol=1e-5)


def test_lists_are_the_rows_with_negative_weights(small: Interactions) -> None:
    b = weights(small.matrix, 10.0)
    lists = solve(small, lam=10.0)
    assert lists.scores.min() < 0
    for n, key in enumerate(small.item_keys.tolist()):
        items, scores = lists.of(key)
        wanted = {int(k): float(b[n, m]) for m, k in enumerate(small.item_keys) if b[n, m] != 0}
        assert dict(zip(items.tolist(), scores.tolist(), strict=True)) == wanted
        assert np.lexsort((items, -scores)).tolist() == list(range(len(items)))


def test_keep_cuts_each_row(small: Interactions) -> None:
    full, short = solve(small, lam=10.0), solve(small, lam=10.0, keep=3)
    for key in full.keys.tolist():
        assert short.of(key)[0].tolist() == full.of(key)[0][:3].tolist()


def test_more_rows_than_one_block() -> None:
    log = Toy.draw(400, 700, 20_000, seed=5).interactions
    p = np.linalg.inv(gram(log) + 50 * np.eye(len(log.item_keys)))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    np.testing.assert_allclose(weights(log.matrix, 50.0), b, atol=1e-5)


def test_what_would_not_fit_is_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20,000 items: 1.6e9 bytes of matrix, 20,000 * 19,999 * 12 of lists, 512 * 20,000 * 16 of work:
    # 6,563,600,000 bytes = 6.1 GiB
    events = Interactions.of(np.zeros(20_000, dtype=np.int64), np.arange(20_000))

    def never(*_: object) -> None:
        raise AssertionError("allocated")

    monkeypatch.setattr("shortlist.models.recall.ease.weights", never)
    with pytest.raises(CapacityError) as error:
        solve(events)
    hint = "raise budget_bytes, set keep, or use item_cf"
    assert str(error.value) == f"ease: 20000 items need 6.1 GiB, the budget is 4.0 GiB ({hint})"


def test_nothing_to_learn_from() -> None:
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(DataError) as error:
        solve(Interactions.of(none, none))
    assert str(error.value) == "ease: there is nothing to learn from (no event has an action of weight above 0)"
