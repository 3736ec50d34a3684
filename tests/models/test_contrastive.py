"""Contrastive image-text towers: lengths, missing sides, gradients, a model that is saved and read again."""

import pytest
import torch
from torch import Tensor

from shortlist.batch import Columns, Layout, Side
from shortlist.errors import ConfigError
from shortlist.models.content.contrastive import Contrastive

LAYOUT = Layout(Side(), Side(vecs={"image": 3, "text": 2}), {})


def model(**options: object) -> Contrastive:
    torch.manual_seed(0)
    return Contrastive(Contrastive.Config(dim=4, **options), LAYOUT).eval()  # type: ignore[arg-type]


def rows(image: Tensor, text: Tensor) -> Columns:
    return Columns.of(len(image), vecs={"image": image.numpy(), "text": text.numpy()})


def drawn(n: int) -> Columns:
    dice = torch.Generator().manual_seed(1)
    return rows(torch.randn(n, 3, generator=dice), torch.randn(n, 2, generator=dice))


def test_linear_towers_by_hand() -> None:
    built = Contrastive(Contrastive.Config(dim=2), LAYOUT)
    built.load_state_dict(
        {
            "image_tower.0.weight": torch.tensor([[1.0, 0, 0], [0, 1, 0]]),
            "image_tower.0.bias": torch.zeros(2),
            "text_tower.0.weight": torch.tensor([[0.0, 1], [1, 0]]),
            "text_tower.0.bias": torch.zeros(2),
        }
    )
    row = rows(
        torch.tensor([[3.0, 4, 9], [1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        torch.tensor([[0, 0], [1, 0], [0, 2], [0, 0]]).float(),
    )
    # (3, 4) alone: (0.6, 0.8); (1, 0) and (0, 1): their mean turned to length 1; a text alone; neither
    half = 0.5**0.5
    assert built(row).tolist() == [pytest.approx(v) for v in ([0.6, 0.8], [half, half], [1, 0], [0, 0])]


@pytest.mark.parametrize("options", [{}, {"hidden": (8,), "dropout": 0.5}])
def test_lengths_and_rows(options: dict[str, object]) -> None:
    built, row = model(**options), drawn(5)
    assert built(row).norm(dim=1).tolist() == pytest.approx([1.0] * 5)
    alone = torch.cat([built(row.take(torch.tensor([n]))) for n in range(5)])
    assert torch.allclose(built(row), alone, atol=1e-6)


def test_a_missing_side_is_zero_and_learns_nothing() -> None:
    built = model(hidden=(8,))
    row = rows(torch.zeros(2, 3), torch.ones(2, 2))
    assert not built.image(row).any()
    built(row).sum().backward()
    grads = {name: weight.grad for name, weight in built.named_parameters()}
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads.values())
    assert all(not bool(grad.any()) for name, grad in grads.items() if grad is not None and name.startswith("image"))
    assert any(bool(grad.any()) for name, grad in grads.items() if grad is not None and name.startswith("text"))


def test_gradients_in_doubles() -> None:
    built = model(hidden=(3,)).double()
    for module in built.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    image, text = (torch.randn(3, wide, dtype=torch.float64, requires_grad=True) for wide in (3, 2))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        row = Columns(torch.zeros(3, 0, dtype=torch.long), torch.zeros(3, 0), vecs={"image": x, "text": y})
        found: Tensor = built(row)
        return found

    assert torch.autograd.gradcheck(loss, (image, text))


def test_saved_and_read() -> None:
    built, other = model(), Contrastive(Contrastive.Config(dim=4), LAYOUT).eval()
    other.load_state_dict(built.state_dict())
    assert torch.equal(other(drawn(3)), built(drawn(3)))


def test_both_sides_are_needed() -> None:
    with pytest.raises(ConfigError) as error:
        Contrastive(Contrastive.Config(), Layout(Side(), Side(vecs={"image": 3}), {}))
    assert str(error.value) == "contrastive: items have no vectors 'text' (give both)"
