"""Every retriever of models/recall/, found by itself, keeps what any trained one must."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tests.models.examples import FULL, HISTORY_ONLY, batch, double
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, pad

from shortlist.batch import Batch, Columns, Group
from shortlist.config import build, catalogue, plain
from shortlist.forms import Vectors
from shortlist.index.vectors import VectorIndex

PACKAGE = "shortlist.models.recall"
LAYOUTS = {"full": FULL, "history only": HISTORY_ONLY}
Sides = tuple[Tensor, Tensor]


def kind(name: str) -> Any:
    module = importlib.import_module(f"{PACKAGE}.{name}")
    assert len(module.__all__) == 1, "a file exports one thing"
    return getattr(module, module.__all__[0])


NAMES = [name for name in catalogue(PACKAGE) if hasattr(kind(name), "query")]
every = pytest.mark.parametrize("name", NAMES)
some = pytest.mark.parametrize("layout", list(LAYOUTS))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(config: Any) -> Any:
    """The smallest model of the kind: widths of 2, layers of 3."""
    small: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in ("dim", "out"):
            small[field.name] = 2
        elif isinstance(value, tuple) and value and all(isinstance(v, int) for v in value):
            small[field.name] = (3,) * min(2, len(value))
    return replace(config, **small)


def made(name: str, layout: str = "full", *, small: bool = False, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = kind(name)
    config = model.Config()
    return model(tiny(config) if small else config, LAYOUTS[layout])


def pairs(layout: str, n: int = 38) -> Batch:
    """A request and the item it wants: every item (38 ids from 2) once, requests that all differ."""
    rows = batch(LAYOUTS[layout], n, n)
    history = rows.request.groups["history"]
    length = torch.arange(n) % 5 + 2  # two steps and more, the first two of which no other request has
    channels = {key: channel.clone() for key, channel in history.channels.items()}
    channels["item"][:, 0], channels["item"][:, 1] = torch.arange(n) + 2, torch.arange(n).flip(0) + 2
    request = replace(rows.request, groups={**rows.request.groups, "history": Group(length, channels)})
    sparse = rows.row.sparse.clone()
    sparse[:, rows.row.sparse_names.index("item.id")] = torch.randperm(n, generator=torch.manual_seed(3)) + 2
    return replace(rows, request=request, row=replace(rows.row, sparse=sparse), request_of=torch.arange(n))


def scores(model: Any, rows: Batch) -> Tensor:
    """Each request with each item [R, B]; cosines at a temperature of 0.1."""
    u_RD, v_BD = model.query(rows.request), model.candidate(rows.row)
    assert model.metric in ("ip", "cos", "l2")
    if model.metric == "l2":
        return -torch.cdist(u_RD, v_BD).square()
    out: Tensor = u_RD @ v_BD.T
    return out * 10 if model.metric == "cos" else out


def loss(model: Any, rows: Batch) -> Tensor:
    """Each request's own item among all."""
    return cross_entropy(scores(model, rows), torch.arange(len(rows)))


def sides(model: Any, rows: Batch) -> Sides:
    """(query [R, D], candidate [B, D]) in eval mode."""
    model.eval()
    with torch.no_grad():
        return model.query(rows.request), model.candidate(rows.row)


def part(rows: Batch, at: Tensor) -> Batch:
    """Requests and rows at these places, side by side."""
    return Batch(rows.request.take(at), rows.row.take(at), torch.arange(len(at)))


def same(found: Sides, wanted: Sides, atol: float = 1e-5) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


def changed(rows: Batch, change: Callable[[Group], Group]) -> Batch:
    """The batch with every group of both sides changed."""

    def side(columns: Columns) -> Columns:
        return replace(columns, groups={name: change(group) for name, group in columns.groups.items()})

    return replace(rows, request=side(rows.request), row=side(rows.row))


@every
def test_it_has_a_documented_frozen_config(name: str) -> None:
    model = kind(name)
    assert importlib.import_module(model.__module__).__doc__
    with pytest.raises(AttributeError):
        model.Config().anything = 1
    assert build(model.Config, plain(model.Config()), name) == model.Config()


