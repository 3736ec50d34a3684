"""Generated batches for models that rank: every kind of column, requests with and without a history."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from shortlist.batch import Batch, Columns, Layout, Side

TASKS = ("click", "like")
FULL = Layout(
    request=Side(
        sparse={"user.id": "user.id", "user.city": "place"},
        dense=("user.age",),
        groups={
            "history": {
                "item": "item.id",
                "action": "history.action",
                "age": "history.age",
                "item.category": "category",
            },
            "user.likes": {"value": "tag"},
        },
    ),
    row=Side(
        sparse={"item.id": "item.id", "item.category": "category", "item.published": "item.published.age"},
        dense=("item.price", "recall.similar", "recall_score.similar", "recall.hot", "recall_score.hot"),
        groups={"item.tags": {"value": "tag"}},
        vecs={"item.look": 3},
    ),
    vocabularies={
        "user.id": 20,
        "place": 5,
        "item.id": 40,
        "history.action": 4,
        "history.age": 11,
        "item.published.age": 11,
        "category": 6,
        "tag": 9,
    },
    tasks=TASKS,
)
BARE = Layout(
    request=Side(sparse={"user.id": "user.id"}),
    row=Side(sparse={"item.id": "item.id"}),
    vocabularies={"user.id": 20, "item.id": 40},
    tasks=("click",),
)
HISTORY_ONLY = replace(BARE, request=replace(BARE.request, groups={"history": {"item": "item.id"}}))
LAYOUTS = {"full": FULL, "bare": BARE, "history only": HISTORY_ONLY}


def batch(layout: Layout, requests: int, rows: int, seed: int = 0, steps: int = 6) -> Batch:
    """Random columns of a layout with random labels. Lengths go round 0, 1, ... steps."""
    rng = np.random.default_rng(seed)
    made = Batch.of(
        columns(layout, layout.request, requests, rng, steps),
        columns(layout, layout.row, rows, rng, 3),
        np.sort(rng.permutation(np.arange(rows) % requests)),
    )
    labels = torch.from_numpy(rng.integers(0, 2, (rows, len(layout.tasks)))).float()
    valid = torch.from_numpy(rng.random((rows, len(layout.tasks))) < 0.8)
    return replace(made, tasks=layout.tasks, labels=labels, valid=valid)


def columns(layout: Layout, side: Side, n: int, rng: np.random.Generator, steps: int) -> Columns:
    def ids(words: str, *shape: int) -> NDArray[np.int64]:
        return rng.integers(1, layout.vocabularies[words], (n, *shape))

    def group(channels: Mapping[str, str]) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
        length = np.arange(n) % (steps + 1)
        mask = np.arange(steps) < length[:, None]
        return length, {name: ids(words, steps) * mask for name, words in channels.items()}

    return Columns.of(
        n,
        {name: ids(words) for name, words in side.sparse.items()},
        {name: rng.normal(size=n) for name in side.dense},
        {name: group(channels) for name, channels in side.groups.items()},
        {name: rng.normal(size=(n, wide)).astype(np.float32) for name, wide in side.vecs.items()},
    )


def double(columns: Columns) -> Columns:
    return replace(
        columns, dense=columns.dense.double(), vecs={name: vec.double() for name, vec in columns.vecs.items()}
    )
