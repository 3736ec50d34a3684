"""The listwise objective against closed forms and enumeration."""

import itertools
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.training.world import Steps, Two, pairs, row_columns
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from shortlist.batch import Batch, Columns, Group
from shortlist.errors import ConfigError
from shortlist.training.frequency import Counted, Streaming
from shortlist.training.negatives import Sampler
from shortlist.training.objectives.pairwise import Pairwise
from shortlist.training.objectives.softmax import Softmax
from shortlist.training.scores import Temperature, paired, table

Config = Softmax.Config


def scores(model: Two, batch: Batch, items: list[int]) -> Tensor:
    """<u, v> of each row of the batch with each of some items."""
    u: Tensor = model.user(batch.request["user.id"][batch.request_of])
    v: Tensor = model.item(torch.tensor(items))
    return u @ v.T


def value(objective: torch.nn.Module, model: Two, batch: Batch) -> float:
    loss: Tensor = objective(model, batch).loss
    return float(loss.item())


def test_in_batch_by_hand() -> None:
    # two users, two items, scores [[ln 3, 0], [0, 0]]: -log(3 / 4) and -log(1 / 2), mean (0.287682 + 0.693147) / 2
    model = Two(2, 4, dim=2)
    with torch.no_grad():
        model.user.weight.copy_(torch.eye(2))
        model.item.weight.copy_(torch.tensor([[9.0, 9.0], [9.0, 9.0], [log(3), 0.0], [0.0, 0.0]]))
    loss = Softmax(Config(), "ip")(model, pairs([0, 1], [2, 3]))
    assert loss.loss.item() == pytest.approx((log(4 / 3) + log(2)) / 2)
    assert loss.parts["softmax"].item() == pytest.approx(loss.loss.item())


def test_logq_by_hand_and_on_every_column_the_wanted_one_too() -> None:
    # counts 3 and 1, 2 examples: item 2 is there with 1 - (1/4)^2 = 15/16, item 3 with 1 - (3/4)^2 = 7/16
    model, batch = Two(2, 4), pairs([0, 1], [2, 3])
    s = scores(model, batch, [2, 3]) - torch.tensor([15 / 16, 7 / 16]).log()
    found = value(Softmax(Config(), "ip", frequency=Counted([3, 1])), model, batch)
    assert found == pytest.approx(functional.cross_entropy(s, torch.tensor([0, 1])).item(), rel=1e-6)
    assert found != pytest.approx(value(Softmax(Config(), "ip"), model, batch), rel=1e-3)


def test_equal_frequencies_change_nothing() -> None:
    model, batch = Two(4, 6), pairs([0, 1, 2, 3], [2, 3, 4, 5])
    even = value(Softmax(Config(), "ip", frequency=Counted([7, 7, 7, 7])), model, batch)
    assert even == pytest.approx(value(Softmax(Config(), "ip"), model, batch), rel=1e-6)


def test_a_weighted_sum_over_drawn_columns_has_the_full_sum_as_its_mean() -> None:
    """E over batches of sum over distinct columns of exp(s_j) / p_j = sum over all j of exp(s_j): all 4^3 batches."""
    counts, s = np.array([4.0, 3.0, 2.0, 1.0]), np.array([0.3, -1.0, 2.0, 0.5])
    q, draws = counts / counts.sum(), 3
    p = Counted(counts).log_presence(torch.arange(2, 6), draws).double().exp().numpy()
    assert p == pytest.approx(1 - (1 - q) ** draws)
    mean = 0.0
    for drawn in itertools.product(range(4), repeat=draws):
        inside = np.unique(drawn)
        mean += np.prod(q[list(drawn)]) * (np.exp(s[inside]) / p[inside]).sum()
    assert mean == pytest.approx(np.exp(s).sum(), rel=1e-6)


def test_repeats_of_the_wanted_item_never_enter_its_denominator() -> None:
    model, batch = Two(3, 5), pairs([0, 1, 2], [2, 2, 3])
    s = scores(model, batch, [2, 3])
    # users 0 and 1 both want item 2: the only other column is item 3; user 2 has one column of item 2, not two
    expected = (
        functional.cross_entropy(s[:2], torch.tensor([0, 0]), reduction="sum")
        + functional.cross_entropy(s[2:], torch.tensor([1]), reduction="sum")
    ) / 3
    assert value(Softmax(Config(), "ip"), model, batch) == pytest.approx(expected.item(), rel=1e-6)


def test_what_a_request_wants_elsewhere_is_no_negative_of_it() -> None:
    model = Two(2, 5)
    batch = pairs([0, 1], [2, 3, 4], request_of=[0, 0, 1])
    s = scores(model, batch, [2, 3, 4])
    expected = -(
        functional.log_softmax(s[0, [0, 2]], 0)[0]
        + functional.log_softmax(s[1, [1, 2]], 0)[0]
        + functional.log_softmax(s[2], 0)[2]
    )
    assert value(Softmax(Config(), "ip"), model, batch) == pytest.approx(expected.item() / 3, rel=1e-6)


