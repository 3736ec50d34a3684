"""Watch time as odds (Covington et al. 2016), completion over length, and losses that are balanced by uncertainty."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, log
from types import SimpleNamespace
from typing import Literal, cast

import numpy as np
import pytest
import torch
from tests.funnel.world import ask
from tests.training.world import Listed, Logits, labelled
from torch import Tensor, nn

from shortlist.batch import Batch, Layout, Side
from shortlist.candidates import Candidates
from shortlist.config import build
from shortlist.dataset.ranking import Examples
from shortlist.errors import ConfigError, DataError
from shortlist.features.assemble import Assembler
from shortlist.models.learned import Learned
from shortlist.models.lengths import Length
from shortlist.schema import Profiles, Schema
from shortlist.training.balance import Uncertainty
from shortlist.training.loop import Loop, train
from shortlist.training.loss import shared
from shortlist.training.objectives.bce import Bce, check_loss
from shortlist.training.optimizers import Rules
from shortlist.training.optimizers import build as rules_of
from shortlist.training.outputs import caps, lengths
from shortlist.training.outputs import labelled as rows_of

How = Literal["weighted", "expected"]


class Constant(nn.Module):
    """One logit for every row, whatever it is, of each task."""

    def __init__(self, *tasks: str) -> None:
        super().__init__()
        self.z = nn.ParameterDict({task: nn.Parameter(torch.zeros((), dtype=torch.float64)) for task in tasks})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {task: z.expand(len(batch)) for task, z in self.z.items()}


def rows(labels: Sequence[float], weights: Sequence[float] | None = None) -> Batch:
    y = torch.tensor(labels, dtype=torch.float64)[:, None]
    batch = labelled(torch.zeros(len(labels), 1), y, ("seconds",))
    return replace(batch, weights=None if weights is None else torch.tensor(weights, dtype=torch.float64))


def learned(labels: Sequence[float], how: How | None, *, caps: float | None = None, more: Bce.Config | None = None,
            weights: Sequence[float] | None = None) -> float:  # fmt: skip
    """exp(z) of the one logit z whose loss on these rows is least."""
    config = more or Bce.Config(watch={} if how is None else {"seconds": how})
    objective = Bce(config, ("seconds",), {} if caps is None else {"seconds": caps})
    model, batch = Constant("seconds"), rows(labels, weights)
    z = model.z["seconds"]
    for _ in range(50):  # Newton's method, no step longer than 1
        (slope,) = torch.autograd.grad(objective(model, batch).loss, z, create_graph=True)
        (curve,) = torch.autograd.grad(slope, z)
        with torch.no_grad():
            z -= (slope / curve).clamp(-1, 1)
    return exp(z.item())


# ------------------------------------------------------------------------------------------------- watch time


def test_a_time_that_is_always_the_same_is_what_is_served() -> None:
    assert learned([3.0] * 5, "expected") == pytest.approx(3)


def test_expected_time_is_the_mean_where_few_watch_long() -> None:
    # a tenth watches 100 s: 10 s; weights t / (1 + t) and 1 / (1 + t) would say
    # odds (0.1 * 100/101) / (0.1 / 101 + 0.9) = 0.1099
    labels = [100.0] + [0.0] * 9
    assert learned(labels, "expected") == pytest.approx(10)
    shares = [t / (1 + t) for t in labels]
    fractional = sum(shares) / sum(1 - share for share in shares)
    assert fractional == pytest.approx(0.11, abs=1e-3)


def test_weighted_odds_are_the_times_over_the_rows_nobody_watched() -> None:
    # 10 + 20 + 30 seconds over 10 - 3 rows; with a small share of clicks that is close to the mean, 6
    labels = [10.0, 20.0, 30.0] + [0.0] * 7
    assert learned(labels, "weighted") == pytest.approx(60 / 7)
    assert learned([10.0] + [0.0] * 999, "weighted") == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize("how", ["weighted", "expected"])
def test_long_times_count_as_the_longest_that_counts(how: How) -> None:
    labels = [10.0, 20.0, 5000.0] + [0.0] * 7
    assert learned(labels, how, caps=30.0) == pytest.approx(learned([10.0, 20.0, 30.0] + [0.0] * 7, how))


@pytest.mark.parametrize("how", ["weighted", "expected", None])
def test_a_row_of_weight_0_is_no_row(how: How | None) -> None:
    labels = [1.0, 0.0, 0.0, 1.0]
    assert learned(labels, how, weights=[1, 1, 1, 0]) == pytest.approx(learned(labels[:3], how))


def test_the_longest_that_counts_is_a_percentile_of_what_was_watched() -> None:
    # the 75th of 10, 20, 30, 40, 50 is 40; rows nobody watched do not count
    watched = {"seconds": (np.arange(8), np.array([0, 10, 20, 0, 30, 40, 50, 0.0]))}
    assert caps(watched, Bce.Config(watch={"seconds": "expected"}, percentile=75.0)) == {"seconds": 40.0}
    assert caps({"seconds": (np.arange(2), np.zeros(2))}, Bce.Config(watch={"seconds": "weighted"})) == {"seconds": 0.0}


@pytest.mark.parametrize("label", [-1.0, float("inf")])
def test_what_is_no_time_is_refused(label: float) -> None:
    with pytest.raises(DataError) as caught:
        learned([1.0, label], "expected")
    assert str(caught.value) == (
        f"task seconds: the label {label:g} is no time (correct the task's definition, or mask the row)"
    )


# ----------------------------------------------------------------------------------------------- fixed weights


def test_doubling_all_weights_moves_nothing() -> None:
    def gradients(*weights: float) -> list[Tensor]:
        torch.manual_seed(0)
        model = Logits(("click", "finish"))
        dice = torch.Generator().manual_seed(1)
        batch = labelled(
            torch.randn(8, 2, generator=dice), (torch.rand(8, 2, generator=dice) > 0.5).float(), ("click", "finish")
        )
        config = Bce.Config(weights=dict(zip(("click", "finish"), weights, strict=True)))
        return list(torch.autograd.grad(Bce(config)(model, batch).loss, list(model.parameters())))

    # the gradient is twice as long everywhere, so it is 0 in the same places
    for one, two in zip(gradients(0.3, 0.7), gradients(0.6, 1.4), strict=True):
        torch.testing.assert_close(2 * one, two)


def test_positives_that_count_more_shift_the_odds_by_their_weight() -> None:
    # 2 of 10, each worth 4: odds 8 / 8 instead of 2 / 8
    labels = [1.0] * 2 + [0.0] * 8
    assert learned(labels, None) == pytest.approx(0.25)
    assert learned(labels, None, more=Bce.Config(class_weights={"seconds": 4.0})) == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------- completion


class Held:
    """Rows of one task, `finished`, in one unit."""

    tasks: tuple[str, ...] = ("click", "finished")

    def __init__(self, items: np.ndarray, labels: np.ndarray) -> None:
        self.items, self.labels = items, labels.astype(np.float32)

    def __len__(self) -> int:
        return 1

    def examples(self, units: np.ndarray) -> Examples:
        n = len(self.items)
        made = replace(
            Candidates.empty(1), offsets=np.array([0, n]), items=self.items, fate=np.zeros(n, np.int16),
            rank=np.zeros((n, 0), np.int32), score=np.zeros((n, 0), np.float32),
        )  # fmt: skip
        both = np.stack([np.full(n, 9, np.float32), self.labels], axis=1)
        valid = np.stack([np.ones(n, bool), np.arange(n) % 10 != 0], axis=1)  # a tenth has no label
        return Examples(None, made, both, valid, np.zeros(n, np.int8), np.ones(n, bool))  # type: ignore[arg-type]


FINISHED = Bce.Config(length={"finished": "duration"})


def test_completion_over_the_usual_one_is_flat_across_lengths(rng: np.random.Generator) -> None:
    """Of an hour a tenth is seen, of ten seconds nine: what is left after division is what an item is worth itself."""
    long = np.exp(rng.uniform(log(10), log(3600), 400))  # seconds of 400 items
    usual = 0.9 - 0.8 * (np.log(long) - log(10)) / log(360)
    items = rng.integers(0, 400, 40_000)
    ratio = np.clip(usual[items] * rng.uniform(0.5, 1.5, len(items)), 0, 1)
    held = Held(items, ratio)
    fitted = rows_of(held, ("finished",))
    assert len(fitted["finished"][0]) == 36_000
    assert set(fitted) == {"finished"}
    profiles = Profiles(np.arange(400), {"duration": long})
    f = lengths(fitted, FINISHED, profiles)["finished"]
    assert f.field == "duration"
    edges = np.quantile(np.log(long), np.linspace(0, 1, 9)[1:-1])
    bucket = np.searchsorted(edges, np.log(long[items]))
    before = np.bincount(bucket, ratio) / np.bincount(bucket)
    after = np.bincount(bucket, ratio / f.usual(long[items])) / np.bincount(bucket)
    assert before.max() / before.min() > 4
    assert after == pytest.approx(np.ones(8), abs=0.03)


def test_usual_completion_by_hand() -> None:
    # of 10 s 0.8 and 0.6 are seen, of 100 s 0.9 (it may not rise: pooled, 2.3 / 3), of 1000 s 0.1
    items = np.array([0, 0, 1, 2, 3])
    found = lengths(
        {"finished": (items, np.array([0.8, 0.6, 0.9, 0.1, 0.6]))}, FINISHED,
        Profiles(np.arange(4), {"duration": np.array([10.0, 100.0, 1000.0, np.nan])}),
    )["finished"]  # fmt: skip
    pooled = 2.3 / 3
    assert np.exp(found.at[0]).tolist() == pytest.approx([10, 100, 1000])
    assert found.at[1].tolist() == pytest.approx([pooled, pooled, 0.1])
    # without a length, the mean of all that have one; between two lengths, halfway in their logarithms
    assert found.mean == pytest.approx(2.4 / 4)
    asked = [1.0, 10**2.5, 1e9, np.nan, 0.0, -3.0]
    assert found.usual(asked).tolist() == pytest.approx([pooled, (pooled + 0.1) / 2, 0.1, 0.6, 0.6, 0.6])


def test_what_nobody_finishes_is_not_divided_by_nothing() -> None:
    never = Length("duration", np.array([[0.0], [0.0]]), 0.0)
    assert never.usual([1.0, np.nan]).tolist() == [0.01, 0.01]


def test_items_without_any_length() -> None:
    profiles = Profiles(np.arange(2), {"duration": np.array([0.0, np.nan])})
    with pytest.raises(DataError) as caught:
        lengths({"finished": (np.array([0, 1, 1]), np.ones(3))}, FINISHED, profiles)
    assert str(caught.value) == (
        "task finished: none of 3 rows of training has a duration above 0 "
        "(fill the column, or take it out of loss.length)"
    )


def test_what_is_served_is_seconds_and_completion_over_the_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of three items of 10 s, 100 s and no length."""
    z = {"seconds": np.array([log(30), 90.0, -1.0]), "finished": np.array([0.0, log(3), 0.0]), "stars": np.arange(3.0)}
    monkeypatch.setattr(
        Learned, "logits", lambda *asked: {task: column.astype(np.float32) for task, column in z.items()}
    )
    items = Profiles(np.arange(2), {"duration": np.array([10.0, 100.0])})
    f = Length("duration", np.array([[log(10), log(100)], [0.8, 0.5]]), 0.6)
    learned = Learned(
        None, cast(Assembler, SimpleNamespace(items=items)), Layout(Side(), Side(), {}), {}, frozenset({"stars"}),
        watch={"seconds": 60.0}, lengths={"finished": f, "stars": f},
    )  # fmt: skip
    said = learned.score(ask([]), replace(Candidates.empty(1), items=np.arange(3)))
    # exp(z), which is no number beyond 88; sigmoid(0) / 0.8, sigmoid(ln 3) / 0.5, and over the mean 0.6
    assert said["seconds"] == pytest.approx([30, exp(80), exp(-1)], rel=1e-5)
    assert said["finished"].tolist() == pytest.approx([0.625, 1.5, 0.5 / 0.6])
    assert said["stars"].tolist() == pytest.approx([0, 2, 2 / 0.6])
    assert learned.values == {"seconds", "finished", "stars"}


