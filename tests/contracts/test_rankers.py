"""Every file of models/coarse/ and models/rank/ with gradients, found by itself, keeps what any trained ranker must;
so does every head of models/multitask/, on one ranker and on all of them."""

import importlib
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tests.models.examples import FULL, LAYOUTS, TASKS, batch, double
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from shortlist.batch import Batch, Columns, Group
from shortlist.config import build, catalogue, plain
from shortlist.errors import ConfigError

COARSE, RANK, MULTITASK = "shortlist.models.coarse", "shortlist.models.rank", "shortlist.models.multitask"
VARIANTS: dict[str, dict[str, Any]] = {  # of a head, beside its defaults
    "mmoe, one gate": {"use": "mmoe", "shared_gate": True},
    "mmoe, lstm": {"use": "mmoe", "expert": "lstm"},
}


def kind(name: str, package: str = "") -> Any:
    name = name.partition(" + ")[0]
    module = importlib.import_module(f"{package or PLACES[name]}.{name}")
    assert len(module.__all__) == 1, "a file exports one thing"
    return getattr(module, module.__all__[0])


PLACES = {
    name: package
    for package in (COARSE, RANK)
    for name in catalogue(package)
    if issubclass(kind(name, package), nn.Module)
}
HEADS: dict[str, dict[str, Any]] = {name: {"use": name} for name in catalogue(MULTITASK)} | VARIANTS
NAMES = [*PLACES, *(f"dnn + {head}" for head in HEADS)]
TABLE = "embed.table.weight"  # what a table of vectors is called, in a ranker or in its head
every = pytest.mark.parametrize("name", NAMES)
some = pytest.mark.parametrize("layout", LAYOUTS)


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
        if field.name in ("dim", "state") and getattr(config, "expert", "lstm") == "lstm":
            small[field.name] = 2
        elif field.name == "heads" and value:
            use, options = value["use"], {key: option for key, option in value.items() if key != "use"}
            head = build(kind(use, MULTITASK).Config, options, use)
            small["heads"] = {"use": use, **plain(tiny(head))}
        elif isinstance(value, tuple) and value and all(isinstance(v, int) for v in value):
            small[field.name] = (3,) * min(2, len(value))
    return replace(config, **small)


def config_of(name: str) -> Any:
    """The defaults, with the head that the name has behind a +."""
    config, head = kind(name).Config(), name.partition(" + ")[2]
    return replace(config, heads=HEADS[head]) if head else config


