"""GBDT+LR: leaves as columns, trees on earlier requests than the regression, and trees of other columns refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tests.models.examples import FULL, TASKS, batch

from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.models.blocks.trees import Forest, Table
from shortlist.models.rank.gbdt_lr import GbdtLR
from shortlist.models.rank.lr import LR

SMALL: dict[str, Any] = {"trees": 6, "leaves": 4, "leaf_rows": 5}
NUMBERS = Layout(Side(), Side(dense=("item.a", "item.b")), {}, ("click",))


def days(layout: Layout = FULL, batches: int = 6) -> list[Batch]:
    """Each batch a day: moments 0..11, 1000..1011 and so on."""
    made = (batch(layout, 12, 90, n) for n in range(batches))
    return [replace(rows, now=torch.arange(12) + 1000 * n) for n, rows in enumerate(made)]


def fitted(rows: list[Batch], layout: Layout = FULL, **options: Any) -> GbdtLR:
    model = GbdtLR(GbdtLR.Config(**{**SMALL, **options}), layout)
    model.fit(rows, rows[-1:], seed=1)
    return model


def unlabelled(rows: Batch) -> Batch:
    assert rows.labels is not None
    return replace(rows, valid=torch.zeros_like(rows.labels, dtype=torch.bool))


def test_a_row_has_a_leaf_of_every_tree() -> None:
    """Oracle 1: T = 6 leaf columns, one of each tree's four."""
    model, rows = fitted(days()), batch(FULL, 5, 30, 7)
    for n, task in enumerate(TASKS):
        coded = model.code(rows)[n]
        leaf = coded.row.places[coded.row.places >= model.onehot.width].reshape(30, 6) - model.onehot.width
        assert len(model.forests[task]) == 6
        sizes = [len(tree) for tree in model.forests[task].leaves]
        first = np.cumsum([0, *sizes[:-1]])
        assert (leaf >= first).all()
        assert (leaf < first + sizes).all()
        assert (coded.row.values[coded.row.places >= model.onehot.width] == 1).all()


def test_with_the_leaves_own_numbers_as_weights_it_is_the_margin() -> None:
    """Oracle 2: rows of the later window carry no label, so the regression stays where it starts; bias 0."""
    rows = days()
    model = fitted([*rows[:3], *map(unlabelled, rows[3:])], start="leaves", l1=0.5, l2=2.0)
    asked = batch(FULL, 5, 40, 7)
    found = model.score(asked)
    assert model.table is not None
    for task in TASKS:
        margin = model.forests[task].margin(model.table(asked))
        assert np.ptp(margin) > 0.1
        assert_allclose(found[task], margin, atol=1e-6)
    zero = fitted([*rows[:3], *map(unlabelled, rows[3:])], start="zero")
    assert not zero.score(asked)["click"].any()


def test_a_monotone_transform_of_a_number_leaves_the_leaves_as_they_were() -> None:
    """Oracle 3: sinh keeps order and sign; the rows that trees were grown on fall as before."""

    def rows(of: Any) -> list[Batch]:
        out = []
        for n, x in enumerate(np.random.default_rng(0).normal(size=(4, 50, 2)).astype(np.float32)):
            y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(np.float32)
            row = Columns.of(50, dense={"item.a": of(x[:, 0]), "item.b": x[:, 1]})
            made = Batch.of(Columns.of(1), row, np.zeros(50, dtype=np.int64))
            labels = torch.from_numpy(y)[:, None]
            out.append(replace(made, tasks=("click",), labels=labels, now=torch.tensor([n])))
        return out

    one, other = fitted(rows(lambda a: a), NUMBERS), fitted(rows(np.sinh), NUMBERS)
    assert one.forests["click"].text != other.forests["click"].text
    for plain, bent in list(zip(rows(lambda a: a), rows(np.sinh), strict=True))[:2]:
        assert_array_equal(one.code(plain)[0].row.places, other.code(bent)[0].row.places)


def test_without_trees_it_is_lr() -> None:
    """Oracle 4, to the bit: on all rows, no window taken away."""
    rows, crosses = days(), (("user.city", "item.category"),)
    model = fitted(rows, trees=0, crosses=crosses, buckets=100)
    plain = LR(LR.Config(crosses=crosses, buckets=100), FULL)
    plain.fit(rows, rows[-1:])
    assert_array_equal(model.ftrl.z, plain.ftrl.z)
    asked = batch(FULL, 5, 30, 7)
    for task in TASKS:
        assert_array_equal(model.score(asked)[task], plain.score(asked)[task])


def test_trees_are_of_earlier_requests_and_weights_of_later_ones() -> None:
    rows = days()  # half of the moments are those of the first three batches
    asked = batch(FULL, 5, 30, 7)
    model = fitted(rows)
    late = fitted([*rows[:3], *[replace(day, labels=1 - _labels(day)) for day in rows[3:]]])
    assert late.state()[1] == model.state()[1], "later labels change no tree"
    assert (late.score(asked)["click"] != model.score(asked)["click"]).any()
    # without any label later on, nothing is learned of earlier rows: all weights are 0
    none = fitted([*rows[:3], *map(unlabelled, rows[3:])])
    assert not none.ftrl.n.any()
    turned = fitted(rows[::-1], window=0.5)  # the order of batches is nothing to the trees, moments are
    assert {task: len(forest) for task, forest in turned.forests.items()} == dict.fromkeys(TASKS, 6)
    assert turned.forests["click"].margin(model.table(asked)).shape == (30,)  # type: ignore[misc]