# ------------------------------------------------------------------------------------------------- uncertainty


def settled(losses: dict[str, float], measures: tuple[str, ...]) -> Uncertainty:
    """The balance of losses that stay as they are."""
    balance = Uncertainty(tuple(losses), measures, own_lr=0.05)
    rules = rules_of(nn.ModuleDict({"objective": balance}), Rules(lr=1e-9))
    fixed = {task: torch.tensor(loss) for task, loss in losses.items()}
    here = {task: torch.tensor(True) for task in losses}
    for _ in range(2000):
        rules.zero_grad()
        torch.stack(list(balance(fixed, here).values())).sum().backward()
        assert rules.step() is None
    return balance


def test_frozen_losses_find_their_weights() -> None:
    # s = ln L of a regression (c = 1/2), ln 2L of a classification: weights 1 / (2 L) both
    losses = {"stars": 8.0, "click": 0.7, "like": 0.1}
    balance = settled(losses, ("stars",))
    expected = [log(8.0), log(1.4), log(0.2)]
    assert balance.s.tolist() == pytest.approx(expected, abs=1e-3)
    weights = balance.weights().tolist()
    assert weights == pytest.approx([1 / 16, 1 / 1.4, 1 / 0.2], rel=2e-3)
    assert weights == sorted(weights)  # the larger the loss, the less it counts


