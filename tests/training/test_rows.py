"""The compiled rules of rows against the plain ones, with repeats, on one thread and on several."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shortlist.training import rows
from shortlist.training.optimizers import ROW_RULES, Rules, build

Rule = Literal["adagrad", "adam", "sgd"]
KINDS: tuple[Rule, ...] = ("adagrad", "adam", "sgd")
SIZE, WIDE = 50, 5


def gradient(seed: int, n: int = 200) -> tuple[Tensor, Tensor]:
    dice = torch.Generator().manual_seed(seed)
    ids = (torch.rand(n, generator=dice) ** 3 * 40).long()  # often the first, never the last ten
    return ids, torch.randn(n, WIDE, generator=dice)


def of_rows(ids: Tensor, values: Tensor, size: int) -> Tensor:
    """A sparse gradient of a table."""
    shape = size, values.shape[1]
    return torch.sparse_coo_tensor(ids.unsqueeze(0), values, shape, check_invariants=True)


def test_repeats_are_summed_in_their_order_and_the_scratch_is_left_as_it_was() -> None:
    slots = torch.full((6,), -1, dtype=torch.int32)
    values = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0], [0.5, 0.25]])
    ((ids, sums),) = rows.summed(torch.tensor([4, 1, 4, 5]), values, slots, 1)
    assert ids.tolist() == [4, 1, 5]
    assert sums.tolist() == [[101, 202], [10, 20], [0.5, 0.25]]
    assert slots.tolist() == [-1] * 6
    assert values[0].tolist() == [1, 2]


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_rows_and_no_sum_depends_on_them(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(rows, "ALONE", 0)
    slots = torch.full((SIZE,), -1, dtype=torch.int32)
    ids, values = gradient(0)
    ((every, sums),) = rows.summed(ids, values, slots, 1)
    parts = rows.summed(ids, values, slots, threads)
    assert len(parts) == threads
    assert (slots == -1).all()
    found: dict[int, Any] = {}
    for part, (mine, of) in enumerate(parts):
        assert (mine % threads == part).all()
        found |= dict(zip(mine.tolist(), of.tolist(), strict=True))
    assert found == dict(zip(every.tolist(), sums.tolist(), strict=True))


@pytest.mark.parametrize("rule", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_the_plain_rule(monkeypatch: pytest.MonkeyPatch, rule: Rule, threads: int, dtype: torch.dtype) -> None:
    """Eight steps with clipping and a penalty of rows, beside a gradient that torch sums and the rule in torch."""
    monkeypatch.setattr(rows, "ALONE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    lr, l2, clip = 0.1, 0.05, 3.0
    table = nn.Embedding(SIZE, WIDE, sparse=True, dtype=dtype)
    plain = table.weight.detach().clone()
    optimizer = build(table, Rules(optimizer=rule, lr=lr, l2_embedding=l2, clip=clip))
    state = {name: value.clone() for name, value in optimizer.tables[table.weight].items()}
    for n in range(8):
        ids, values = gradient(n)
        table.weight.grad = torch.sparse_coo_tensor(
            ids.unsqueeze(0), values.to(dtype), table.weight.shape, check_invariants=True
        )
        grad = table.weight.grad.coalesce()
        assert optimizer.step() is None
        at, change = grad.indices()[0], grad.values()
        assert change.norm() > clip
        change = change * (clip / change.norm()) + l2 * plain[at]
        plain[at] += ROW_RULES[rule](state, at, change, lr)
    # sums of float32 in another order are 1e-7 apart, and steps of 0.1 are as good as that
    torch.testing.assert_close(table.weight.detach(), plain, rtol=1e-5, atol=1e-5)
    for name, value in optimizer.tables[table.weight].items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-6)
    assert torch.equal(table.weight[40:], plain[40:])  # never touched


def test_a_table_whose_gradient_came_dense_takes_the_same_rule() -> None:
    sparse, dense = (nn.Embedding(3, 2, sparse=True) for _ in range(2))
    with torch.no_grad():
        dense.weight.copy_(sparse.weight)
    sparse.weight.grad = torch.sparse_coo_tensor(
        torch.tensor([[0, 1, 2, 1]]), torch.ones(4, 2), (3, 2), check_invariants=True
    )
    dense.weight.grad = torch.tensor([[1.0, 1.0], [2.0, 2.0], [1.0, 1.0]])
    for table in (sparse, dense):
        assert build(table, Rules(optimizer="adagrad", lr=0.1)).step() is None
    assert torch.equal(sparse.weight, dense.weight)


def test_a_state_for_the_cpu_is_zero() -> None:
    table = nn.Embedding(3, 2, sparse=True)
    state = build(table, Rules(optimizer="adam")).state()
    assert {name: value.tolist() for name, value in state.items()} == {
        "weight/step": 0.0,
        "weight/exp_avg": np.zeros((3, 2)).tolist(),
        "weight/exp_avg_sq": np.zeros((3, 2)).tolist(),
    }
