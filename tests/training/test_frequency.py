"""The streaming estimate of how often an item is in a batch (Yi et al., RecSys 2019)."""

import numpy as np
import pytest
import torch

from shortlist.training.frequency import Counted, Streaming


def gap(frequency: Streaming, item: int) -> float:
    return float(torch.exp(-frequency.log_presence(torch.tensor([item]), 1)).item())


@pytest.mark.parametrize("every", [1, 3, 10])
def test_an_item_that_comes_every_n_steps_has_gap_n(every: int) -> None:
    frequency = Streaming(alpha=0.05, bits=10, gap=50.0)
    for step in range(1, 300 * every + 1):
        frequency.update(torch.tensor([7] if step % every == 0 else [], dtype=torch.long))
    assert gap(frequency, 7) == pytest.approx(every, rel=1e-4)
    assert frequency.log_presence(torch.tensor([7]), 64).item() == pytest.approx(-np.log(every), abs=1e-4)


def test_the_answer_to_a_step_is_geometric() -> None:
    frequency = Streaming(alpha=0.1, bits=8, hashes=1, gap=100.0)
    for n in range(1, 30):
        frequency.update(torch.tensor([5]))
        # D_n - 1 = 0.9^n (100 - 1)
        assert gap(frequency, 5) == pytest.approx(1 + 0.9**n * 99, rel=1e-4)


def test_it_counts_steps_not_examples() -> None:
    one, many = Streaming(alpha=0.1, bits=8), Streaming(alpha=0.1, bits=8)
    for _ in range(20):
        one.update(torch.tensor([5, 6]))
        many.update(torch.tensor([5, 6, 5, 5]))
    assert torch.equal(one.gap, many.gap)


def test_known_rates_are_found() -> None:
    """Bernoulli arrivals, all items past several hundred: median relative error below 10 %."""
    dice = np.random.default_rng(0)
    rates = dice.uniform(0.05, 0.5, 100)
    frequency = Streaming(alpha=0.01, bits=16, gap=20.0)
    for _ in range(12_000):
        frequency.update(torch.from_numpy(np.flatnonzero(dice.random(100) < rates) + 2))
    found = frequency.log_presence(torch.arange(2, 102), 1).exp().numpy()
    assert np.median(np.abs(found - rates) / rates) < 0.1


def test_the_largest_of_more_hashes_is_less_wrong_where_slots_are_shared() -> None:
    items = torch.from_numpy(np.random.default_rng(1).choice(10**6, 40, replace=False))
    errors = []
    for hashes in (1, 4):
        frequency = Streaming(alpha=0.05, bits=6, hashes=hashes, gap=60.0)
        for step in range(3000):
            frequency.update(items[step % 40 : step % 40 + 1])  # 40 items, each every 40 steps; 64 slots
        errors.append(float((40 - torch.exp(-frequency.log_presence(items, 1))).abs().mean()))
    assert errors[0] > 5  # one hash: shared slots make gaps too short
    assert errors[1] < errors[0] / 3


def test_state_round_trip() -> None:
    first, second = Streaming(bits=8), Streaming(bits=8)
    first.update(torch.tensor([3, 9]))
    second.load_state_dict(first.state_dict())
    for frequency in (first, second):
        frequency.update(torch.tensor([3]))
    assert torch.equal(first.gap, second.gap)
    with pytest.raises(ValueError, match="1 to 4 hash functions, not 5"):
        Streaming(hashes=5)


def test_counts_of_an_item_never_met_are_one() -> None:
    # 0 counts as 1: shares 1/4 and 3/4; in one draw that is the probability itself
    assert Counted([0, 3]).log_presence(torch.tensor([2, 3]), 1).exp().tolist() == pytest.approx([0.25, 0.75])
