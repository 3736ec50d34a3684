"""The loader: every row once, the same order for the same seed, and going on where it stopped."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shortlist.batch import Batch, Columns
from shortlist.dataset.loader import Loader
from shortlist.errors import ConfigError, DataError


class Numbers:
    """Rows that hold their own number."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        n = len(rows)
        return Batch.of(Columns.of(n), Columns.of(n, {"item.id": rows}), np.arange(n))


class Broken(Numbers):
    def batch(self, rows: NDArray[np.int64]) -> Batch:
        if 7 in rows:
            raise DataError("row 7 is bad", where="test")
        return super().batch(rows)


class Uneven(Numbers):
    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.arange(self.n) % 10


class Renewed(Numbers):
    def __init__(self, n: int, epoch: int = 0) -> None:
        super().__init__(n)
        self.epoch = epoch

    def at_epoch(self, epoch: int) -> "Renewed":
        return Renewed(self.n, epoch)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        return super().batch(rows + 100 * self.epoch)


def rows(batches: Iterator[Batch] | Loader) -> list[list[int]]:
    return [batch.row["item.id"].tolist() for batch in batches]


def test_in_order_when_not_shuffled() -> None:
    assert rows(Loader(Numbers(5), 2, seed=0, shuffle=False)) == [[0, 1], [2, 3], [4]]
    assert rows(Loader(Numbers(5), 2, seed=0, shuffle=False, drop_last=True)) == [[0, 1], [2, 3]]
    assert rows(Loader(Numbers(5), 2, 0, False, rank=1, ranks=2)) == [[1, 3]]
    assert rows(Loader(Numbers(5), 2, 0, False, rank=0, ranks=2)) == [[0, 2, 4]]  # one batch, as rank 1 has


@settings(deadline=None)
@given(
    n=st.integers(1, 60),
    size=st.integers(1, 12),
    ranks=st.integers(1, 5),
    seed=st.integers(0, 3),
    drop=st.booleans(),
    kind=st.sampled_from([Numbers, Uneven]),
)
def test_ranks_see_each_row_once_in_equally_many_batches(
    n: int, size: int, ranks: int, seed: int, drop: bool, kind: Any
) -> None:
    if n < ranks:
        return
    loaders = [Loader(kind(n), size, seed, drop_last=drop, prefetch=0, rank=r, ranks=ranks) for r in range(ranks)]
    seen = [rows(loader) for loader in loaders]
    assert {len(batches) for batches in seen} == {len(loaders[0])}
    flat = [row for batches in seen for batch in batches for row in batch]
    if drop:
        assert len(flat) == len(set(flat)) == n // ranks // size * size * ranks
        assert all(len(batch) == size for batches in seen for batch in batches)
    else:
        assert sorted(flat) == list(range(n))
        assert all(1 <= len(batch) <= size + (ranks > 1) for batches in seen for batch in batches)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    one, same, other = (Loader(Numbers(20), 4, seed) for seed in (1, 1, 2))
    first, second = rows(one), rows(one)
    assert first != second  # epochs differ
    assert [rows(same), rows(same)] == [first, second]
    assert rows(other) != first
    assert rows(Loader(Numbers(20), 4, 1, prefetch=0)) == first


@settings(deadline=None)
@given(n=st.integers(1, 30), size=st.integers(1, 7), stop=st.integers(0, 40), prefetch=st.sampled_from([0, 1, 3]))
def test_killed_and_resumed_is_uninterrupted(n: int, size: int, stop: int, prefetch: int) -> None:
    whole = Loader(Uneven(n), size, 3, prefetch=prefetch)
    expected = [batch for _ in range(3) for batch in rows(whole)]
    stop = min(stop, len(expected) - 1)
    killed = Loader(Uneven(n), size, 3, prefetch=prefetch)
    seen: list[list[int]] = []
    while len(seen) < stop:
        for batch in killed:
            seen.append(batch.row["item.id"].tolist())
            if len(seen) == stop:
                break
    fresh = Loader(Uneven(n), size, 3, prefetch=prefetch)
    fresh.load(killed.state())
    while len(seen) < len(expected):
        seen += rows(fresh)
    assert seen[: len(expected)] == expected


def test_a_state_of_another_run_is_refused() -> None:
    state = Loader(Numbers(10), 2, 0).state()
    assert state == {
        "epoch": 0, "row": 0, "seed": 0, "batch_size": 2, "shuffle": True, "drop_last": False, "rank": 0, "ranks": 1,
        "rows": 10,
    }  # fmt: skip
    for other, message in (
        (Loader(Numbers(11), 2, 0), "loader: the saved state has rows 10, this run 11"),
        (Loader(Numbers(10), 2, 4), "loader: the saved state has seed 0, this run 4"),
    ):
        with pytest.raises(DataError) as caught:
            other.load(state)
        assert str(caught.value) == f"{message} (resume with the data and settings it was saved with)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "loader.batch_size: should be at least 1, got 0 (correct it)"),
        ({"prefetch": -1}, "loader.prefetch: should be at least 0, got -1 (correct it)"),
        ({"rank": 2, "ranks": 2}, "loader.rank: rank 2 of 2 (ranks are 0 to 1)"),
    ],
)
def test_sizes_that_make_no_sense(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Loader(Numbers(9), **({"batch_size": 2, "seed": 0} | options))  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_fewer_rows_than_ranks() -> None:
    with pytest.raises(DataError) as caught:
        Loader(Numbers(1), 2, 0, ranks=2)
    assert str(caught.value) == "loader: 1 rows for 2 ranks (give more data, or start fewer ranks)"


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_a_source_raises_is_raised_in_its_place(prefetch: int) -> None:
    loader = iter(source := Loader(Broken(10), 2, 0, False, prefetch))
    seen = [next(loader).row["item.id"].tolist() for _ in range(3)]
    with pytest.raises(DataError) as caught:
        next(loader)
    assert str(caught.value) == "test: row 7 is bad"
    assert seen == [[0, 1], [2, 3], [4, 5]]
    assert source.state()["row"] == 6


def test_leaving_early_ends_the_thread() -> None:
    before = set(threading.enumerate())
    loader = Loader(Numbers(1000), 2, 0)
    for _ in loader:
        break
    assert set(threading.enumerate()) <= before
    assert loader.state()["row"] == 2


def test_rows_of_like_length_share_batches() -> None:
    loader = Loader(Uneven(1000), 10, 0)
    spread = [max(r % 10 for r in batch) - min(r % 10 for r in batch) for batch in rows(loader)]
    # within 50 batches of 10 rows, each of the ten lengths fills about five: neighbours differ by one at most
    assert max(spread) <= 1
    lengths = [batch[0] % 10 for batch in rows(loader)]
    assert lengths != sorted(lengths)  # and the batches themselves come in random order


def test_a_source_that_differs_by_epoch() -> None:
    loader = Loader(Renewed(2), 2, 0, shuffle=False)
    assert [rows(loader), rows(loader)] == [[[0, 1]], [[100, 101]]]
