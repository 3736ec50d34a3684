"""Negatives: what is drawn, how often, and what is said of it."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from shortlist.errors import DataError
from shortlist.training.negatives import (
    Alike,
    Asked,
    Blend,
    Catalogued,
    Drawn,
    Negatives,
    Sampler,
    avoiding,
    keep_probability,
    ranked,
)

COUNTS = np.array([100, 50, 20, 10, 5, 0])


@pytest.mark.parametrize("beta", [0.0, 0.75, 1.0])
def test_draws_follow_the_declared_distribution(beta: float, rng: np.random.Generator) -> None:
    sampler = Sampler(COUNTS, beta)
    weights = np.maximum(COUNTS, 1) ** beta
    assert sampler.p == pytest.approx(weights / weights.sum())
    ids, log_q = sampler.sample(50_000, rng)
    assert ids.min() == 2  # neither padding nor unknown
    assert ids.max() == 7
    assert log_q == pytest.approx(np.log(sampler.p)[ids - 2], rel=1e-6)
    found = np.bincount(ids - 2, minlength=6)
    assert stats.chisquare(found, 50_000 * sampler.p).pvalue > 1e-3
    if beta:
        assert (np.diff(found) < 0).all()  # hot items more often, not less


def test_same_dice_same_draws() -> None:
    sampler = Sampler(COUNTS, 0.75)
    one, two = (sampler.sample(20, np.random.default_rng(5))[0] for _ in range(2))
    assert one.tolist() == two.tolist()


def test_known_items_are_avoided_and_log_q_is_that_of_the_rest(rng: np.random.Generator) -> None:
    sampler = Sampler(COUNTS, 1.0)
    known = np.tile([[2, 3, 0, 2]], (20_000, 1))  # a repeat and a filler
    drawn = avoiding(sampler, known, 2, rng)
    assert drawn.stuck == 0
    assert not np.isin(drawn.ids, [0, 1, 2, 3]).any()
    # what is left of 186 is 36: 20, 10, 5 and 1
    left = np.array([20, 10, 5, 1]) / 36
    assert drawn.log_q == pytest.approx(np.log(left)[drawn.ids - 4], rel=1e-5)
    found = np.bincount(drawn.ids.ravel() - 4, minlength=4)
    assert stats.chisquare(found, 40_000 * left).pvalue > 1e-3


def test_who_knows_almost_everything_gets_what_is_left(rng: np.random.Generator) -> None:
    """The last item has 1 in 100,001 of the draws: drawing again would not find it."""
    sampler = Sampler([100_000, 1], 1.0)
    drawn = avoiding(sampler, np.array([[2, 2], [0, 0]]), 5, rng)
    assert drawn.ids[0].tolist() == [3] * 5
    assert drawn.log_q[0] == pytest.approx([0.0] * 5, abs=1e-6)
    assert drawn.stuck == 0


def test_who_knows_everything_is_counted_and_gets_all(rng: np.random.Generator) -> None:
    sampler = Sampler([1, 1, 2], 1.0)
    drawn = avoiding(sampler, np.array([[2, 3, 4], [2, 3, 3]]), 4, rng)
    assert drawn.stuck == 1
    assert set(drawn.ids[0]) <= {2, 3, 4}
    assert drawn.log_q[0] == pytest.approx(sampler.log_q(drawn.ids[0]))
    assert drawn.ids[1].tolist() == [4] * 4


def test_an_empty_catalogue_has_no_negatives() -> None:
    with pytest.raises(DataError) as error:
        Sampler([])
    assert str(error.value) == "negatives: no item to draw negatives from (the catalogue is empty)"


# ------------------------------------------------------------------------------------- the suite, by one call

N = len(COUNTS)
EVERY = Catalogued(Sampler(COUNTS))


def asked(wanted: list[int], known: list[list[int]] | None = None, times: int = 1) -> Asked:
    """The same examples many times over; users are counted from 0."""
    rows = np.tile(np.array(known if known is not None else [[0]] * len(wanted)), (times, 1))
    return Asked(np.tile(np.arange(len(wanted)), times), np.tile(np.array(wanted), times), rows)


def scores(users: Any) -> Any:
    """A user's taste: user 0 likes items in the order of their ids, user 1 in the opposite one."""
    up = -np.arange(N, dtype=np.float64)
    return np.stack([up, -up])[np.minimum(users, 1)]


def window(low: int, high: int) -> Any:
    """Ranks `low` to `high` of both users by a full sort, as many columns as there would be items."""
    order = np.argsort(-scores(np.arange(2)), axis=1, kind="stable") + 2
    order = np.pad(order, ((0, 0), (0, max(0, high - N))))
    return order[:, low - 1 : high].astype(np.int32)


def fits(drawn: Drawn, p: Any) -> bool:
    """Whether draws of examples that are all alike follow p over the items."""
    found = np.bincount(drawn.ids.ravel() - 2, minlength=N)
    assert (found[p == 0] == 0).all()
    return (p > 0).sum() == 1 or bool(stats.chisquare(found[p > 0], found.sum() * p[p > 0]).pvalue > 1e-3)


