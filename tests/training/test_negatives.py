"""Negatives from the catalogue."""

import numpy as np
import pytest
from scipy import stats

from shortlist.errors import DataError
from shortlist.training.negatives import Sampler, avoiding

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
