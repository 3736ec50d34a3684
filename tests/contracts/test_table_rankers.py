"""Every file of models/rank/ that fits tables itself, found by itself, keeps what any table ranker must."""

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from tests.contracts.test_rankers import soiled
from tests.models.examples import BARE, FULL, LAYOUTS, TASKS, batch

from shortlist.batch import Batch, Columns, Group, Layout
from shortlist.config import build, catalogue, plain
from shortlist.errors import ArtifactError, ConfigError
from shortlist.models import runtimes
from shortlist.models.tabular import Tabular, tabular
from shortlist.training.learn import Training

RANK = "shortlist.models.rank"
SMALL = {"trees": 8, "leaves": 4, "leaf_rows": 2, "l1": 0.0, "l2": 0.0, "alpha": 0.5}  # for a few rows


def kind(name: str) -> Any:
    module = importlib.import_module(f"{RANK}.{name}")
    return getattr(module, module.__all__[0])


NAMES = [name for name in catalogue(RANK) if tabular(kind(name))]
every = pytest.mark.parametrize("name", NAMES)
some = pytest.mark.parametrize("layout", LAYOUTS)


def config_of(name: str, **more: Any) -> Any:
    """The defaults, with what few rows need."""
    config = kind(name).Config()
    own = {field.name for field in fields(config)}
    return replace(config, **{key: value for key, value in {**SMALL, **more}.items() if key in own})


def days(layout: Layout, seed: int = 0, batches: int = 4) -> list[Batch]:
    """Batches with labels and moments, one day after the other."""
    made = (batch(layout, 12, 90, seed + n) for n in range(batches))
    return [replace(rows, now=torch.arange(12) + 1000 * n) for n, rows in enumerate(made)]


def fitted(name: str, layout: Layout = FULL, **options: Any) -> Any:
    ranker = kind(name)(config_of(name, **options), layout)
    told = ranker.fit(days(layout), days(layout, 50, 1), seed=3)
    assert all(isinstance(value, float) for value in told.values())
    return ranker


def scores(ranker: Any, rows: Batch) -> NDArray[np.float32]:
    """[B, T]."""
    return np.stack(list(ranker.score(rows).values()), axis=1)


def test_they_are_found_and_no_module_is() -> None:
    assert {"lr", "gbdt_lr", "lambdamart"} <= set(NAMES)
    assert not {"deepfm", "din"} & set(NAMES)


@every
def test_it_has_a_documented_frozen_config_and_names_keys_of_training(name: str) -> None:
    model = kind(name)
    assert importlib.import_module(model.__module__).__doc__
    with pytest.raises(AttributeError):
        model.Config().anything = 1
    assert build(model.Config, plain(model.Config()), name) == model.Config()
    assert set(model.uses) <= {field.name for field in fields(Training)}
    assert isinstance(model.margin, bool)


@every
@some
def test_a_finite_score_per_task_and_row(name: str, layout: str) -> None:
    ranker, rows = fitted(name, LAYOUTS[layout]), batch(LAYOUTS[layout], 7, 20, 9)
    found = ranker.score(rows)
    assert tuple(found) == LAYOUTS[layout].tasks
    for score in found.values():
        assert (score.shape, score.dtype) == ((20,), np.float32)
        assert np.isfinite(score).all()
    assert len(np.unique(scores(ranker, rows), axis=0)) > 1, "rows are told apart"


