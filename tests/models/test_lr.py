"""LR by FTRL-Proximal: the identities of the paper, its numbers by hand, and what its columns are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx
from tests.models.examples import BARE, FULL, HISTORY_ONLY, batch

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.config import build
from shortlist.errors import ArtifactError, ConfigError
from shortlist.models.blocks.slots import OneHot
from shortlist.models.rank.lr import LR

PLAIN: dict[str, Any] = {"l1": 0.0, "l2": 0.0}
NUMBERS = Layout(Side(), Side(dense=("item.a", "item.b", "item.c")), {}, ("click",))


def numbers(values: list[list[float]], labels: list[float]) -> Batch:
    """Rows of three numbers."""
    x, n = np.array(values, dtype=np.float32), len(values)
    row = Columns.of(n, dense={name: x[:, at] for at, name in enumerate(NUMBERS.row.dense)})
    made = Batch.of(Columns.of(1), row, np.zeros(n, dtype=np.int64))
    return replace(made, tasks=("click",), labels=torch.tensor(labels)[:, None])


def stream(rows: int, seed: int = 0) -> Batch:
    """Sparse numbers and labels of a line through them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)) * (rng.random((rows, 3)) < 0.6)
    y = rng.random(rows) < 1 / (1 + np.exp(-x @ [2.0, -1.0, 0.0]))
    return numbers(x.tolist(), y.astype(float).tolist())


def learned(rows: Batch, layout: Layout = NUMBERS, **options: Any) -> LR:
    model = LR(LR.Config(**options), layout)
    model.fit([rows], [])
    return model


def test_a_row_by_hand() -> None:
    # x = (1, 2, 0, 0): the bias first. w = 0, so p = 1/2, y = 1, g = (p - 1) x = (-1/2, -1), sigma w = 0: z = g
    # n = g^2 = (1/4, 1); alpha 1, beta 1, no l1, no l2: w = -z / (1 + sqrt n) = (1/2 / 1.5, 1 / 2) = (1/3, 1/2)
    model = learned(numbers([[2, 0, 0]], [1.0]), alpha=1.0, beta=1.0, **PLAIN)
    assert_allclose(model.ftrl.z[0], [-0.5, -1.0, 0, 0])
    assert_allclose(model.ftrl.n[0], [0.25, 1.0, 0, 0])
    assert_allclose(model.ftrl.w[0], [1 / 3, 1 / 2, 0, 0])
    # with l1 1/4 and l2 1/2: w = (1/2 - 1/4) / (1.5 + 1/2) = 1/8 and (1 - 1/4) / (2 + 1/2) = 0.3
    shrunk = learned(numbers([[2, 0, 0]], [1.0]), alpha=1.0, beta=1.0, l1=0.25, l2=0.5)
    assert_allclose(shrunk.ftrl.w[0], [1 / 8, 0.3, 0, 0])
    # the second row is scored with the first one's weights: logit 1/3 + 1/2 * 2
    assert model.score(numbers([[2, 0, 0]], [0.0]))["click"] == approx([4 / 3])


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_without_l1_and_l2_it_is_gradient_descent_with_a_rate_for_each_weight(beta: float) -> None:
    """Oracle 1: w -= alpha / (beta + sqrt n) g, n with this step's g^2, from w = 0, after every single row."""
    rows = stream(300)
    x = np.concatenate([np.ones((300, 1)), rows.row.dense.numpy().astype(np.float64)], axis=1)
    assert rows.labels is not None
    y, alpha = rows.labels[:, 0].numpy(), 0.3
    model = LR(LR.Config(alpha=alpha, beta=beta, **PLAIN), NUMBERS)
    w, n = np.zeros(4), np.zeros(4)
    for at in range(300):
        one = rows.rows(at, at + 1)
        model.ftrl.learn(0, model.onehot(one), one)
        g = (1 / (1 + np.exp(-x[at] @ w)) - y[at]) * x[at]
        n += g * g
        rate = np.divide(alpha, beta + np.sqrt(n), out=np.zeros(4), where=n > 0)
        w = w - rate * g
        assert_allclose(model.ftrl.weights()[0], w, rtol=0, atol=1e-12)
    assert np.abs(w[:3]).min() > 0.1, "something was learned"


