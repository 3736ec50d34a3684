"""Fields of items as multi-hot rows: what rules count and attribute similarity compares."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.candidates import spans
from shortlist.config import nearest
from shortlist.errors import ConfigError
from shortlist.schema import Profiles, Schema, text

__all__ = ["Kinds"]

_TABLE = 1 << 21  # cells of a table of all items by all values that is worth keeping: 8 MiB


@dataclass(frozen=True)
class Kinds:
    """Distinct values of one field as codes. Item row n has `codes[offsets[n]:offsets[n+1]]`; a missing value none.

    `table` float32 [N + 1, V] is the same as 0/1 rows, the last one empty, where that is small; else None.
    """

    items: Profiles
    offsets: NDArray[np.int64]
    codes: NDArray[np.int64]
    values: tuple[str, ...]
    table: NDArray[np.float32] | None

    @classmethod
    def of(cls, items: Profiles, schema: Schema, name: str, where: str, equals: str | None = None) -> "Kinds":
        """From a field of text, numbers or lists of them; with `equals`, that one value only.

        A field that is declared but absent gives items without kinds. Raises ConfigError for an unknown field and
        for vectors.
        """
        column = items.columns.get(name)
        if column is None and name not in schema.items:
            hint = nearest(name, [*items.columns, *schema.items])
            raise ConfigError(f"no item field is called {name!r}", where=where, hint=hint)
        if column is not None and column.ndim > 1:
            raise ConfigError(f"{name!r} is a vector", where=where, hint="name a field of single values or lists")
        values, owners = _flat(column)
        if equals is not None:
            owners, values = owners[values == equals], values[values == equals]
        codes_of = {value: code for code, value in enumerate(sorted(set(values.tolist())))}
        width = max(len(codes_of), 1)
        codes = np.fromiter((codes_of[value] for value in values), dtype=np.int64, count=len(values))
        pairs = np.unique(owners * width + codes)  # a value twice in a list is there once
        owners, codes = pairs // width, pairs % width
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(items)))]).astype(np.int64)
        table = None
        if (len(items) + 1) * width <= _TABLE:
            table = np.zeros((len(items) + 1, width), dtype=np.float32)
            table[owners, codes] = 1.0
        return cls(items, offsets, codes, tuple(codes_of), table)

    @property
    def width(self) -> int:
        """How many columns `dense` may give."""
        return max(1, len(self.values)) if self.table is not None else min(len(self.values), 4096)

    def dense(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """0/1 rows [..., V] of items [...], at least one column. V are all values, or those among these items."""
        rows = self.items.rows(keys.ravel())
        if self.table is not None:
            return self.table[rows.reshape(keys.shape)]  # row -1, no such item, is the empty last one
        known = np.flatnonzero(rows >= 0)
        start = self.offsets[rows[known]]
        counts = self.offsets[rows[known] + 1] - start
        at = spans(start, counts)
        local, code = np.unique(self.codes[at], return_inverse=True)
        out = np.zeros((keys.size, max(len(local), 1)), dtype=np.float32)
        out[np.repeat(known, counts), code] = 1.0
        return out.reshape(*keys.shape, out.shape[1])


def _flat(column: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Every value as text and the item row that has it; missing values are left out."""
    rows = [] if column is None else column.tolist()
    lists = [v if isinstance(v, (list, tuple)) else [v] for v in rows]
    found = [(n, x) for n, values in enumerate(lists) for x in values if x is not None and x == x]
    values = text([x for _, x in found]).cast(pl.String).to_numpy().astype(object)
    return values, np.array([n for n, _ in found], dtype=np.int64)