def test_known_items_of_the_history_are_no_negatives_when_asked() -> None:
    model, batch = Two(2, 5), pairs([0, 1], [2, 3])
    history = Group(torch.tensor([1, 1]), {"item": torch.tensor([[3, 2], [4, 3]])})  # a value behind the length
    batch = replace(batch, request=replace(batch.request, groups={"history": history}))
    s = scores(model, batch, [2, 3])
    # user 0 knows item 3: its only column is its own, loss 0
    expected = -functional.log_softmax(s[1], 0)[1].item() / 2
    assert value(Softmax(Config(known="history"), "ip"), model, batch) == pytest.approx(expected, rel=1e-6)


def test_padding_and_unknown_items_are_neither_wanted_nor_columns() -> None:
    model = Two(4, 5)
    some, clean = pairs([0, 1, 2, 3], [2, 1, 3, 0]), pairs([0, 2], [2, 3])
    frequency = Streaming(bits=4)
    objective = Softmax(Config(), "ip", frequency=frequency)
    assert value(objective, model, some) == pytest.approx(
        value(Softmax(Config(), "ip", frequency=Streaming(bits=4)), model, clean), rel=1e-6
    )
    empty = objective(model, pairs([0, 1], [0, 1])).loss
    empty.backward()
    assert empty.item() == 0


def test_labels_and_weights_are_the_worth_of_an_example() -> None:
    model = Two(3, 5)
    batch = pairs([0, 1, 2], [2, 3, 4], labels=[1.0, 0.0, 1.0], weights=[2.0, 1.0, 0.5])
    nll = -functional.log_softmax(scores(model, batch, [2, 3, 4]), 1).diagonal()
    # row 1 was not wanted: a column, no example
    expected = (2 * nll[0] + 0.5 * nll[2]).item() / 2
    assert value(Softmax(Config(), "ip"), model, batch) == pytest.approx(expected, rel=1e-6)
    masked = replace(batch, valid=torch.tensor([[True], [True], [False]]))
    assert value(Softmax(Config(task="click"), "ip"), model, masked) == pytest.approx(2 * nll[0].item(), rel=1e-6)
    with pytest.raises(ConfigError) as error:
        Softmax(Config(task="clik"), "ip")(model, batch)
    assert str(error.value) == "objective.task: no task is called 'clik' (did you mean click?)"


# ---------------------------------------------------------------------------------------------- columns from elsewhere


def test_full_is_the_softmax_over_all_items() -> None:
    model, batch = Two(3, 7), pairs([0, 1, 2], [2, 2, 6])
    full = Softmax(Config(negatives="full"), "ip", catalogue=row_columns, counts=np.ones(5))
    s = scores(model, batch, [2, 3, 4, 5, 6])
    expected = functional.cross_entropy(s, torch.tensor([0, 0, 4]))
    loss = full(model, batch).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert model.item.weight.grad is not None
    assert model.item.weight.grad[:2].abs().sum() == 0  # padding and unknown are no classes
    expected_grad = torch.autograd.grad(expected, model.item.weight)[0]
    torch.testing.assert_close(model.item.weight.grad, expected_grad, rtol=1e-5, atol=1e-6)


