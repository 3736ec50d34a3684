"""Hard negatives of a retriever: what a channel fitted before it ranks for each user, below what the user would like,
or items of the wanted one's own kind.

After EBR (Huang et al., KDD 2020), whose index is the last model's; here it is one of the same fit, so that a fit
depends on nothing but its data. Of one's own kind (market) after Airbnb (Grbovic & Cheng, KDD 2018). U users by id, W
ranks of the window, N items.
"""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.artifact import load
from shortlist.candidates import Ragged, Requests
from shortlist.config import Count, NonNegative, frozen, nearest
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.features.assemble import Assembler
from shortlist.features.base import Known
from shortlist.forms import Vectors
from shortlist.index.vectors import VectorIndex
from shortlist.models import learned
from shortlist.schema import PAD, Catalogue, Schema, text
from shortlist.training.negatives import Alike, Catalogued, Negatives, Sampler, ranked

__all__ = ["Hard", "check", "draws", "pool"]

BLOCK = 4096  # users asked about at once


@frozen
class Hard:
    """Either `of`, a channel, by ranks from 1, or `alike`, a field of items (sparse): hard ones have the wanted item's
    value. With `unlike`, a field too, only those of the channel's ranks that have another value.

    A softmax has `per` of them for each example beside its other columns; where negatives are drawn one by one, one in
    1 + `easy_per_hard` is hard, on average.
    """

    of: str = ""
    alike: str = ""
    unlike: str = ""
    low: Count = 101
    high: Count = 500
    per: Count = 2
    easy_per_hard: NonNegative = 100.0


def check(config: Hard, schema: Schema, where: str) -> None:
    """Raises ConfigError for words that do not go together, and for a field that is none."""
    if bool(config.of) == bool(config.alike):
        what = "hard ones are of a channel or of a kind: of or alike, one of both"
        raise ConfigError(what, where=f"{where}.hard", hint='write of = "another channel", or alike = "a field"')
    if config.alike and config.unlike:
        hint = "take unlike away, or write of = ... for alike"
        raise ConfigError("unlike chooses among the ranks of a channel", where=f"{where}.hard.unlike", hint=hint)
    for key, name in (("alike", config.alike), ("unlike", config.unlike)):
        if name and (name not in schema.items or schema.items[name].kind != "sparse"):
            known = [field for field, told in schema.items.items() if told.kind == "sparse"]
            what = f"no sparse field of items is called {name!r}"
            raise ConfigError(what, where=f"{where}.hard.{key}", hint=nearest(name, known))


def draws(
    config: Hard,
    folder: Path,
    log: Interactions,
    assembler: Assembler,
    where: str,
    sampler: Sampler,
    known: Known | None = None,
) -> Negatives:
    """How hard ones are drawn; from the catalogue for who has none. Raises ConfigError as `pool` does."""
    rest = Catalogued(sampler)
    if config.alike:
        return Alike(groups(assembler, config.alike), rest)
    ranks = pool(config, folder, log, assembler, where, known)
    return ranked(ranks, rest, groups(assembler, config.unlike) if config.unlike else None)


def groups(assembler: Assembler, name: str) -> NDArray[np.int64]:
    """A number for the value of a field of each item [N] by id from 2, -1 where it has none."""
    values = text(assembler.items.take(name, assembler.encoders.items.keys))
    codes = values.rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1
    return np.asarray(codes, dtype=np.int64)


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
    index = VectorIndex(form)
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
