"""Vectors as an index reads them: rows by ascending key, and the one exact score of a query and a row. Q queries, N
items, D width, M pairs."""

__all__ = ["Points"]

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import RequestError
from shortlist.forms import Vectors
from shortlist.index.cut import Floats, Ints

BLOCK_BYTES = 64 * 2**20  # scores of one block of queries
PAIRS = 1 << 18  # pairs of a query and a row that are scored at once
ROUNDING = 2.0**-22  # four units in the last place of a float32, for each term of a sum
FAINT = 1e-30  # squared lengths below are of numbers whose squares a float32 does not hold in full
Mask = NDArray[np.bool_]


class Points:
    """Immutable. Scores are larger-is-better for every metric: `ip` and `cos` as they are, `l2` the squared distance,
    negated. A vector of length zero has cosine 0 to everything.

    `score` is the only place where a score is computed, one pair at a time: an item has the same bits whoever found it,
    alone or among thousands. A matrix whose keys ascend is used where it lies, mapped or not.
    """

    def __init__(self, form: Vectors) -> None:
        self.metric = form.metric
        ordered = bool((form.keys[1:] > form.keys[:-1]).all())
        order = slice(None) if ordered else np.argsort(form.keys)  # the smaller row is the smaller key
        self.keys: Ints = form.keys[order]
        self.matrix: NDArray[np.float32] = form.matrix[order]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def width(self) -> int:
        return int(self.matrix.shape[1])

    @cached_property
    def squares(self) -> Floats:
        """Squared length of each row [N]."""
        squares: Floats = np.einsum("nd,nd->n", self.matrix, self.matrix)
        return squares

    @cached_property
    def lengths(self) -> Floats:
        """Length of each row [N], never 0: what a cosine divides by."""
        return _lengths(self.matrix, self.squares)

    @cached_property
    def raised(self) -> bool:
        """Whether rows `lifted` have a coordinate more: not all are of one length, and the score is no distance."""
        return self.metric == "ip" or (self.metric == "cos" and not bool(self.matrix.any(axis=1).all()))

    def shaped(self) -> NDArray[np.float32]:
        """The rows that a structure is built over [N, D]: of length 1 for `cos`."""
        shaped: NDArray[np.float32] = self.matrix
        if self.metric == "cos":
            shaped = shaped / self.lengths[:, None]
        return np.ascontiguousarray(shaped, dtype=np.float32)

    def lifted(self) -> NDArray[np.float64]:
        """As `shaped`, for structures that know distances only: an `ip` row gets the coordinate sqrt(max ||e||^2 -
        ||e||^2), a query 0, and the order of distances is exactly that of inner products. So does a `cos` row where one
        has length zero: as it lies, it would be nearer than rows of cosine below 1/2."""
        rows = self.shaped().astype(np.float64)
        if not self.raised:
            return rows
        squares = np.square(rows).sum(axis=1)
        return np.hstack([rows, np.sqrt(np.maximum(squares.max(initial=0.0) - squares, 0.0))[:, None]])

    def lift(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """The queries that go with `lifted`."""
        asked = queries.astype(np.float64)
        return np.hstack([asked, np.zeros((len(asked), 1))]) if self.raised else asked

    def asked(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries as `score` and all kinds read them. Raises RequestError for another width, NaN and infinity."""
        if queries.ndim != 2 or queries.shape[1] != self.width:
            what = f"queries of shape {queries.shape} do not fit vectors of width {self.width}"
            raise RequestError(what, where="index", hint="use the vectors of the same release")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        if len(bad):
            what = f"{len(bad)} of {len(queries)} queries hold NaN or infinity, the first is number {bad[0]}"
            raise RequestError(what, where="index", hint="look at the model that made them")
        return _unit(queries) if self.metric == "cos" else queries

    def score(self, queries: NDArray[np.float32], of: Ints, rows: Ints) -> Floats:
        """Scores [M] of the pairs (query `of[m]`, row `rows[m]`); queries as `asked` made them."""
        out = np.empty(len(rows), dtype=np.float32)
        for at in range(0, len(rows), PAIRS):
            some = slice(at, at + PAIRS)
            x, q = self.matrix[rows[some]], queries[of[some]]
            if self.metric == "l2":
                x -= q
                out[some] = -np.einsum("md,md->m", x, x)
            else:
                out[some] = np.einsum("md,md->m", x, q)
                if self.metric == "cos":
                    out[some] /= self.lengths[rows[some]]
        return out

    def best(self, queries: NDArray[np.float32], of: Ints, rows: Ints, n: int) -> tuple[Ints, Floats]:
        """The n best of these pairs by query as (rows [Q, n], scores [Q, n]), ties by smaller row, -1 and -inf behind
        the end. A pair stands among them once."""
        return _ordered(len(queries), of, rows, self.score(queries, of, rows), n)

    def ranked(self, queries: NDArray[np.float32], found: Ints, n: int) -> tuple[Ints, Floats]:
        """As `best`, of rows [Q, m] that a structure found, -1 for none."""
        there = found >= 0
        of, rows = np.nonzero(there)[0], found[there]
        scores = self.score(queries, of, rows)
        if found.shape[1] > 2 * n:  # most need no order
            table = np.full(found.shape, -np.inf, dtype=np.float32)
            table[there] = scores
            edge = np.partition(table, found.shape[1] - n, axis=1)[:, found.shape[1] - n]
            kept = scores >= edge[of]
            of, rows, scores = of[kept], rows[kept], scores[kept]
        return _ordered(len(queries), of, rows, scores, n)

    def exact(self, queries: NDArray[np.float32], n: int, among: Ints | None = None) -> tuple[Ints, Floats]:
        """As `best`, over every row, or over the rows `among` (ascending)."""
        out, best = blank(len(queries), n)
        total = len(self) if among is None else len(among)
        if not total or not n:
            return out, best
        for low, of, rows in self._near(queries, min(n, total), among):
            count = int(of[-1]) + 1
            some = slice(low, low + count)
            out[some], best[some] = self.best(queries[some], of, rows, n)
        return out, best

    def _near(self, queries: NDArray[np.float32], n: int, among: Ints | None) -> Iterator[tuple[int, Ints, Ints]]:
        """Blocks of queries (the first, pairs of a query in the block and a row) that hold the n best of each: what a
        product of matrices puts there, and what its rounding may have put behind."""
        total = len(self) if among is None else len(among)
        every = np.arange(total) if among is None else among
        if 4 * n >= total:  # most rows are wanted
            size = max(1, PAIRS // total)
            for low in range(0, len(queries), size):
                count = min(size, len(queries) - low)
                yield low, np.repeat(np.arange(count), total), np.tile(every, count)
            return
        matrix, squares, lengths = self.matrix, self.squares, self.lengths
        hidden: Ints | None = None
        if among is not None and 2 * total > len(self):  # less work than a copy of so many rows
            hidden = np.setdiff1d(np.arange(len(self)), among, assume_unique=True)
            every = np.arange(len(self))
        elif among is not None:
            matrix, squares, lengths = matrix[among], squares[among], lengths[among]
        longest = float(lengths.max())
        size = max(1, BLOCK_BYTES // (4 * len(matrix)))
        for low in range(0, len(queries), size):
            block = queries[low : low + size]
            table = block @ matrix.T
            reach = np.sqrt(np.einsum("qd,qd->q", block, block))
            slack = ROUNDING * self.width * reach * longest
            if self.metric == "cos":
                table /= lengths
                slack = np.full(len(block), ROUNDING * self.width)
            if self.metric == "l2":  # without the query's own square, which is the same for all
                table *= 2
                table -= squares
                slack = ROUNDING * self.width * (longest + reach) ** 2
            if hidden is not None:
                table[:, hidden] = -np.inf
            edge = np.partition(table, len(matrix) - n, axis=1)[:, len(matrix) - n] - slack
            found = [np.flatnonzero(row >= low_q) for row, low_q in zip(table, edge, strict=True)]
            start = held = 0
            for q, mine in enumerate(found):
                held += len(mine)
                if held >= PAIRS or q + 1 == len(found):
                    counts = np.array([len(one) for one in found[start : q + 1]])
                    rows = np.concatenate(found[start : q + 1])
                    yield low + start, np.repeat(np.arange(len(counts)), counts), every[rows]
                    start, held = q + 1, 0


def _ordered(count: int, of: Ints, rows: Ints, scores: Floats, n: int) -> tuple[Ints, Floats]:
    order = np.lexsort((rows, -scores, of))
    of, rows, scores = of[order], rows[order], scores[order]
    counts = np.bincount(of, minlength=count)
    place = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < n
    out, best = blank(count, n)
    out[of[kept], place[kept]] = rows[kept]
    best[of[kept], place[kept]] = scores[kept]
    return out, best


def blank(count: int, n: int) -> tuple[Ints, Floats]:
    """An answer of nothing."""
    return np.full((count, n), -1, dtype=np.int64), np.full((count, n), -np.inf, dtype=np.float32)


def _unit(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays."""
    unit: NDArray[np.float32] = matrix / _lengths(matrix, np.einsum("nd,nd->n", matrix, matrix))[:, None]
    return unit


def _lengths(matrix: NDArray[np.float32], squares: Floats) -> Floats:
    """Roots of the squared lengths [N], never 0; in double precision where a single one does not hold the squares."""
    lengths: Floats = np.sqrt(squares)
    odd = np.flatnonzero((squares < FAINT) | ~np.isfinite(squares))
    rows = matrix[odd].astype(np.float64)
    lengths[odd] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return np.maximum(lengths, np.finfo(np.float32).tiny)