def test_the_gradient_of_s() -> None:
    balance = Uncertainty(("stars", "click"), ("stars",))
    with torch.no_grad():
        balance.s.copy_(torch.tensor([1.0, -0.5]))
    here = {"stars": torch.tensor(True), "click": torch.tensor(True)}
    parts = balance({"stars": torch.tensor(3.0), "click": torch.tensor(0.7)}, here)
    # c e^-s L + s / 2
    assert parts["stars"].item() == pytest.approx(0.5 * exp(-1) * 3 + 0.5)
    assert parts["click"].item() == pytest.approx(exp(0.5) * 0.7 - 0.25)
    torch.stack(list(parts.values())).sum().backward()
    assert balance.s.grad is not None
    assert balance.s.grad.tolist() == pytest.approx([-0.5 * exp(-1) * 3 + 0.5, -exp(0.5) * 0.7 + 0.5])


TASKS = ("click", "like")


def two(n: int = 6, seed: int = 4) -> Batch:
    dice = torch.Generator().manual_seed(seed)
    return labelled(torch.randn(n, 2, generator=dice), (torch.rand(n, 2, generator=dice) > 0.5).float(), TASKS)


def test_at_0_it_is_the_sum_of_fixed_weights() -> None:
    torch.manual_seed(0)
    model, batch = Logits(TASKS), two()
    weights = {"click": 0.3, "like": 2.0}
    fixed = Bce(Bce.Config(weights=weights))(model, batch)
    free = Bce(Bce.Config(weights=weights, balance="uncertainty"), TASKS)(model, batch)
    torch.testing.assert_close(free.loss, fixed.loss)
    assert {name: value.item() for name, value in free.parts.items()} == pytest.approx(
        {name: value.item() for name, value in fixed.parts.items()} | {"click.weight": 1.0, "like.weight": 1.0}
    )
    # a regression counts half
    half = Bce(Bce.Config(regression=TASKS, balance="uncertainty"), TASKS)(model, batch).loss
    torch.testing.assert_close(2 * half, Bce(Bce.Config(regression=TASKS))(model, batch).loss)


