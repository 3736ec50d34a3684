"""What steers the training of a ranker, and what is calibrated, on rows a person can check."""

from dataclasses import replace
from math import exp
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns
from shortlist.dataset.ranking import Ranking
from shortlist.errors import DataError
from shortlist.models.blocks.gates import Gate
from shortlist.training.rankers import judged


class Held:
    """One request of four rows; the last one no channel brought."""

    def __init__(self, tasks: tuple[str, ...], labels: list[list[float]]) -> None:
        self.tasks = tasks
        row = Columns(
            torch.zeros(4, 0, dtype=torch.long), torch.tensor([[1.0], [0.5], [0.25], [0.0]]), (), ("recall.a",)
        )
        batch = Batch.of(
            Columns(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0)), row, np.zeros(4, dtype=np.int64)
        )
        y = torch.tensor(labels)
        self.made = replace(batch, tasks=tasks, labels=y, valid=torch.ones_like(y, dtype=torch.bool))

    def __len__(self) -> int:
        return 1

    def batch(self, rows: Any) -> Batch:
        return self.made


class Falling(nn.Module):
    """Logits 3, 2, 1, 0 for every task."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks, self.weight = tasks, nn.Parameter(torch.arange(3.0, -1.0, -1.0))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return dict.fromkeys(self.tasks, self.weight.detach())


def told(tasks: tuple[str, ...], labels: list[list[float]]) -> dict[str, float]:
    return judged(Falling(tasks), cast(Ranking, Held(tasks, labels)))


def test_the_first_task_with_both_classes_steers_by_recalled_rows_alone() -> None:
    # of the recalled rows the second is clicked: of its two pairs with the others one is in order: 1/2.
    # The fourth row, clicked too, was brought by no channel, and says nothing.
    found = told(("seen", "clicked"), [[1, 0], [1, 1], [1, 0], [1, 1]])
    assert next(iter(found)) == "clicked.gauc"
    assert found["clicked.gauc"] == 0.5
    assert "seen.gauc" not in found
    assert "seen.logloss" in found


def test_a_value_steers_by_its_error() -> None:
    # errors of the recalled rows: 3 - 5, 2 - 2, 1 - 1: (4 + 0 + 0) / 3
    held = cast(Ranking, Held(("stars",), [[5], [2], [1], [0]]))
    assert judged(Falling(("stars",)), held, measures=("stars",)) == {"stars.minus_mse": pytest.approx(-4 / 3)}
    # a value is one whatever the held rows show of it: 3 - 0, 2 - 1, 1 - 0: (9 + 1 + 1) / 3
    few = cast(Ranking, Held(("stars",), [[0], [1], [0], [1]]))
    assert judged(Falling(("stars",)), few, measures=("stars",)) == {"stars.minus_mse": pytest.approx(-11 / 3)}


def test_a_share_steers_by_the_error_of_its_probability() -> None:
    # sigmoid(3), sigmoid(2), sigmoid(1) against how much of each was played
    found = told(("played",), [[1.0], [0.5], [0.25], [0.0]])
    gaps = [1 / (1 + exp(-3)) - 1, 1 / (1 + exp(-2)) - 0.5, 1 / (1 + exp(-1)) - 0.25]
    assert found == {"played.minus_mse": pytest.approx(-sum(gap**2 for gap in gaps) / 3, rel=1e-6)}


def test_a_time_steers_by_the_error_of_its_odds() -> None:
    # exp(3), exp(2), exp(1) of at most 10 seconds against 60, of which 10 count, 7 and 0
    labels = [[60.0], [7.0], [0.0], [5.0]]
    found = judged(Falling(("seconds",)), cast(Ranking, Held(("seconds",), labels)), watch={"seconds": 10.0})
    assert found == {
        "seconds.minus_mse": pytest.approx(-((10 - 10) ** 2 + (exp(2) - 7) ** 2 + exp(1) ** 2) / 3, rel=1e-5),
        "seconds.calibration": pytest.approx((exp(3) + exp(2) + exp(1)) / 17, rel=1e-5),
    }


def test_nothing_to_steer_by_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        told(("seen",), [[1], [1], [1], [1]])
    assert str(caught.value) == (
        "ranking: no held-out list has rows of both classes "
        "(ask about more users (ranking.held, ranking.moments), or look at the tasks' labels)"
    )


def test_the_gates_of_a_head_are_told_and_do_not_steer() -> None:
    """Two experts that share evenly on every row: entropy ln 2, none above 0.95."""

    class Gated(Falling):
        def __init__(self) -> None:
            super().__init__(("clicked",))
            self.gate = Gate(1, 2, ("clicked",))
            nn.init.zeros_(self.gate.linear.weight)
            nn.init.zeros_(self.gate.linear.bias)

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            self.gate(batch.row.dense)
            return super().forward(batch)

    found = judged(Gated(), cast(Ranking, Held(("clicked",), [[0], [1], [0], [1]])))
    assert next(iter(found)) == "clicked.gauc"
    assert found["clicked.gate_entropy"] == pytest.approx(np.log(2))
    assert found["clicked.gate_narrow"] == 0.0