class Every(Sampler):
    """Every item once."""

    def sample(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        ids = np.arange(2, len(self) + 2)
        return ids, self.log_q(ids)


def test_sampled_over_all_items_with_uniform_q_is_the_full_softmax() -> None:
    model, batch = Two(3, 7), pairs([0, 1, 2], [2, 3, 6])
    sampled = Softmax(Config(negatives="sampled", n=5), "ip", catalogue=row_columns, counts=np.ones(5))
    sampled.sampler = Every(np.ones(5))
    full = Softmax(Config(negatives="full"), "ip", catalogue=row_columns, counts=np.ones(5))
    assert value(sampled, model, batch) == pytest.approx(value(full, model, batch), rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_gradient_of_sampled_columns_tends_to_the_full_one(beta: float) -> None:
    """Mean over 200 draws with logQ; more negatives, less bias."""
    model, batch = Two(3, 32, seed=3), pairs([0, 1, 2], [2, 9, 20])
    counts = np.arange(1, 31)
    full = Softmax(Config(negatives="full"), "ip", catalogue=row_columns, counts=counts)
    exact = torch.autograd.grad(full(model, batch).loss, model.user.weight)[0]
    gaps = []
    for n in (4, 256):
        config = Config(negatives="sampled", n=n, beta=beta)
        sampled = Softmax(config, "ip", catalogue=row_columns, counts=counts)
        grads = [torch.autograd.grad(sampled(model, batch).loss, model.user.weight)[0] for _ in range(200)]
        gaps.append((torch.stack(grads).mean(dim=0) - exact).norm().item() / exact.norm().item())
    assert gaps[1] < 0.3 * gaps[0]
    assert gaps[1] < 0.05


def test_mixed_by_hand_and_without_draws_it_is_in_batch() -> None:
    model, batch = Two(2, 4), pairs([0, 1], [2, 3])
    frequency = Counted([3, 1])
    mixed = Softmax(Config(negatives="mixed", n=1), "ip", frequency=frequency, catalogue=row_columns, counts=[3, 1])
    # both items are columns already; each is there by the batch or by one of n draws of 1/2
    p = torch.tensor([1 - (1 / 16) * (1 / 2), 1 - (9 / 16) * (1 / 2)])
    s = scores(model, batch, [2, 3]) - p.log()
    assert value(mixed, model, batch) == pytest.approx(
        functional.cross_entropy(s, torch.tensor([0, 1])).item(), rel=1e-6
    )
    none = Softmax(Config(negatives="mixed", n=0), "ip", frequency=frequency, catalogue=row_columns, counts=[3, 1])
    alone = value(Softmax(Config(), "ip", frequency=frequency), model, batch)
    assert value(none, model, batch) == pytest.approx(alone, rel=1e-6)


def test_mixed_draws_are_more_columns() -> None:
    model, batch = Two(2, 6), pairs([0, 1], [2, 5])
    mixed = Softmax(Config(negatives="mixed", n=4), "ip", catalogue=row_columns, counts=np.ones(4))
    mixed.sampler = Every(np.ones(4))
    full = Softmax(Config(negatives="full"), "ip", catalogue=row_columns, counts=np.ones(4))
    assert value(mixed, model, batch) == pytest.approx(value(full, model, batch), rel=1e-6)


def test_draws_are_kept_with_the_state() -> None:
    model, batch = Two(3, 102), pairs([0, 1, 2], [2, 9, 20])

    def made() -> Softmax:
        return Softmax(Config(negatives="sampled", n=5), "ip", catalogue=row_columns, counts=np.ones(100))

    first, second = made(), made()
    first(model, batch)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    assert value(first, model, batch) == value(second, model, batch)
    assert value(first, model, batch) != value(made(), model, batch)


# ---------------------------------------------------------------------------------------------- steps


def sequences() -> Batch:
    """Two sequences: items 2 3 4 then 5; item 3 then an unknown one, which no step may want."""
    history = Group(torch.tensor([3, 1]), {"item": torch.tensor([[2, 3, 4], [3, 0, 0]])})
    request = Columns(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0), groups={"history": history})
    targets = torch.tensor([[3, 4, 5], [1, 0, 0]])
    return Batch(request, row_columns(torch.tensor([5, 1])), torch.arange(2), targets=targets)


@pytest.mark.parametrize("negatives", ["full", "batch"])
def test_every_step_with_a_target_is_an_example(negatives: str) -> None:
    model = Steps(6, 6)
    config = Config(negatives=negatives)  # type: ignore[arg-type]
    objective = Softmax(config, "ip", catalogue=row_columns, counts=np.ones(4))
    classes = [2, 3, 4, 5] if negatives == "full" else [3, 4, 5]
    s = model.user(torch.tensor([2, 3, 4])) @ model.item(torch.tensor(classes)).T
    expected = functional.cross_entropy(s, torch.tensor([classes.index(item) for item in (3, 4, 5)]))
    assert value(objective, model, sequences()) == pytest.approx(expected.item(), rel=1e-6)


def test_steps_are_weighted_by_their_sequence() -> None:
    model, batch = Steps(6, 6), replace(sequences(), weights=torch.tensor([3.0, 1.0]))
    objective = Softmax(Config(), "ip", catalogue=row_columns)
    assert value(objective, model, batch) == pytest.approx(3 * value(objective, model, sequences()), rel=1e-6)


@pytest.mark.parametrize("negatives", ["batch", "mixed", "full"])
@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
def test_slopes_are_those_of_the_loss(negatives: str, metric: str) -> None:
    model, batch = Two(3, 6).double(), pairs([0, 1, 2], [2, 3, 3])
    config = Config(negatives=negatives, n=2, temperature=0.5)  # type: ignore[arg-type]
    objective = Softmax(config, metric, frequency=Counted([3, 2, 1, 1]), catalogue=row_columns, counts=[3, 2, 1, 1])
    objective.sampler = Every([3, 2, 1, 1])

    def loss(user: Tensor, item: Tensor) -> Tensor:
        out: Tensor = functional_call(
            Whole(model, objective), {"model.user.weight": user, "model.item.weight": item}, (batch,)
        )
        return out

    weights = (model.user.weight.detach().requires_grad_(), model.item.weight.detach().requires_grad_())
    assert torch.autograd.gradcheck(loss, weights)


class Whole(nn.Module):
    def __init__(self, model: Two, objective: Softmax) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.objective(self.model, batch).loss
        return out


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        Softmax(Config(negatives="sampled", n=0), "ip", catalogue=row_columns, counts=[1])
    assert str(error.value) == "objective.n: 'sampled' without a draw (write at least 1)"
    with pytest.raises(ConfigError) as error:
        Softmax(Config(negatives="mixed"), "ip")
    assert str(error.value) == (
        "objective.negatives: 'mixed' needs the items of the catalogue and how often each was met "
        "(give them, or write 'batch')"
    )
    with pytest.raises(ConfigError) as error:
        Softmax(Config(), "ip")(Steps(6, 6), sequences())
    assert str(error.value) == (
        "objective: steps of sequences have no rows of their own: the items of the catalogue are needed "
        "(give `catalogue`)"
    )


# ---------------------------------------------------------------------------------------------- scores, temperature


def test_cosines_do_not_care_for_length_and_their_slope_is_across() -> None:
    dice = torch.Generator().manual_seed(1)
    u, v = torch.randn(4, 3, generator=dice, requires_grad=True), torch.randn(5, 3, generator=dice)
    s = table(u, v, "cos")
    torch.testing.assert_close(table(7.5 * u, 0.2 * v, "cos"), s)
    slope = torch.autograd.grad(s[:, 0].sum(), u)[0]
    torch.testing.assert_close((slope * u).sum(dim=1), torch.zeros(4), atol=1e-6, rtol=0)
    assert table(torch.zeros(1, 3), v, "cos").tolist() == [[0.0] * 5]


@pytest.mark.parametrize("metric", ["ip", "cos", "l2"])
def test_the_table_of_scores_is_the_score_of_each_pair(metric: str) -> None:
    dice = torch.Generator().manual_seed(2)
    u, v = torch.randn(4, 3, generator=dice), torch.randn(5, 3, generator=dice)
    each = torch.stack([paired(u, v[j].expand(4, 3), metric) for j in range(5)], dim=1)
    torch.testing.assert_close(table(u, v, metric), each)


def test_unit_vectors_are_ordered_alike_by_all_three() -> None:
    dice = torch.Generator().manual_seed(3)
    u = functional.normalize(torch.randn(4, 3, generator=dice), dim=1)
    v = functional.normalize(torch.randn(9, 3, generator=dice), dim=1)
    orders = [table(u, v, metric).argsort(dim=1) for metric in ("ip", "cos", "l2")]
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])


