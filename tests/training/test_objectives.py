"""Pairwise, pointwise and multi-task objectives."""

from dataclasses import replace
from math import exp, log, log1p

import numpy as np
import pytest
import torch
from tests.training.test_softmax import sequences
from tests.training.world import Logits, Steps, Two, labelled, pairs, row_columns
from torch.nn import functional

from shortlist.batch import Batch, Group
from shortlist.config import catalogue
from shortlist.errors import ConfigError, DataError
from shortlist.training.objectives.bce import Bce
from shortlist.training.objectives.pairwise import Pairwise
from shortlist.training.objectives.pointwise import Pointwise

TASKS = ("click", "like")


def test_the_folder_holds_objectives_only() -> None:
    assert catalogue("shortlist.training.objectives") == ("bce", "infonce", "pairwise", "pointwise", "softmax")


# ---------------------------------------------------------------------------------------------- pairwise


def scored(positive: float, negative: float) -> tuple[Two, Batch]:
    """One user with these scores of items 2 and 3, who wants item 2."""
    model = Two(1, 4, dim=1)
    with torch.no_grad():
        model.user.weight.fill_(1.0)
        model.item.weight.copy_(torch.tensor([[0.0], [0.0], [positive], [negative]]))
    return model, pairs([0], [2])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("logistic", log1p(exp(0.3 - 0.5))),
        ("triplet", 0.3 - 0.5 + 0.4),
        ("log", log1p(exp(-0.5)) + log1p(exp(0.3))),
    ],
)
def test_pairwise_by_hand(kind: str, expected: float) -> None:
    model, batch = scored(0.5, 0.3)
    config = Pairwise.Config(loss=kind, margin=0.4, n=3)  # type: ignore[arg-type]
    loss = Pairwise(config, "ip", catalogue=row_columns, counts=[1, 1])(model, batch)
    assert loss.loss.item() == pytest.approx(expected)
    assert loss.parts["right"].item() == 1


def test_a_margin_that_is_kept_costs_nothing() -> None:
    model, batch = scored(0.5, 0.3)
    config = Pairwise.Config(loss="triplet", margin=0.1)
    assert Pairwise(config, "ip", catalogue=row_columns, counts=[1, 1])(model, batch).loss.item() == 0


def test_negatives_are_none_of_what_the_request_wants_or_knows(rng: np.random.Generator) -> None:
    """Items 2 and 3 are wanted, 4 is known: 5 is what is left."""
    model, batch = Two(1, 6), pairs([0], [2, 3], request_of=[0, 0])
    history = Group(torch.tensor([1]), {"item": torch.tensor([[4, 5]])})  # a value behind the length
    batch = replace(batch, request=replace(batch.request, groups={"history": history}))
    objective = Pairwise(Pairwise.Config(n=7), "ip", catalogue=row_columns, counts=np.ones(4))
    s = model.user.weight[0] @ model.item.weight.T
    expected = functional.softplus(s[5] - s[[2, 3]]).mean().item()
    assert objective(model, batch).loss.item() == pytest.approx(expected, rel=1e-6)


def test_every_step_of_a_sequence_gets_negatives() -> None:
    """SASRec's loss. Items are 2 to 6; the sequence holds 2, 3, 4 and wants 3, 4, 5: its negatives are 6."""
    model = Steps(6, 7)
    objective = Pairwise(Pairwise.Config(loss="log"), "ip", catalogue=row_columns, counts=np.ones(5))
    states = model.user(torch.tensor([2, 3, 4]))
    positive = (states * model.item(torch.tensor([3, 4, 5]))).sum(dim=1)
    negative = states @ model.item.weight[6]
    expected = (functional.softplus(-positive) + functional.softplus(negative)).mean().item()
    assert objective(model, sequences()).loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_without_a_wanted_item_costs_nothing() -> None:
    model = Two(2, 5)
    loss = Pairwise(Pairwise.Config(), "ip", catalogue=row_columns, counts=np.ones(3))(model, pairs([0, 1], [0, 1]))
    loss.loss.backward()
    assert loss.loss.item() == 0


# ---------------------------------------------------------------------------------------------- pointwise


def test_pointwise_is_log_loss_of_the_score_and_a_bias() -> None:
    model, batch = Two(2, 5), pairs([0, 1], [2, 3], labels=[1.0, 0.0])
    objective = Pointwise(Pointwise.Config(temperature=0.5), "ip", ("click",))
    with torch.no_grad():
        objective.bias.fill_(-1.0)
    s = (model.user(torch.tensor([0, 1])) * model.item(torch.tensor([2, 3]))).sum(dim=1) / 0.5 - 1.0
    expected = functional.binary_cross_entropy_with_logits(s, torch.tensor([1.0, 0.0]))
    loss = objective(model, batch).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert objective.bias.grad is not None
    # d/db = mean(sigmoid(z) - y)
    assert objective.bias.grad.item() == pytest.approx((s.sigmoid() - torch.tensor([1.0, 0.0])).mean().item(), rel=1e-5)


