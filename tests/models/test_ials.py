"""iALS, against its definition; its fold-in, and the channel they make."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from shortlist.candidates import Ragged, Requests
from shortlist.config import ChannelConfig, build, plain
from shortlist.dataset.interactions import Interactions
from shortlist.errors import CapacityError, DataError
from shortlist.forms import Vectors
from shortlist.funnel.recipes import split_options
from shortlist.funnel.sources.fold_in import FoldIn
from shortlist.models.blocks import conjugate
from shortlist.models.blocks import ridge as block
from shortlist.models.blocks.conjugate import nearer
from shortlist.models.blocks.regressions import regressions
from shortlist.models.recall.ials import IALS, half_step, start
from shortlist.schema import Catalogue, Schema
from shortlist.simulation.toy import Toy

SCHEMA = Schema.parse({})
CONFIG = IALS.Config(dim=5, epochs=3, alpha0=0.2, lam=0.05, nu=0.7, solver="exact")
Real = NDArray[Any]


@pytest.fixture(scope="module")
def log() -> Interactions:
    return Toy.draw(80, 30, 900).interactions


def solve(log: Interactions, config: IALS.Config = CONFIG) -> Vectors:
    return IALS(config, SCHEMA).solve(log, Catalogue.empty(), 0)


def penalties(x_UI: Real, config: IALS.Config) -> tuple[Real, Real]:
    users, items = x_UI.shape
    taken_u, taken_i = x_UI.sum(axis=1), x_UI.sum(axis=0)
    return (
        config.lam * (taken_u + config.alpha0 * items) ** config.nu,
        config.lam * (taken_i + config.alpha0 * users) ** config.nu,
    )


def objective(x_UI: Real, p_UD: Real, q_ID: Real, config: IALS.Config) -> float:
    """The loss written out over every pair."""
    scores_UI = p_UD @ q_ID.T
    of_users, of_items = penalties(x_UI, config)
    ridge = of_users @ np.square(p_UD).sum(axis=1) + of_items @ np.square(q_ID).sum(axis=1)
    return float((x_UI * np.square(scores_UI - 1)).sum() + config.alpha0 * np.square(scores_UI).sum() + ridge)


def dense_and_start(log: Interactions, config: IALS.Config = CONFIG) -> tuple[Real, sparse.csr_array, Real]:
    matrix = log.matrix
    return matrix.toarray().astype(np.float64), matrix, start(matrix.shape[1], config).astype(np.float64)


def test_one_user_by_hand() -> None:
    # q = (1, 0) and (0, 2), the user has item 0; alpha0 1, lam 0.5, nu 1: penalty 0.5 * (1 + 1 * 2) = 1.5
    # (q0 q0' + Q'Q + 1.5 I) p = q0: diagonal (1 + 1 + 1.5, 0 + 4 + 1.5), so p = (1 / 3.5, 0)
    x = sparse.csr_array(np.array([[1.0, 0.0]]))
    config = IALS.Config(dim=2, alpha0=1.0, lam=0.5, nu=1.0)
    assert half_step(x, np.array([[1.0, 0.0], [0.0, 2.0]]), config)[0] == pytest.approx([1 / 3.5, 0])


def test_a_half_step_is_the_dense_weighted_least_squares(log: Interactions) -> None:
    """Oracle 1: every pair a row with target 1 (taken, weight 1) and one with target 0 (all, weight alpha0)."""
    x_UI, matrix, q_ID = dense_and_start(log)
    p_UD = half_step(matrix, q_ID, CONFIG)
    of_users, _ = penalties(x_UI, CONFIG)
    for u in range(len(x_UI)):
        a = np.concatenate([
            q_ID[x_UI[u] > 0], np.sqrt(CONFIG.alpha0) * q_ID, np.sqrt(of_users[u]) * np.eye(CONFIG.dim),
        ])  # fmt: skip
        b = np.zeros(len(a))
        b[: int(x_UI[u].sum())] = 1
        np.testing.assert_allclose(p_UD[u], np.linalg.lstsq(a, b, rcond=None)[0], atol=1e-10)


def test_the_objective_never_rises(log: Interactions) -> None:
    x_UI, matrix, q_ID = dense_and_start(log)
    values = []
    for _ in range(6):
        p_UD = half_step(matrix, q_ID, CONFIG)
        values.append(objective(x_UI, p_UD, q_ID, CONFIG))
        q_ID = half_step(matrix.T.tocsr(), p_UD, CONFIG)
        values.append(objective(x_UI, p_UD, q_ID, CONFIG))
    assert (np.diff(values) <= 1e-9 * values[0]).all()
    assert values[-1] < 0.9 * values[0]


def test_at_the_solution_the_gradient_of_every_row_is_zero(log: Interactions) -> None:
    """Oracle 2, in float64: after many steps both sides' gradients of the written-out loss vanish."""
    x_UI, matrix, q_ID = dense_and_start(log)
    for _ in range(3000):
        p_UD = half_step(matrix, q_ID, CONFIG)
        q_ID = half_step(matrix.T.tocsr(), p_UD, CONFIG)
    of_users, of_items = penalties(x_UI, CONFIG)
    slope_UI = x_UI * (p_UD @ q_ID.T - 1) + CONFIG.alpha0 * (p_UD @ q_ID.T)
    assert np.abs(slope_UI @ q_ID + of_users[:, None] * p_UD).max() < 1e-8
    assert np.abs(slope_UI.T @ p_UD + of_items[:, None] * q_ID).max() < 1e-8