def test_a_task_that_is_not_in_a_batch_learns_nothing_from_it() -> None:
    batch = replace(two(), valid=torch.tensor([[True, False]]).expand(6, 2))
    objective = Bce(Bce.Config(balance="uncertainty"), TASKS)
    objective(Logits(TASKS), batch).loss.backward()
    assert objective.balance is not None
    assert objective.balance.s.grad is not None
    assert objective.balance.s.grad[0] != 0
    assert objective.balance.s.grad[1] == 0


def test_a_task_that_another_process_has_rows_of_is_there_for_both() -> None:
    """Two processes share a batch whose labels of `like` all lie with the first: the mean of their gradients of s is
    that of one process with all rows."""
    batch = replace(two(), valid=torch.tensor([[True, True]] * 3 + [[True, False]] * 3))
    halves = [batch.rows(0, 3), batch.rows(3, 6)]

    def slope(of: Batch, mean: Callable[[Tensor], Tensor] | None) -> Tensor:
        objective, model = Bce(Bce.Config(balance="uncertainty"), TASKS), Logits(TASKS)
        model.load_state_dict(same.state_dict())
        with contextlib.nullcontext() if mean is None else shared(mean):
            objective(model, of).loss.backward()
        assert objective.balance is not None
        assert objective.balance.s.grad is not None
        return objective.balance.s.grad

    torch.manual_seed(0)
    same = Logits(TASKS)

    def of_both(asked: list[float]) -> Callable[[Tensor], Tensor]:
        means = iter(asked)
        return lambda number: number * 0 + next(means)

    # the count of click is 3 in both, that of like 3 and 0: means 3 and 1.5
    parts = [slope(half, of_both([3.0, 1.5])) for half in halves]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, slope(batch, None))


