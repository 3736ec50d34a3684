"""Batch: request columns once, rows by position, and expanding equals gathering by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shortlist.batch import Batch, Columns, Group


def batch(request_of: list[int], requests: int) -> Batch:
    """Every cell differs, so a wrong gather shows."""
    b, r = len(request_of), requests
    length = np.arange(r) % 4
    steps = np.arange(r * 3).reshape(r, 3) + 1
    request = Columns.of(
        r,
        {"user.id": np.arange(r) + 100},
        {"user.age": np.arange(r) / 10},
        {"history": (length, {"item": steps * (np.arange(3) < length[:, None])})},
        {"user.vec": np.arange(r * 2, dtype=np.float32).reshape(r, 2)},
    )
    row = Columns.of(b, {"item.id": np.arange(b) + 500, "item.kind": np.arange(b) % 3}, {"price": np.arange(b) / 4})
    made = Batch.of(request, row, np.array(request_of, dtype=np.int64))
    labels = torch.arange(b).float()[:, None]
    return Batch(
        made.request, made.row, made.request_of, ("click",), labels, labels > 1, torch.arange(b).float(),
        torch.arange(b * 3).reshape(b, 3),
    )  # fmt: skip


def everything(made: Batch) -> list[Tensor]:
    """Every tensor, as seen from the rows."""
    seen = made.expand()
    columns = [seen.request, seen.row]
    parts = [t for c in columns for t in (c.sparse, c.dense, *c.vecs.values())]
    parts += [t for c in columns for g in c.groups.values() for t in (g.length, *g.channels.values())]
    return [*parts, *(t for t in (made.labels, made.valid, made.weights, made.targets) if t is not None)]


REQUEST_OF = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(REQUEST_OF, st.data())
def test_take_is_a_gather_of_rows_and_keeps_only_their_requests(request_of: list[int], data: st.DataObject) -> None:
    made = batch(request_of, 5)
    picks = data.draw(st.lists(st.integers(0, len(made) - 1), min_size=1, max_size=8))
    taken = made.take(torch.tensor(picks))
    for before, after in zip(everything(made), everything(taken), strict=True):
        assert torch.equal(before[picks], after)
    assert len(taken.request) == len({request_of[at] for at in picks})


@given(REQUEST_OF)
def test_rows_one_by_one_are_the_batch(request_of: list[int]) -> None:
    made = batch(request_of, 5)
    singles = [everything(made.rows(at, at + 1)) for at in range(len(made))]
    for n, whole in enumerate(everything(made)):
        assert torch.equal(torch.cat([single[n] for single in singles]), whole)
    assert all(len(made.rows(at, at + 1).request) == 1 for at in range(len(made)))
    assert len(made.rows(0, 99)) == len(made)


def test_columns_by_name() -> None:
    made = batch([0, 0, 2], 3)
    assert made.request["user.id"].tolist() == [100, 101, 102]
    assert made.row["price"].tolist() == [0.0, 0.25, 0.5]
    joined = made.joined()
    assert joined["user.id"].tolist() == [100, 100, 102]
    assert joined.sparse_names == ("user.id", "item.id", "item.kind")
    assert joined.sparse.dtype == torch.int64
    assert joined.dense.dtype == torch.float32
    with pytest.raises(KeyError, match=r"no column 'nope' among \['item.id', 'item.kind', 'price'\]"):
        made.row["nope"]
    with pytest.raises(ValueError, match=r"columns on both sides: \['item.id', 'item.kind', 'price'\]"):
        made.row.beside(made.row)


def test_a_mask_covers_the_real_steps() -> None:
    group = batch([0], 4).request.groups["history"]
    # lengths 0, 1, 2, 3 of width 3
    assert group.mask.tolist() == [[False] * 3, [True, False, False], [True, True, False], [True] * 3]


def test_moving_keeps_everything() -> None:
    made = batch([1, 0, 1], 2)
    moved = made.to("meta")
    assert {t.device.type for t in everything(moved)} == {"meta"}
    for before, after in zip(everything(made), everything(made.to("cpu")), strict=True):
        assert torch.equal(before, after)


def test_a_batch_without_rows_or_columns() -> None:
    empty = Batch.of(Columns.of(2), Columns.of(0), np.zeros(0, dtype=np.int64))
    assert len(empty) == 0
    assert len(empty.request) == 2
    assert empty.expand().joined().sparse.shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"request_of": torch.tensor([0])}, r"request_of has shape \(1,\) for 2 rows"),
        ({"labels": torch.zeros(2)}, r"labels has shape \(2,\) for 2 rows and 1 tasks"),
        ({"valid": torch.zeros(2, 2)}, r"valid has shape \(2, 2\) for 2 rows and 1 tasks"),
        ({"weights": torch.zeros(3)}, "weights has 3 entries for 2 rows"),
        ({"targets": torch.zeros(1, 3)}, "targets has 1 entries for 2 rows"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    made = batch([0, 1], 2)
    parts = {"request": made.request, "row": made.row, "request_of": made.request_of, "tasks": ("click",)}
    with pytest.raises(ValueError, match=message):
        Batch(**{**parts, **change})


def test_columns_that_do_not_fit_are_refused() -> None:
    for wrong in ([0, 2], [-1, 0]):
        with pytest.raises(ValueError, match=r"request_of names a request outside 0\.\.1"):
            batch(wrong, 2)
    with pytest.raises(ValueError, match=r"1 names for a matrix of shape \(2, 0\)"):
        Columns(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0), ("a",))
    with pytest.raises(ValueError, match=r"columns differ in length: \[2, 2, 3\]"):
        Columns.of(2, vecs={"v": np.zeros((3, 1), dtype=np.float32)})
    with pytest.raises(ValueError, match="channels of a group differ in shape"):
        Group(torch.zeros(2), {"a": torch.zeros(2, 3), "b": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match="1 lengths for channels of shape"):
        Group(torch.zeros(1), {"a": torch.zeros(2, 3)})