HARD = ranked(window(2, 4), EVERY)
GROUP = np.array([0, 0, 0, 1, 1, -1])
OTHER = ranked(window(2, 6), EVERY, GROUP)


@pytest.mark.parametrize(
    ("kind", "wanted", "known", "p"),
    [
        (EVERY, 2, [0], np.array([0, 1, 1, 1, 1, 1]) / 5),
        # 20 + 10 + 5 + 1 = 36 once items 2 (wanted) and 3 (known) are out
        (Catalogued(Sampler(COUNTS, 1.0)), 2, [3], np.array([0, 0, 20, 10, 5, 1]) / 36),
        (Catalogued(Sampler(COUNTS, 0.75)), 7, [0], np.append(COUNTS[:5] ** 0.75 / (COUNTS[:5] ** 0.75).sum(), 0)),
        # ranks 2 to 4 are items 3, 4, 5; 4 is known
        (HARD, 2, [4], np.array([0, 1, 0, 1, 0, 0]) / 2),
        # of the group of 2 there are 3 and 4 left
        (Alike(GROUP, EVERY), 2, [0], np.array([0, 1, 1, 0, 0, 0]) / 2),
        (Alike(GROUP, EVERY), 5, [0], np.array([0, 0, 0, 0, 1, 0])),
        # of ranks 2 to 6, items 3 to 7, only 5 and 6 have another group than 2; 7 has none
        (OTHER, 2, [0], np.array([0, 0, 0, 1, 1, 0]) / 2),
        # one hard draw (items 3, 4, 5) to three easy ones (3 to 7): 1/4 * 1/3 + 3/4 * 1/5 = 7/30, else 3/20
        (Blend(EVERY, HARD, 3.0), 2, [0], np.array([0, 7 / 30, 7 / 30, 7 / 30, 3 / 20, 3 / 20])),
    ],
)  # fmt: skip
def test_every_kind_draws_as_it_declares(
    kind: Negatives, wanted: int, known: list[int], p: Any, rng: np.random.Generator
) -> None:
    """Oracles 1, 2 and 5: draws by chi-square, log q by the declared probability, nothing barred."""
    many = asked([wanted], [known], times=20_000)
    drawn = kind.sample(many, 2, rng)
    assert drawn.ids.shape == drawn.log_q.shape == (20_000, 2)
    assert drawn.stuck == 0
    assert fits(drawn, p)
    assert np.exp(drawn.log_q) == pytest.approx(p[drawn.ids - 2], rel=1e-5)
    ids = np.tile(np.arange(2, 8), (20_000, 1))
    assert kind.probability(many, ids) == pytest.approx(np.tile(p, (20_000, 1)), rel=1e-9)


def test_hot_items_are_negatives_more_often_and_positives_less_often(rng: np.random.Generator) -> None:
    """Oracle 3: the direction."""
    drawn = Catalogued(Sampler(COUNTS, 0.75)).sample(asked([0], times=40_000), 1, rng)
    assert (np.diff(np.bincount(drawn.ids.ravel() - 2, minlength=N)) < 0).all()
    # 90 of 100 events: f = 0.9, t = 0.1: sqrt(1/9) + 1/9 = 4/9; 10 of 100: 1 + 1, capped
    assert keep_probability([90, 10, 0], 0.1) == pytest.approx([4 / 9, 1, 1])
    assert (np.diff(keep_probability(COUNTS, 1e-3)) > 0).all()


@pytest.mark.parametrize(
    "kind",
    [
        ranked(window(2, 3), EVERY),  # both are known
        ranked(window(7, 9), EVERY),  # there are six items
        ranked(window(2, 3), EVERY, GROUP),  # both are of its own group
        Alike(GROUP, EVERY),  # the whole group is known
    ],
)
def test_an_exhausted_pool_falls_back_and_is_reported(kind: Negatives, rng: np.random.Generator) -> None:
    """Oracle 5: what is left of the catalogue is 5, 6, 7."""
    drawn = kind.sample(asked([2], [[3, 4]], times=3000), 2, rng)
    assert drawn.stuck == 3000
    assert fits(drawn, np.array([0, 0, 0, 1, 1, 1]) / 3)
    assert drawn.log_q == pytest.approx(np.full((3000, 2), np.log(1 / 3)), rel=1e-6)


def test_a_group_that_is_nearly_known_is_written_out(rng: np.random.Generator) -> None:
    """One of 5,000 members is free: drawing again would hardly find it."""
    group = np.zeros(5000, dtype=np.int64)
    known = np.arange(3, 5001)[None, :]
    one = Asked(np.array([0]), np.array([2]), known)
    drawn = Alike(group, Catalogued(Sampler(np.ones(5000)))).sample(one, 3, rng)
    assert drawn.ids.tolist() == [[5001] * 3]
    assert drawn.log_q == pytest.approx(np.zeros((1, 3)))


def test_same_dice_same_suite() -> None:
    for kind in (EVERY, HARD, OTHER, Alike(GROUP, EVERY), Blend(EVERY, HARD)):
        one, two = (kind.sample(asked([2, 3]), 4, np.random.default_rng(9)) for _ in range(2))
        assert one.ids.tolist() == two.ids.tolist()
