"""Feature coverage: how much of what a model could know is known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.features.encoders import lists
from shortlist.schema import Entity, Profiles, Schema

__all__ = ["coverage", "covered"]


def coverage(schema: Schema, entity: Entity, profiles: Profiles, keys: NDArray[np.int64]) -> dict[str, float]:
    """Share of keys [N] that have a value, by field: neither None nor NaN nor an empty list. 0 where N is 0."""
    shares = {}
    for name in schema.fields(entity):
        lengths, _ = lists(profiles.take(name, keys))
        shares[f"{entity}.{name}"] = float((lengths > 0).mean()) if len(keys) else 0.0
    return shares


def covered(columns: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Share of rows [N] that have another value than the default, by feature column: neither None nor NaN nor an empty
    list, and no 0, which a count has where nothing is known. 0 where N is 0."""
    shares = {}
    for name, raw in columns.items():
        there = lists(raw)[0] > 0
        if raw.dtype != object:
            there &= raw != 0
        shares[name] = float(there.mean()) if len(raw) else 0.0
    return shares