def test_what_has_the_rank_is_met_exactly() -> None:
    """Oracle 4: two blocks of rank 2 without noise. A taken pair minimizes (s - 1)^2 + alpha0 s^2: s = 1 / 1.01."""
    users, items = np.repeat(np.arange(20), 5), np.tile(np.arange(5), 20)
    events = Interactions.of(users, items + 5 * (users >= 10))
    config = IALS.Config(dim=2, epochs=100, alpha0=0.01, lam=1e-6)
    q_ID = solve(events, config).matrix
    scores_UI = half_step(events.matrix, q_ID, config) @ q_ID.T
    np.testing.assert_allclose(scores_UI, events.matrix.toarray() / 1.01, atol=1e-3)


def test_the_nearest_of_the_augmented_vectors_are_the_best(log: Interactions) -> None:
    """Oracle 5: with e' = [e; sqrt(M^2 - |e|^2)] and q' = [q; 0] a tree of distances ranks as the product does."""
    form = solve(log)
    p_UD = half_step(log.matrix, form.matrix, CONFIG).astype(np.float64)
    squares = np.square(form.matrix.astype(np.float64)).sum(axis=1)
    tree = cKDTree(np.column_stack([form.matrix, np.sqrt(squares.max() - squares)]))
    _, near = tree.query(np.column_stack([p_UD, np.zeros(len(p_UD))]), k=5)
    scores_UI = p_UD @ form.matrix.T.astype(np.float64)
    assert near.tolist() == np.argsort(-scores_UI, axis=1, kind="stable")[:, :5].tolist()
    plain_tree = cKDTree(form.matrix.astype(np.float64)).query(p_UD, k=5)[1]
    assert plain_tree.tolist() != near.tolist(), "distances of the vectors themselves rank otherwise"


def test_a_penalty_that_is_lost_says_so() -> None:
    # two equal items: (q0 q0' + ...) is [[k, k], [k, k]], and 1e-30 beside it is nothing
    x = sparse.csr_array(np.array([[1.0, 0.0]]))
    with pytest.raises(DataError) as error:
        half_step(x, np.ones((2, 2), dtype=np.float32), IALS.Config(dim=2, lam=1e-30, solver="exact"))
    what = "the normal equations are singular in float32: lam is too small beside the counts"
    assert str(error.value) == f"ials: {what} (raise lam)"


