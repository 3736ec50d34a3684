"""The listwise part of a ranker's loss: a softmax inside each request."""

from dataclasses import replace
from math import exp, log

import pytest
import torch
from tests.training.world import labelled

from shortlist.batch import Batch
from shortlist.training.objectives.bce import Bce

Z = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0])


def two_requests(labels: list[float], valid: list[bool]) -> Batch:
    """Rows 0, 1, 2 of one request, 3 and 4 of another."""
    batch = labelled(torch.zeros(5, 1), torch.tensor(labels)[:, None], valid=torch.tensor(valid)[:, None])
    return replace(batch, request_of=torch.tensor([0, 0, 0, 1, 1]))


def listwise(z: torch.Tensor, batch: Batch) -> float:
    """What `listwise = 1` adds."""
    losses = [Bce(Bce.Config(listwise=w))(lambda b: {"click": z}, batch).loss for w in (1.0, 0.0)]
    return float(losses[0] - losses[1])


def test_it_is_the_cross_entropy_of_each_requests_own_softmax() -> None:
    # positives: row 0 among rows 0 and 1 (row 2 carries no label), row 4 among rows 3 and 4
    batch = two_requests([1, 0, 1, 0, 1], [True, True, False, True, True])
    first, second = log(exp(1) + 1) - 1, log(exp(0.5) + exp(3)) - 3
    assert listwise(Z, batch) == pytest.approx((first + second) / 2, rel=1e-5)


def test_a_constant_for_a_whole_list_changes_nothing() -> None:
    batch = two_requests([1, 0, 0, 0, 1], [True] * 5)
    moved = Z + torch.tensor([7.0, 7.0, 7.0, -3.0, -3.0])
    assert listwise(moved, batch) == pytest.approx(listwise(Z, batch), rel=1e-4)


def test_lists_without_a_positive_cost_nothing() -> None:
    assert listwise(Z, two_requests([0] * 5, [True] * 5)) == 0


def test_its_gradient_stays_inside_the_list() -> None:
    batch = two_requests([1, 0, 0, 0, 0], [True] * 5)
    z = Z.clone().requires_grad_()
    plain = Z.clone().requires_grad_()
    Bce(Bce.Config(listwise=1.0))(lambda b: {"click": z}, batch).loss.backward()
    Bce(Bce.Config())(lambda b: {"click": plain}, batch).loss.backward()
    assert z.grad is not None
    assert plain.grad is not None
    added = z.grad - plain.grad
    # d/dz of -log softmax: softmax minus the label
    torch.testing.assert_close(added[:3], Z[:3].softmax(0) - torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(added[3:], torch.zeros(2))