# ---------------------------------------------------------------------------------------------- multi-task


def rows(n: int = 6) -> Batch:
    dice = torch.Generator().manual_seed(4)
    labels = (torch.rand(n, 2, generator=dice) > 0.5).float()
    return labelled(torch.randn(n, 2, generator=dice), labels, TASKS)


def test_masked_log_loss_by_hand() -> None:
    # logits 0 and ln 3: losses ln 2, and -ln(3/4) for label 1; the label of row 2 is not there, whatever it says
    batch = labelled(torch.zeros(3, 1), torch.tensor([[1.0], [1.0], [float("nan")]]))
    batch = replace(batch, valid=torch.tensor([[True], [True], [False]]), weights=torch.tensor([1.0, 2.0, 5.0]))
    loss = Bce(Bce.Config())(lambda b: {"click": torch.tensor([0.0, log(3), 7.0], requires_grad=True)}, batch)
    assert loss.loss.item() == pytest.approx((log(2) + 2 * log(4 / 3)) / 2)
    loss.loss.backward()


def test_the_shared_bottom_gets_the_weighted_sum_of_the_tasks_gradients() -> None:
    torch.manual_seed(0)
    model, batch = Logits(TASKS), rows()

    def bottom(config: Bce.Config) -> torch.Tensor:
        return torch.autograd.grad(Bce(config)(model, batch).loss, model.bottom.weight)[0]

    click = bottom(Bce.Config(weights={"click": 1.0, "like": 0.0}))
    like = bottom(Bce.Config(weights={"click": 0.0, "like": 1.0}))
    torch.testing.assert_close(bottom(Bce.Config(weights={"click": 0.5, "like": 3.0})), 0.5 * click + 3 * like)
    Bce(Bce.Config(weights={"like": 0.0}))(model, batch).loss.backward()
    head = model.get_parameter("heads.like.weight").grad
    assert head is not None
    assert head.abs().sum() == 0


def test_regression_and_binary_tasks_mix() -> None:
    batch = labelled(torch.zeros(2, 1), torch.tensor([[1.0, 30.0], [0.0, 10.0]]), TASKS)
    logits = {"click": torch.zeros(2), "like": torch.tensor([27.0, 14.0])}
    loss = Bce(Bce.Config(regression=("like",)))(lambda b: logits, batch)
    # ln 2, and (9 + 16) / 2
    assert loss.loss.item() == pytest.approx(log(2) + 12.5)
    assert {task: part.item() for task, part in loss.parts.items()} == pytest.approx({"click": log(2), "like": 12.5})


def test_a_task_without_a_label_in_the_batch_costs_nothing() -> None:
    torch.manual_seed(0)
    model, batch = Logits(TASKS), rows()
    batch = replace(batch, valid=torch.stack([torch.ones(6), torch.zeros(6)], dim=1).bool())
    loss = Bce(Bce.Config())(model, batch)
    loss.loss.backward()
    assert loss.parts["like"].item() == 0
    assert loss.loss.item() == loss.parts["click"].item()


@pytest.mark.parametrize(
    ("label", "regression", "message"),
    [
        (2.0, (), "task like: the label 2 is outside 0..1 (correct the task's definition, or mask the row)"),
        (float("nan"), (), "task like: the label nan is outside 0..1 (correct the task's definition, or mask the row)"),
        (
            float("inf"),
            ("like",),
            "task like: the label inf is not a number (correct the task's definition, or mask the row)",
        ),
    ],
)
def test_a_label_out_of_range_is_refused(label: float, regression: tuple[str, ...], message: str) -> None:
    batch = rows()
    assert batch.labels is not None
    batch.labels[3, 1] = label
    with pytest.raises(DataError) as error:
        Bce(Bce.Config(regression=regression))(Logits(TASKS), batch)
    assert str(error.value) == message
    assert batch.labels is not None
    masked = replace(batch, valid=torch.ones(6, 2).bool())
    assert masked.valid is not None
    masked.valid[3, 1] = False
    assert Bce(Bce.Config(regression=regression))(Logits(TASKS), masked).loss.isfinite()


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError) as unknown:
        Bce(Bce.Config(weights={"clik": 1.0}))(Logits(TASKS), rows())
    assert str(unknown.value) == "objective: no task is called 'clik' (did you mean click?)"
    with pytest.raises(DataError) as error:
        Bce(Bce.Config())(Logits(TASKS), replace(rows(), labels=None))
    assert str(error.value) == "objective: rows carry no labels (give the batch `labels` [B, T])"
