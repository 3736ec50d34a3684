"""DSSM and the unit vectors of its towers, against their definitions."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.models.examples import FULL, batch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from shortlist.batch import Layout, Side
from shortlist.forms import Metric, Vectors
from shortlist.index.vectors import VectorIndex
from shortlist.models.blocks.unit import unit
from shortlist.models.recall.dssm import DSSM


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(layout: Layout = FULL) -> DSSM:
    torch.manual_seed(0)
    return DSSM(DSSM.Config(), layout).eval()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(7), dtype=torch.float64)


@torch.no_grad()
def test_the_score_matrix_is_the_pairs_one_by_one() -> None:
    """DSSM 1 and 2: and items in another order give the scores in that order."""
    model, rows = made(), batch(FULL, 6, 9)
    u_RD, v_ND = model.query(rows.request), model.candidate(rows.row)
    scores = u_RD @ v_ND.T
    for r in range(6):
        for n in range(9):
            u, v = (
                model.query(rows.request.take(torch.tensor([r]))),
                model.candidate(rows.row.take(torch.tensor([n]))),
            )
            torch.testing.assert_close(scores[r, n], torch.cosine_similarity(u, v)[0], atol=1e-6, rtol=0)
    order = torch.randperm(9, generator=torch.manual_seed(1))
    torch.testing.assert_close(u_RD @ model.candidate(rows.row.take(order)).T, scores[:, order], atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("column", ["item.id", "item.category", "item.price"])
def test_a_column_of_one_side_moves_that_side_alone(column: str) -> None:
    model, rows = made(), batch(FULL, 6, 9)
    row = rows.row
    if column in row.sparse_names:
        at = row.sparse_names.index(column)
        other = replace(row, sparse=row.sparse.index_fill(1, torch.tensor([at]), 3))
    else:
        other = replace(row, dense=row.dense.index_fill(1, torch.tensor([row.dense_names.index(column)]), 2.0))
    assert not torch.allclose(model.candidate(other), model.candidate(row), atol=1e-4)
    assert torch.equal(model.query(rows.request), model.query(replace(rows, row=other).request))


@torch.no_grad()
def test_equal_towers_and_inputs_meet_at_one() -> None:
    side = Side(sparse={"item.id": "item"}, dense=("item.price",))
    model = made(Layout(side, side, {"item": 9}))
    model.user_tower.load_state_dict(model.item_tower.state_dict())
    columns = batch(Layout(side, side, {"item": 9}, ("click",)), 5, 5).request
    cosine = (model.query(columns) * model.candidate(columns)).sum(dim=1)
    torch.testing.assert_close(cosine, torch.ones(5), atol=1e-6, rtol=0)


def test_listwise_with_one_negative_is_pairwise_logistic() -> None:
    """DSSM 3: -log softmax of (s+, s-) = log(1 + exp(s- - s+))."""
    model, rows = made(), batch(FULL, 6, 12)
    u_RD, v_ND = model.query(rows.request), model.candidate(rows.row)
    wanted, other = (u_RD * v_ND[:6]).sum(1) / 0.1, (u_RD * v_ND[6:]).sum(1) / 0.1
    listwise = cross_entropy(torch.stack([wanted, other], dim=1), torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(listwise, softplus(other - wanted).mean())


@torch.no_grad()
@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
def test_unit_vectors_are_found_alike_under_every_metric(metric: Metric) -> None:
    """DSSM 5 and B11 2: and under ip and cos the scores of the search are the model's to 1e-5."""
    model, rows = made(), batch(FULL, 12, 30)
    u_RD, v_ND = model.query(rows.request), model.candidate(rows.row)
    found, scores = VectorIndex(Vectors(np.arange(30), v_ND.numpy(), metric)).search(u_RD.numpy(), 10)
    best = torch.sort(u_RD.double() @ v_ND.double().T, dim=1, descending=True)
    assert found.tolist() == best.indices[:, :10].tolist()
    # |u - v|^2 = 2 - 2 <u, v>
    wanted = best.values[:, :10] if metric != "l2" else 2 * best.values[:, :10] - 2
    np.testing.assert_allclose(scores, wanted.numpy(), atol=1e-5)


def test_length_is_nothing_and_zero_stays_zero() -> None:
    x = drawn(4, 8)
    torch.testing.assert_close(unit(x * 30), unit(x))
    # 3, 4 -> 0.6, 0.8
    torch.testing.assert_close(unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_the_gradient_of_a_score_is_orthogonal_to_its_vector() -> None:
    """B11 3: also where the cosine is 1, for nothing is clipped."""
    for other in (drawn(2, 8)[1], drawn(2, 8)[0] * 2):
        u = drawn(2, 8)[0].requires_grad_()
        (unit(u) @ unit(other)).backward()
        assert u.grad is not None
        assert abs(float(u.grad @ u.detach())) < 1e-12


def test_a_cold_softmax_is_the_hinge_on_the_hardest_negative() -> None:
    """B11 4 and 5: tau * loss -> max(0, max s- - s+); at 0.001 and 5 items it is off by 0.001 * log 5 at most."""
    u, v = unit(drawn(20, 8)), unit(drawn(25, 8)[20:])
    scores, wanted = u @ v.T, torch.zeros(20, dtype=torch.int64)
    hinge = (scores[:, 1:].amax(dim=1) - scores[:, 0]).clamp(min=0)
    assert (hinge > 0).any()
    assert (hinge == 0).any()
    cold = 0.001 * cross_entropy(scores / 0.001, wanted, reduction="none")
    assert float((cold - hinge).abs().max()) <= 0.001 * np.log(5)
    assert torch.equal((scores / 0.1).argsort(dim=1), scores.argsort(dim=1))
