"""Whatever the layout's tables say, a model keeps what any trained ranker must."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tests.contracts.test_rankers import kind, loss, scores, tiny
from tests.models.examples import FULL, batch, double
from torch import Tensor, nn
from torch.func import functional_call

from shortlist.batch import Layout, Tables
from shortlist.training.optimizers import Rules, build

NAMES = ("deepfm", "din", "dnn", "three_tower")
KEPT = {
    "sparse": Tables(sparse_above=0),
    "hashed": Tables(hash_above=8),
    "mixed": Tables(widths="mixed", power=0.6, least=1),
    "admitted": Tables(admit=2),
    "all of it": Tables(sparse_above=50, hash_above=8, hashes=3, widths="root", power=0.1, least=2, admit=2),
}
every = pytest.mark.parametrize("name", NAMES)
each = pytest.mark.parametrize("how", KEPT)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layout(how: str) -> Layout:
    return replace(FULL, tables=KEPT[how])


def made(name: str, how: str, *, small: bool = False, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = kind(name)
    config: Any = model.Config()
    built = model(tiny(config) if small else config, layout(how))
    assert isinstance(built, nn.Module)
    return built


def met(model: nn.Module) -> nn.Module:
    """In eval mode, after two batches have been counted."""
    model.train()
    for seed in range(2):
        model(batch(FULL, 16, 64, seed))
    return model.eval()


@each
def test_it_overfits_64_rows(how: str) -> None:
    model, rows = made("deepfm", how), batch(FULL, 16, 64)
    pairs = torch.stack([rows.request_of, rows.row["item.id"]], dim=1)
    rows = rows.take(torch.tensor(sorted({tuple(p): at for at, p in enumerate(pairs.tolist())}.values())))
    model.train()
    optimizer = build(model, Rules(lr=1e-2))
    start, now = loss(model(rows), rows).item(), float("inf")
    for _ in range(400):
        optimizer.zero_grad()
        step = loss(model(rows), rows)
        step.backward()
        assert optimizer.step() is None
        now = step.item()
        if now < 0.04 * start:
            break
    assert now < 0.05 * start
    for place, value in model.named_parameters():
        if place.startswith("embed.") and "maps" not in place:
            assert not value[0].any(), "padding stays zero"


@every
@each
def test_every_parameter_learns_and_gradients_are_finite(name: str, how: str) -> None:
    model, rows = made(name, how), batch(FULL, 16, 64)
    model.train()
    loss(model(rows), rows).backward()
    for place, parameter in model.named_parameters():
        assert parameter.grad is not None, place
        whole = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        assert torch.isfinite(whole).all(), place
        assert whole.any(), place


@every
@each
def test_saved_and_loaded_it_answers_to_the_bit(name: str, how: str) -> None:
    rows = batch(FULL, 7, 30)
    first, second = met(made(name, how)), made(name, how, seed=1)
    second.load_state_dict(load(save(first.state_dict())))
    assert torch.equal(scores(first, rows), scores(second, rows))


@every
@each
def test_rows_do_not_see_each_other(name: str, how: str) -> None:
    model, rows = met(made(name, how)), batch(FULL, 7, 30)
    together = scores(model, rows)
    alone = torch.cat([scores(model, rows.rows(at, at + 1)) for at in range(30)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    assert torch.equal(scores(model, rows), together)


@every
@pytest.mark.parametrize("how", ["hashed", "mixed", "admitted"])
def test_gradients_agree_with_differences(name: str, how: str) -> None:
    """In eval, float64. Padding's row of a table is no parameter: it stands still."""
    model = met(made(name, how, small=True)).double()
    rows = batch(FULL, 4, 6, steps=3)
    rows = replace(rows, request=double(rows.request), row=double(rows.row))
    names = [place for place, _ in model.named_parameters()]
    tables = {place for place in names if place.startswith(("embed.table", "embed.narrow"))}
    noise = torch.Generator().manual_seed(2)
    values = [
        torch.randn(parameter.shape, generator=noise, dtype=torch.float64) * 0.7 for parameter in model.parameters()
    ]
    values = [value[1:] if place in tables else value for place, value in zip(names, values, strict=True)]

    def logits(*given: Tensor) -> Tensor:
        whole = dict(zip(names, given, strict=True))
        whole |= {
            place: torch.cat([whole[place].new_zeros(1, whole[place].shape[1]), whole[place]]) for place in tables
        }
        return torch.stack(list(functional_call(model, whole, (rows,)).values()))

    assert torch.autograd.gradcheck(logits, tuple(value.requires_grad_() for value in values))
