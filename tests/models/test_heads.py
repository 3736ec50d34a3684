"""Heads of several tasks: the identities of Shared-Bottom and MMoE, gates, experts side by side, and what is told of
them."""

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from tests.models.examples import BARE, FULL, TASKS, batch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from shortlist.batch import Batch, Group
from shortlist.errors import ConfigError
from shortlist.models.blocks.experts import Experts, Lstms
from shortlist.models.blocks.gates import Gate, watched
from shortlist.models.multitask.mmoe import MMoE
from shortlist.models.multitask.shared_bottom import SharedBottom
from shortlist.models.rank.dnn import DNN
from shortlist.training.objectives.bce import Bce

ONE = replace(FULL, tasks=("click",))


def rows(n: int = 9, width: int = 6) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1))


def mmoe(layout: Any = FULL, **options: Any) -> MMoE:
    torch.manual_seed(0)
    return MMoE(MMoE.Config(**{"experts": 3, "hidden": (5, 4), "towers": (3,), **options}), 6, layout).eval()


def shared(layout: Any = FULL, **options: Any) -> SharedBottom:
    torch.manual_seed(0)
    return SharedBottom(SharedBottom.Config(**{"bottom": (5, 4), "towers": (3,), **options}), 6, layout).eval()


def both(logits: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(logits.values()), dim=1)


# ------------------------------------------------------------------------------------------------ side by side


def test_experts_are_mlps_side_by_side() -> None:
    torch.manual_seed(0)
    made, x = Experts(6, (5, 4), 3, out=2), rows()
    for e in range(3):
        y = x
        for n in range(3):
            y = y @ made.weights[n][e] + made.biases[n][e]
            y = y.relu() if n < 2 else y
        torch.testing.assert_close(made(x)[e], y)
        torch.testing.assert_close(made(torch.stack([x, 2 * x, 3 * x]))[0], made(x)[0])


def test_experts_start_unlike_and_as_wide_as_a_linear_layer() -> None:
    torch.manual_seed(0)
    made = Experts(400, (50,), 4)
    weight = made.weights[0]
    for e in range(4):
        for other in range(e):
            assert not (weight[e] == weight[other]).any(), "numbers are drawn for each"
        # uniform between ±1/sqrt(400) = ±0.05: its deviation is 0.05 / sqrt(3) = 0.0289
        assert weight[e].abs().max() <= 0.05
        assert weight[e].std().item() == pytest.approx(0.0289, abs=5e-4)


def test_lstms_are_those_of_torch_side_by_side() -> None:
    torch.manual_seed(0)
    made, x, length = Lstms(4, 3, 2), torch.randn(5, 7, 4), torch.tensor([7, 0, 3, 1, 5])
    found = made(x, length)
    assert found.shape == (2, 5, 3)
    for e in range(2):
        one: Any = nn.LSTM(4, 3, batch_first=True)
        with torch.no_grad():
            one.weight_ih_l0.copy_(made.given[e].t())
            one.weight_hh_l0.copy_(made.kept[e].t())
            one.bias_ih_l0.copy_(made.bias[e, 0])
            one.bias_hh_l0.zero_()
            states, _ = one(x)
        for r, steps in enumerate(length.tolist()):
            expected = states[r, steps - 1] if steps else torch.zeros(3)
            torch.testing.assert_close(found[e, r], expected)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)], ids=["no request", "no step"])
def test_lstms_of_nothing_are_zero(shape: tuple[int, int]) -> None:
    found = Lstms(4, 3, 2)(torch.zeros(*shape, 4), torch.zeros(shape[0], dtype=torch.long))
    assert found.shape == (2, shape[0], 3)
    assert not found.any()


# ------------------------------------------------------------------------------------------------ gates


