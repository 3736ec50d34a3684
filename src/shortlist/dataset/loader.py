"""Batches of a source, shuffled and made ahead of time, from any row on.

A source is anything with a length and `batch(rows)`. The order of an epoch is a function of (seed, epoch) alone, so a
run that was killed goes on where it was, and ranks agree on who sees what without talking. n rows, B a batch, W ranks.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shortlist.batch import Batch
from shortlist.errors import ConfigError, DataError

__all__ = ["Loader", "Source", "Lengths", "Epochs", "ahead", "check", "cuts", "resumed"]

T = TypeVar("T")
NEIGHBOURS = 50  # batches whose rows are put in order of length together


class Source(Protocol):
    """Examples by row: `batch` gathers any rows, in any order."""

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.int64]) -> Batch: ...


@runtime_checkable
class Lengths(Protocol):
    """A source of sequences: rows of like `lengths` [n] share batches when they are shuffled."""

    @property
    def lengths(self) -> NDArray[np.int64]: ...


@runtime_checkable
class Epochs(Protocol):
    """A source that differs by epoch (fresh negatives): `at_epoch` gives it as it is in one."""

    def at_epoch(self, epoch: int) -> Source: ...


class Loader:
    """One epoch each time it is iterated; an iteration that was left early, or a loaded state, is taken up again.

    Rank r of W gets every W-th row of the shuffled order: each row is seen exactly once, by one rank. All ranks get
    equally many batches, so that none waits for another; `drop_last` leaves out what does not fill a batch of every
    rank. `prefetch` batches are made ahead by a thread; 0 makes them when they are asked for.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        prefetch: int = 2,
        drop_last: bool = False,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Raises ConfigError for sizes that make no sense, DataError for fewer rows than ranks."""
        check(batch_size, prefetch, rank, ranks)
        if len(source) < ranks:
            what = f"{len(source)} rows for {ranks} ranks"
            raise DataError(what, where="loader", hint="give more data, or start fewer ranks")
        self.source, self.batch_size, self.seed, self.shuffle = source, batch_size, seed, shuffle
        self.prefetch, self.drop_last, self.rank, self.ranks = prefetch, drop_last, rank, ranks
        self.epoch, self.row = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(cuts(len(self.source), self.batch_size, self.rank, self.ranks, self.drop_last)) - 1

    def __iter__(self) -> Iterator[Batch]:
        source, order = self.source, self.order(self.epoch)
        if isinstance(source, Epochs):
            source = source.at_epoch(self.epoch)
        edges = cuts(len(self.source), self.batch_size, self.rank, self.ranks, self.drop_last)
        edges = edges[edges >= self.row]
        spans = [order[a:b] for a, b in pairwise(edges)]
        made = ahead((source.batch(rows) for rows in spans), self.prefetch)
        with closing(made):
            for batch, stop in zip(made, edges[1:], strict=True):
                self.row = int(stop)  # before it is handed out: what is saved while it is worked on counts it
                yield batch
        self.epoch, self.row = self.epoch + 1, 0

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Rows of an epoch that this rank sees, in order."""
        if not self.shuffle:
            return np.arange(self.rank, len(self.source), self.ranks)
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.source))[self.rank :: self.ranks]
        return self._alike(order, self.source.lengths, rng) if isinstance(self.source, Lengths) else order

    def _alike(
        self, order: NDArray[np.int64], lengths: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """The same rows, those of like length neighbours among some batches' worth; whole batches stay in random
        order.
        """
        size = self.batch_size
        window = np.arange(len(order)) // (size * NEIGHBOURS)
        order = order[np.lexsort((lengths[order], window))]
        whole = len(order) // size
        moved = order[: whole * size].reshape(whole, size)[rng.permutation(whole)].ravel()
        return np.concatenate([moved, order[whole * size :]])

    def state(self) -> dict[str, Any]:
        """Where this rank is, as plain values: what is needed to go on."""
        return {"epoch": self.epoch, "row": self.row, **self._run()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises DataError when it is of another run."""
        self.epoch, self.row = resumed(state, self._run(), "loader")

    def _run(self) -> dict[str, Any]:
        names = ("seed", "batch_size", "shuffle", "drop_last", "rank", "ranks")
        return {name: getattr(self, name) for name in names} | {"rows": len(self.source)}


def cuts(rows: int, batch_size: int, rank: int, ranks: int, drop_last: bool) -> NDArray[np.int64]:
    """Where a rank's batches begin and end among its own rows: as many batches as every other rank has.

    A rank with one row more than others may have it in its last batch, above `batch_size`."""
    least = rows // ranks
    if drop_last:
        return np.arange(least // batch_size + 1) * batch_size
    edges = np.minimum(np.arange(-(-least // batch_size) + 1) * batch_size, least)
    edges[-1] += rank < rows % ranks
    return edges


def check(batch_size: int, prefetch: int, rank: int, ranks: int) -> None:
    """Raises ConfigError for sizes that make no sense."""
    for name, value, least in (("batch_size", batch_size, 1), ("prefetch", prefetch, 0), ("ranks", ranks, 1)):
        if value < least:
            raise ConfigError(f"should be at least {least}, got {value}", where=f"loader.{name}", hint="correct it")
    if not 0 <= rank < ranks:
        raise ConfigError(f"rank {rank} of {ranks}", where="loader.rank", hint=f"ranks are 0 to {ranks - 1}")


def resumed(state: Mapping[str, Any], run: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Epoch and row of a saved state. Raises DataError when it is of another run."""
    for name, value in run.items():
        if state.get(name) != value:
            what = f"the saved state has {name} {state.get(name)!r}, this run {value!r}"
            raise DataError(what, where=where, hint="resume with the data and settings it was saved with")
    return int(state["epoch"]), int(state["row"])


def ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The same items, up to `depth` of them made beforehand by a thread; both end when the consumer does.

    What making one raises is raised here, in its place.
    """
    if depth == 0:
        yield from items
        return
    with closing(items), ThreadPoolExecutor(1, "loader") as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(pool.submit(next, items, None))
                yield item
        finally:
            for future in waiting:
                future.cancel()
