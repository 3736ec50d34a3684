"""Row-wise rules against the formulas of their papers and against torch's dense rules."""

from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from shortlist.training.optimizers import Optimizer, Rules, build

KINDS = ["adagrad", "adam", "sgd"]


def step(table: nn.Embedding, optimizer: Optimizer, ids: list[int], target: float = 0.0) -> None:
    """One step on sum of (w - target)^2 / 2 over the rows of ids: the gradient of each is w - target."""
    optimizer.zero_grad()
    ((table(torch.tensor(ids)) - target).square().sum() / 2).backward()
    assert optimizer.step() is None


def tables(seed: int = 0, dim: int = 2) -> tuple[nn.Embedding, nn.Embedding]:
    """The same table with dense and with sparse gradients."""
    dense, sparse = nn.Embedding(4, dim), nn.Embedding(4, dim, sparse=True)
    start = torch.randn(4, dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        dense.weight.copy_(start)
        sparse.weight.copy_(start)
    return dense, sparse


def test_row_adagrad_by_hand() -> None:
    table = nn.Embedding(3, 2, sparse=True)
    with torch.no_grad():
        table.weight.copy_(torch.tensor([[1.0, 7.0], [3.0, 4.0], [0.0, 0.0]]))
    optimizer = build(table, Rules(optimizer="adagrad", lr=0.5))
    step(table, optimizer, [0, 0])
    # row 0 twice: g = 2 (1, 7) = (2, 14); G = (4 + 196) / 2 = 100; w = (1, 7) - 0.5 (2, 14) / 10 = (0.9, 6.3)
    torch.testing.assert_close(table.weight[0], torch.tensor([0.9, 6.3]))
    assert optimizer.state()["weight/sum"].tolist() == [100.0, 0.0, 0.0]
    step(table, optimizer, [1])
    # G = (9 + 16) / 2 = 12.5; w = (3, 4) (1 - 0.5 / sqrt(12.5))
    torch.testing.assert_close(table.weight[1], torch.tensor([3.0, 4.0]) * (1 - 0.5 / sqrt(12.5)))
    assert table.weight[2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_not_touched_stay_with_their_state(kind: str) -> None:
    _, table = tables()
    optimizer = build(table, Rules(optimizer=kind, lr=0.1, l2_embedding=0.1))  # type: ignore[arg-type]
    step(table, optimizer, [1, 2])
    weight = table.weight.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state().items() if not name.endswith("step")}
    step(table, optimizer, [3, 3])
    assert torch.equal(table.weight[:3], weight[:3])
    assert not torch.equal(table.weight[3], weight[3])
    after = optimizer.state()
    assert all(torch.equal(after[name][:3], value[:3]) for name, value in state.items())


@pytest.mark.parametrize(("kind", "dim"), [("adam", 3), ("sgd", 3), ("adagrad", 1)])
@pytest.mark.parametrize("l2", [0.0, 0.2])
def test_equal_to_the_dense_rule_where_every_row_is_touched(kind: str, dim: int, l2: float) -> None:
    """Row-wise Adagrad has one accumulator a row, which is the dense rule's where a row has one number."""
    dense, sparse = tables(dim=dim)
    rules = Rules(optimizer=kind, lr=0.1, l2_embedding=l2)  # type: ignore[arg-type]
    first, second = build(dense, rules), build(sparse, rules)
    for n in range(6):
        ids = [0, 1, 2, 3, n % 4, 2]  # repeats are summed
        step(dense, first, ids, target=0.5)
        step(sparse, second, ids, target=0.5)
        torch.testing.assert_close(sparse.weight, dense.weight, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(sparse.weight, tables(dim=dim)[1].weight)


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_that_a_batch_does_not_touch_are_not_penalized(sparse: bool) -> None:
    """Mini-batch aware L2 (DIN): w - lr (g + l2 w) on touched rows, whatever kind of gradient a table has."""
    table = nn.Embedding(3, 2, sparse=sparse)
    with torch.no_grad():
        table.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    optimizer = build(table, Rules(optimizer="sgd", lr=0.1, l2_embedding=0.5))
    step(table, optimizer, [0, 2, 2], target=1.0)
    # row 0: g = (0, 1); (1 - 0.1 (0 + 0.5), 2 - 0.1 (1 + 1)) = (0.95, 1.8)
    # row 2, twice: g = (8, 10); (5 - 0.1 (8 + 2.5), 6 - 0.1 (10 + 3)) = (3.95, 4.7)
    torch.testing.assert_close(table.weight.detach(), torch.tensor([[0.95, 1.8], [3.0, 4.0], [3.95, 4.7]]))


def test_lazy_adam_by_hand() -> None:
    table = nn.Embedding(2, 1, sparse=True)
    with torch.no_grad():
        table.weight.copy_(torch.tensor([[2.0], [1.0]]))
    optimizer = build(table, Rules(optimizer="adam", lr=0.1))
    step(table, optimizer, [0])
    # the first step of Adam is lr in the direction of the gradient, whatever its size
    assert table.weight.flatten().tolist() == pytest.approx([1.9, 1.0])
    step(table, optimizer, [1])
    # row 1 at the second step of the table: m = 0.1, v = 0.001; m / (1 - 0.9^2) = 0.526316,
    # v / (1 - 0.999^2) = 0.500250: 1 - 0.1 * 0.526316 / sqrt(0.500250) = 0.925587
    assert table.weight.flatten().tolist() == pytest.approx([1.9, 0.925587], abs=1e-6)


def rows(at: list[list[int]], values: list[list[float]]) -> Tensor:
    """A gradient of some rows of 5."""
    with torch.sparse.check_sparse_tensor_invariants():
        return torch.sparse_coo_tensor(torch.tensor(at), torch.tensor(values), (5, 2))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.big = nn.Embedding(5, 2, padding_idx=0, sparse=True)
        self.small = nn.Embedding(3, 2)
        self.line = nn.Linear(2, 1)

    def forward(self, big: Tensor, small: Tensor) -> Tensor:
        out: Tensor = self.line(self.big(big) * self.small(small)).sum()
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip_goes_on_bit_for_bit(kind: str) -> None:
    rules = Rules(optimizer=kind, lr=0.1, weight_decay=0.01, l2_embedding=0.01, clip=1.0)  # type: ignore[arg-type]

    def run(model: Mixed, optimizer: Optimizer, steps: range) -> None:
        for n in steps:
            optimizer.zero_grad()
            model(torch.tensor([0, n % 5, 4]), torch.tensor([n % 3, 1, 1])).backward()
            optimizer.step()

    torch.manual_seed(0)
    whole = Mixed()
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    optimizer = build(whole, rules)
    run(whole, optimizer, range(8))
    half = Mixed()
    half.load_state_dict(start)
    first = build(half, rules)
    run(half, first, range(4))
    rest = Mixed()
    rest.load_state_dict(half.state_dict())
    second = build(rest, rules)
    second.load({name: value.clone() for name, value in first.state().items()})
    run(rest, second, range(4, 8))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
        assert not torch.equal(value, start[name]), name
    assert rest.big.weight[0].tolist() == start["big.weight"][0].tolist()  # padding


def test_tables_have_a_rate_of_their_own_and_decay_is_for_the_rest() -> None:
    model = Mixed()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build(model, Rules(optimizer="sgd", lr=0.5, lr_embedding=0.1, weight_decay=0.25))
    for weight in (model.small.weight, model.line.weight):
        weight.grad = torch.ones_like(weight)
    model.big.weight.grad = rows([[2]], [[1.0, 1.0]])
    optimizer.step()
    torch.testing.assert_close(model.small.weight, start["small.weight"] - 0.1)
    torch.testing.assert_close(model.big.weight[2], start["big.weight"][2] - 0.1)
    assert torch.equal(model.big.weight[[0, 1, 3, 4]], start["big.weight"][[0, 1, 3, 4]])
    # 0.5 (1 + 0.25 w) off each w
    torch.testing.assert_close(model.line.weight, start["line.weight"] - 0.5 * (1 + 0.25 * start["line.weight"]))
    assert torch.equal(model.line.bias, start["line.bias"])  # no gradient, no step


def test_clip_is_over_all_parameters_together_with_repeats_summed() -> None:
    model = Mixed()
    start = model.line.weight.detach().clone(), model.big.weight.detach().clone()
    optimizer = build(model, Rules(optimizer="sgd", lr=1.0, clip=1.0))
    model.line.weight.grad = torch.tensor([[3.0, 0.0]])
    model.big.weight.grad = rows([[1, 1]], [[0.0, 1.0], [0.0, 3.0]])
    optimizer.step()
    # lengths 3 and 1 + 3 = 4: together 5, so everything is divided by 5
    torch.testing.assert_close(start[0] - model.line.weight, torch.tensor([[0.6, 0.0]]))
    torch.testing.assert_close((start[1] - model.big.weight)[1], torch.tensor([0.0, 0.8]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_changes_nothing_and_is_named(bad: float) -> None:
    model = Mixed()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build(model, Rules(lr=0.1))
    model.line.weight.grad = torch.ones(1, 2)
    model.big.weight.grad = rows([[2]], [[bad, 1.0]])
    assert optimizer.step() == "big.weight"
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())


def test_a_weight_under_two_names_is_one() -> None:
    one, two = nn.Embedding(3, 2, sparse=True), nn.Embedding(3, 2, sparse=True)
    two.weight = one.weight
    optimizer = build(nn.ModuleList([one, two]), Rules(optimizer="sgd", lr=1.0))
    start = one.weight.detach().clone()
    (one(torch.tensor([1])) + two(torch.tensor([1]))).sum().backward()
    optimizer.step()
    torch.testing.assert_close(start[1] - two.weight[1], torch.tensor([2.0, 2.0]))
