"""LambdaMART: lists that it puts in order, gains from tasks, and when it ends."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from pytest import approx

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.errors import ConfigError, DataError
from shortlist.models.rank.lambdamart import LIST, LambdaMART

SMALL: dict[str, Any] = {"trees": 30, "leaves": 4, "leaf_rows": 5, "shrinkage": 0.2}
TWO = Layout(Side(), Side(dense=("item.a", "item.b")), {}, ("click", "like"))


def lists(requests: int, rows: int, seed: int = 0, noise: float = 0.0) -> Batch:
    """Row by row as many of each request; `click` is item.a above a level that differs by request, `like` the highest
    item.b of all."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(requests, rows, 2)).astype(np.float32)
    level = rng.normal(size=(requests, 1))
    click = x[..., 0] + noise * rng.normal(size=(requests, rows)) > level
    like = x[..., 1] == x[..., 1].max(axis=1, keepdims=True)
    row = Columns.of(requests * rows, dense={"item.a": x[..., 0].ravel(), "item.b": x[..., 1].ravel()})
    made = Batch.of(Columns.of(requests), row, np.repeat(np.arange(requests), rows))
    labels = np.stack([click.ravel(), like.ravel()], axis=1).astype(np.float32)
    return replace(made, tasks=TWO.tasks, labels=torch.from_numpy(labels))


def fitted(train: list[Batch], held: list[Batch], **options: Any) -> LambdaMART:
    model = LambdaMART(LambdaMART.Config(**{**SMALL, **options}), TWO)
    model.fit(train, held)
    return model


def ndcg(model: LambdaMART, rows: Batch, gain: NDArray[np.float64], at: int) -> float:
    """Mean over lists of one length, those without a gain left out."""
    requests = len(rows.request)
    score, gain = model.score(rows)["click"].reshape(requests, -1), gain.reshape(requests, -1)
    discount = 1 / np.log2(np.arange(2, at + 2))
    got = np.take_along_axis(gain, np.argsort(-score, axis=1), axis=1)[:, :at] @ discount
    best = -np.sort(-gain, axis=1)[:, :at] @ discount
    return float((got[best > 0] / best[best > 0]).mean())


def clicks(rows: Batch) -> NDArray[np.float64]:
    assert rows.labels is not None
    return rows.labels[:, 0].numpy().astype(np.float64)


def test_it_puts_lists_in_order_whatever_their_level_is() -> None:
    """Which rows are clicked is a matter of the list; their order by item.a is the same in all."""
    model, fresh = fitted([lists(100, 12)], [lists(30, 12, 1)]), lists(50, 12, 2)
    assert ndcg(model, fresh, clicks(fresh), 10) > 0.97
    shuffled = replace(
        fresh.row, dense=fresh.row.dense[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    )
    assert ndcg(model, replace(fresh, row=shuffled), clicks(fresh), 10) < 0.8


def test_every_task_has_the_same_margin() -> None:
    found = fitted([lists(50, 8)], [lists(20, 8, 1)]).score(lists(5, 8, 2))
    assert_array_equal(found["click"], found["like"])
    assert LambdaMART.margin


def test_the_gain_is_the_first_task_or_all_by_weight() -> None:
    """click 1 and like 3: gains 0, 1, 3 and 4, of which each is a grade."""
    train, held = [lists(60, 8)], [lists(20, 8, 1)]
    assert _setting(fitted(train, held), "label_gain") == "0,1"
    both = fitted(train, held, weights={"click": 1.0, "like": 3.0})
    assert _setting(both, "label_gain") == "0,1,3,4"
    liked = fitted(train, held, weights={"like": 0.5})
    assert _setting(liked, "label_gain") == "0,0.5"
    fresh = lists(50, 8, 2)
    assert fresh.labels is not None
    like = fresh.labels[:, 1].numpy().astype(np.float64)
    assert ndcg(liked, fresh, like, 3) > ndcg(fitted(train, held), fresh, like, 3) + 0.3


def _setting(model: LambdaMART, name: str) -> str:
    assert model.forest is not None
    found = re.search(rf"^\[{name}: (.*)\]$", model.forest.text, flags=re.MULTILINE)
    assert found is not None
    return found[1]


def test_many_gains_are_as_many_grades_as_lightgbm_has() -> None:
    rows = lists(40, 10)
    values = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    model = fitted([replace(rows, labels=values)], [lists(20, 10, 1)])
    grades = [float(gain) for gain in _setting(model, "label_gain").split(",")]
    assert len(grades) == 31
    assert np.diff(grades) == approx((grades[-1] - grades[0]) / 30, abs=1e-5)


def test_lists_that_have_nothing_to_order_are_left_out() -> None:
    rows = lists(6, 4)
    assert rows.labels is not None
    y = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0]]).float()
    known = torch.ones(6, 4, dtype=torch.bool)
    known[4, 3] = False  # its only click is not known: nothing is left to order
    made = replace(rows, labels=torch.stack([y.ravel(), y.ravel()], dim=1), valid=known.ravel()[:, None].expand(-1, 2))
    found = LambdaMART(LambdaMART.Config(**SMALL), TWO)._lists([made])
    assert found is not None
    assert found["group"].tolist() == [4, 4, 4]  # the third, the fourth and the last
    assert found["label"].tolist() == [0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0]
    assert_array_equal(found["data"], rows.row.dense.numpy()[[8, 9, 10, 11, 12, 13, 14, 15, 20, 21, 22, 23]])