def test_a_gate_sums_to_one_with_and_without_dropout_and_drops_in_training_alone() -> None:
    torch.manual_seed(0)
    gate, x = Gate(6, 4, TASKS, dropout=0.5), rows(200)
    gate.train()
    dropped = gate(x)
    torch.testing.assert_close(dropped.sum(dim=2), torch.ones(200, 2))
    gate.eval()
    whole = gate(x)
    torch.testing.assert_close(whole.sum(dim=2), torch.ones(200, 2))
    assert torch.equal(whole, gate(x))
    assert (whole > 0).all()
    # of what stays the shares among themselves are as they were
    kept = dropped > 0
    torch.testing.assert_close(dropped, whole * kept / (whole * kept).sum(dim=2, keepdim=True))
    # half of 1600 go, but for the 1/16 of rows where all would: there none does. 1600 * (1/2 - 1/16) = 700
    assert int((~kept).sum()) == pytest.approx(700, abs=80)


def test_where_all_of_a_gate_would_be_dropped_all_stay() -> None:
    torch.manual_seed(0)
    gate, x = Gate(6, 4, TASKS, dropout=1.0), rows()
    assert torch.equal(gate.train()(x), gate.eval()(x))


def test_one_expert_is_all_there_is_whatever_is_dropped() -> None:
    gate = Gate(6, 1, TASKS, dropout=0.5).train()
    assert torch.equal(gate(rows()), torch.ones(9, 2, 1))


def test_what_is_told_of_gates_by_hand() -> None:
    """Logits (0, 0) share evenly: entropy ln 2. Logits (0, ln 99): 0.01 and 0.99, above 0.95, with an entropy of
    -(0.01 ln 0.01 + 0.99 ln 0.99) = 0.0560."""
    gate = Gate(1, 2, ("click", "like"))
    with torch.no_grad():
        gate.linear.weight.copy_(torch.tensor([[0.0], [0.0], [0.0], [log(99)]]))
        gate.linear.bias.zero_()
    with watched(nn.Sequential(gate)) as watch:
        gate(torch.tensor([[1.0], [0.0]]))
        gate(torch.tensor([[1.0]]))
    gate(torch.tensor([[1.0]]))  # nobody looks
    told = watch.told()
    assert told == {
        "click.gate_entropy": pytest.approx(log(2)),
        "click.gate_narrow": 0.0,
        "like.gate_entropy": pytest.approx((2 * 0.0560 + log(2)) / 3, abs=1e-4),
        "like.gate_narrow": pytest.approx(2 / 3),
    }


def test_a_gate_that_is_all_for_one_expert_has_no_entropy() -> None:
    gate = Gate(1, 2, ("click",))
    with torch.no_grad():
        gate.linear.weight.copy_(torch.tensor([[1e6], [-1e6]]))
    with watched(gate) as watch:
        gate(torch.ones(3, 1))
    assert watch.told() == {"click.gate_entropy": 0.0, "click.gate_narrow": 1.0}


def test_of_no_gate_nothing_is_told() -> None:
    with watched(shared()) as watch:
        pass
    assert watch.told() == {}


# ------------------------------------------------------------------------------------------------ Shared-Bottom


def test_of_one_task_a_shared_bottom_is_a_single_model() -> None:
    head, x = shared(ONE), rows()
    layers = [*head.bottom]
    for n, out in enumerate((3, 1)):
        layer = nn.Linear(4 if n == 0 else 3, out)
        with torch.no_grad():
            layer.weight.copy_(head.towers.weights[n][0].t())
            layer.bias.copy_(head.towers.biases[n][0, 0])
        layers += [layer, nn.ReLU()] if n == 0 else [layer]
    torch.testing.assert_close(head(x)["click"], nn.Sequential(*layers)(x).squeeze(1))


def test_without_weight_a_tower_has_no_gradient() -> None:
    model, asked = DNN(DNN.Config(dim=2, hidden=(), heads={"use": "shared_bottom"}), FULL), batch(FULL, 7, 30)
    Bce(Bce.Config(weights={"like": 0.0}))(model, asked).loss.backward()
    for place, parameter in model.heads.named_parameters():
        assert parameter.grad is not None
        if place.startswith("towers"):
            assert parameter.grad[0].any(), "click learns"
            assert not parameter.grad[1].any(), "like does not"