def _labels(rows: Batch) -> torch.Tensor:
    assert rows.labels is not None
    return rows.labels


def test_a_task_of_one_class_has_no_trees_and_the_other_has() -> None:
    rows = [replace(day, labels=torch.stack([_labels(day)[:, 0], torch.zeros(90)], dim=1)) for day in days()]
    model = fitted(rows)
    assert set(model.forests) == {"click"}
    again = GbdtLR.restored(model.config, FULL, *model.state())
    asked = batch(FULL, 5, 30, 7)
    for task in TASKS:
        assert_array_equal(again.score(asked)[task], model.score(asked)[task])


def test_one_moment_has_nothing_later() -> None:
    rows = [replace(day, now=torch.zeros(12, dtype=torch.long)) for day in days()]
    with pytest.raises(DataError) as error:
        fitted(rows)
    what = "gbdt_lr: all requests are of one moment: nothing is later than what trees are learned on"
    assert str(error.value) == f"{what} (raise ranking.moments, or choose lr)"


def test_trees_read_numbers_and_columns_of_few_ids() -> None:
    names = Table(FULL, categories=6).names
    assert "item.category" in names  # 6 ids
    assert "item.id" not in names  # 40
    assert {"item.published", "item.price", "history.length", "history.age.last"} <= set(names)
    assert {"history.item.met.item.id", "history.item.category.met.item.category"} <= set(names)
    categories = [names[at] for at in Table(FULL, categories=6).categories]
    assert categories == ["user.city", "item.category"]  # an age of 11 buckets is a number


def test_what_trees_read_by_hand() -> None:
    side = Side(
        sparse={"item.category": "category", "item.published": "published.age"}, dense=("item.price",),
    )  # fmt: skip
    request = Side(groups={"history": {"item.category": "category", "age": "history.age"}})
    layout = Layout(request, side, {"category": 5, "published.age": 9, "history.age": 9}, ("click",))
    history = {"item.category": np.array([[3, 4, 3], [0, 0, 0]]), "age": np.array([[8, 7, 2], [0, 0, 0]])}
    asked = Columns.of(2, groups={"history": (np.array([3, 0]), history)})
    row = Columns.of(
        3,
        {"item.category": np.array([3, 0, 1]), "item.published": np.array([5, 1, 0])},
        {"item.price": np.array([0.5, 1.5, 2.5])},
    )
    table = Table(layout, 10)
    assert table.names == (
        "history.length", "history.age.last", "item.price", "item.published", "item.category",
        "history.item.category.met.item.category",
    )  # fmt: skip
    nan = np.nan  # padding, an unknown age, no step to have an age; category 1 is that of unknown values
    expected = [[3, 2, 0.5, 5, 3, 2], [3, 2, 1.5, nan, nan, 0], [0, nan, 2.5, nan, 1, 0]]
    assert_array_equal(table(Batch.of(asked, row, np.array([0, 0, 1]))), np.array(expected, dtype=np.float32))


def test_with_nothing_to_read_it_says_so() -> None:
    layout = Layout(Side(), Side(sparse={"item.id": "item.id"}), {"item.id": 500}, ("click",))
    with pytest.raises(ConfigError) as error:
        GbdtLR(GbdtLR.Config(), layout)
    what = "rank.categories: trees find no column to read: every one has more than 100 ids"
    assert str(error.value) == f"{what} (raise categories, or choose lr)"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("item.b", "item.a"), "the same columns in another order"),
        (("item.a",), "2 columns, here are 1; it reads item.b"),
        (("item.a", "item.cost"), "it reads item.b; it does not know item.cost"),
        (("item.a", "item.b", "item.new price"), "2 columns, here are 3; it does not know item.new price"),
    ],
)
def test_a_file_of_other_columns_is_refused(names: tuple[str, ...], told: str) -> None:
    with pytest.raises(ArtifactError) as error:
        Forest(_text(), names)
    assert str(error.value) == f"a LightGBM file of another schema: {told} (train and publish again)"


def test_a_file_that_is_cut_or_is_none_is_refused() -> None:
    text = _text()
    for cut in (text[:700], text.replace("leaf_value=", "leaf_value=1", 1), text[: text.index("end of trees")]):
        with pytest.raises(ArtifactError) as error:
            Forest(cut, ("item.a", "item.b"))
        assert str(error.value) == "a LightGBM file that is cut or changed (train and publish again)"
    for none in ("", "no trees", "tree\nversion=v4\n\n"):
        with pytest.raises(ArtifactError) as error:
            Forest(none, ("item.a", "item.b"))
        assert str(error.value) == "not a LightGBM file (train and publish again)"


def _text() -> str:
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    row = Columns.of(200, dense={"item.a": x[:, 0], "item.b": x[:, 1]})
    made = Batch.of(Columns.of(2), row, np.repeat([0, 1], 100))
    labels = torch.from_numpy(x[:, :1] > 0).float()
    rows = replace(made, tasks=("click",), labels=labels, now=torch.tensor([0, 1]))
    return fitted([rows], NUMBERS).forests["click"].text