def test_below_l1_a_weight_is_exactly_nothing() -> None:
    """Oracle 2."""
    model = learned(stream(200), l1=5.0)
    small = np.abs(model.ftrl.z) <= 5.0
    assert small.any()
    assert (~small).any()
    assert (model.ftrl.w[small] == 0).all()
    assert (model.ftrl.w[~small] != 0).all()


def test_more_l1_never_leaves_more_weights() -> None:
    """Oracle 3, on a fixed stream."""
    rows = batch(FULL, 30, 400)
    counts = [np.count_nonzero(learned(rows, FULL, l1=l1).ftrl.w) for l1 in (0.0, 0.3, 1.0, 3.0, 10.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_what_no_row_has_stays_as_it_was() -> None:
    """Oracle 4."""
    model = learned(stream(50), **PLAIN)
    before = model.ftrl.z.copy(), model.ftrl.n.copy(), model.ftrl.w.copy()
    model.fit([numbers([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]], [1.0, 0.0])], [])
    for old, new in zip(before, (model.ftrl.z, model.ftrl.n, model.ftrl.w), strict=True):
        assert_array_equal(old[0, 2:], new[0, 2:])
        assert (old[0, :2] != new[0, :2]).all()


def test_rows_are_learned_in_their_order_and_batches_do_not_matter() -> None:
    rows = stream(40)
    whole = learned(rows, **PLAIN)
    cut = LR(LR.Config(**PLAIN), NUMBERS)
    cut.fit([rows.rows(0, 13), rows.rows(13, 40)], [])
    turned = learned(rows.take(torch.arange(39, -1, -1)), **PLAIN)
    assert_array_equal(whole.ftrl.z, cut.ftrl.z)
    assert np.abs(whole.ftrl.w - turned.ftrl.w).max() > 1e-6


def test_a_step_that_comes_twice_is_one_feature_of_double_the_value() -> None:
    """Item 5 twice in a history of two weighs 1/2 + 1/2, as alone it weighs 1."""
    rows = batch(HISTORY_ONLY, 1, 4, steps=2)
    for steps in ([5, 5], [5, 0]):
        group = rows.request.groups["history"]
        items = torch.tensor([steps])
        length = torch.tensor([2 if steps[1] else 1])
        made = replace(group, length=length, channels={"item": items})
        rows = replace(rows, request=replace(rows.request, groups={"history": made}))
        model = learned(rows, HISTORY_ONLY, **PLAIN)
        at = model.onehot.first["request", "history", "item"] + 5 - 1
        if steps[1]:
            first = model.ftrl.z.copy(), model.ftrl.n.copy()
    assert first[0][0, at] != 0
    assert_allclose(model.ftrl.z, first[0], atol=1e-15)
    assert_allclose(model.ftrl.n, first[1], atol=1e-15)


def test_columns_of_one_vocabulary_have_weights_of_their_own() -> None:
    onehot = OneHot(FULL)
    rows = batch(FULL, 3, 9)
    coded = onehot(rows)
    # bias 1; ids less padding: user.id 19, place 4; history 39 + 3 + 10 + 5; likes 8; user.age 1
    # item.id 39, category 5, published 10; tags 8; item.price and four of recall 5, look 3
    assert onehot.width == 1 + (19 + 4) + (39 + 3 + 10 + 5) + 8 + 1 + (39 + 5 + 10) + 8 + (5 + 3)
    assert onehot.first["request", "history", "item.category"] != onehot.first["row", "item.category"]
    assert coded.row.values[:, 0].tolist() == [1.0] * 9  # the bias
    # two ids and an age; request 1 of lengths 0, 1, 2 has one step of weight 1 in each of its five channels
    assert coded.request.values[1].sum() - rows.request.dense[1].sum().item() == approx(2 + 5)


def test_padding_is_no_feature() -> None:
    rows = batch(BARE, 2, 4)
    none = replace(rows.row, sparse=torch.zeros_like(rows.row.sparse))
    coded = OneHot(BARE)(replace(rows, row=none))
    assert coded.row.values.tolist() == [[1.0, 0.0]] * 4


def test_what_two_columns_say_together_only_a_cross_can_say() -> None:
    """Taken where user and item are both odd or both even: no sum of two weights says that."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(2, 9, 4000), rng.integers(2, 12, 4000)
    made = Batch.of(Columns.of(4000, {"user.id": users}), Columns.of(4000, {"item.id": items}), np.arange(4000))
    y = (users + items) % 2 == 0
    rows = replace(made, tasks=("click",), labels=torch.from_numpy(y).float()[:, None])
    for crosses, right in (((), False), ((("user.id", "item.id"),), True)):
        model = learned(rows, BARE, crosses=crosses, buckets=2**16, **PLAIN)
        share = ((model.score(rows)["click"] > 0) == y).mean()
        assert (share > 0.95) == right, share


def test_a_channel_of_a_group_crosses_step_by_step() -> None:
    onehot = OneHot(FULL, (("history.item.category", "item.category"),), 1000)
    rows = batch(FULL, 4, 8, steps=3)
    row = onehot(rows).row
    lengths = rows.request.groups["history"].length[rows.request_of].numpy()
    first = onehot.first["crosses",]
    value = np.where(row.places >= first, row.values, 0.0)
    assert_allclose(value.sum(axis=1), (lengths > 0).astype(float))  # the steps share 1
    assert_array_equal((value > 0).sum(axis=1), lengths)


@pytest.mark.parametrize(
    ("cross", "message"),
    [
        (["user.cty", "item.id"], "no column of ids is called 'user.cty' (did you mean user.city?)"),
        (["user.id"], "['user.id'] is no cross (write two columns or more, of which one may be a group's channel)"),
        (
            ["history.item", "item.tags.value"],
            "['history.item', 'item.tags.value'] is no cross "
            "(write two columns or more, of which one may be a group's channel)",
        ),
    ],
)
def test_crosses_of_what_is_not_there_are_refused(cross: list[str], message: str) -> None:
    config = build(LR.Config, {"crosses": [cross]}, "rank (lr)")
    with pytest.raises(ConfigError) as error:
        LR(config, FULL)
    assert str(error.value) == f"rank.crosses: {message}"


def test_several_epochs_keep_the_weights_of_the_least_held_loss() -> None:
    """Held labels are those of training turned round: every epoch makes them worse, and the first one stays."""
    rows = stream(200)
    assert rows.labels is not None
    once, turned = learned(rows, **PLAIN), replace(rows, labels=1 - rows.labels)
    many = LR(LR.Config(epochs=4, **PLAIN), NUMBERS)
    many.fit([rows], [turned])
    assert_array_equal(many.ftrl.z, once.ftrl.z)
    four = LR(LR.Config(epochs=4, **PLAIN), NUMBERS)
    four.fit([rows], [rows])
    assert four.ftrl.loss([rows], four.code) < once.ftrl.loss([rows], once.code)


def test_tasks_do_not_see_each_other() -> None:
    rows = batch(FULL, 10, 60)
    assert rows.labels is not None
    other = replace(rows, labels=torch.stack([rows.labels[:, 0], 1 - rows.labels[:, 1]], dim=1))
    one, two = learned(rows, FULL, **PLAIN), learned(other, FULL, **PLAIN)
    assert_array_equal(one.ftrl.w[0], two.ftrl.w[0])
    assert (one.ftrl.w[1] != two.ftrl.w[1]).any()


def test_a_refresh_goes_on_where_it_was_kept() -> None:
    rows = stream(100)
    first = LR(LR.Config(), NUMBERS)
    first.fit([rows.rows(0, 60)], [])
    second = LR.restored(LR.Config(), NUMBERS, *first.state())
    second.fit([rows.rows(60, 100)], [])
    assert_array_equal(second.ftrl.z, learned(rows).ftrl.z)


def test_weights_of_another_width_are_refused() -> None:
    state = learned(stream(20)).state()
    with pytest.raises(ArtifactError) as error:
        LR.restored(LR.Config(), BARE, *state)
    # bias and 19 users and 39 items
    assert str(error.value) == "weights (1, 4) for 1 tasks and 59 places (train and publish again)"