@every
def test_without_a_task_it_says_so(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        kind(name)(config_of(name), replace(FULL, tasks=()))
    hint = 'add tasks.click = { on = "impression", positive = "click" }'
    assert str(error.value) == f"schema.tasks: a ranker needs a task ({hint})"


@every
@some
def test_rows_it_has_seen_are_in_order(name: str, layout: str) -> None:
    """A label that a column says: rows of items below 20 are taken. AUC of its own rows is above 0.95."""
    ranker = kind(name)(config_of(name, trees=30), LAYOUTS[layout])
    told = []
    for rows in days(LAYOUTS[layout], batches=16):
        y = (rows.row["item.id"] < 20).float()
        told.append(replace(rows, labels=y[:, None].expand(-1, len(rows.tasks)), valid=None))
    ranker.fit(told, told[:1])
    for rows in told:
        assert rows.labels is not None
        score, hit = scores(ranker, rows)[:, 0], rows.labels[:, 0].numpy() > 0
        better = score[hit][:, None] - score[~hit]
        assert ((better > 0) + 0.5 * (better == 0)).mean() > 0.95


@every
def test_the_same_rows_and_seed_make_the_same(name: str) -> None:
    (arrays, texts), again = fitted(name).state(), fitted(name).state()
    assert texts == again[1]
    for place, array in arrays.items():
        assert_array_equal(array, again[0][place])


@every
@some
def test_restored_it_answers_to_the_bit(name: str, layout: str) -> None:
    ranker, rows = fitted(name, LAYOUTS[layout]), batch(LAYOUTS[layout], 7, 30, 9)
    arrays, texts = ranker.state()
    for array in arrays.values():
        array.flags.writeable = False  # as an artifact gives them
    other = kind(name).restored(config_of(name), LAYOUTS[layout], arrays, texts)
    assert_array_equal(scores(other, rows), scores(ranker, rows))


@every
def test_what_another_layout_learned_is_refused(name: str) -> None:
    state = fitted(name).state()
    with pytest.raises(ArtifactError):
        kind(name).restored(config_of(name), BARE, *state)


@every
@some
def test_rows_do_not_see_each_other_and_order_is_nothing(name: str, layout: str) -> None:
    ranker, rows = fitted(name, LAYOUTS[layout]), batch(LAYOUTS[layout], 7, 30, 9)
    together = scores(ranker, rows)
    alone = np.concatenate([scores(ranker, rows.rows(at, at + 1)) for at in range(30)])
    assert_allclose(alone, together, atol=1e-5)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    assert_allclose(scores(ranker, rows.take(order)), together[order.numpy()], atol=1e-5)
    assert_allclose(scores(ranker, rows.expand()), together, atol=1e-5)


@every
def test_nothing_behind_a_length_is_read(name: str) -> None:
    ranker, rows = fitted(name), batch(FULL, 7, 30, 9)
    dirty = replace(rows, request=soiled(rows.request), row=soiled(rows.row))
    assert_allclose(scores(ranker, dirty), scores(ranker, rows), atol=1e-6)


@every
def test_empty_histories_and_unknown_ids_give_finite_scores(name: str) -> None:
    ranker, rows = fitted(name), batch(FULL, 7, 30, 9)

    def blank(columns: Columns, steps: int) -> Columns:
        groups = {}
        for place, group in columns.groups.items():
            none = {key: torch.zeros(len(columns), steps, dtype=torch.long) for key in group.channels}
            groups[place] = Group(torch.zeros_like(group.length), none)
        return replace(columns, groups=groups, sparse=torch.ones_like(columns.sparse))

    for steps in (0, 3):
        empty = replace(rows, request=blank(rows.request, steps), row=blank(rows.row, steps))
        assert np.isfinite(scores(ranker, empty)).all()


@every
def test_columns_are_read_by_name(name: str) -> None:
    """Further columns are ignored, order is nothing, and a channel that was not asked is as one that brought
    nothing."""
    ranker, rows = fitted(name), batch(FULL, 7, 30, 9)
    more = Columns.of(30, {"item.new": torch.ones(30).numpy()}, {"recall.new": torch.ones(30).numpy()})
    back = torch.arange(len(rows.row.dense_names) - 1, -1, -1)
    turned = replace(rows.row, dense=rows.row.dense[:, back], dense_names=rows.row.dense_names[::-1])
    assert_array_equal(scores(ranker, replace(rows, row=more.beside(turned))), scores(ranker, rows))
    at = rows.row.dense_names.index("recall.hot")
    keep = [n for n in range(len(rows.row.dense_names)) if n != at]
    less = replace(rows.row, dense=rows.row.dense[:, keep], dense_names=tuple(rows.row.dense_names[n] for n in keep))
    zero = replace(rows.row, dense=rows.row.dense.index_fill(1, torch.tensor([at]), 0.0))
    assert_array_equal(scores(ranker, replace(rows, row=less)), scores(ranker, replace(rows, row=zero)))


@every
def test_rows_without_a_label_teach_nothing(name: str) -> None:
    """Whatever stands where no label is, NaN too."""
    spoiled = []
    for rows in days(FULL):
        assert rows.labels is not None
        assert rows.valid is not None
        spoiled.append(replace(rows, labels=torch.where(rows.valid, rows.labels, torch.nan)))
    other = kind(name)(config_of(name), FULL)
    other.fit(spoiled, days(FULL, 50, 1), seed=3)
    rows = batch(FULL, 7, 30, 9)
    assert_array_equal(scores(other, rows), scores(fitted(name), rows))


@every
def test_a_row_of_weight_0_is_as_one_without_a_label(name: str) -> None:
    weighted, masked = [], []
    for n, rows in enumerate(days(FULL)):
        assert rows.valid is not None
        out = torch.rand(len(rows), generator=torch.Generator().manual_seed(n)) < 0.3
        weighted.append(replace(rows, weights=(~out).float()))
        masked.append(replace(rows, valid=rows.valid & ~out[:, None]))
    pair = [kind(name)(config_of(name), FULL) for _ in range(2)]
    for ranker, rows_ in zip(pair, (weighted, masked), strict=True):
        ranker.fit(rows_, days(FULL, 50, 1), seed=3)
    rows = batch(FULL, 7, 30, 9)
    assert_allclose(scores(pair[0], rows), scores(pair[1], rows), atol=1e-6)


@every
def test_batches_are_left_as_they_were_and_may_be_asked_again(name: str) -> None:
    class Again:
        def __iter__(self) -> Iterator[Batch]:
            return iter(days(FULL))

    first, second = kind(name)(config_of(name), FULL), kind(name)(config_of(name), FULL)
    kept = days(FULL)
    first.fit(kept, days(FULL, 50, 1))
    second.fit(Again(), days(FULL, 50, 1))
    for before, after in zip(days(FULL), kept, strict=True):
        assert torch.equal(before.row.dense, after.row.dense)
        assert torch.equal(before.row.sparse, after.row.sparse)
    rows = batch(FULL, 7, 30, 9)
    assert_array_equal(scores(first, rows), scores(second, rows))


@every
def test_several_threads_may_ask_at_once(name: str) -> None:
    ranker, asked = fitted(name), [batch(FULL, 5, 60, seed) for seed in range(24)]
    alone = [scores(ranker, rows) for rows in asked]
    with ThreadPoolExecutor(4) as pool:
        for expected, found in zip(alone, pool.map(lambda rows: scores(ranker, rows), asked), strict=True):
            assert_array_equal(found, expected)


@every
def test_as_a_module_it_gives_the_same_and_has_nothing_to_learn(name: str) -> None:
    ranker, rows = fitted(name), batch(FULL, 7, 30, 9)
    module = Tabular(ranker).eval()
    assert not list(module.parameters())
    assert not module.state_dict()
    found = runtimes.Eager(module)(rows)
    for n, task in enumerate(TASKS):
        assert_array_equal(found[task].numpy(), scores(ranker, rows)[:, n])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lr"])
def test_where_lightgbm_is_not_installed_its_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        kind(name)(config_of(name), FULL)
    hint = "(pip install 'shortlist[gbdt]', or choose another model (use))"
    assert str(error.value) == f"{name}: lightgbm is not installed {hint}"
