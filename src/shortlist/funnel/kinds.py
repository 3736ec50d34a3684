"""Fields of items as multi-hot rows: what rules count and attribute similarity compares (cards X1, X4)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist.schema import Profiles

__all__ = ["Kinds"]


@dataclass(frozen=True)
class Kinds:
    """Distinct values of one field as codes. Item row n has `codes[offsets[n]:offsets[n+1]]`; a missing value none."""

    keys: Profiles
    offsets: NDArray[np.int64]
    codes: NDArray[np.int64]
    values: tuple[str, ...]

    @classmethod
    def of(cls, items: Profiles, name: str) -> "Kinds":
        """From a field of text, numbers or lists of text. An absent field gives items without kinds."""
        column = items.columns.get(name)
        rows = [] if column is None else column.tolist()
        lists = [v if isinstance(v, list) else [] if v is None or v != v else [v] for v in rows]
        counts = np.array([len(set(v)) for v in lists] if lists else np.zeros(len(items)), dtype=np.int64)
        flat = [str(x) for v in lists for x in dict.fromkeys(v)]
        values, codes = np.unique(np.array(flat, dtype=object).astype(str), return_inverse=True)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(items, offsets, codes.astype(np.int64), tuple(values.tolist()))

    @property
    def single(self) -> bool:
        """Whether no item has two values."""
        return not len(self.codes) or int(np.diff(self.offsets).max()) <= 1

    def dense(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """0/1 rows [N, V] over the V values that occur among these items."""
        rows = self.keys.rows(keys)
        known = np.flatnonzero(rows >= 0)
        start = self.offsets[rows[known]]
        counts = self.offsets[rows[known] + 1] - start
        ends = np.cumsum(counts)
        at = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(start - (ends - counts), counts)
        local, code = np.unique(self.codes[at], return_inverse=True)
        out = np.zeros((len(keys), max(len(local), 1)), dtype=np.float32)
        out[np.repeat(known, counts), code] = 1.0
        return out