def made(name: str, layout: str = "full", *, small: bool = False, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = config_of(name)
    built = kind(name)(tiny(config) if small else config, LAYOUTS[layout])
    assert isinstance(built, nn.Module)
    return built


def buildable(name: str, layout: str) -> nn.Module:
    """A model may need a column; then it says which, and there is nothing else to test."""
    try:
        return made(name, layout)
    except ConfigError as error:
        lacking = error
    if not (lacking.where and lacking.hint):
        pytest.fail(f"an error without a place or a hint: {lacking}")
    pytest.skip(str(lacking))


def loss(logits: dict[str, Tensor], rows: Batch) -> Tensor:
    """Mean over tasks of the mean over rows that carry the label."""
    assert rows.labels is not None
    assert rows.valid is not None
    parts = [
        binary_cross_entropy_with_logits(logits[task][rows.valid[:, n]], rows.labels[rows.valid[:, n], n])
        for n, task in enumerate(rows.tasks)
    ]
    return torch.stack(parts).mean()


def scores(model: nn.Module, rows: Batch) -> Tensor:
    """[B, T] in eval mode."""
    model.eval()
    with torch.no_grad():
        return torch.stack(list(model(rows).values()), dim=1)


def soiled(columns: Columns) -> Columns:
    """Two more steps of padding, and rubbish in all of it."""
    groups = {}
    for place, group in columns.groups.items():
        wide = {key: nn.functional.pad(channel, (0, 2)) for key, channel in group.channels.items()}
        mask = Group(group.length, wide).mask
        groups[place] = Group(group.length, {key: torch.where(mask, value, 2) for key, value in wide.items()})
    return replace(columns, groups=groups)


@every
def test_it_has_a_documented_frozen_config(name: str) -> None:
    model = kind(name)
    assert importlib.import_module(model.__module__).__doc__
    with pytest.raises(AttributeError):
        model.Config().anything = 1
    assert build(model.Config, plain(model.Config()), name) == model.Config()


@every
def test_a_logit_per_task_and_row(name: str) -> None:
    rows = batch(FULL, 7, 20)
    logits = made(name)(rows)
    assert tuple(logits) == TASKS
    assert all(logit.shape == (20,) for logit in logits.values())


@every
def test_without_a_task_it_says_so(name: str) -> None:
    model = kind(name)
    with pytest.raises(ConfigError) as error:
        model(config_of(name), replace(FULL, tasks=()))
    hint = 'add tasks.click = { on = "impression", positive = "click" }'
    assert str(error.value) == f"schema.tasks: a ranker needs a task ({hint})"


@every
@some
def test_it_overfits_64_rows(name: str, layout: str) -> None:
    """Labels of distinct rows can all be met, so the least loss is 0: 5 % of what it starts with is left."""
    model, rows = buildable(name, layout), batch(LAYOUTS[layout], 16, 64)
    pairs = torch.stack([rows.request_of, rows.row["item.id"]], dim=1)
    rows = rows.take(torch.tensor(sorted({tuple(p): at for at, p in enumerate(pairs.tolist())}.values())))
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    start, now = loss(model(rows), rows).item(), float("inf")
    for _ in range(400):
        optimizer.zero_grad()
        step = loss(model(rows), rows)
        step.backward()
        optimizer.step()
        now = step.item()
        if now < 0.04 * start:
            break
    assert now < 0.05 * start
    tables = [table for place, table in model.named_parameters() if place.endswith(TABLE)]
    assert tables
    assert not any(table[0].any() for table in tables), "padding stays zero"


@every
@some
def test_every_parameter_learns_and_gradients_are_finite(name: str, layout: str) -> None:
    model, rows = buildable(name, layout), batch(LAYOUTS[layout], 16, 64)
    model.train()
    loss(model(rows), rows).backward()
    for place, parameter in model.named_parameters():
        assert parameter.grad is not None, place
        assert torch.isfinite(parameter.grad).all(), place
        assert parameter.grad.any(), place


@every
def test_saved_and_loaded_it_answers_to_the_bit(name: str) -> None:
    rows = batch(FULL, 7, 30)
    first, second = made(name), made(name, seed=1)
    first.train()
    first(rows)  # running statistics are saved too
    assert not torch.equal(scores(first, rows), scores(second, rows))
    second.load_state_dict(load(save(first.state_dict())))
    assert torch.equal(scores(first, rows), scores(second, rows))


@every
@some
def test_rows_do_not_see_each_other_and_order_is_nothing(name: str, layout: str) -> None:
    model, rows = buildable(name, layout), batch(LAYOUTS[layout], 7, 30)
    together = scores(model, rows)
    alone = torch.cat([scores(model, rows.rows(at, at + 1)) for at in range(30)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(scores(model, rows.take(order)), together[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores(model, rows.expand()), together, atol=1e-5, rtol=0)


@every
def test_eval_is_deterministic_and_leaves_the_model_as_it_was(name: str) -> None:
    model, rows = made(name), batch(FULL, 7, 30)
    before = {place: value.clone() for place, value in model.state_dict().items()}
    assert torch.equal(scores(model, rows), scores(model, rows))
    for place, value in model.state_dict().items():
        assert torch.equal(before[place], value), place


@every
@some
def test_gradients_agree_with_differences(name: str, layout: str) -> None:
    """In eval, float64. Padding's row of the table is no parameter: it stands still."""
    buildable(name, layout)
    model = made(name, layout, small=True).double().eval()
    rows = batch(LAYOUTS[layout], 4, 6, steps=3)
    rows = replace(rows, request=double(rows.request), row=double(rows.row))
    names = [place for place, _ in model.named_parameters()]
    noise = torch.Generator().manual_seed(2)
    values = [
        torch.randn(parameter.shape, generator=noise, dtype=torch.float64) * 0.7 for parameter in model.parameters()
    ]
    values = [value[1:] if place.endswith(TABLE) else value for place, value in zip(names, values, strict=True)]

    def logits(*given: Tensor) -> Tensor:
        whole = dict(zip(names, given, strict=True))
        for place, table in whole.items():
            if place.endswith(TABLE):
                whole[place] = torch.cat([table.new_zeros(1, table.shape[1]), table])
        return torch.stack(list(functional_call(model, whole, (rows,)).values()))

    assert torch.autograd.gradcheck(logits, tuple(value.requires_grad_() for value in values))


@every
def test_nothing_behind_a_length_is_read(name: str) -> None:
    """Two more steps of padding, and rubbish in all of it, change nothing."""
    model, rows = made(name), batch(FULL, 7, 30)
    dirty = replace(rows, request=soiled(rows.request), row=soiled(rows.row))
    torch.testing.assert_close(scores(model, dirty), scores(model, rows), atol=1e-6, rtol=0)


@every
def test_empty_histories_and_unknown_ids_give_finite_logits_in_training_too(name: str) -> None:
    model, rows = made(name), batch(FULL, 7, 30)

    def blank(columns: Columns) -> Columns:
        groups = {
            place: Group(
                torch.zeros_like(group.length), {key: torch.zeros_like(c) for key, c in group.channels.items()}
            )
            for place, group in columns.groups.items()
        }
        return replace(columns, groups=groups, sparse=torch.ones_like(columns.sparse))

    empty = replace(rows, request=blank(rows.request), row=blank(rows.row))
    assert torch.isfinite(scores(model, empty)).all()
    model.train()
    value = loss(model(empty), empty)
    value.backward()
    assert torch.isfinite(value)
    for place, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), place
    assert torch.isfinite(scores(model, rows)).all()


@every
def test_columns_are_read_by_name(name: str) -> None:
    """Further columns are ignored, order is nothing, and a channel that was not asked is as one that brought
    nothing."""
    model, rows = made(name), batch(FULL, 7, 30)
    more = Columns.of(30, {"item.new": torch.ones(30).numpy()}, {"recall.new": torch.ones(30).numpy()})
    back = torch.arange(len(rows.row.dense_names) - 1, -1, -1)
    turned = replace(rows.row, dense=rows.row.dense[:, back], dense_names=rows.row.dense_names[::-1])
    assert torch.equal(scores(model, replace(rows, row=more.beside(turned))), scores(model, rows))
    at = rows.row.dense_names.index("recall.hot")
    keep = [n for n in range(len(rows.row.dense_names)) if n != at]
    less = replace(rows.row, dense=rows.row.dense[:, keep], dense_names=tuple(rows.row.dense_names[n] for n in keep))
    zero = replace(rows.row, dense=rows.row.dense.index_fill(1, torch.tensor([at]), 0.0))
    assert torch.equal(scores(model, replace(rows, row=less)), scores(model, replace(rows, row=zero)))


@pytest.mark.parametrize("name", [name for name, package in PLACES.items() if package == COARSE])
def test_the_parts_of_a_coarse_ranker_make_its_whole(name: str) -> None:
    model: Any = made(name)
    rows = batch(FULL, 7, 30)
    model.eval()
    with torch.no_grad():
        whole = model(rows)
        parts = model.score(model.user(rows.request), model.item(rows.row), rows)
    for task in TASKS:
        assert torch.equal(whole[task], parts[task])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", PLACES)
def test_every_ranker_takes_every_head(name: str, head: str) -> None:
    """A logit per task; all that is in it learns; rows do not see each other, and nothing behind a length is read."""
    together = f"{name} + {head}"
    model, rows = buildable(together, "full"), batch(FULL, 7, 30)
    model.train()
    loss(model(rows), rows).backward()
    for place, parameter in model.named_parameters():
        assert parameter.grad is not None, place
        assert torch.isfinite(parameter.grad).all(), place
        assert parameter.grad.any(), place
    whole = scores(model, rows)
    assert whole.shape == (30, len(TASKS))
    assert not torch.equal(whole[:, 0], whole[:, 1])
    alone = torch.cat([scores(model, rows.rows(at, at + 1)) for at in range(30)])
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores(model, replace(rows, request=soiled(rows.request))), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", PLACES)
def test_a_head_that_is_not_there_is_named(name: str) -> None:
    place = "coarse.heads" if PLACES[name] == COARSE else "rank.heads"
    for heads, message in (
        ({"use": "mmeo"}, f"{place}.use: nothing is called 'mmeo' (did you mean mmoe?)"),
        ({"use": "mmoe", "expert": "gru"}, f"{place}.expert: should be 'mlp' or 'lstm', got 'gru' (correct the value)"),
        ({"use": "mmoe", "exprts": 3}, f"{place}: unknown key 'exprts' (did you mean experts?)"),
        ({"experts": 3}, f'{place}.use: should name a head (write heads = {{ use = "mmoe" }})'),
    ):
        with pytest.raises(ConfigError) as error:
            kind(name)(replace(kind(name).Config(), heads=heads), FULL)
        assert str(error.value) == message


def test_without_a_head_the_layer_has_the_names_it_always_had() -> None:
    for name in ("deepfm", "din", "three_tower"):
        names = [place for place in made(name).state_dict() if place.startswith("heads.")]
        assert names == ["heads.linear.weight", "heads.linear.bias"]


def test_all_roles_are_found() -> None:
    assert {"three_tower", "deepfm", "din", "dnn", "fm", "dcn", "dcn_v2"} <= set(NAMES)
    assert {"shared_bottom", "mmoe"} <= set(HEADS)
