"""Lists made searchable: sums of the lists of some keys, for one request or thousands. R requests, H keys
asked, K lists, I items."""

__all__ = ["Elsewhere", "Kept", "KeptIndex", "LargeLists", "ListIndex", "cut", "searchable"]

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from shortlist.artifact import MAPPED_ABOVE
from shortlist.candidates import located
from shortlist.forms import Form, Lists
from shortlist.index.cut import Floats, Ints, Keep, Rows, cut

DENSE = 0.25  # share of filled cells from which a dense matrix is the faster form
DENSE_BYTES = 2**30  # and it must fit this
BLOCK_BYTES = 64 * 2**20  # results of one block of requests


class ListIndex:
    """Immutable. One request and the same request among thousands give the same bits: each row is summed in
    the order asked."""

    def __init__(self, form: Lists) -> None:
        self.form = form
        self.items: Ints = _distinct(form.items)

    @cached_property
    def _table(self) -> Any:
        """The lists as rows over `items`: dense where they fill much of it, else CSR."""
        shape = (len(self.form), len(self.items))
        columns = _places(self.items, self.form.items)
        table = sparse.csr_array((self.form.scores, columns, self.form.offsets), shape=shape)
        cells = shape[0] * shape[1]
        if len(columns) > DENSE * cells and 4 * cells <= DENSE_BYTES:
            return table.toarray()
        return table

    def gather(self, owners: Ints, keys: Ints, weights: Floats) -> Rows:
        """Sum over the keys [H] of request `owners[h]` of weight * score: (owner, item, score) by owner, then item.

        A key without a list adds nothing. Items whose sum is exactly 0 are left out. Thousands of requests
        give millions of rows: `top` cuts them block by block.
        """
        parts = [self._sum(*block) for block in self._blocks(owners, keys, weights)]
        return _joined(parts)

    def top(self, owners: Ints, keys: Ints, weights: Floats, n: int, keep: Keep | None = None) -> Rows:
        """The best n of each request that count, as `cut` has it."""
        blocks = self._blocks(owners, keys, weights)
        parts = [cut(*self._sum(*block, ordered=False), n, keep) for block in blocks]  # the cut orders what it keeps
        return _joined(parts)

    def _blocks(self, owners: Ints, keys: Ints, weights: Floats) -> list[tuple[Ints, Ints, Floats]]:
        """What is asked by list number and by request, in pieces whose results fit BLOCK_BYTES."""
        if not len(self.form) or not len(keys):
            return []
        at = np.minimum(np.searchsorted(self.form.keys, keys), len(self.form) - 1)
        known = self.form.keys[at] == keys
        owners, at, weights = owners[known], at[known], weights[known]
        if bool((owners[1:] < owners[:-1]).any()):
            order = np.argsort(owners, kind="stable")
            owners, at, weights = owners[order], at[order], weights[order]
        requests, starts = np.unique(owners, return_index=True)
        width = max(1, BLOCK_BYTES // (20 * max(len(self.items), 1)))
        if len(requests) <= width:
            return [(owners, at, weights)] if len(requests) else []
        edges = [*starts[::width].tolist(), len(owners)]
        return [(owners[a:b], at[a:b], weights[a:b]) for a, b in pairwise(edges)]

    def _sum(self, owners: Ints, at: Ints, weights: Floats, ordered: bool = True) -> Rows:
        """Rows by owner and, where `ordered`, by item."""
        starts = np.flatnonzero(np.diff(owners, prepend=owners[0] - 1))
        asked = sparse.csr_array(
            (weights.astype(np.float32, copy=False), at, np.append(starts, len(owners))),
            shape=(len(starts), len(self.form)),
        )
        sums = asked @ self._table
        if isinstance(sums, np.ndarray):
            row, column = np.nonzero(sums)
            return owners[starts[row]], self.items[column], sums[row, column]
        sums.eliminate_zeros()
        if ordered:
            sums.sort_indices()
        row = np.repeat(np.arange(len(starts)), np.diff(sums.indptr))
        return owners[starts[row]], self.items[sums.indices], sums.data.astype(np.float32, copy=False)


class Kept(Protocol):
    """Lists that lie elsewhere, to be read by key or by label (`store/lists.py`). All of one version at a time."""

    def take(self, keys: Ints) -> Lists: ...
    def named(self, labels: Iterable[str]) -> Lists: ...


class Elsewhere(NamedTuple):
    """A channel's form, and those beside it, where they lie elsewhere than in its artifact."""

    form: Kept | Form
    beside: Mapping[str, Form]


class KeptIndex:
    """What `ListIndex` does, over lists that lie elsewhere: those asked for are read at once, for all requests."""

    def __init__(self, form: Kept) -> None:
        self.form = form

    def gather(self, owners: Ints, keys: Ints, weights: Floats) -> Rows:
        return ListIndex(self.form.take(keys)).gather(owners, keys, weights)

    def top(self, owners: Ints, keys: Ints, weights: Floats, n: int, keep: Keep | None = None) -> Rows:
        return ListIndex(self.form.take(keys)).top(owners, keys, weights, n, keep)


class LargeLists:
    """Lists that are mapped and stay where they lie: those asked for are read, each up to its first `most` items."""

    def __init__(self, form: Lists, most: int | None = None) -> None:
        self.form, self.most = form, most
        self.places = {label: place for place, label in enumerate(form.labels)}

    def take(self, keys: Ints) -> Lists:
        form, wanted = self.form, np.unique(keys)
        at, known = located(form.keys, wanted)
        return self._at(at[known])

    def named(self, labels: Iterable[str]) -> Lists:
        return self._at(np.array(sorted(self.places[v] for v in set(labels) & set(self.places)), dtype=np.int64))

    def _at(self, at: Ints) -> Lists:
        form, starts = self.form, self.form.offsets[at]
        counts = form.offsets[at + 1] - starts
        if self.most is not None:
            counts = np.minimum(counts, self.most)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        labels = tuple(form.labels[place] for place in at) if form.labels else ()
        return Lists(form.keys[at], offsets, form.items[rows], form.scores[rows], labels)


def searchable(form: Lists | Kept) -> ListIndex | KeptIndex:
    """The index over lists, wherever they are. Those too large to be read by every process stay mapped."""
    if isinstance(form, Lists) and form.items.nbytes > MAPPED_ABOVE:
        return KeptIndex(LargeLists(form))
    return ListIndex(form) if isinstance(form, Lists) else KeptIndex(form)


def _near(items: Ints) -> bool:
    """Whether a table over all keys up to the largest is cheap beside the items themselves."""
    return bool(items.min(initial=0) >= 0 and items.max(initial=0) <= 4 * len(items) + 1024)


def _distinct(items: Ints) -> Ints:
    """`np.unique`, without sorting where that can be done without."""
    if not _near(items):
        return np.unique(items)
    present = np.zeros(int(items.max(initial=-1)) + 1, dtype=bool)
    present[items] = True
    return np.flatnonzero(present)


def _places(distinct: Ints, items: Ints) -> NDArray[np.int32]:
    """Place of every item among the distinct ones."""
    if not _near(items):
        return np.searchsorted(distinct, items).astype(np.int32)
    table = np.zeros(int(items.max(initial=-1)) + 1, dtype=np.int32)
    table[distinct] = np.arange(len(distinct), dtype=np.int32)
    return table[items]


def _joined(parts: list[Rows]) -> Rows:
    if not parts:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    if len(parts) == 1:
        return parts[0]
    owners, items, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return owners, items, scores