def test_a_cold_softmax_is_the_hinge_on_the_hardest_negative() -> None:
    """tau * loss -> max(0, max_j s_j - s_+)."""
    model, batch = Two(3, 6), pairs([0, 1, 2], [2, 3, 4])
    s = table(model.query(batch.request), model.candidate(batch.row), "cos")
    hardest = s.masked_fill(torch.eye(3, dtype=torch.bool), -9).amax(dim=1)
    hinge = (hardest - s.diagonal()).clamp(min=0).mean().item()
    tau = 1e-3
    assert tau * value(Softmax(Config(temperature=tau), "cos"), model, batch) == pytest.approx(hinge, abs=2 * tau)
    assert hinge > 0.1


def test_temperature_scales_and_can_be_learned_within_bounds() -> None:
    scores_M = torch.tensor([0.5, -1.0])
    torch.testing.assert_close(Temperature(0.1)(scores_M), scores_M * 10)
    assert not list(Temperature(0.1).parameters())
    learned = Temperature(0.1, learned=True)
    with torch.no_grad():
        learned.log_scale.fill_(50.0)
    learned(scores_M).sum().backward()
    assert exp(learned.log_scale.item()) == pytest.approx(100)
    assert learned.log_scale.grad is not None
    assert learned.log_scale.grad.item() != 0
    model, batch = Two(2, 4), pairs([0, 1], [2, 3])
    assert Softmax(Config(), "cos").temperature(torch.ones(1)).item() == pytest.approx(10)
    assert Softmax(Config(), "ip").temperature(torch.ones(1)).item() == 1
    objective = Softmax(Config(temperature=0.2, learn_temperature=True), "cos")
    loss = objective(model, batch)
    assert loss.parts["temperature"].item() == pytest.approx(0.2)
    loss.loss.backward()
    assert next(objective.parameters()).grad is not None


def test_listwise_with_one_negative_is_pairwise_logistic() -> None:
    """Two items, so that the negative of each is the other."""
    model, batch = Two(2, 4), pairs([0, 1], [2, 3])
    logistic = Pairwise(Pairwise.Config(), "ip", catalogue=row_columns, counts=[1, 1])
    assert value(logistic, model, batch) == pytest.approx(value(Softmax(Config(), "ip"), model, batch), rel=1e-6)
