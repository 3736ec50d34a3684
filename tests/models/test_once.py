"""What belongs to a request is worked out once and not for every candidate, and nothing changes by it."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.examples import FULL, batch

from shortlist.batch import Batch
from shortlist.models.blocks import affine
from shortlist.models.blocks.affine import Affine, product
from shortlist.models.blocks.attention import TargetAttention
from shortlist.models.blocks.mlp import beside, mlp
from shortlist.models.rank.deepfm import DeepFM
from shortlist.models.rank.din import DIN
from shortlist.models.rank.dnn import DNN


@pytest.mark.parametrize("hidden", [(), (3,), (5, 4)])
def test_both_sides_beside_one_another_are_both_in_one_row(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layers = mlp(6, hidden)
    asked, row, request_of = torch.randn(2, 4), torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    whole = layers(torch.cat([asked[request_of], row], dim=1))
    torch.testing.assert_close(beside(layers, asked, row, request_of), whole, atol=1e-6, rtol=1e-6)


def test_gradients_are_the_same_too() -> None:
    torch.manual_seed(0)
    layers = mlp(6, (5, 4))
    asked, row, request_of = torch.randn(2, 4), torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    found = []
    for way in (lambda: beside(layers, asked, row, request_of), lambda: layers(torch.cat([asked[request_of], row], 1))):
        layers.zero_grad()
        way().square().sum().backward()
        found.append([part.grad.clone() for part in layers.parameters() if part.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_first_layer_meets_a_request_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 requests of 4 numbers and 5 rows of 2, where side by side it would be 5 rows of 6."""
    seen = []

    def counted(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return product(x, *rest)

    monkeypatch.setattr("shortlist.models.blocks.mlp.product", counted)
    beside(mlp(6, (3,)), torch.randn(2, 4), torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1]))
    assert sorted(seen) == [(2, 4), (5, 2)]


@pytest.mark.parametrize("grad", [True, False])
def test_a_part_of_a_matrix_multiplies_as_the_whole_does(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns 1 and 2 of three: the other library is given them in one piece."""
    monkeypatch.setattr(affine, "WORTH", 0)
    layer = Affine(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    x = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    with torch.set_grad_enabled(grad):
        out = product(x, layer.weight[:, 1:])
    # 2 + 3 and 5 + 6; twice 3 and twice 6
    assert out.tolist() == [[5.0, 11.0], [6.0, 12.0]]
    if grad:
        out.sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.tolist() == [[0.0, 1.0, 3.0], [0.0, 1.0, 3.0]]  # sums of x: 1 + 0, 1 + 2


def one_by_one(model: Any, rows: Batch) -> dict[str, torch.Tensor]:
    """Each request asked alone."""
    parts = []
    for r in range(len(rows.request)):
        at = torch.nonzero(rows.request_of == r)[:, 0]
        parts.append((at, model(rows.take(at))))
    order = torch.tensor(list(chain.from_iterable(at.tolist() for at, _ in parts))).argsort()
    return {task: torch.cat([out[task] for _, out in parts])[order] for task in parts[0][1]}


@pytest.mark.parametrize("kind", [DeepFM, DIN, DNN])
def test_a_request_alone_is_scored_as_among_others(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(kind.Config(), FULL).eval()
    with torch.no_grad():
        for part in model.parameters():
            if part.ndim > 1:
                part.normal_(std=0.3)
    rows = batch(FULL, 4, 40)
    with torch.inference_mode():
        whole, alone = model(rows), one_by_one(model, rows)
    for task, logit in whole.items():
        torch.testing.assert_close(alone[task], logit, atol=1e-4, rtol=1e-5)
        assert float(logit.std()) > 1e-3


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("length", [0, 1, 3, 9])
def test_steps_of_one_request_are_not_looked_up(softmax: bool, length: int) -> None:
    """The way of one request against the pairs of many, also for an empty history and one longer than its steps."""
    torch.manual_seed(0)
    attention = TargetAttention(4, (6, 3), 2, softmax).eval()
    past, context, target = torch.randn(1, 5, 4), torch.randn(1, 5, 2), torch.randn(7, 4)
    twice, both = past.repeat(2, 1, 1), torch.tensor([length, length])
    with torch.inference_mode():
        alone = attention(past, context, both[:1], target, torch.zeros(7, dtype=torch.long))
        pairs = attention(twice, context.repeat(2, 1, 1), both, target, torch.tensor([0, 1, 0, 1, 0, 1, 0]))
    torch.testing.assert_close(alone, pairs, atol=1e-6, rtol=1e-5)
    assert bool((alone == 0).all()) == (length == 0)
    assert np.isfinite(alone.numpy()).all()
