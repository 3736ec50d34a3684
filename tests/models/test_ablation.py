"""Features blank and shuffled, one at a time, of a model whose answer can be written down."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shortlist.batch import Batch, Columns, Group, Layout, Side
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.models import ablation
from shortlist.models.learned import Learned
from shortlist.schema import PAD, UNKNOWN

LAYOUT = Layout(
    request=Side(
        sparse={"user.id": "user.id"}, dense=("live.visits",), groups={"history": {"item": "item.id", "age": "age"}}
    ),
    row=Side(
        sparse={"item.id": "item.id", "live.position": "place"},
        dense=("recall.hot", "recall_score.hot"),
        vecs={"item.content": 2},
    ),
    vocabularies={"user.id": 9, "item.id": 9, "age": 9, "place": 9},
    tasks=("click",),
)


class Sums(nn.Module):
    """A logit that is a plain sum, so that what each column adds can be read off."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        asked, row = batch.request, batch.row
        past = asked.groups["history"].channels["item"].sum(dim=1)
        of_request = asked["user.id"] + asked["live.visits"] + past
        own = row["item.id"] + 10 * row["live.position"] + 100 * row["recall.hot"] + 1000 * row["recall_score.hot"]
        return {"click": of_request[batch.request_of] + own + row.vecs["item.content"].sum(dim=1)}


class Assembler:
    """Gives one batch."""

    def __call__(self, requests: Requests, candidates: Candidates) -> Batch:
        return batch(1, 1)


def batch(requests: int, rows: int) -> Batch:
    """user 3, 0.5 visits, history (4, 5); item 6 at place 2, brought by hot, content (1, 2); the n-th row is n more."""
    r, b = torch.arange(requests), torch.arange(rows)
    history = torch.tensor([[4, 5, 0]]).repeat(requests, 1)
    request = Columns(
        (3 + r).unsqueeze(1), (0.5 + r).unsqueeze(1), ("user.id",), ("live.visits",),
        {"history": Group(torch.full((requests,), 2), {"item": history, "age": torch.ones_like(history)})},
    )  # fmt: skip
    row = Columns(
        torch.stack([6 + b, torch.full((rows,), 2)], dim=1), torch.stack([1.0 + b, 0.25 + b], dim=1),
        ("item.id", "live.position"), ("recall.hot", "recall_score.hot"), {},
        {"item.content": torch.tensor([[1.0, 2.0]]).repeat(rows, 1)},
    )  # fmt: skip
    return Batch(request, row, torch.zeros(rows, dtype=torch.long) if requests == 1 else torch.arange(rows) % requests)


def learned() -> Learned:
    assembler: Any = Assembler()
    return Learned(Sums(), assembler, LAYOUT, measures=frozenset({"click"}))


def asked() -> tuple[Requests, Candidates]:
    none = Ragged.empty(1)
    requests = Requests(np.array([0]), np.array([9]), 1, none, none, none)
    one = Candidates.empty(1)
    candidates = Candidates(
        np.array([0, 1]), np.array([7]), one.channels, np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32),
        {"merge": np.array([0.5], dtype=np.float32)}, np.zeros(1, np.int16),
    )  # fmt: skip
    return requests, candidates


def test_features_are_columns_by_name_and_a_channel_is_one() -> None:
    assert [(f.name, f.side, f.columns) for f in ablation.features(LAYOUT)] == [
        ("user.id", "request", ("user.id",)),
        ("history", "request", ("history",)),
        ("live.visits", "request", ("live.visits",)),
        ("item.id", "row", ("item.id",)),
        ("live.position", "row", ("live.position",)),
        ("recall.hot", "row", ("recall.hot", "recall_score.hot")),
        ("item.content", "row", ("item.content",)),
    ]


def test_each_feature_blank_in_turn() -> None:
    names, tasks, many = ablation.ablated(learned(), *asked())
    # 3 + 0.5 + (4 + 5) + 6 + 10 * 2 + 100 * 1 + 1000 * 0.25 + (1 + 2) = 391.5
    assert tasks["click"][0] == 391.5
    changes = dict(zip(names, (tasks["click"][0] - tasks["click"][1:]).tolist(), strict=True))
    assert changes == {
        "user.id": 2.0,  # a stranger has id 1
        "history": 9.0,
        "live.visits": 0.5,
        "item.id": 5.0,
        "live.position": 20.0,  # no place: 0
        "recall.hot": 350.0,  # neither rank nor score
        "item.content": 3.0,
    }
    assert (UNKNOWN, PAD) == (1, 0)
    assert len(many) == 8
    assert many.items.tolist() == [7] * 8
    assert many.scores["merge"].tolist() == [0.5] * 8
    assert many.offsets.tolist() == list(range(9))


def test_it_is_one_candidate_of_one_request() -> None:
    requests, candidates = asked()
    with pytest.raises(ValueError, match="one candidate of one request, got 0 of 1"):
        ablation.ablated(learned(), requests, candidates.only(np.zeros(0, dtype=np.int64)))


def test_shuffling_takes_the_columns_of_another_row_and_no_others() -> None:
    one = batch(2, 4)
    order = torch.tensor([3, 2, 1, 0])
    feature = next(f for f in ablation.features(LAYOUT) if f.name == "recall.hot")
    made = ablation.shuffled(one, feature, order)
    assert made.row["recall.hot"].tolist() == [4.0, 3.0, 2.0, 1.0]
    assert made.row["recall_score.hot"].tolist() == [3.25, 2.25, 1.25, 0.25]
    assert made.row["item.id"].tolist() == one.row["item.id"].tolist()
    assert one.row["recall.hot"].tolist() == [1.0, 2.0, 3.0, 4.0]  # what was given is as it was
    past = next(f for f in ablation.features(LAYOUT) if f.name == "history")
    one.request.groups["history"].channels["item"][1] = torch.tensor([8, 0, 0])
    one.request.groups["history"].length[1] = 1
    made = ablation.shuffled(one, past, torch.tensor([1, 0]))
    assert made.request.groups["history"].length.tolist() == [1, 2]
    assert made.request.groups["history"].channels["item"].tolist() == [[8, 0, 0], [4, 5, 0]]
    assert made.request["user.id"].tolist() == [3, 4]


def test_answers_are_of_the_batch_that_is_given() -> None:
    found = ablation.answers(learned(), batch(1, 3), asked()[1])
    # a row more is 1 + 100 + 1000 more
    assert found["click"].tolist() == [391.5, 1492.5, 2593.5]


def test_a_coarse_ranker_is_asked_without_the_items_that_its_runtime_needs() -> None:
    def graph(batch: Batch, item: Tensor | None = None) -> dict[str, Tensor]:
        if item is None:
            raise KeyError("item")
        return {"click": torch.zeros(len(batch))}

    kept = replace(learned(), items=torch.zeros(9, 2), runtime=graph)
    found = ablation.answers(kept, batch(1, 3), asked()[1])
    assert found["click"].tolist() == [391.5, 1492.5, 2593.5]
    # a ranker that keeps none is asked as it serves

    def fast(batch: Batch, item: Tensor | None = None) -> dict[str, Tensor]:
        return {"click": torch.full((len(batch),), 7.0)}

    found = ablation.answers(replace(learned(), runtime=fast), batch(1, 3), asked()[1])
    assert found["click"].tolist() == [7.0, 7.0, 7.0]
