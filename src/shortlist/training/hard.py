"""Hard negatives of a retriever: what a channel fitted before it ranks for each user, below what the user would like.

After EBR (Huang et al., KDD 2020), whose index is the last model's; here it is one of the same fit, so that a fit
depends on nothing but its data. U users by id, W ranks of the window.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import load
from shortlist.candidates import Ragged, Requests
from shortlist.config import Count, NonNegative, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.features.assemble import Assembler
from shortlist.features.base import Known
from shortlist.forms import Vectors
from shortlist.index.flat import FlatIndex
from shortlist.models import learned
from shortlist.schema import PAD, Catalogue
from shortlist.training.negatives import Catalogued, Pooled, Sampler

__all__ = ["Hard", "pool", "window"]

BLOCK = 4096  # users asked about at once


@frozen
class Hard:
    """`of` is the channel, ranks from 1. A softmax has `per` of them for each example beside its other columns; where
    negatives are drawn one by one, one in 1 + `easy_per_hard` is hard, on average."""

    of: str
    low: Count = 101
    high: Count = 500
    per: Count = 2
    easy_per_hard: NonNegative = 100.0


def pool(
    config: Hard, folder: Path, log: Interactions, assembler: Assembler, where: str, known: Known | None = None
) -> NDArray[np.int32]:
    """Ids [U, W] by user id: what the channel in `folder` ranks `low` to `high` for each user of the log, asked at its
    end; ids below 2 are no item. Users without a row in the log have none.

    Raises ConfigError for a window that is none, and for a channel that is not searched by a user's vector.
    """
    if config.high < config.low:
        what = f"ranks {config.low} to {config.high} are no window"
        raise ConfigError(what, where=f"{where}.hard", hint="make high at least low")
    artifact = load(folder / config.of)
    form = artifact.form()
    if not isinstance(form, Vectors) or "encoders" not in artifact.manifest.config:
        hint = "name a channel that is trained: its users and items are vectors"
        raise ConfigError(f"{config.of} has no vectors of users", where=f"{where}.hard.of", hint=hint)
    model = learned.restore(artifact, assembler.schema, Catalogue(assembler.users, assembler.items))
    index = FlatIndex(form)
    users, now = log.user_keys, int(log.times.max()) + 1
    last = log.offsets[1:] - 1
    out = np.full((len(assembler.encoders.users), config.high - config.low + 1), PAD, dtype=np.int32)
    for at in range(0, len(users), BLOCK):
        some = users[at : at + BLOCK]
        none = Ragged.empty(len(some))
        context = {name: column[last[at : at + BLOCK]] for name, column in log.context.items()}
        moments = np.full(len(some), now)
        asked = Requests(some, moments, 1, log.histories(some), none, none, context, known=known)
        keys, _ = index.search(model.query(asked), config.high)
        window = keys[:, config.low - 1 :]
        out[assembler.encoders.users(some)] = assembler.encoders.items(window.ravel()).reshape(window.shape)
    return out


def window(pool: NDArray[np.int32], sampler: Sampler) -> Pooled:
    """Draws from a pool by user id; from the catalogue for who has none."""
    return Pooled(lambda asked: pool[asked.users].astype(np.int64), Catalogued(sampler))
