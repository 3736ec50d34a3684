"""A linear layer with other products is the linear layer, forward and backward."""

import pytest
import torch
from torch import nn

from shortlist.models.blocks.affine import Affine, _elsewhere
from shortlist.models.blocks.mlp import mlp

LARGE = (600, 130, 70)  # 600 * 130 * 70 = 5.5 million products: worth it


@pytest.mark.parametrize("bias", [True, False])
def test_the_same_as_in_float64_to_rounding(bias: bool) -> None:
    rows, inputs, outputs = LARGE
    torch.manual_seed(0)
    layer, exact = Affine(inputs, outputs, bias=bias), nn.Linear(inputs, outputs, bias=bias).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(rows, inputs, requires_grad=True)
    y = x.detach().double().requires_grad_()
    assert _elsewhere(x, layer.weight)
    out, wanted = layer(x), exact(y)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    back = torch.randn(rows, outputs)
    out.backward(back)
    wanted.backward(back.double())
    assert x.grad is not None
    assert y.grad is not None
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-5, atol=1e-5)
    for mine, other in zip(layer.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-4, atol=1e-4)


def test_what_is_not_worth_it_is_torchs_own() -> None:
    rows, inputs, outputs = LARGE
    layer, x = Affine(inputs, outputs), torch.randn(rows, inputs)
    assert _elsewhere(x, layer.weight)
    assert not _elsewhere(x[:100], layer.weight)
    assert not _elsewhere(x.double(), layer.weight)
    assert not _elsewhere(x.unsqueeze(0), layer.weight)
    with torch.no_grad():
        assert torch.equal(layer(x[:100]), nn.functional.linear(x[:100], layer.weight, layer.bias))
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


def test_an_mlp_is_saved_as_before() -> None:
    assert list(mlp(3, (4,), out=2).state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