@pytest.mark.parametrize("small", [200, 2000])
def test_a_fold_in_reads_rows_longer_than_a_block_in_pieces(
    log: Interactions, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, matrix, q_ID = dense_and_start(log)
    penalty_U = CONFIG.lam * (np.diff(matrix.indptr) + CONFIG.alpha0 * matrix.shape[1]) ** CONFIG.nu
    monkeypatch.setattr(block, "BLOCK_BYTES", small)  # 200 bytes: one row of five numbers at a time, five events of it
    folded = block.ridge(matrix.indptr.astype(np.int64), matrix.indices, q_ID, CONFIG.alpha0, penalty_U, q_ID.T @ q_ID)
    np.testing.assert_allclose(folded, half_step(matrix, q_ID, CONFIG), rtol=1e-10)


@pytest.mark.parametrize(("kind", "close"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_rows_of_any_length_are_solved_alike(kind: type, close: float) -> None:
    """Rows of 0 to 600 items at width 8: none, fewer than the width, more, and more than are read at once."""
    rng = np.random.default_rng(0)
    counts = np.array([0, 1, 3, 8, 9, 40, 256, 257, 600])
    items = np.concatenate([rng.choice(700, n, replace=False) for n in counts])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    q_ND: Real = rng.standard_normal((700, 8)).astype(kind)
    p_RD = regressions(offsets, items, q_ND, 0.1, 1.0 + counts, q_ND.T @ q_ND)
    assert p_RD.dtype == kind
    assert not p_RD[0].any()
    for r in range(1, len(counts)):
        q_LD = q_ND[items[offsets[r] : offsets[r + 1]]].astype(np.float64)
        a_DD = q_LD.T @ q_LD + 0.1 * q_ND.T.astype(np.float64) @ q_ND + (1.0 + counts[r]) * np.eye(8)
        wanted = np.linalg.solve(a_DD, q_LD.sum(axis=0))
        np.testing.assert_allclose(p_RD[r], wanted, atol=close * np.abs(wanted).max())


def test_where_few_vectors_span_the_space_badly_rows_are_solved_as_before() -> None:
    # Q'Q = diag(10^9, 0): a penalty of 1 is lost beside it in float32, and the row of one item is not inverted:
    # (10^9 + 0.5 * 10^9 + 1) p = sqrt(10^9) in the first direction, and 0 in the second
    q_ND = np.array([[np.sqrt(1e9), 0.0], [0.0, 0.0]], dtype=np.float32)
    p_RD = regressions(np.array([0, 1]), np.array([0]), q_ND, 0.5, np.ones(1), q_ND.T @ q_ND)
    np.testing.assert_allclose(p_RD[0], [np.sqrt(1e9) / (1.5e9 + 1), 0.0], rtol=1e-6)


# -------------------------------------------------------------------------------------------- conjugate gradients

COUNTS = np.array([0, 1, 2, 3, 8, 9, 40, 300])


def rows_of(kind: type, wide: int = 8) -> tuple[NDArray[np.int64], NDArray[np.int64], Real]:
    """Offsets and items of rows of `COUNTS` items, and vectors of the 700 items there are."""
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.choice(700, n, replace=False) for n in COUNTS])
    q_ND: Real = rng.standard_normal((700, wide)).astype(kind)
    return np.concatenate([[0], np.cumsum(COUNTS)]), items, q_ND


def test_one_step_by_hand() -> None:
    # q = (1, 0), (0, 2), (0, 1); a user has items 0 and 1; alpha0 1, penalty 1.5: Q'Q = diag(1, 5), A = diag(2.5, 6.5)
    # from zeros: what lacks is r = q0 + q1 = (1, 2), the direction s = r / A = (0.4, 4 / 13)
    # z = A s + q0 (q0 s) + q1 (q1 s) = (1 + 0.4, 2 + 4 * 4 / 13): step r s / z s
    r, s, z = np.array([1.0, 2.0]), np.array([0.4, 4 / 13]), np.array([1.4, 2 + 16 / 13])
    q_ND = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    first = nearer(
        np.array([0, 2]), np.array([0, 1]), q_ND, 1.0, np.array([1.5]), q_ND.T @ q_ND, np.zeros((1, 2)), 1
    )  # fmt: skip
    np.testing.assert_allclose(first[0], (r @ s) / (z @ s) * s, rtol=1e-12)
    # and the exact ones: 1 / (2.5 + 1), 2 / (6.5 + 4)
    second = nearer(
        np.array([0, 2]), np.array([0, 1]), q_ND, 1.0, np.array([1.5]), q_ND.T @ q_ND, np.zeros((1, 2)), 2
    )  # fmt: skip
    np.testing.assert_allclose(second[0], [1 / 3.5, 2 / 10.5], rtol=1e-12)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("warm", [False, True])
def test_as_many_steps_as_factors_are_exact(kind: type, warm: bool) -> None:
    offsets, items, q_ND = rows_of(kind)
    gram, penalty = q_ND.T @ q_ND, 1.0 + COUNTS
    start = np.random.default_rng(1).standard_normal((len(COUNTS), 8)) if warm else np.zeros((len(COUNTS), 8))
    made = nearer(offsets, items, q_ND, 0.1, penalty, gram, start.astype(kind), 8)
    exact = regressions(offsets, items, q_ND, 0.1, penalty, gram)
    assert made.dtype == kind
    assert not made[0].any()
    np.testing.assert_allclose(made, exact, atol=1e-4 * np.abs(exact).max())
    again = nearer(offsets, items, q_ND, 0.1, penalty, gram, exact, 8)  # from there nothing is left to do
    np.testing.assert_allclose(again, exact, atol=1e-5 * np.abs(exact).max())


def test_a_row_of_n_items_is_exact_after_n_steps() -> None:
    offsets, items, q_ND = rows_of(np.float64)
    gram, penalty = q_ND.T @ q_ND, 1.0 + COUNTS
    exact = regressions(offsets, items, q_ND, 0.1, penalty, gram)
    for steps in (1, 2, 3):
        made = nearer(offsets, items, q_ND, 0.1, penalty, gram, np.zeros_like(exact), steps)
        off = np.abs(made - exact).max(axis=1)
        assert (off[steps + 1 :] > 1e-6).all(), "longer rows are not there yet"
        assert (off[: steps + 1] < 1e-12).all()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_by_steps_the_objective_never_rises(log: Interactions, steps: int, kind: type) -> None:
    x_UI, matrix, q_ID = dense_and_start(log)
    config = replace(CONFIG, solver="cg", cg_steps=steps)
    p_UD: Real = np.zeros((len(x_UI), 5), dtype=kind)
    q_ID, values = q_ID.astype(kind), []
    for _ in range(8):
        p_UD = half_step(matrix, q_ID, config, p_UD)
        values.append(objective(x_UI, p_UD, q_ID, config))
        q_ID = half_step(matrix.T.tocsr(), p_UD, config, q_ID)
        values.append(objective(x_UI, p_UD, q_ID, config))
    assert (np.diff(values) <= 1e-6 * values[0]).all()
    assert values[-1] < 0.9 * values[0]


def test_many_epochs_by_steps_end_where_the_exact_ones_do(log: Interactions) -> None:
    x_UI = log.matrix.toarray().astype(np.float64)
    lost = {}
    for solver in ("exact", "cg"):
        config = replace(CONFIG, epochs=60, solver=solver)
        q_ID = solve(log, config).matrix.astype(np.float64)
        lost[solver] = objective(x_UI, half_step(log.matrix, q_ID, CONFIG), q_ID, CONFIG)
    assert lost["cg"] == pytest.approx(lost["exact"], rel=2e-3)


def test_steps_are_the_same_whoever_takes_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, items, q_ND = rows_of(np.float32)
    start: Real = np.zeros((len(COUNTS), 8), dtype=np.float32)
    monkeypatch.setattr(conjugate, "ROWS", 2)
    made = []
    for cores in ({0}, {0, 1}):
        monkeypatch.setattr("os.sched_getaffinity", lambda process, cores=cores: cores)
        made.append(nearer(offsets, items, q_ND, 0.1, 1.0 + COUNTS, q_ND.T @ q_ND, start, 3))
    np.testing.assert_array_equal(made[0], made[1])


@pytest.mark.parametrize(
    ("lam", "said"),
    [  # beside 0.3 * 2 nothing is left of 1e-30, and 1e30 * 1e30 is beyond single precision
        (1e-30, "the normal equations are singular in float32: lam is too small beside the counts (raise lam)"),
        (1e30, "vectors came out as no numbers in float32 (lower lam or alpha0)"),
    ],
)
def test_steps_to_what_is_no_number_say_so(lam: float, said: str) -> None:
    x = sparse.csr_array(np.array([[1.0, 0.0]]))
    config = IALS.Config(dim=2, lam=lam, alpha0=max(0.3, lam), solver="cg")
    with np.errstate(all="ignore"), pytest.raises(DataError) as error:
        half_step(x, np.ones((2, 2), dtype=np.float32), config)
    assert str(error.value) == f"ials: {said}"


def test_seeds_start_elsewhere_and_repeats_count_once(log: Interactions) -> None:
    twice = Interactions.of(np.tile(log.users, 2), np.tile(log.items, 2))
    np.testing.assert_array_equal(solve(twice).matrix, solve(log).matrix)
    other = solve(log, IALS.Config(dim=5, epochs=3, alpha0=0.2, lam=0.05, nu=0.7, seed=1))
    assert not np.allclose(other.matrix, solve(log).matrix, atol=1e-3)


def test_nothing_to_learn_from_and_what_would_not_fit(log: Interactions) -> None:
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(DataError) as error:
        solve(Interactions.of(none, none))
    assert str(error.value) == "ials: there is nothing to learn from (no event has an action of weight above 0)"
    # 8 * 10^4 * (10^6 + 1) bytes of vectors, 24 * 10^6 of events, 48 * 10^8 of what is as wide as it is long
    events = Interactions.of(np.arange(10**6), np.zeros(10**6, dtype=np.int64))
    with pytest.raises(CapacityError) as big:
        solve(events, IALS.Config(dim=10_000))
    what = "1000000 users and 1 items need 79.0 GiB, the budget is 4.0 GiB"
    assert str(big.value) == f"ials: {what} (raise budget_bytes or lower dim)"
    # of few users and items Q'Q alone is too much: 48 * 10^10 bytes
    with pytest.raises(CapacityError) as wide:
        solve(events.where(events.users < 3), IALS.Config(dim=100_000))
    what = "3 users and 1 items need 447.0 GiB, the budget is 4.0 GiB"
    assert str(wide.value) == f"ials: {what} (raise budget_bytes or lower dim)"


# ------------------------------------------------------------------------------------------------- the channel


def asked(log: Interactions, users: NDArray[np.int64]) -> Requests:
    n = len(users)
    return Requests(users, np.zeros(n, np.int64), 5, log.histories(users), Ragged.empty(n), Ragged.empty(n))


def everything(owners: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.ones(len(items), dtype=bool)


def source(form: Vectors, **options: float | int | None) -> FoldIn:
    config = build(FoldIn.Config, {"alpha0": CONFIG.alpha0, "lam": CONFIG.lam, "nu": CONFIG.nu, **options}, "here")
    return FoldIn(config, form, SCHEMA)


def test_one_key_of_a_channel_sets_model_and_source() -> None:
    shared = {name: value for name, value in plain(IALS.Config()).items() if name in plain(FoldIn.Config())}
    assert shared == {"alpha0": 0.3, "lam": 0.007, "nu": 1.0}
    assert {name: plain(FoldIn.Config())[name] for name in shared} == shared
    channel = ChannelConfig("als", "ials", options={"alpha0": 0.5, "dim": 8, "last": 20})
    assert split_options(channel, IALS) == ({"alpha0": 0.5, "dim": 8}, {"alpha0": 0.5, "last": 20})


def test_a_fold_in_of_the_same_history_is_the_half_step(log: Interactions) -> None:
    form = solve(log)
    users = log.user_keys
    owners, items, scores = source(form).recall(asked(log, users), 4, everything)
    wanted_UI = half_step(log.matrix, form.matrix, CONFIG) @ form.matrix.T
    assert np.bincount(owners).tolist() == [4] * len(users)
    for u in range(len(users)):
        best = np.argsort(-wanted_UI[u], kind="stable")[:4]
        assert items[owners == u].tolist() == form.keys[best].tolist()
        np.testing.assert_allclose(scores[owners == u], wanted_UI[u][best], rtol=1e-4)


def test_new_users_are_answered_by_what_they_took(log: Interactions) -> None:
    form = solve(log)
    history = Ragged.of(np.array([0, 3, 3, 4, 5]), np.array([4, 9, 4, 4, 99_999]))
    requests = Requests(
        np.array([-1, 7, -1, -1]), np.zeros(4, np.int64), 5, history, Ragged.empty(4), Ragged.empty(4)
    )  # [4, 9, 4], nothing, [4], and an item the form does not know
    owners, items, _ = source(form).recall(requests, 3, everything)
    assert owners.tolist() == [0] * 3 + [2] * 3
    short = source(form, last=1).recall(requests, 3, everything)  # of [9, 4] the latest is 4
    assert short[1][:3].tolist() == short[1][3:].tolist() == items[3:].tolist()


def test_items_that_do_not_count_come_along(log: Interactions) -> None:
    form = solve(log)
    users = log.user_keys[:6]
    full = source(form).recall(asked(log, users), len(form.keys), everything)
    odd = source(form).recall(asked(log, users), 3, lambda owners, items: items % 2 == 1)
    for u in range(6):
        mine, ranked = odd[1][odd[0] == u].tolist(), full[1][full[0] == u].tolist()
        assert mine == ranked[: len(mine)]
        assert sum(item % 2 for item in mine) == 3
        assert mine[-1] % 2 == 1
