"""Which items a search may find, by the values of their fields."""

__all__ = ["allowed", "check", "matching"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.expressions import Expression
from shortlist.index.cut import Ints
from shortlist.index.vectors import VectorIndex
from shortlist.schema import Profiles, Schema

# a value of each kind of field, as a catalogue has it
_VALUES: dict[str, NDArray[Any]] = {
    "sparse": np.array(["x"], dtype=object), "text": np.array(["x"], dtype=object),
    "varlen": np.fromiter([["x"]], dtype=object, count=1), "seq": np.fromiter([["x"]], dtype=object, count=1),
    "vec": np.fromiter([[1.0]], dtype=object, count=1), "dense": np.ones(1), "time": np.ones(1),
}  # fmt: skip


def matching(condition: Expression, items: Profiles, keys: Ints) -> NDArray[np.bool_]:
    """A mask over keys: where the condition holds for an item's fields. An item that nothing is known of fits nothing.

    Raises ConfigError for a field that there is not, and for an expression that is no condition.
    """
    condition.check(items.columns)
    columns = {name: items.take(name, keys) for name in condition.names}
    known = items.rows(keys) >= 0
    return known & condition.mask(columns, len(keys))


def check(where: str, schema: Schema) -> None:
    """Raises ConfigError for a source's option `where` that no catalogue of this schema could answer."""
    if where:
        columns = {name: _VALUES[field.kind] for name, field in schema.encoded().items.items()}
        key = np.zeros(1, dtype=np.int64)
        matching(Expression.parse(where, "where"), Profiles(key, columns), key)


def allowed(where: str, index: VectorIndex, items: Profiles | None) -> NDArray[np.bool_] | None:
    """The mask of a source's option `where`; None where it is empty: all items are searched."""
    if not where:
        return None
    none = np.zeros(0, dtype=np.int64)
    return matching(Expression.parse(where, "where"), Profiles(none, {}) if items is None else items, index.keys)