def test_the_gradient_of_what_is_shared_is_the_weighted_sum_of_the_tasks() -> None:
    model, asked = DNN(DNN.Config(dim=2, hidden=(), heads={"use": "shared_bottom"}), FULL), batch(FULL, 7, 30)

    def gradient(click: float, like: float) -> Tensor:
        model.zero_grad()
        Bce(Bce.Config(weights={"click": click, "like": like}))(model, asked).loss.backward()
        weight = model.heads.get_parameter("bottom.0.weight")
        assert weight.grad is not None
        return weight.grad.clone()

    torch.testing.assert_close(gradient(2.0, 0.5), 2.0 * gradient(1.0, 0.0) + 0.5 * gradient(0.0, 1.0))


def test_a_value_and_a_click_mix() -> None:
    """The loss of one forward pass is a log loss of the one and a squared error of the other."""
    model, asked = DNN(DNN.Config(dim=2, heads={"use": "shared_bottom"}), FULL).eval(), batch(FULL, 7, 30)
    assert asked.labels is not None
    asked = replace(asked, labels=asked.labels * torch.tensor([1.0, 30.0]), valid=None)
    assert asked.labels is not None
    out = model(asked)
    click = binary_cross_entropy_with_logits(out["click"], asked.labels[:, 0])
    watch = (out["like"] - asked.labels[:, 1]).square().mean()
    found = Bce(Bce.Config(regression=("like",)))(model, asked).loss
    torch.testing.assert_close(found, click + watch)


# ------------------------------------------------------------------------------------------------ MMoE