@every
@some
def test_both_sides_meet_in_one_width(name: str, layout: str) -> None:
    query, candidate = sides(made(name, layout), batch(LAYOUTS[layout], 7, 20))
    assert (len(query), len(candidate)) == (7, 20)
    assert query.shape[1:] == candidate.shape[1:]


@every
@some
def test_it_overfits_64_pairs(name: str, layout: str) -> None:
    """Distinct requests, distinct items: with inner products the least loss is 0. With cosines x 10, where the
    vectors of 38 items spread out as a simplex, it is log(1 + 37 exp(-10 (1 + 1/37))) < 0.002, of 3.6 at first.
    """
    model, rows = made(name, layout), pairs(layout)
    pair = torch.arange(64) % 38  # 26 of them count twice
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def step() -> Tensor:
        return cross_entropy(scores(model, rows)[pair], pair)

    start, now = step().item(), float("inf")
    for _ in range(400):
        optimizer.zero_grad()
        value = step()
        value.backward()
        optimizer.step()
        now = value.item()
        if now < 0.04 * start:
            break
    assert now < 0.05 * start
    for place, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            assert not module.weight[0].any(), f"padding of {place} stays zero"


@every
@some
def test_every_parameter_learns_and_gradients_are_finite(name: str, layout: str) -> None:
    model = made(name, layout)
    model.train()
    loss(model, pairs(layout)).backward()
    for place, parameter in model.named_parameters():
        assert parameter.grad is not None, place
        assert torch.isfinite(parameter.grad).all(), place
        assert parameter.grad.any(), place


@every
def test_saved_and_loaded_it_answers_to_the_bit(name: str) -> None:
    rows = batch(FULL, 7, 20)
    first, second = made(name), made(name, seed=1)
    assert not torch.equal(sides(first, rows)[1], sides(second, rows)[1])
    second.load_state_dict(load(save(first.state_dict())))
    for a, b in zip(sides(first, rows), sides(second, rows), strict=True):
        assert torch.equal(a, b)


@every
@some
def test_rows_do_not_see_each_other_and_order_is_nothing(name: str, layout: str) -> None:
    model, rows = made(name, layout), batch(LAYOUTS[layout], 9, 9)
    query, candidate = sides(model, rows)
    parts = [sides(model, part(rows, torch.tensor([n]))) for n in range(9)]
    same((torch.cat([q for q, _ in parts]), torch.cat([c for _, c in parts])), (query, candidate))
    order = torch.randperm(9, generator=torch.manual_seed(5))
    same(sides(model, part(rows, order)), (query[order], candidate[order]))


@every
def test_eval_is_deterministic_and_leaves_the_model_as_it_was(name: str) -> None:
    model, rows = made(name), batch(FULL, 7, 20)
    before = {place: value.clone() for place, value in model.state_dict().items()}
    for a, b in zip(sides(model, rows), sides(model, rows), strict=True):
        assert torch.equal(a, b)
    for place, value in model.state_dict().items():
        assert torch.equal(before[place], value), place


@every
def test_nothing_behind_a_length_is_read(name: str) -> None:
    """Two more steps of padding, and rubbish in all of it, change nothing."""
    model, rows = made(name), batch(FULL, 7, 20)

    def soil(group: Group) -> Group:
        wide = {key: pad(channel, (0, 2)) for key, channel in group.channels.items()}
        mask = Group(group.length, wide).mask
        return Group(group.length, {key: torch.where(mask, value, 2) for key, value in wide.items()})

    same(sides(model, changed(rows, soil)), sides(model, rows), 1e-6)


@every
def test_empty_histories_and_unknown_ids_are_finite_in_training_too(name: str) -> None:
    model, rows = made(name), pairs("full")
    empty = changed(rows, lambda group: Group(group.length * 0, group.channels))
    unknown = replace(
        empty,
        request=replace(empty.request, sparse=torch.ones_like(rows.request.sparse)),
        row=replace(empty.row, sparse=torch.ones_like(rows.row.sparse)),
    )
    assert all(torch.isfinite(side).all() for side in sides(model, unknown))
    model.train()
    value = loss(model, unknown)
    value.backward()
    assert torch.isfinite(value)
    for place, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), place


