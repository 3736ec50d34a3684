"""Three towers: which is asked how often, what may be kept, what may not."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tests.models.examples import BARE, FULL, TASKS, batch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns, Group
from shortlist.errors import ConfigError
from shortlist.models.coarse.three_tower import ThreeTower

SMALL = ThreeTower.Config(dim=4, user=(8, 5), item=(6, 5), cross=(4, 3), top=(7,))
CHANNELS = ("recall.similar", "recall_score.similar", "recall.hot", "recall_score.hot")
STATISTICS = ("item.published", *CHANNELS)


def made(config: ThreeTower.Config = SMALL) -> ThreeTower:
    torch.manual_seed(0)
    model = ThreeTower(config, FULL)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        model.embed.table.weight[0] = 0
    return model.eval()


def changed(row: Columns, name: str) -> Columns:
    """The same rows with another value in one column."""
    if name in row.sparse_names:
        at = torch.tensor([row.sparse_names.index(name)])
        return replace(row, sparse=row.sparse.index_copy(1, at, row[name].unsqueeze(1) % 4 + 2))
    if name in row.dense_names:
        at = torch.tensor([row.dense_names.index(name)])
        return replace(row, dense=row.dense.index_copy(1, at, row[name].unsqueeze(1) + 1.0))
    if name in row.vecs:
        return replace(row, vecs={**row.vecs, name: row.vecs[name] + 1.0})
    group = row.groups[name]
    value = torch.where(group.mask, group.channels["value"] % 4 + 2, 0)
    return replace(row, groups={**row.groups, name: Group(group.length, {"value": value})})


class Kept:
    """Items by key and version, as a server keeps them."""

    def __init__(self) -> None:
        self.vectors: dict[tuple[int, int], Tensor] = {}

    def __call__(self, model: ThreeTower, row: Columns) -> Tensor:
        keys = list(zip(row["item.id"].tolist(), model.version(row).tolist(), strict=True))
        first = {key: at for at, key in reversed(list(enumerate(keys))) if key not in self.vectors}
        if first:
            fresh = model.item(row.take(torch.tensor(list(first.values()))))
            self.vectors |= dict(zip(first, fresh, strict=True))
        return torch.stack([self.vectors[key] for key in keys])


def one_of_each(rows: Batch) -> Batch:
    """Rows with item ids of their own: an item has one set of static columns."""
    at = torch.tensor([rows.row.sparse_names.index("item.id")])
    ids = torch.arange(2, 2 + len(rows))[:, None]
    return replace(rows, row=replace(rows.row, sparse=rows.row.sparse.index_copy(1, at, ids)))


def test_columns_are_parted_by_name_and_by_age() -> None:
    model = made()
    assert set(model.live.sparse) | set(model.live.dense) == set(STATISTICS)
    assert set(model.static.sparse) == {"item.id", "item.category"}
    assert model.static.dense == ("item.price",)
    assert (set(model.static.groups), set(model.static.vecs)) == ({"item.tags"}, {"item.look"})


def test_a_column_can_be_declared_live() -> None:
    model = ThreeTower(replace(SMALL, live=("item.price",)), FULL)
    assert model.live.dense == ("item.price", *CHANNELS)


def test_a_live_column_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        ThreeTower(replace(SMALL, live=("item.prize",)), FULL)
    assert str(error.value) == (
        "coarse.live: no row column is called 'item.prize' (columns are item.category, item.id, item.look, "
        "item.price, item.published, item.tags, recall.hot, recall.similar, recall_score.hot, recall_score.similar)"
    )


def test_towers_of_two_widths_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        ThreeTower(replace(SMALL, item=(6,)), FULL)
    assert str(error.value) == "coarse.user: the towers end in [5] and [6] (end user and item in one width)"


def test_logits_are_the_formula() -> None:
    model, rows = made(), batch(FULL, 7, 30)
    a, b, (c,) = model.user(rows.request), model.item(rows.row), model.cross(rows.row)
    for at in range(30):
        mine = a[rows.request_of[at]]
        h = model.top(torch.cat([mine, b[at], c[at], mine * b[at]]))
        expected = model.heads.get_submodule("linear")(h)
        for n, task in enumerate(TASKS):
            torch.testing.assert_close(model(rows)[task][at], expected[n], atol=1e-5, rtol=1e-5)


def test_kept_and_fresh_vectors_give_the_same_logits() -> None:
    model, rows, kept = made(), one_of_each(batch(FULL, 7, 30)), Kept()
    with torch.no_grad():
        fresh = model(rows)
        for _ in range(2):
            again = model.score(model.user(rows.request), kept(model, rows.row), rows)
            for task in TASKS:
                torch.testing.assert_close(again[task], fresh[task], atol=1e-6, rtol=0)
    assert len(kept.vectors) == 30


def test_rows_each_tower_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request: user 1, item the misses, cross and top every candidate."""
    model, rows, kept = made(), one_of_each(batch(FULL, 1, 30)), Kept()
    asked: Counter[str] = Counter()
    for name in ("user_tower", "item_tower", "cross_tower", "top"):
        model.get_submodule(name).register_forward_hook(
            lambda part, given, out, name=name: asked.update({name: len(out)})
        )
    with torch.no_grad():
        kept(model, rows.rows(0, 20).row)
        asked.clear()
        model.score(model.user(rows.request), kept(model, rows.row), rows)
    assert asked == {"user_tower": 1, "item_tower": 10, "cross_tower": 30, "top": 30}


@pytest.mark.parametrize("name", ["item.id", "item.category", "item.price", "item.tags", "item.look"])
def test_another_static_value_is_another_version_and_another_vector(name: str) -> None:
    model, rows = made(), batch(FULL, 7, 30)
    other = changed(rows.row, name)
    moved = (model.item(other) != model.item(rows.row)).any(dim=1)
    assert moved.any()
    assert (model.version(other) != model.version(rows.row))[moved].all()


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_leaves_version_and_vector_as_they_were(name: str) -> None:
    model, rows = made(), batch(FULL, 7, 30)
    other = changed(rows.row, name)
    assert torch.equal(model.version(other), model.version(rows.row))
    assert torch.equal(model.item(other), model.item(rows.row))
    logits, before = model(replace(rows, row=other)), model(rows)
    assert not torch.equal(logits["click"], before["click"]), "the cross tower reads it"


def test_versions_of_rows_do_not_depend_on_their_neighbours() -> None:
    model, rows = made(), batch(FULL, 7, 30)
    alone = torch.cat([model.version(rows.row.take(torch.tensor([at]))) for at in range(30)])
    assert torch.equal(alone, model.version(rows.row))
    assert len(set(alone.tolist())) == 30


def test_with_a_silent_cross_tower_statistics_are_nothing() -> None:
    model, rows = made(), batch(FULL, 7, 30)
    assert model.cross_tower is not None
    for parameter in model.cross_tower.parameters():
        nn.init.zeros_(parameter)
    before = model(rows)
    for name in STATISTICS:
        after = model(replace(rows, row=changed(rows.row, name)))
        assert all(torch.equal(after[task], before[task]) for task in TASKS)


def test_without_live_columns_there_is_no_cross_tower() -> None:
    model = ThreeTower(SMALL, BARE)
    assert model.cross_tower is None
    assert model(batch(BARE, 3, 5))["click"].shape == (5,)
