"""Cross layers: what their algebra must give, and that DCN and DCN-V2 are made of them."""

from math import comb
from typing import Any

import pytest
import torch
from tests.models.examples import FULL, batch
from torch import Tensor, nn

from shortlist.errors import ConfigError
from shortlist.models.blocks.cross import CrossLowRank, CrossMatrix, CrossMixture, CrossVector
from shortlist.models.blocks.fields import joined
from shortlist.models.rank.dcn import DCN
from shortlist.models.rank.dcn_v2 import DCNv2

WIDTH, LAYERS = 5, 3
KINDS: dict[str, nn.Module] = {
    "vector": CrossVector(WIDTH, LAYERS),
    "matrix": CrossMatrix(WIDTH, LAYERS),
    "low rank": CrossLowRank(WIDTH, LAYERS, 2),
    "mixture": CrossMixture(WIDTH, LAYERS, 2, 3),
}
every = pytest.mark.parametrize("name", KINDS)


def filled(name: str, value: float | None = None) -> nn.Module:
    """In float64: every number `value`, or random ones with biases of zero."""
    module = KINDS[name].double()
    noise = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for place, parameter in module.named_parameters():
            nn.init.normal_(parameter, std=0.5, generator=noise) if value is None else parameter.fill_(value)
            if value is None and "bias" in place and "gates" not in place:
                parameter.zero_()
    return module


def rows(n: int = 7, width: int = WIDTH) -> Tensor:
    return torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@every
def test_weights_of_zero_change_nothing(name: str) -> None:
    x = rows()
    assert torch.equal(filled(name, 0.0)(x), x)


def test_a_vector_by_hand() -> None:
    """x_0 = (1, 2), w = (1, 0) twice: x_1 = x_0 * 1 + x_0 = (2, 4), x_2 = x_0 * 2 + x_1 = (4, 8)."""
    for layers, expected in ((1, [2.0, 4.0]), (2, [4.0, 8.0])):
        cross = CrossVector(2, layers)
        with torch.no_grad():
            cross.weight.copy_(torch.tensor([1.0, 0.0]))
        assert cross(torch.tensor([[1.0, 2.0]])).tolist() == [expected]


def test_a_matrix_by_hand() -> None:
    """x_0 = (1, 2), W = [[0, 1], [1, 1]], b = (1, 0): W x_0 + b = (3, 3), so x_1 = (1 * 3 + 1, 2 * 3 + 2) = (4, 8)."""
    cross = CrossMatrix(2, 1)
    layer = cross.layers[0]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        layer.bias.copy_(torch.tensor([1.0, 0.0]))
    assert cross(torch.tensor([[1.0, 2.0]])).tolist() == [[4.0, 8.0]]


def test_without_bias_vectors_only_stretch() -> None:
    """x_L is x_0 times a number of its row."""
    x = rows()
    times = filled("vector")(x) / x
    torch.testing.assert_close(times, times[:, :1].expand_as(times))
    assert times[:, 0].std() > 0.1


def test_a_matrix_of_equal_rows_is_a_vector() -> None:
    """W = 1 wᵀ: every coordinate is multiplied by xᵀ w."""
    vector, matrix = filled("vector"), filled("matrix")
    assert isinstance(vector, CrossVector)
    assert isinstance(matrix, CrossMatrix)
    with torch.no_grad():
        for layer, w in zip(matrix.layers, vector.weight, strict=True):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(w.expand(WIDTH, WIDTH))
    torch.testing.assert_close(matrix(rows()), vector(rows()))


@pytest.mark.parametrize("name", ["vector", "matrix", "low rank"])
def test_l_layers_are_a_polynomial_of_degree_l_plus_1(name: str) -> None:
    """Along t x_0, t = 0, 1, ..., the (L + 2)-th finite difference vanishes, and the (L + 1)-th does not."""
    cross, x = filled(name), rows(3)

    def difference(order: int) -> Tensor:
        return sum(((-1) ** (order - t) * comb(order, t) * cross(t * x) for t in range(order + 1)), torch.zeros(()))

    assert difference(LAYERS + 1).abs().max() > 0.1
    assert difference(LAYERS + 2).abs().max() < 1e-9


def test_a_rank_of_the_whole_width_is_the_whole_matrix() -> None:
    """U = W and V = 1."""
    matrix, low = filled("matrix"), CrossLowRank(WIDTH, LAYERS, WIDTH).double()
    assert isinstance(matrix, CrossMatrix)
    with torch.no_grad():
        for layer, into, back in zip(matrix.layers, low.into, low.back, strict=True):
            assert isinstance(layer, nn.Linear)
            assert isinstance(into, nn.Linear)
            assert isinstance(back, nn.Linear)
            nn.init.eye_(into.weight)
            back.weight.copy_(layer.weight)
            back.bias.copy_(layer.bias)
    torch.testing.assert_close(low(rows()), matrix(rows()))


def test_a_mixture_is_the_gated_sum_of_its_experts() -> None:
    """The loop of the formula: Σ_e g_e x_0 ∘ (U tanh(C tanh(Vᵀ x)) + b) + x."""
    module = filled("mixture")
    assert isinstance(module, CrossMixture)
    with torch.no_grad():
        nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(9))
    start = x = rows()
    for n, gate in enumerate(module.gates):
        g = gate(x).softmax(dim=1)
        total = x.clone()
        for e in range(3):
            inner = torch.tanh(torch.tanh(x @ module.into[n, e]) @ module.within[n, e])
            total = total + g[:, e : e + 1] * start * (inner @ module.back[n, e] + module.bias[n])
        x = total
    torch.testing.assert_close(module(start), x)


def test_experts_of_a_mixture_start_unlike() -> None:
    made = CrossMixture(WIDTH, LAYERS, 2, 3)
    for weight in (made.into, made.within, made.back):
        assert not torch.equal(weight[:, 0], weight[:, 1])
        assert not torch.equal(weight[:, 1], weight[:, 2])


@pytest.mark.parametrize("model", [DCN, DCNv2])
@pytest.mark.parametrize(
    ("structure", "hidden"), [("parallel", (6,)), ("stacked", (6,)), ("parallel", ()), ("stacked", ())], ids=str
)
def test_crosses_stand_beside_under_or_without_an_mlp(model: Any, structure: str, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    made = model(model.Config(dim=2, structure=structure, hidden=hidden), FULL).eval()
    asked = batch(FULL, 7, 20)
    x = joined(made.embed, asked, FULL)
    cross = made.cross(x)
    if not hidden:
        h = cross
    elif structure == "stacked":
        h = made.deep(cross)
    else:
        h = torch.cat([cross, made.deep(x)], dim=1)
    torch.testing.assert_close(made(asked)["like"], made.heads.linear(h)[:, 1])


def test_a_rank_and_experts_choose_the_kind_of_layer() -> None:
    def kind(**options: Any) -> type:
        return type(DCNv2(DCNv2.Config(dim=2, **options), FULL).cross)

    assert kind() is CrossMatrix
    assert kind(rank=4) is CrossLowRank
    assert kind(rank=4, experts=3) is CrossMixture
    with pytest.raises(ConfigError) as error:
        kind(experts=3)
    assert str(error.value) == "rank.experts: experts are of low rank (set rank, e.g. 32)"