@every
def test_all_requests_padding_and_none_at_all(name: str) -> None:
    model, rows = made(name, "history only"), batch(HISTORY_ONLY, 5, 5)
    blank = changed(rows, lambda group: Group(group.length * 0, {key: c * 0 for key, c in group.channels.items()}))
    query, _ = sides(model, blank)
    assert torch.isfinite(query).all()
    if hasattr(model, "states"):  # reads nothing but the sequence
        assert not query.any()
    query, candidate = sides(model, part(rows, torch.zeros(0, dtype=torch.int64)))
    assert (len(query), len(candidate)) == (0, 0)


@every
def test_an_item_is_indexed_without_a_channel_that_brought_it(name: str) -> None:
    """Row columns of an index come from the catalogue: no `recall.` column, and none is read."""
    model, rows = made(name), batch(FULL, 7, 20)
    keep = [n for n, column in enumerate(rows.row.dense_names) if not column.startswith("recall.")]
    bare = replace(rows.row, dense=rows.row.dense[:, keep], dense_names=tuple(rows.row.dense_names[n] for n in keep))
    same(sides(model, replace(rows, row=bare)), sides(model, rows), 0)


@every
def test_search_scores_are_the_models(name: str) -> None:
    """Exported vectors under the model's metric, in a flat index, give the model's own products to 1e-5."""
    model, rows = made(name), pairs("full")
    query, candidate = sides(model, rows)
    keys = np.arange(len(candidate)) * 7
    found, near = VectorIndex(Vectors(keys, candidate.numpy(), model.metric)).search(query.numpy(), 5)
    table = -torch.cdist(query, candidate).square() if model.metric == "l2" else query @ candidate.T
    wanted = table.gather(1, torch.from_numpy(found // 7))
    np.testing.assert_allclose(near, wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(kind(name), "states")])
def test_every_state_is_the_query_of_the_history_up_to_it(name: str) -> None:
    model, rows = made(name), pairs("full")
    group = rows.request.groups["history"]
    model.eval()
    with torch.no_grad():
        states = model.states(rows.request)
        assert states.shape[:2] == group.mask.shape
        assert not states[~group.mask].any()
        for step in range(group.mask.shape[1]):
            short = Group(group.length.clamp(max=step + 1), group.channels)
            query = model.query(replace(rows.request, groups={**rows.request.groups, "history": short}))
            here = group.length > step
            torch.testing.assert_close(states[here, step], query[here], atol=1e-5, rtol=0)


@every
@some
def test_gradients_agree_with_differences(name: str, layout: str) -> None:
    """In eval, float64. Padding's row of a table is no parameter: it stands still."""
    model = made(name, layout, small=True).double().eval()
    rows = batch(LAYOUTS[layout], 4, 4, steps=3)
    request, row = double(rows.request), double(rows.row)
    tables = {f"{place}.weight" for place, module in model.named_modules() if isinstance(module, nn.Embedding)}
    names = [place for place, _ in model.named_parameters()]
    noise = torch.Generator().manual_seed(2)
    values = [torch.randn(p.shape, generator=noise, dtype=torch.float64) * 0.7 for p in model.parameters()]
    values = [value[1:] if place in tables else value for place, value in zip(names, values, strict=True)]

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            out: Tensor = self.model.query(request) @ self.model.candidate(row).T
            return out

    def product(*given: Tensor) -> Tensor:
        whole = dict(zip(names, given, strict=True))
        for place in tables:
            whole[place] = torch.cat([whole[place].new_zeros(1, whole[place].shape[1]), whole[place]])
        out: Tensor = functional_call(Product(), {f"model.{place}": value for place, value in whole.items()}, ())
        return out

    assert torch.autograd.gradcheck(product, tuple(value.requires_grad_() for value in values))


def test_all_retrievers_are_found() -> None:
    assert {"dssm", "gru4rec"} <= set(NAMES)