def test_one_expert_is_a_shared_bottom() -> None:
    moe, bottom, x = mmoe(experts=1), shared(), rows()
    linear = [layer for layer in bottom.bottom if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for n, layer in enumerate(linear):
            layer.weight.copy_(moe.experts.weights[n][0].t())
            layer.bias.copy_(moe.experts.biases[n][0, 0])
    bottom.towers.load_state_dict(moe.towers.state_dict())
    torch.testing.assert_close(both(moe(x)), both(bottom(x)))


def test_alike_experts_make_the_gates_nothing() -> None:
    head, x = mmoe(), rows()
    with torch.no_grad():
        for weight in [*head.experts.weights, *head.experts.biases]:
            weight.copy_(weight[:1].expand_as(weight))
        before = both(head(x))
        nn.init.normal_(head.gate.linear.weight, std=3.0)
    torch.testing.assert_close(both(head(x)), before)


def test_the_mixture_is_the_sum_of_the_formula() -> None:
    head, x = mmoe(), rows()
    f_BED, g_BTE = head.expert(x), head.gate(x)
    assert f_BED.shape == (9, 3, 4)
    for t, task in enumerate(TASKS):
        h = sum((g_BTE[:, t, e : e + 1] * f_BED[:, e] for e in range(3)), torch.zeros(9, 4))
        y = (h @ head.towers.weights[0][t] + head.towers.biases[0][t]).relu()
        y = y @ head.towers.weights[1][t] + head.towers.biases[1][t]
        torch.testing.assert_close(head(x)[task], y.squeeze(1))


def test_a_shared_gate_gives_all_tasks_one_mixture() -> None:
    """OMoE is MMoE with the same gate for every task."""
    one, each, x = mmoe(shared_gate=True), mmoe(), rows()
    assert one.gate(x).shape == (9, 1, 3)
    each.experts.load_state_dict(one.experts.state_dict())
    each.towers.load_state_dict(one.towers.state_dict())
    with torch.no_grad():
        each.gate.linear.weight.copy_(one.gate.linear.weight.repeat(2, 1))
        each.gate.linear.bias.copy_(one.gate.linear.bias.repeat(2))
    torch.testing.assert_close(both(each(x)), both(one(x)))


def test_the_order_of_experts_is_nothing() -> None:
    head, x, order = mmoe(), rows(), torch.tensor([2, 0, 1])
    before = both(head(x))
    with torch.no_grad():
        for weight in [*head.experts.weights, *head.experts.biases]:
            weight.copy_(weight[order].clone())
        head.gate.linear.weight.copy_(head.gate.linear.weight.view(2, 3, 6)[:, order].flatten(0, 1))
        head.gate.linear.bias.copy_(head.gate.linear.bias.view(2, 3)[:, order].flatten())
    torch.testing.assert_close(both(head(x)), before)


def test_gates_are_dropped_in_training_alone() -> None:
    head, x = mmoe(gate_dropout=0.5), rows(50)
    whole = both(head(x))
    assert torch.equal(whole, both(head(x)))
    head.train()
    torch.manual_seed(3)
    assert not torch.equal(both(head(x)), whole)


def history(made: Batch, group: Group) -> Batch:
    return replace(made, request=replace(made.request, groups={**made.request.groups, "history": group}))


def test_experts_over_the_history_see_its_real_steps_and_their_order() -> None:
    head, asked = mmoe(expert="lstm", dim=3, state=4), batch(FULL, 7, 9)
    said = head.expert(rows(), asked)
    assert said.shape == (9, 3, 4)
    group = asked.request.groups["history"]
    wide = Group(group.length, {name: nn.functional.pad(c, (0, 3), value=2) for name, c in group.channels.items()})
    torch.testing.assert_close(head.expert(rows(), history(asked, wide)), said, atol=1e-6, rtol=0)
    place = torch.arange(group.channels["item"].shape[1])
    back = torch.where(place < group.length[:, None], group.length[:, None] - 1 - place, place)
    turned = Group(group.length, {name: channel.gather(1, back) for name, channel in group.channels.items()})
    with torch.no_grad():
        nn.init.normal_(head.get_parameter("embed.table.weight"))
    long = group.length[asked.request_of] > 1
    moved = (head.expert(rows(), history(asked, turned)) - head.expert(rows(), asked)).abs().amax(dim=(1, 2))
    assert (moved[long] > 1e-4).all()
    assert not moved[~long].any()


def test_a_request_has_its_states_made_once() -> None:
    head, asked = mmoe(expert="lstm"), batch(FULL, 2, 30)
    assert head.past(asked).shape == (3, 2, 64)


def test_without_a_history_there_are_no_experts_over_it() -> None:
    with pytest.raises(ConfigError) as error:
        mmoe(BARE, expert="lstm")
    assert str(error.value) == (
        'heads.expert: lstm experts need a history (keep the group history, or take expert = "mlp")'
    )


def test_experts_need_a_layer() -> None:
    with pytest.raises(ConfigError) as error:
        mmoe(hidden=())
    assert str(error.value) == "heads.hidden: experts without layers are all alike (give them a layer)"


def test_what_only_an_lstm_reads_is_refused_without_one() -> None:
    with pytest.raises(ConfigError) as error:
        mmoe(state=8)
    assert str(error.value) == 'heads.state: state does nothing without an LSTM (take it away, or take expert = "lstm")'


@pytest.mark.parametrize("use", ["shared_bottom", "mmoe"])
def test_without_layers_of_its_own_the_ranker_gives_its_whole_input(use: str) -> None:
    """The papers' models: what they share reads the fields side by side."""
    model = DNN(DNN.Config(dim=2, hidden=(), heads={"use": use}), BARE)
    seen: list[Tensor] = []
    model.heads.register_forward_pre_hook(lambda head, given: seen.append(given[0]))
    asked = batch(BARE, 3, 8)
    model(asked)
    side = asked.joined()
    fields = [model.embed(side, replace(BARE.request, sparse={**BARE.request.sparse, **BARE.row.sparse}))]
    torch.testing.assert_close(seen[0], torch.cat(fields, dim=1).flatten(1))
