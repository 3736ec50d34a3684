"""Which items a search may find, by the values of their fields."""

__all__ = ["allowed", "matching"]

import numpy as np
from numpy.typing import NDArray

from shortlist.expressions import Expression
from shortlist.index.cut import Ints
from shortlist.index.vectors import VectorIndex
from shortlist.schema import Profiles


def matching(condition: Expression, items: Profiles, keys: Ints) -> NDArray[np.bool_]:
    """A mask over keys: where the condition holds for an item's fields. An item that nothing is known of fits nothing.

    Raises ConfigError for a field that there is not, and for an expression that is no condition.
    """
    condition.check(items.columns)
    columns = {name: items.take(name, keys) for name in condition.names}
    known = items.rows(keys) >= 0
    return known & condition.mask(columns, len(keys))


def allowed(where: str, index: VectorIndex, items: Profiles | None) -> NDArray[np.bool_] | None:
    """The mask of a source's option `where`; None where it is empty: all items are searched."""
    if not where:
        return None
    none = np.zeros(0, dtype=np.int64)
    return matching(Expression.parse(where, "where"), Profiles(none, {}) if items is None else items, index.keys)
