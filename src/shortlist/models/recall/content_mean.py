"""Content mean: a two-tower's vectors for items that it has none of, from items of similar content (practice, no
paper). N new items, M mature ones, K neighbours, D width.

Reads a `vec` field of the catalogue, who took what, and the vectors of another channel. Vectors: those, and the new."""

__all__ = ["ContentMean"]

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Artifact
from shortlist.config import Count, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import DataError
from shortlist.forms import Vectors
from shortlist.index.vectors import VectorIndex
from shortlist.models.blocks.content import field_of, unit_vectors
from shortlist.models.blocks.towers import items_of
from shortlist.schema import Catalogue, Schema

ROWS = 4096  # new items looked up at once
Single = NDArray[np.float32]


class ContentMean:
    """The vector of a new item is the mean of those of its `k` nearest mature items by cosine of content, weighted by
    that cosine where `weighted` (one below 0 counts nothing; all of them, equally). Vectors that the channel `of` has
    stay as they are, until it is trained again: then the new item has its own.

    An item is mature from `mature` events of training on: impressions are not given to a recall model. One whose vector
    is of zeros is not asked. A new item without content gets no vector here. A user served needs no more than the
    channel `of` does.
    """

    source: ClassVar[str] = "nearest"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = True

    @frozen
    class Config:
        of: str
        field: str | None = None
        k: Count = 10
        mature: Count = 50
        weighted: bool = False

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.field = field_of(schema, config.field, "content_mean")
        self.reads: tuple[str, ...] = ("actions", f"item.{self.field}")

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int, artifact: Artifact) -> Vectors:
        """Raises ConfigError where the channel `of` has no users' vectors, DataError where there are new items and none
        that is mature."""
        form = items_of(artifact, "content_mean")
        self.reads = tuple(dict.fromkeys([*self.reads, *artifact.manifest.reads]))
        keys, content = unit_vectors(catalogue.items, self.field, "content_mean")
        events = interactions.liked(self.schema.weights).items
        known, counts = np.unique(events, return_counts=True)
        told = form.keys[form.matrix.any(axis=1)]
        mature = np.isin(keys, known[counts >= self.config.mature]) & np.isin(keys, told)
        new = ~np.isin(keys, form.keys)
        if new.any() and not mature.any():
            what = f"no item with a vector has {self.config.mature} events"
            raise DataError(what, where="content_mean.mature", hint="lower mature")
        order = np.argsort(form.keys)
        of = form.matrix[order][np.searchsorted(form.keys[order], keys[mature])]
        made = mean_of(content[new], keys[mature], content[mature], of, self.config.k, self.config.weighted)
        every = np.concatenate([form.keys, keys[new]])
        rows = np.vstack([form.matrix, made])
        order = np.argsort(every)
        return Vectors(every[order], rows[order], form.metric)


def mean_of(new: Single, keys: NDArray[np.int64], content: Single, vectors: Single, k: int, weighted: bool) -> Single:
    """Vectors [N, D] of items of `new` content [N, C], from mature items: their `keys` [M] ascending, `content` [M, C]
    and `vectors` [M, D]. Contents have length 1; of equally near ones the smaller key is taken."""
    index = VectorIndex(Vectors(keys, content, "ip"))
    kept = min(k, len(keys))
    made = np.empty((len(new), vectors.shape[1]), dtype=np.float32)
    for low in range(0, len(new), ROWS):
        found, cosine = index.search(new[low : low + ROWS], kept)
        weight = np.maximum(cosine.astype(np.float64), 0.0) if weighted else np.ones(cosine.shape)
        weight[~weight.any(axis=1)] = 1.0
        weight /= weight.sum(axis=1, keepdims=True)
        near = vectors[np.searchsorted(keys, found)].astype(np.float64)
        made[low : low + ROWS] = np.einsum("nk,nkd->nd", weight, near)
    return made
