"""Feature coverage: how much of what a model could know is known."""

import numpy as np
from numpy.typing import NDArray

from shortlist.features.encoders import lists
from shortlist.schema import Entity, Profiles, Schema

__all__ = ["coverage"]


def coverage(schema: Schema, entity: Entity, profiles: Profiles, keys: NDArray[np.int64]) -> dict[str, float]:
    """Share of keys [N] that have a value, by field: neither None nor NaN nor an empty list. 0 where N is 0."""
    shares = {}
    for name in schema.fields(entity):
        lengths, _ = lists(profiles.take(name, keys))
        shares[f"{entity}.{name}"] = float((lengths > 0).mean()) if len(keys) else 0.0
    return shares
