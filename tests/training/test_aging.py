"""Items that look different at different moments stand beside a wanted one as they were at its moment."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.training.world import Two, pairs
from torch import Tensor, nn
from torch.nn import functional

from shortlist.batch import Batch, Columns, Group
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.pairs import Pairs
from shortlist.features.assemble import Assembler
from shortlist.features.encoders import Encoders
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.training.frequency import Counted
from shortlist.training.loss import Dated
from shortlist.training.objectives.pairwise import Pairwise
from shortlist.training.objectives.pointwise import Pointwise
from shortlist.training.objectives.softmax import Softmax
from shortlist.training.retrievers import rows_of

MADE = torch.tensor([0, 0, 0, 2, 5, 7])  # when items 2 to 5 were made; ids 0 and 1 are no items


class Ages:
    """Items by id with their age in whole steps of ten, at moment 100 unless asked for another."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, ids: Tensor) -> Columns:
        return self.at(ids, torch.full_like(ids, 100))

    def at(self, ids: Tensor, now: Tensor) -> Columns:
        self.asked.append((ids, now))
        age = (now - MADE[ids]) // 10 + 2
        return Columns(torch.stack([ids, age], dim=1), torch.zeros(len(ids), 0), ("item.id", "item.age"))

    def ages(self, ids: Tensor, now: Tensor) -> Tensor:
        return (now[:, None] - MADE[ids]) // 10


class Aged(Two):
    """An item's vector is its own plus its age's."""

    def __init__(self) -> None:
        super().__init__(3, 6)
        self.age = nn.Embedding(20, 3)

    def candidate(self, row: Columns) -> Tensor:
        out: Tensor = self.item(row["item.id"]) + self.age(row["item.age"])
        return out


def batch(now: list[int]) -> Batch:
    made = pairs([0, 1, 2], [2, 3, 2])
    moments = torch.tensor(now)
    return replace(made, row=Ages().at(torch.tensor([2, 3, 2]), moments), now=moments)


def score(model: Aged, user: int, item: int, now: int) -> Tensor:
    row = Ages().at(torch.tensor([item]), torch.tensor([now]))
    out: Tensor = (model.user.weight[user] * model.candidate(row)[0]).sum()
    return out


def test_in_batch_negatives_are_as_old_as_the_example_says() -> None:
    model, now = Aged(), [11, 58, 93]
    # users 0 and 2 want item 2, user 1 wants item 3; each sees the other item at its own moment
    own = [score(model, user, item, at) for user, item, at in zip(range(3), (2, 3, 2), now, strict=True)]
    other = [score(model, user, item, at) for user, item, at in zip(range(3), (3, 2, 3), now, strict=True)]
    expected = functional.softplus(torch.stack(other) - torch.stack(own)).mean()
    found = Softmax(Softmax.Config(), "ip", catalogue=Ages(), counts=np.ones(4))(model, batch(now))
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    # as the first row that holds an item has it, user 0 would see item 3 of moment 58
    assert Softmax(Softmax.Config(), "ip")(model, batch(now)).loss.item() != pytest.approx(expected.item(), rel=1e-3)


def test_the_correction_for_frequency_stays() -> None:
    model, now = Aged(), [50, 50, 50]  # one moment for all: then it is what it was
    config, often = Softmax.Config(), Counted([3, 1, 1, 1])
    plain = Softmax(config, "ip", frequency=often)(model, batch(now)).loss.item()
    aged = Softmax(config, "ip", frequency=often, catalogue=Ages(), counts=np.ones(4))(model, batch(now)).loss.item()
    assert aged == pytest.approx(plain, rel=1e-6)


def test_rows_of_equal_age_are_encoded_once() -> None:
    rows = Ages()
    # item 2, made at 0, is 1, 5 and 5 steps old at the three moments; item 3, made at 2, is 0, 5 and 5: four rows
    Softmax(Softmax.Config(), "ip", catalogue=rows, counts=np.ones(4))(Aged(), batch([11, 58, 59]))
    assert [len(ids) for ids, _ in rows.asked] == [4]