def test_s_has_a_rate_of_its_own_and_does_not_decay() -> None:
    objective = Bce(Bce.Config(balance="uncertainty", balance_lr=0.5), TASKS)
    model = Logits(TASKS)
    rules = rules_of(nn.ModuleDict({"model": model, "objective": objective}), Rules("sgd", lr=0.1, weight_decay=0.3))
    assert objective.balance is not None
    with torch.no_grad():
        objective.balance.s.fill_(1.0)
    objective(model, two()).loss.backward()
    weight, s = model.bottom.weight, objective.balance.s
    assert s.grad is not None
    assert weight.grad is not None
    expected = [(s - 0.5 * s.grad).tolist(), (weight - 0.1 * (weight.grad + 0.3 * weight)).tolist()]
    rules.step()
    assert s.tolist() == pytest.approx(expected[0])
    np.testing.assert_allclose(weight.tolist(), expected[1], rtol=1e-5)


def test_the_loop_tells_the_weights_of_every_step_and_goes_on_with_them(tmp_path: object) -> None:
    def run(epochs: int, folder: str) -> tuple[list[dict[str, float]], dict[str, float]]:
        torch.manual_seed(0)
        objective = Bce(Bce.Config(balance="uncertainty"), TASKS)
        batches = [two(seed=seed) for seed in range(5)]
        steps = list(
            train(Logits(TASKS), objective, Listed(batches), Loop.Config(epochs=epochs, lr=0.01), folder=folder)
        )
        return [dict(step.parts) for step in steps], objective.weights()

    parts, weights = run(4, f"{tmp_path}/a")
    assert set(parts[0]) == {"click", "like", "click.weight", "like.weight"}
    assert parts[0]["click.weight"] == 1.0
    # log losses near ln 2: the best s is ln(2 ln 2) = 0.33, so weights fall below 1
    assert all(part["click.weight"] < 1 for part in parts[3:])
    assert weights["click"] < parts[-1]["click.weight"] + 0.01
    assert list(weights) == list(TASKS)


# ------------------------------------------------------------------------------------------------- what is refused

KIND = Schema.parse({
    "action": "what", "actions": {"impression": {"weight": 0}, "click": {}, "watch": {}},
    "items": {"duration": "dense", "kind": "sparse"},
    "tasks": {
        "click": {"positive": "click"}, "seconds": {"positive": "coalesce(watch.value, 0)"},
        "taken": {"on": {"sample": "mixed"}, "positive": "click"},
    },
})  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"watch": {"second": "expected"}}, "rank.loss: no task is called 'second' (did you mean seconds?)"),
        ({"watch": {"seconds": "log"}},
         "rank.loss.watch.seconds: should be 'weighted' or 'expected', got 'log' (correct the value)"),
        ({"percentile": 90.0}, "rank.loss: percentile does nothing without watch (take percentile away)"),
        ({"balance_lr": 0.1},
         'rank.loss: balance_lr does nothing without balance = "uncertainty" (take balance_lr away)'),
        ({"watch": {"seconds": "expected"}, "regression": ["seconds"]},
         "rank.loss: seconds is in watch and in regression (take it out of one of the two)"),
        ({"watch": {"seconds": "expected"}, "class_weights": {"seconds": 2.0}},
         "rank.loss.class_weights: seconds is a value and has no negatives (take it out of class_weights)"),
        ({"regression": ["seconds"], "kept": {"seconds": 0.5}},
         "rank.loss.kept: seconds is a value and has no negatives (take it out of kept)"),
        ({"kept": {"taken": 0.5}},
         "rank.loss.kept: the negatives of taken are drawn, and calibrated where nothing is drawn "
         "(take it out of kept)"),
        ({"kept": {"click": 1.5}}, "rank.loss.kept.click: should be at most 1.0, got 1.5 (correct the value)"),
        ({"length": {"click": "durations"}},
         "rank.loss.length: no dense item field is called 'durations' (did you mean duration?)"),
        ({"length": {"click": "kind"}}, "rank.loss.length: no dense item field is called 'kind' (known: duration)"),
        ({"length": {"seconds": "duration"}, "watch": {"seconds": "weighted"}},
         "rank.loss.length: seconds is a time: completion is what has a length (take it out of length)"),
        ({"balance": "learned"},
         "rank.loss.balance: should be 'fixed' or 'uncertainty', got 'learned' (correct the value)"),
        ({"percentile": 0.0}, "rank.loss.percentile: should be more than 0.0, got 0.0 (correct the value)"),
    ],
)  # fmt: skip
def test_words_that_do_not_go_together(words: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_loss(build(Bce.Config, words, "rank.loss"), KIND, "rank.loss")
    assert str(caught.value) == message
