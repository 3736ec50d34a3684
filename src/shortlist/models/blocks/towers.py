"""The two sides of a channel that was trained before, for models `of` it: its items' vectors, and its users'. I items,
U users, D width."""

__all__ = ["items_of", "users_of"]

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Artifact
from shortlist.candidates import Ragged, Requests
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError, DataError
from shortlist.forms import Vectors
from shortlist.models.blocks.content import unit
from shortlist.schema import Catalogue, Schema

BLOCK = 4096  # users asked about at once
HINT = "name a channel that is trained: its users and items are vectors"


def items_of(artifact: Artifact, where: str) -> Vectors:
    """Vectors of the items. Raises ConfigError for a channel that is not searched by a user's vector; one that is `of`
    such a channel itself will do."""
    form, config = artifact.form(), artifact.manifest.config
    asked = "encoders" in config or bool(config.get("options", {}).get("of"))
    if not isinstance(form, Vectors) or not asked:
        raise ConfigError(f"{artifact.manifest.name} has no vectors of users", where=f"{where}.of", hint=HINT)
    return form


def users_of(
    artifact: Artifact,
    schema: Schema,
    catalogue: Catalogue,
    log: Interactions,
    users: NDArray[np.int64],
    now: int,
    where: str,
) -> NDArray[np.float32]:
    """Unit vectors [U, D] of users, asked at `now` with their history in the log; of several interests of a user, the
    mean. Zeros where there is none. Raises ConfigError for a channel that has no model of its own, DataError where it
    gives users NaN or infinity, with their keys."""
    if "encoders" not in artifact.manifest.config:
        raise ConfigError(f"{artifact.manifest.name} has no vectors of users", where=f"{where}.of", hint=HINT)
    from shortlist.models.learned import restore  # loads torch

    model = restore(artifact, schema, catalogue)
    parts = [np.zeros((0, 0), dtype=np.float32)]
    for at in range(0, len(users), BLOCK):
        some = users[at : at + BLOCK]
        moments, none = np.full(len(some), now), Ragged.empty(len(some))
        context = {}
        if schema.region is not None and schema.region in schema.users:
            context[schema.region] = catalogue.users.take(schema.region, some)
        vectors = model.query(Requests(some, moments, 1, log.histories(some), none, none, context))
        if vectors.ndim == 3:
            count, width = vectors.shape[1:]
            each = unit(np.where(np.isfinite(vectors), vectors, 0).reshape(-1, width))
            vectors = each.reshape(-1, count, width).sum(axis=1)
        bad = some[~np.isfinite(vectors).all(axis=1)]
        if len(bad):
            told = ", ".join(str(key) for key in bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
            what = f"{artifact.manifest.name} gives users vectors of NaN or infinity: user key {told}"
            raise DataError(what, where=f"{where}.of", hint="train that channel again")
        parts.append(unit(vectors))
    return np.concatenate(parts[1:]) if len(parts) > 1 else parts[0]