def test_drawn_negatives_are_as_old_as_the_example_says() -> None:
    now = [11, 58, 93]
    model = Aged()
    with torch.no_grad():
        model.item.weight[3:] = model.item.weight[2]  # whatever is drawn, only its age differs
    rows = Ages()
    loss = Pairwise(Pairwise.Config(n=3), "ip", catalogue=rows, counts=np.ones(4))(model, batch(now)).loss.item()
    ids, moments = rows.asked[0]
    assert moments.tolist() == [11] * 3 + [58] * 3 + [93] * 3
    own = [score(model, user, item, at) for user, item, at in zip(range(3), (2, 3, 2), now, strict=True)]
    told = [score(model, n // 3, int(ids[n]), int(moments[n])) for n in range(9)]
    gaps = torch.stack(told).view(3, 3) - torch.stack(own)[:, None]
    assert loss == pytest.approx(functional.softplus(gaps).mean().item(), rel=1e-6)
    pointwise = Pointwise(Pointwise.Config(n=3), "ip", (), catalogue=Ages(), counts=np.ones(4))
    assert pointwise(model, batch(now)).loss.isfinite()


def test_pointwise_without_labels_draws_what_was_not_wanted() -> None:
    """Items 2 to 5; a request wants 2 and 3 and has met 4: what is drawn is 5."""
    model = Two(1, 6)
    made = pairs([0], [2, 3], request_of=[0, 0])
    history = {"history": _group([[4]])}
    made = replace(made, request=replace(made.request, groups=history))

    def rows(ids: Tensor) -> Columns:
        return Columns(ids.unsqueeze(1), torch.zeros(len(ids), 0), ("item.id",))

    objective = Pointwise(Pointwise.Config(n=2), "ip", (), catalogue=rows, counts=np.ones(4))
    with torch.no_grad():
        objective.bias.fill_(-0.5)
    s = model.user.weight[0] @ model.item.weight.T - 0.5
    # each of the two stands against 5 twice: six examples in all
    expected = (functional.softplus(-s[2]) + functional.softplus(-s[3]) + 4 * functional.softplus(s[5])) / 6
    loss = objective(model, made).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert objective.bias.grad is not None


def _group(items: list[list[int]]) -> Group:
    return Group(torch.tensor([len(row) for row in items]), {"item": torch.tensor(items)})


HOUR, NOW = 3_600_000, 1_700_000_000_000
SCHEMA = Schema.parse({"items": {"published": "time"}})
ITEMS = Profiles(np.arange(3), {"published": np.array([NOW - 100 * HOUR, NOW - 2 * HOUR, np.nan])})


def assembler(schema: Schema = SCHEMA) -> Assembler:
    catalogue = Catalogue(Profiles(np.arange(1), {}), ITEMS)
    return Assembler(schema, Encoders.fit(schema, catalogue, np.arange(1), np.arange(3)), catalogue, 5)


def test_the_catalogue_of_a_log_ages() -> None:
    rows = rows_of(assembler(), NOW)
    assert isinstance(rows, Dated)
    ids, then = torch.tensor([2, 3, 4]), NOW - HOUR // 2
    # buckets end after 1, 6, 24, 72 and 168 hours: 100 hours and 2 hours; half an hour before, 99.5 and 1.5; unknown
    assert rows(ids)["item.published"].tolist() == [6, 3, 1]
    assert rows.at(ids, torch.full((3,), NOW - 90 * HOUR))["item.published"].tolist() == [4, 2, 1]
    ages = rows.ages(ids, torch.tensor([NOW, then, NOW - 90 * HOUR]))
    assert torch.equal(ages[0], ages[1])
    assert (ages[0] != ages[2]).tolist() == [True, True, False]
    undated = rows_of(assembler(Schema.parse({})), NOW)
    assert not isinstance(undated, Dated)
    assert undated(ids)["item.id"].tolist() == [2, 3, 4]


def test_batches_say_when_they_were_asked() -> None:
    log = Interactions.of(np.zeros(3, dtype=np.int64), np.arange(3), NOW + np.arange(3) * HOUR)
    made = Pairs(log, assembler()).batch(np.array([1, 0]))
    assert made.now is not None
    assert made.now.tolist() == [NOW + 2 * HOUR, NOW + HOUR]
    taken = made.take(torch.tensor([1])).now
    assert taken is not None
    assert taken.tolist() == [NOW + HOUR]
    # an item that was taken when it was fresh is old beside a later one
    assert made.row["item.published"].tolist() == [1, 3]
