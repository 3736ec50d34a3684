"""MF by gradient steps, against its loss and by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist.candidates import Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, DataError
from shortlist.forms import Built, Vectors
from shortlist.funnel.sources.of_user import OfUser
from shortlist.models.recall.mf import MF, Factors, learn
from shortlist.schema import Catalogue, Schema
from shortlist.simulation.toy import Toy

SCHEMA = Schema.parse({})
VALUED = Schema.parse({"value": "rating"})


@pytest.fixture(scope="module")
def log() -> Interactions:
    return Toy.draw(60, 30, 700).interactions


def solve(log: Interactions, **options: object) -> Built:
    return MF(MF.Config(**options), SCHEMA).solve(log, Catalogue.empty(), 0)  # type: ignore[arg-type]


def rated(matrix: NDArray[np.float64]) -> Interactions:
    """Every user rates every item, in an order of its own."""
    users, items = (grid.ravel() for grid in np.meshgrid(*(np.arange(n) for n in matrix.shape), indexing="ij"))
    order = np.random.default_rng(1).permutation(len(users))
    values = matrix.ravel()[order].astype(np.float32)
    return Interactions.of(users[order], items[order], np.arange(len(users)), values=values)


def test_one_step_by_hand() -> None:
    # one user, one item, rating 3, mu = its mean 3, p = q = 1 (forced), b = 0: y = 4, error 1; lr 0.1, reg 0.5:
    # p = 1 - 0.1 (1 * 1 + 0.5 * 1) = 0.85, q the same from the old p; mu = 2.9, both biases -0.1
    log = rated(np.array([[3.0]]))
    config = MF.Config(objective="squared", dim=1, epochs=1, lr=0.1, reg=0.5)
    one, zero = np.ones((1, 1), dtype=np.float32), np.zeros(1, dtype=np.float32)
    model = Factors(zero.copy(), zero.copy(), zero.copy(), one.copy(), one.copy())
    assert list(learn(model, log, config)) == [1.0]
    got = [float(part.ravel()[0]) for part in (model.users, model.items, model.mu, model.user_bias, model.item_bias)]
    assert got == pytest.approx([0.85, 0.85, 2.9, -0.1, -0.1])


def test_a_matrix_of_low_rank_is_found_exactly() -> None:
    rng = np.random.default_rng(2)
    matrix = 3 + rng.standard_normal((30, 3)) @ rng.standard_normal((3, 20))
    config = MF.Config(objective="squared", dim=8, epochs=800, lr=0.02, reg=0.0)
    model = Factors.start(30, 20, config)
    for _ in learn(model, rated(matrix), config):
        pass
    assert np.sqrt(np.square(model.scores() - matrix).mean()) < 0.01


def test_of_repeated_ratings_the_latest_stands() -> None:
    log = Interactions.of(
        np.zeros(3, dtype=np.int64),
        np.array([7, 8, 7]),
        np.array([1, 2, 3]),
        values=np.array([1, 5, 3], dtype=np.float32),
    )
    config = MF.Config(objective="squared", dim=2, epochs=500, lr=0.05, reg=0.0)
    model = Factors.start(1, 2, config)
    for _ in learn(model, log, config):
        pass
    np.testing.assert_allclose(model.scores(), [[3.0, 5.0]], atol=0.01)


def test_the_pairwise_loss_knows_differences_only(log: Interactions) -> None:
    """Adding c to all item scores of one user changes neither the loss nor a step."""
    config = MF.Config(objective="bpr", dim=4, epochs=2, lr=0.05, negatives=1)
    plain, moved = (Factors.start(len(log.user_keys), len(log.item_keys), config) for _ in range(2))
    moved.user_bias[:] = 100.0
    moved.mu[:] = -7.0
    assert list(learn(plain, log, config)) == list(learn(moved, log, config))
    np.testing.assert_array_equal(plain.items, moved.items)


@pytest.mark.parametrize("options", [{"objective": "bpr", "negatives": 1, "lr": 0.05}, {"lr": 0.05}])
def test_losses_fall_and_what_was_taken_comes_first(log: Interactions, options: dict[str, object]) -> None:
    config = MF.Config(dim=16, epochs=120, reg=0.0, **options)  # type: ignore[arg-type]
    model = Factors.start(len(log.user_keys), len(log.item_keys), config)
    losses = list(learn(model, log, config))
    assert losses[-1] < 0.3 * losses[0]
    scores, taken = model.scores(), np.asarray(log.matrix.toarray()) > 0
    above = [np.greater.outer(row[mine], row[~mine]).mean() for row, mine in zip(scores, taken, strict=True)]
    assert np.mean(above) > 0.99


def test_the_same_seed_gives_the_same_bits(log: Interactions) -> None:
    one, same, other = (solve(log, epochs=2, dim=4, seed=seed) for seed in (1, 1, 2))
    assert isinstance(one.form, Vectors) and isinstance(same.form, Vectors) and isinstance(other.form, Vectors)  # noqa: PT018
    np.testing.assert_array_equal(one.form.matrix, same.form.matrix)
    assert not np.array_equal(one.form.matrix, other.form.matrix)


def test_the_funnel_orders_items_as_the_model_does(log: Interactions) -> None:
    config = MF.Config(dim=8, epochs=5, lr=0.02)
    model = Factors.start(len(log.user_keys), len(log.item_keys), config)
    for _ in learn(model, log, config):
        pass
    built = MF(config, SCHEMA).solve(log, Catalogue.empty(), 0)
    form, nothing = built.form, Ragged.empty(3)
    assert isinstance(form, Vectors)
    asked = Requests(np.array([log.user_keys[4], -1, log.user_keys[9]]), np.full(3, 5), 5, nothing, nothing, nothing)
    source = OfUser(OfUser.Config(), form, SCHEMA, built.beside)
    owners, items, _ = source.recall(asked, len(form.keys), lambda owners, items: np.ones(len(items), dtype=bool))
    assert set(owners.tolist()) == {0, 2}  # who is unknown gets nothing
    for owner, user in ((0, 4), (2, 9)):
        want = log.item_keys[np.argsort(-model.scores()[user], kind="stable")]
        np.testing.assert_array_equal(items[owners == owner], want)


def test_bad_input(log: Interactions) -> None:
    with pytest.raises(DataError) as empty:
        solve(Interactions.of(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)))
    assert str(empty.value) == "mf: there is nothing to learn from (no event has an action of weight above 0)"
    with pytest.raises(DataError) as unrated:
        solve(log.where(np.isnan(log.values)), objective="squared")
    assert str(unrated.value) == 'mf: no event has a value (set schema.value, or objective = "logistic")'
    with pytest.raises(CapacityError, match=r"mf: \d+ users and 30 items need 0\.0 GiB, the budget is 0\.0 GiB"):
        solve(log, budget_bytes=1000)
    with pytest.raises(DataError) as wild:
        solve(log, lr=1e6, epochs=5)
    assert str(wild.value) == "mf: the vectors grew beyond all bounds (lower lr (it is 1e+06))"


def test_who_took_everything_has_no_negatives() -> None:
    log = Interactions.of(np.array([0, 0, 1]), np.array([1, 2, 1]))
    for objective in ("logistic", "bpr"):
        built = solve(log, objective=objective, epochs=3, dim=2)
        assert isinstance(built.form, Vectors)
        assert built.form.keys.tolist() == [1, 2]
