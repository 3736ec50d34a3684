"""DIN: what its attention weighs, and its activation."""

from dataclasses import replace

import pytest
import torch
from tests.models.examples import BARE, FULL, HISTORY_ONLY, batch
from torch import Tensor, nn

from shortlist.batch import Batch, Group
from shortlist.errors import ConfigError
from shortlist.models.blocks import attention
from shortlist.models.blocks.dice import Dice
from shortlist.models.rank.din import DIN, partners

SMALL = DIN.Config(dim=4, attention=(6, 5), hidden=(8,))


def made(config: DIN.Config = SMALL) -> DIN:
    torch.manual_seed(0)
    model = DIN(config, FULL)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        model.get_parameter("embed.table.weight")[0] = 0
    return model.eval()


def with_history(rows: Batch, group: Group) -> Batch:
    return replace(rows, request=replace(rows.request, groups={**rows.request.groups, "history": group}))


def always_one(model: DIN) -> DIN:
    last = model.interest.rest[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.ones_(last.bias)
    return model


def test_history_and_candidate_meet_by_vocabulary() -> None:
    assert partners(FULL) == {"item": "item.id", "item.category": "item.category"}
    assert partners(HISTORY_ONLY) == {"item": "item.id"}


def test_of_two_columns_of_a_vocabulary_the_one_of_that_name_is_met() -> None:
    row = replace(FULL.row, sparse={"item.bought_with": "item.id", **FULL.row.sparse})
    assert partners(replace(FULL, row=row))["item"] == "item.id"


def test_without_a_common_vocabulary_it_says_so() -> None:
    with pytest.raises(ConfigError) as error:
        DIN(SMALL, BARE)
    assert str(error.value) == (
        "rank.use: din needs a history that shares a vocabulary with the candidate "
        "(keep the group history, or choose deepfm)"
    )


def by_hand(model: DIN, rows: Batch) -> Tensor:
    """v of each row with the loops of the formula."""
    past_RLD, context_RLC = model.history(rows.request)
    target_BD = model.embed(rows.row, FULL.row, tuple(model.partners.values())).flatten(1)
    out = torch.zeros_like(target_BD)
    for b, r in enumerate(rows.request_of.tolist()):
        for step in range(int(rows.request.groups["history"].length[r])):
            e, t = past_RLD[r, step], target_BD[b]
            x = [e, t, e - t, e * t] + ([] if context_RLC is None else [context_RLC[r, step]])
            out[b] += model.interest.rest(model.interest.first(torch.cat(x))[None])[0, 0] * e
    return out


def test_interest_is_the_formula() -> None:
    model, rows = made(), batch(FULL, 7, 30)
    with torch.no_grad():
        torch.testing.assert_close(model.interest_of(rows), by_hand(model, rows))


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a gradient, and however few pairs are weighed at a time."""
    model, rows = made(), batch(FULL, 7, 30)
    whole = model.interest_of(rows)
    monkeypatch.setattr(attention, "PAIRS", 20)
    with torch.no_grad():
        torch.testing.assert_close(model.interest_of(rows), whole.detach())


def test_weights_of_one_are_sum_pooling() -> None:
    model, rows = always_one(made()), batch(FULL, 7, 30)
    past_RLD, _ = model.history(rows.request)
    total_RD = past_RLD.sum(dim=1)  # steps behind the length are zero
    torch.testing.assert_close(model.interest_of(rows), total_RD[rows.request_of])


def test_with_softmax_the_weights_of_a_history_share_one() -> None:
    """v is the mean of the steps, weighed by exp(a): one step is itself, an empty history zero."""
    model, rows = made(replace(SMALL, softmax=True)), batch(FULL, 7, 30)
    past_RLD, context_RLC = model.history(rows.request)
    assert context_RLC is not None
    target_BD = model.embed(rows.row, FULL.row, tuple(model.partners.values())).flatten(1)
    found = model.interest_of(rows)
    for b, r in enumerate(rows.request_of.tolist()):
        n, t = int(rows.request.groups["history"].length[r]), target_BD[b]
        x = [torch.cat([e, t, e - t, e * t, c]) for e, c in zip(past_RLD[r, :n], context_RLC[r, :n], strict=True)]
        expected = torch.zeros(len(t))
        if n:
            a_N1 = model.interest.rest(model.interest.first(torch.stack(x)))
            expected = (a_N1.softmax(dim=0) * past_RLD[r, :n]).sum(dim=0)
        torch.testing.assert_close(found[b], expected)
    always_one(model)
    steps = rows.request.groups["history"].length.clamp(min=1)[rows.request_of, None]
    torch.testing.assert_close(model.interest_of(rows), past_RLD.sum(dim=1)[rows.request_of] / steps)


def test_softmax_is_told_in_pieces_and_of_large_numbers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = made(replace(SMALL, softmax=True)), batch(FULL, 7, 30)
    last = model.interest.rest[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(1000)
    whole = model.interest_of(rows)
    assert torch.isfinite(whole).all()
    monkeypatch.setattr(attention, "PAIRS", 20)
    with torch.no_grad():
        torch.testing.assert_close(model.interest_of(rows), whole.detach())


def test_the_order_of_the_history_is_nothing() -> None:
    model, rows = made(), batch(FULL, 7, 30)
    group = rows.request.groups["history"]
    place = torch.arange(group.channels["item"].shape[1])
    back = torch.where(place < group.length[:, None], group.length[:, None] - 1 - place, place)
    turned = Group(group.length, {name: channel.gather(1, back) for name, channel in group.channels.items()})
    torch.testing.assert_close(model(with_history(rows, turned))["like"], model(rows)["like"], atol=1e-5, rtol=0)


def test_an_empty_history_is_no_interest() -> None:
    model, rows = made(), batch(FULL, 7, 30)
    v_BD = model.interest_of(rows)
    empty = rows.request.groups["history"].length[rows.request_of] == 0
    assert empty.any()
    assert not v_BD[empty].any()
    assert v_BD[~empty].any(dim=1).all()


def test_another_candidate_finds_another_interest() -> None:
    """Unlike pooling, which sees the history alone."""
    model, rows = made(), batch(FULL, 7, 30)
    other = replace(rows, row=replace(rows.row, sparse=rows.row.sparse % 4 + 2))
    known = rows.request.groups["history"].length[rows.request_of] > 0
    moved = (model.interest_of(other) - model.interest_of(rows)).abs().amax(dim=1)
    assert (moved[known] > 1e-3).all()
    always_one(model)
    torch.testing.assert_close(model.interest_of(other), model.interest_of(rows))


def test_a_request_is_looked_up_once() -> None:
    model, rows = made(), batch(FULL, 2, 30)
    seen: list[int] = []
    model.embed.table.register_forward_hook(lambda part, given, out: seen.append(given[0].numel()))
    model(rows)
    steps, tags = 6, 3
    # history 2 x 6 steps x 4 channels, likes 2 x 6; columns of 2 requests (2) and 30 rows (3); tags of 30 rows (3
    # steps); the candidate as target (item, category)
    assert sum(seen) == 2 * steps * 4 + 2 * steps + 2 * 2 + 30 * 3 + 30 * tags + 30 * 2


def test_dice_by_hand_in_training() -> None:
    """s = (1, 3): mean 2, variance 1, so p = σ(∓1 / sqrt(1 + ε))."""
    dice = Dice(1, eps=0.5)
    nn.init.constant_(dice.alpha, 0.25)
    out = dice(torch.tensor([[1.0], [3.0]])).flatten()
    p = torch.sigmoid(torch.tensor([-1.0, 1.0]) / 1.5**0.5)
    torch.testing.assert_close(out, torch.tensor([1.0, 3.0]) * (p + (1 - p) * 0.25))
    # running: 0.9 * 0 + 0.1 * 2, and 0.9 * 1 + 0.1 * 2 (the unbiased variance of 1 and 3)
    torch.testing.assert_close(dice.mean, torch.tensor([0.2]))
    torch.testing.assert_close(dice.var, torch.tensor([1.1]))


def test_dice_in_eval_reads_what_ran() -> None:
    dice = Dice(1, eps=0.0)
    dice.mean.fill_(2.0)
    dice.var.fill_(4.0)
    dice.eval()
    s = torch.tensor([[6.0]])
    torch.testing.assert_close(dice(s), 6.0 * torch.sigmoid(torch.tensor([[2.0]])))
    assert torch.equal(dice(torch.cat([s, -s]))[:1], dice(s)), "rows do not see each other"
    assert dice.mean.item() == 2.0


def test_dice_with_alpha_one_is_the_identity() -> None:
    dice = Dice(3)
    nn.init.ones_(dice.alpha)
    s = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(dice(s), s)


@pytest.mark.parametrize("rows", [0, 1])
def test_dice_without_spread_is_finite_and_learns_no_statistics(rows: int) -> None:
    dice = Dice(2)
    assert torch.isfinite(dice(torch.full((rows, 2), 5.0))).all()
    assert dice.mean.tolist() == [0.0, 0.0]
    assert dice.var.tolist() == [1.0, 1.0]


def test_dice_of_a_constant_is_kept_finite_by_epsilon() -> None:
    out = Dice(1)(torch.full((4, 1), 5.0, requires_grad=True))
    out.sum().backward()
    torch.testing.assert_close(out.detach(), torch.full((4, 1), 2.5))  # p = σ(0), α = 0
