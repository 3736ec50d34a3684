"""Look-alike: new items by the users who took them first (audience expansion; with attention: RALM, Liu et al., KDD
2019, arXiv:1906.05022). I items, U users, D width.

Reads who took what, when items came out, and the vectors of the users of another channel. Vectors of items; beside them
`means`: what they are made of, for items still short of users too."""

__all__ = ["LookAlike"]

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Artifact
from shortlist.config import Count, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError, DataError
from shortlist.forms import Built, Vectors
from shortlist.models.blocks.content import unit
from shortlist.models.blocks.towers import items_of, users_of
from shortlist.schema import Catalogue, Schema

DAY_MS = 86_400_000.0
Ints = NDArray[np.int64]


class LookAlike:
    """v_i = the mean of the unit vectors of the distinct users who took i, at length 1; searched by cosine with the
    vectors that the channel `of` gives requests. A two-tower of yesterday serves items of today, once a few took them.

    Where enough users did more than the least (bought, not just clicked), these alone count. A user served needs no
    more than the channel `of` does; an item that fewer than `least` users took has no vector. A user whose vector is of
    zeros is none of them. `joined` takes in one user more between trainings, with vectors of the same channel: those of
    another training cannot be mixed with them; no command of ours does yet.
    """

    source: ClassVar[str] = "nearest"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = False

    @frozen
    class Config:
        """Items that at least `least` users took, published at most `max_age_days` before the end of training (None,
        `inf` in TOML: whenever)."""

        of: str
        least: Count = 3
        max_age_days: Positive | None = 30.0

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        if config.max_age_days is not None and schema.published is None:
            hint = "set schema.published to a time field of [schema.items], or max_age_days = inf"
            raise ConfigError("ages need a time of publication", where="look_alike.max_age_days", hint=hint)
        self.published = schema.published if config.max_age_days is not None else None
        self.reads: tuple[str, ...] = ("actions", *((f"item.{self.published}",) if self.published else ()))

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int, artifact: Artifact) -> Built:
        """Vectors of items that have enough users. Raises ConfigError where the channel `of` has no users' vectors."""
        items_of(artifact, "look_alike")
        self.reads = tuple(dict.fromkeys([*self.reads, *artifact.manifest.reads]))
        weights = self.schema.weights
        log = interactions.liked(weights)
        young = log
        if self.published is not None:
            times = catalogue.items.take(self.published, log.items, np.nan).astype(np.float64)
            assert self.config.max_age_days is not None
            known = np.asarray((times <= now) & (now - times <= self.config.max_age_days * DAY_MS))
            young = log.where(known)
        items, users = _starters(young, weights, self.config.least)
        asked, at = np.unique(users, return_inverse=True)
        vectors = users_of(artifact, self.schema, catalogue, log, asked, now, "look_alike")
        if not len(asked):
            vectors = np.zeros((0, items_of(artifact, "look_alike").matrix.shape[1]), dtype=np.float32)
        there = (vectors != 0).any(axis=1)[at]
        means = averaged(items[there], vectors, at[there])
        return Built(indexable(means, self.config.least), {"means": means})


def averaged(items: Ints, vectors: NDArray[np.float32], at: Ints) -> Vectors:
    """Of pairs of an item and a user's row [N]: each item's mean vector and, as a last column, of how many [I, D +
    1]."""
    order = np.lexsort((at, items))
    keys, starts, counts = np.unique(items[order], return_index=True, return_counts=True)
    sums = np.zeros((len(keys), vectors.shape[1]))
    if len(keys):
        sums = np.add.reduceat(vectors[at[order]].astype(np.float64), starts, axis=0)
    means = np.hstack([sums / np.maximum(counts, 1)[:, None], counts[:, None]])
    return Vectors(keys.astype(np.int64), means.astype(np.float32), "ip")


def joined(built: Built, item: int, vector: NDArray[np.float32], least: int) -> Built:
    """After a user took an item for the first time, by the user's vector [D]: m_n = m_(n-1) + (u - m_(n-1)) / n. The
    item has a vector from its `least`-th user on. A vector of zeros changes nothing. Raises DataError for NaN and
    infinity."""
    means = built.beside["means"]
    assert isinstance(means, Vectors)
    if not np.isfinite(vector).all():
        hint = "look at the model that made it"
        raise DataError("the user's vector holds NaN or infinity", where=f"look_alike, item {item}", hint=hint)
    if not vector.any():
        return built
    u: NDArray[Any] = unit(vector[None, :])[0].astype(np.float64)
    known = means.keys == item
    before = means.matrix[known][0].astype(np.float64) if known.any() else np.zeros(len(u) + 1)
    n = before[-1] + 1
    row = np.append(before[:-1] + (u - before[:-1]) / n, n).astype(np.float32)
    keys, matrix = np.append(means.keys[~known], item), np.vstack([means.matrix[~known], row])
    order = np.argsort(keys)
    moved = Vectors(keys[order], matrix[order], "ip")
    return Built(indexable(moved, least), {**built.beside, "means": moved})


def indexable(means: Vectors, least: int) -> Vectors:
    """Means of at least so many users, at length 1; vectors that cancel out have none."""
    there = np.asarray((means.matrix[:, -1] >= least) & (means.matrix[:, :-1] != 0).any(axis=1))
    return Vectors(means.keys[there], unit(means.matrix[there, :-1]), "cos")


def _starters(log: Interactions, weights: NDArray[np.float32], least: int) -> tuple[Ints, Ints]:
    """Pairs of an item and a user who took it, each once: those of more than the least weight alone, where there are at
    least so many of an item."""
    width = int(log.users.max(initial=0)) + 1
    pair, back = np.unique(log.items * width + log.users, return_inverse=True)
    most = np.zeros(len(pair))
    np.maximum.at(most, back, weights[log.actions])
    item, at = np.unique(pair // width, return_inverse=True)
    strong = most > float(weights[weights > 0].min(initial=np.inf))
    enough = np.bincount(at, weights=strong, minlength=len(item))[at] >= least
    kept = strong | ~enough
    return pair[kept] // width, pair[kept] % width