def test_rows_of_a_request_are_one_list_wherever_they_stand() -> None:
    rows = lists(40, 8)
    order = torch.randperm(320, generator=torch.Generator().manual_seed(3))
    back = torch.argsort(rows.request_of[order], stable=True)
    mixed, sorted_ = rows.take(order), rows.take(order[back])
    held = [lists(20, 8, 1)]
    assert fitted([mixed], held).state() == fitted([sorted_], held).state()


def test_a_list_beyond_lightgbms_bound_is_cut() -> None:
    rows = LIST + 5
    row = Columns.of(rows, dense={"item.a": np.arange(rows), "item.b": np.zeros(rows)})
    labels = torch.zeros(rows, 2)
    labels[::7] = 1
    made = replace(Batch.of(Columns.of(1), row, np.zeros(rows, dtype=np.int64)), tasks=TWO.tasks, labels=labels)
    found = LambdaMART(LambdaMART.Config(**SMALL), TWO)._lists([made])
    assert found is not None
    assert found["group"].tolist() == [10_000, 5]


def test_it_ends_where_held_lists_are_best() -> None:
    train, held = [lists(40, 10, noise=1.0)], [lists(40, 10, 1, noise=1.0)]
    early = fitted(train, held, trees=200, leaves=16, patience=5)
    assert early.forest is not None
    assert 0 < len(early.forest) < 195
    # at its end NDCG of the held lists is best: five more trees, and no fewer, are not better
    longer = fitted(train, held, trees=len(early.forest) + 5, leaves=16, patience=500)
    assert longer.state()[1]["forest"].split("\n\nTree=")[1:3] == early.state()[1]["forest"].split("\n\nTree=")[1:3]
    assert longer.forest is not None
    assert len(longer.forest) == len(early.forest)
    without = fitted(train, [], trees=50)
    assert without.forest is not None
    assert len(without.forest) == 50, "with nothing to look at it goes to the end"


def test_without_anything_to_order_it_says_so() -> None:
    rows = lists(5, 4)
    with pytest.raises(DataError) as error:
        fitted([replace(rows, labels=torch.ones(20, 2))], [rows])
    hint = "(look at the tasks' labels and at what rows a request has)"
    assert str(error.value) == f"lambdamart: no list has rows of different gains {hint}"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"clik": 1.0}, "no task is called 'clik' (did you mean click?)"),
        ({"click": 0.0}, "all weights are 0 (give a task a weight above 0)"),
    ],
)
def test_weights_of_no_task_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        LambdaMART(LambdaMART.Config(weights=weights), TWO)
    assert str(error.value) == f"rank.weights: {message}"
