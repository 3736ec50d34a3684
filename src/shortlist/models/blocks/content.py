"""Content vectors of items, as they stand in a catalogue: checked, and of length 1. N items, D width."""

__all__ = ["field_of", "none_of", "unit", "unit_vectors", "above"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import nearest
from shortlist.errors import ConfigError, DataError
from shortlist.schema import Profiles, Schema

BLOCK = 65_536  # rows divided at once
PAIRS = 1 << 24  # cells of a table of scores


def field_of(schema: Schema, name: str | None, where: str) -> str:
    """The field of items that holds vectors: the one named, or the only one. Raises ConfigError."""
    declared = schema.encoded().items
    vectors = [field for field, made in declared.items() if made.kind == "vec"]
    at = f"{where}.field"
    if name is None:
        if len(vectors) == 1:
            return vectors[0]
        if not vectors:
            hint = "declare a field of kind vec, or give a text field encode"
            raise ConfigError("no field of items holds vectors", where=at, hint=hint)
        what = f"several fields of items hold vectors: {', '.join(vectors)}"
        raise ConfigError(what, where=at, hint="set field to one of them")
    if name not in declared:
        raise ConfigError(f"no item field is called {name!r}", where=at, hint=nearest(name, vectors or list(declared)))
    if name not in vectors:
        hint = "give it encode" if declared[name].kind == "text" else nearest(name, vectors)
        raise ConfigError(f"{name!r} is a {declared[name].kind} field, it holds no vectors", where=at, hint=hint)
    return name


def unit_vectors(items: Profiles, field: str, where: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Keys [N] ascending of the items that have a vector, and these at length 1 [N, D]. A missing vector and one of
    zeros are none.

    Raises DataError for a column that is not there, for vectors of several widths, and for NaN and infinity, with keys.
    """
    column, at = items.columns.get(field), f"{where}, item.{field}"
    if column is None:
        hint = "give the column, or name another field"
        raise DataError(f"the items have no column {field!r}", where=at, hint=hint)
    rows = np.array([n for n, value in enumerate(column) if _there(value)], dtype=np.int64)
    keys = items.keys[rows]
    values = [np.asarray(column[n], dtype=np.float32) for n in rows]
    widths = sorted({value.size for value in values})
    if len(widths) > 1 or any(value.ndim != 1 for value in values):
        what = f"vectors of different widths: {', '.join(map(str, widths))}"
        raise DataError(what, where=at, hint="give every item a list of as many numbers, or none")
    matrix = np.array(values, dtype=np.float32).reshape(len(values), widths[0] if widths else 0)
    bad = keys[~np.isfinite(matrix).all(axis=1)]
    if len(bad):
        some = ", ".join(str(key) for key in bad[:3])
        rest = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        hint = "leave the vectors of these items out, or mend them"
        raise DataError(f"vectors hold NaN or infinity: item key {some}{rest}", where=at, hint=hint)
    there = matrix.any(axis=1)
    return keys[there], unit(matrix[there])


def none_of(items: Profiles, field: str, where: str) -> DataError:
    """What to say where `unit_vectors` found none: that there is none, or that all are zeros."""
    zeros = any(_there(value) for value in items.columns[field])
    what, hint = "no item has a vector", "give items vectors, or leave this channel out"
    if zeros:
        what, hint = "every vector is zero", "give vectors that say something, or leave this out"
    return DataError(what, where=f"{where}, item.{field}", hint=hint)


def _there(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and value != value)


def unit(matrix: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays. Lengths are taken in double precision: no row is too long or too
    short."""
    out = np.empty(matrix.shape, dtype=np.float32)
    for low in range(0, len(matrix), BLOCK):
        block = matrix[low : low + BLOCK].astype(np.float64)
        length = np.sqrt(np.einsum("nd,nd->n", block, block))
        out[low : low + BLOCK] = block / np.where(length > 0, length, 1.0)[:, None]
    return out


def above(matrix: NDArray[np.float32], least: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of rows i < j whose inner product is at least `least`, by i, then j. N * N / 2 products, a block at a
    time."""
    parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))]
    size = max(1, PAIRS // max(len(matrix), 1))
    for low in range(0, len(matrix), size):
        table = matrix[low : low + size] @ matrix[low:].T
        i, j = np.nonzero(table >= least)
        upper = i < j
        parts.append((i[upper] + low, j[upper] + low))
    first, second = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second
