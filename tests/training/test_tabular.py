"""Table rankers on what rankers learn from: rows in order of time, margins as probabilities, words that do nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shortlist.artifact import load, save
from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.candidates import Ragged, Requests
from shortlist.config import RankerConfig
from shortlist.errors import ArtifactError, ConfigError
from shortlist.models.learned import Learned
from shortlist.models.tabular import Tabular
from shortlist.training.calibrate import isotonic, platt
from shortlist.training.plan import plan_of
from shortlist.training.rankers import Units
from shortlist.training.tabular import InTime, as_probabilities

MOMENTS = np.array([30, 10, 20, 10])
TWO = Layout(Side(), Side(dense=("item.a",)), {}, ("click", "like"))


class Shown:
    """A unit of two rows for each moment; item.a is 10 * moment, and 1 more for the second row."""

    tasks = ("click", "like")

    def __init__(self, labels: NDArray[np.float32], weights: NDArray[np.float32] | None = None) -> None:
        self.labels, self.weights = labels, weights

    def __len__(self) -> int:
        return len(MOMENTS)

    def examples(self, rows: NDArray[np.int64]) -> Any:
        none = Ragged.empty(len(rows))

        class Made:
            requests = Requests(np.arange(len(rows)), MOMENTS[rows], 1, none, none, none)

        return Made

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        at = np.stack([2 * rows, 2 * rows + 1], axis=1).ravel()
        a = (10 * MOMENTS[rows][:, None] + [0, 1]).ravel()
        made = Batch.of(
            Columns.of(len(rows)), Columns.of(len(a), dense={"item.a": a}), np.repeat(np.arange(len(rows)), 2)
        )
        labels = torch.from_numpy(self.labels[at])
        weights = None if self.weights is None else torch.from_numpy(self.weights[at])
        now = torch.from_numpy(MOMENTS[rows])
        known = torch.ones_like(labels, dtype=torch.bool)
        return replace(made, tasks=self.tasks, labels=labels, valid=known, weights=weights, now=now)


class Itself:
    """Margins: item.a itself, for both tasks."""

    def score(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        return dict.fromkeys(TWO.tasks, batch.row.dense[:, 0].numpy())


def units(labels: Any, weights: Any = None) -> Units:
    given = None if weights is None else np.array(weights, dtype=np.float32)
    return cast(Units, Shown(np.array(labels, dtype=np.float32), given))


BOTH = [[0, 0], [1, 0], [0, 0], [0, 0], [1, 0], [0, 0], [0, 0], [1, 0]]


def test_requests_come_in_order_of_time_each_time() -> None:
    """Moments 30, 10, 20, 10: the two of moment 10 in their own order."""
    rows = InTime(units(BOTH))
    for _ in range(2):
        batches = list(rows)
        assert [batch.now.tolist() for batch in batches if batch.now is not None] == [[10, 10, 20, 30]]
        assert batches[0].row.dense[:, 0].tolist() == [100, 101, 100, 101, 200, 201, 300, 301]


@pytest.mark.parametrize("how", ["platt", "isotonic"])
def test_margins_become_probabilities_by_the_held_rows(how: Any) -> None:
    """A task with a map keeps it, one of a single class has none."""
    learned = Learned(Tabular(cast(Any, Itself())), cast(Any, None), TWO)
    found = as_probabilities(learned, units(BOTH), how)
    z, y = np.array([100, 101, 100, 101, 200, 201, 300, 301]), np.array([0, 0, 0, 1, 1, 0, 0, 1])
    assert set(found.platt) | set(found.steps) == {"click"}
    if how == "platt":
        line = platt(z, y)
        assert found.platt["click"] == pytest.approx((line.a, line.b))
    else:
        assert found.steps["click"][:, 0].tolist() == [100.0, 0.0]
    assert as_probabilities(found, units(1 - np.array(BOTH)), how).platt.get("click") == found.platt.get("click")
    assert not as_probabilities(learned, units(BOTH), "none").platt


def test_a_weight_is_as_many_rows() -> None:
    z, y = np.array([0.0, 1.0, 2.0, 3.0, 1.0]), np.array([0, 1, 0, 1, 0])
    times = np.array([3, 1, 2, 1, 0])
    many = np.repeat(np.arange(5), times)
    assert platt(z, y, times) == platt(z[many], y[many])
    one, other = isotonic(z, y, np.maximum(times, 1)), isotonic(z[many], y[many])
    assert one.y[0] == other.y[0] == 0
    # at 1: a hit, and at 2 two misses: pooled 1 of 3
    assert other.y.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1])


TREES = "it has history, seed, calibration, threads"


@pytest.mark.parametrize(
    ("use", "train", "message"),
    [
        ("lambdamart", {"epochs": 3}, f"epochs does nothing for lambdamart (take epochs away; {TREES})"),
        ("gbdt_lr", {"lr": 0.1}, f"lr does nothing for gbdt_lr (take lr away; {TREES})"),
        ("lr", {"epochs": 3}, "epochs does nothing for lr (write epochs = ... beside use)"),
        (
            "lr",
            {"threads": 2},
            "threads does nothing for lr (take threads away; it has history, seed, calibration)",
        ),
    ],
)
def test_keys_of_training_that_do_nothing_are_refused(use: str, train: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_of(RankerConfig(use, train=train), "rank", {})
    assert str(error.value) == f"rank.train: {message}"
    assert plan_of(RankerConfig(use, train={"history": 5, "seed": 1}), "rank", {}).train == {"history": 5, "seed": 1}


def test_losses_and_tables_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        plan_of(RankerConfig("lambdamart", loss={"listwise": 1.0}), "rank", {})
    assert str(error.value) == "rank.loss: lambdamart has no gradients: loss does nothing (take loss away)"
    with pytest.raises(ConfigError) as error:
        plan_of(RankerConfig("lr", tables={"admit": 5}), "rank", {})
    assert str(error.value) == "rank.tables: lr has no embeddings: tables does nothing (take tables away)"


def test_options_of_training_are_pointed_to_their_table() -> None:
    with pytest.raises(ConfigError) as error:
        plan_of(RankerConfig("lambdamart"), "rank", {"history": 5}).config()
    assert str(error.value) == "rank (lambdamart): unknown key 'history' (write it into train = { history = ... })"
    with pytest.raises(ConfigError) as error:
        plan_of(RankerConfig("lambdamart"), "rank", {"tres": 5}).config()
    assert str(error.value) == "rank (lambdamart): unknown key 'tres' (did you mean trees?)"


def test_a_text_comes_back_byte_for_byte(tmp_path: Path) -> None:
    texts = {"kept.click rate": "tree\r\nversion=v4\n\n区域\n", "../up": ""}
    save(tmp_path / "a", kind="rank.lr", name="rank", texts=texts, created_ms=1)
    made = load(tmp_path / "a")
    assert {name: made.text(name) for name in texts} == texts
    assert sorted(p.name for p in tmp_path.rglob("*.txt")) == ["%2E.%2Fup.txt", "kept.click%20rate.txt"]
    with pytest.raises(ArtifactError) as error:
        made.text("kept.click")
    hint = "did you mean kept.click%20rate.txt?"
    assert str(error.value) == f"{tmp_path}/a: rank has no kept.click.txt ({hint})"
    path = tmp_path / "a" / "kept.click%20rate.txt"
    path.write_bytes(len(texts["kept.click rate"].encode()) * b"\xff")
    with pytest.raises(ArtifactError) as error:
        load(tmp_path / "a", verify=False).text("kept.click rate")
    assert error.value.what.startswith("not a text: 'utf-8' codec can't decode byte 0xff")
