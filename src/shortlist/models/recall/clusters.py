"""Clusters of content: the newest items like those a user took (spherical k-means: Dhillon, Modha, Machine Learning
2001). N items, K clusters, D width.

Reads a `vec` field of the catalogue, and times of publication. Lists: cluster -> items, newest first; beside them
`clusters`: cluster -> all of its items by cosine to the centre, and `centres`: the vectors of the centres."""

__all__ = ["Clusters"]

from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from shortlist.config import Count, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import Built, Lists, Vectors
from shortlist.models.blocks.content import field_of, none_of, unit, unit_vectors
from shortlist.models.blocks.limits import fits
from shortlist.models.blocks.spherical import closest, cluster
from shortlist.models.blocks.tagged import headed, newest, without
from shortlist.schema import Catalogue, Schema

DAY_MS = 86_400_000.0
SAME = 1e-4  # vectors whose numbers agree to this are one content
Ints = NDArray[np.int64]


class Clusters:
    """Every item with a content vector is in the cluster of the nearest centre, whoever took it; a new one too, from
    its publication on, where lists are kept up to date between trainings (`placed`; no command of ours does yet). Of
    items of the same content, the one published last is in the lists.

    A user needs no more than the history at hand (source `clusters`). Items without a vector or a time of publication
    are in no list. Numbers of clusters mean nothing from one training to the next: centres and lists go together.
    """

    source: ClassVar[str] = "clusters"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = True

    @frozen
    class Config:
        """At most `clusters`, never more than there are different vectors; the best of `restarts` runs of at most
        `rounds`. `keep` items of each, not older than `prune_days` (None, `inf` in TOML: of any age)."""

        field: str | None = None
        clusters: Count = 1000
        restarts: Count = 3
        rounds: Count = 30
        keep: Count = 200
        prune_days: Positive | None = 30.0
        seed: Annotated[int, Ge(0)] = 0
        budget_bytes: Count = 4 * 2**30

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.field = field_of(schema, config.field, "clusters")
        if schema.published is None:
            hint = "set schema.published to a time field of [schema.items]"
            raise ConfigError("what is newest needs a time of publication", where="clusters", hint=hint)
        self.published = schema.published
        self.reads: tuple[str, ...] = (f"item.{self.field}", f"item.{self.published}")

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Built:
        """Lists of at most `keep` items. Raises CapacityError with the estimate, DataError where no item has a vector,
        or where one is not a number."""
        config = self.config
        keys, matrix = unit_vectors(catalogue.items, self.field, "clusters")
        if not len(keys):
            raise none_of(catalogue.items, self.field, "clusters")
        need = self.estimate(*matrix.shape)
        fits(f"{len(keys)} items", need, config.budget_bytes, "clusters", "raise budget_bytes or lower clusters")
        content = _content(matrix)
        rng = np.random.default_rng(config.seed)
        k = min(config.clusters, int(content.max()) + 1)
        made = cluster(matrix, k, config.restarts, config.rounds, rng)
        cosine = np.einsum("nd,nd->n", matrix, made.centres[made.groups])
        times = catalogue.items.take(self.published, keys).astype(np.float64)
        days = np.inf if config.prune_days is None else config.prune_days
        there = (times >= now - days * DAY_MS) & _latest(content, times, keys, now)
        lists = newest(made.groups[there], keys[there], times[there], config.keep)
        centres = Vectors(np.arange(len(made.centres)), made.centres, "cos")
        return Built(lists, {"clusters": Lists.ranked(made.groups, keys, cosine), "centres": centres})

    def estimate(self, items: int, width: int) -> int:
        """Bytes at the peak: the vectors as the catalogue has them, at length 1 and in a block of double precision,
        centres, and the lists."""
        k = min(self.config.clusters, items)
        return items * (3 * 4 * width + 80) + 2 * 4 * k * width + 64 * 2**20


def placed(built: Built, item: int, vector: NDArray[np.float32], keep: int | None = None) -> Built:
    """After an item came out, by its content vector [D]: first in the list of the cluster of the nearest centre, which
    is what training would give it at the same centres. Its other parts are as they were, but for `clusters`."""
    centres, members = built.beside["centres"], built.beside["clusters"]
    assert isinstance(built.form, Lists)
    assert isinstance(centres, Vectors)
    assert isinstance(members, Lists)
    group, cosine = closest(centres.matrix, unit(vector[None, :]))
    rest = without(members, np.array([item]))
    owners = np.append(np.repeat(rest.keys, np.diff(rest.offsets)), group)
    items, scores = np.append(rest.items, item), np.append(rest.scores, cosine)
    every = Lists.ranked(owners, items, scores.astype(np.float32))
    return Built(headed(built.form, item, {int(group[0]): ""}, keep), {**built.beside, "clusters": every})


def _content(matrix: NDArray[np.float32]) -> Ints:
    """A number for each content [N]: the same where all numbers agree to `SAME`."""
    rounded = np.ascontiguousarray(np.round(matrix / SAME).astype(np.int32))
    rows = rounded.view(np.dtype((np.void, rounded.dtype.itemsize * rounded.shape[1]))).ravel()
    content: Ints = np.unique(rows, return_inverse=True)[1].astype(np.int64)
    return content


def _latest(content: Ints, times: NDArray[np.float64], keys: Ints, now: int) -> NDArray[np.bool_]:
    """Whether each item is the one of its content that came out last [N]; those announced for later all stand."""
    out = np.flatnonzero(times <= now)
    order = out[np.lexsort((keys[out], -times[out], content[out]))]
    first = np.diff(content[order], prepend=-1) != 0
    stands: NDArray[np.bool_] = times > now
    stands[order[first]] = True
    return stands
