"""Content i2i: items with similar content vectors (cosine; no paper. PCA whitening: Su et al. 2021, arXiv:2103.15316).
N items, D width.

Reads a `vec` field of the catalogue, and who took what where it whitens. Lists: item -> similar items."""

__all__ = ["Content"]

from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from shortlist.config import Count, IndexConfig, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import DataError
from shortlist.forms import Lists, Vectors
from shortlist.index.building import indexed, kind_of
from shortlist.index.points import BLOCK_BYTES, PAIRS
from shortlist.models.blocks.content import above, field_of, none_of, unit, unit_vectors
from shortlist.models.blocks.limits import fits
from shortlist.schema import Catalogue, Schema

ROWS = 4096  # lists made at once
SPREAD = 1e-6  # of the widest direction: narrower ones are rounding
Ints = NDArray[np.int64]
Single = NDArray[np.float32]


class Content:
    """s_ij = <v_i, v_j> / (|v_i| |v_j|), the item itself left out. Learns nothing from users: every item of the
    catalogue that has a vector has a list and is in others', so also those that nobody has taken yet.

    An item without a vector, or with one of zeros, has no list and is in none. A user needs no more than the history at
    hand. Lists may be shorter by age at the moment of a request: `max_age_hours` of the source.
    """

    source: ClassVar[str] = "neighbours"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = True

    @frozen
    class Config:
        """`keep` similar items of each, by the vectors of `field` (the only one where none is named), found by
        `search`: an index as `[[recall]] index` has them, exact for fewer than 50,000 items.

        `whiten` turns the vectors so that, over the items of training, the directions they vary most in count alike,
        and keeps so many of them. Items with a cosine of at least `copies` are one (and whoever is linked by such
        pairs): the one published last, else the smallest key, stands in lists for all of them, and in none of their
        own.
        """

        field: str | None = None
        keep: Count = 200
        whiten: Count | None = None
        copies: Annotated[float, Gt(0), Le(1)] | None = None
        search: IndexConfig = IndexConfig()
        budget_bytes: Count = 4 * 2**30

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.field = field_of(schema, config.field, "content")
        kind_of(config.search, "content.search")
        self.published = schema.published if config.copies is not None else None
        self.reads: tuple[str, ...] = (
            *(("actions",) if config.whiten else ()),
            f"item.{self.field}",
            *((f"item.{self.published}",) if self.published else ()),
        )

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Lists:
        """Lists of at most `keep` items, best first. Raises CapacityError with the estimate, DataError where no item
        has a vector, or where one is not a number."""
        config = self.config
        keys, matrix = unit_vectors(catalogue.items, self.field, "content")
        if not len(keys):
            raise none_of(catalogue.items, self.field, "content")
        need = self.estimate(*matrix.shape)
        fits(f"{len(keys)} items", need, config.budget_bytes, "content", "raise budget_bytes or lower keep")
        if config.whiten is not None:
            taken = np.isin(keys, interactions.liked(self.schema.weights).item_keys)
            matrix = whitened(matrix, matrix[taken], config.whiten)
            keys, matrix = keys[matrix.any(axis=1)], matrix[matrix.any(axis=1)]
        stands = np.arange(len(keys))
        if config.copies is not None:
            stands = self._stand(keys, matrix, catalogue, config.copies)
        return self._lists(keys, matrix, stands)

    def estimate(self, items: int, width: int) -> int:
        """Bytes at the peak: the vectors as the catalogue has them, at length 1 and in the index, the lists, and what
        an exact search holds at once."""
        kept = min(self.config.keep, items) + 1
        return items * (20 * width + 3 * 12 * kept) + 8 * width * PAIRS + 4 * BLOCK_BYTES

    def _stand(self, keys: Ints, matrix: Single, catalogue: Catalogue, least: float) -> Ints:
        """The row that stands for each row [N]."""
        i, j = above(matrix, least)
        joined = csr_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=(len(keys), len(keys)))
        _, group = connected_components(joined, directed=False)
        if self.published is None:
            times = np.zeros(len(keys))
        else:
            times = np.nan_to_num(catalogue.items.take(self.published, keys).astype(np.float64), nan=-np.inf)
        order = np.lexsort((keys, -times, group))
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        stands: Ints = order[starts][group]
        return stands

    def _lists(self, keys: Ints, matrix: Single, stands: Ints) -> Lists:
        """Of every row, the best among the rows that stand for some; not the one that stands for itself."""
        shown = np.unique(stands)
        own = keys[stands]
        form = Vectors(keys[shown], matrix[shown], "ip")
        index = indexed(form, self.config.search, "content.search").index
        assert index is not None
        kept = min(self.config.keep, len(shown) - 1)
        sizes = np.zeros(len(keys), dtype=np.int64)
        items, scores = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
        for low in range(0, len(keys) if kept else 0, ROWS):
            high = min(low + ROWS, len(keys))
            found, score = index.search(matrix[low:high], kept + 1)
            other = (found >= 0) & (found != own[low:high, None])
            other &= np.cumsum(other, axis=1) <= kept
            sizes[low:high] = other.sum(axis=1)
            items.append(found[other])
            scores.append(np.minimum(score[other], np.float32(1)))
        there = sizes > 0
        offsets = np.concatenate([[0], np.cumsum(sizes[there])]).astype(np.int64)
        return Lists(keys[there], offsets, np.concatenate(items), np.concatenate(scores))


def whitened(matrix: Single, fitted: Single, dim: int) -> Single:
    """Rows minus the mean of the `fitted` ones, on the `dim` directions in which these vary most, each divided by its
    spread there; then at length 1. Fewer directions where there are no more. Raises DataError where there is none."""
    if not len(fitted):
        hint = "take whiten away, or give vectors to items that were taken"
        raise DataError("no item of training has a vector", where="content.whiten", hint=hint)
    mean = fitted.mean(axis=0, dtype=np.float64)
    centred = fitted.astype(np.float64) - mean
    values, directions = np.linalg.eigh(centred.T @ centred / len(fitted))
    values, directions = values[::-1], directions[:, ::-1]
    there = values > SPREAD**2 * max(float(fitted.shape[1]), 1.0)
    if not there.any():
        hint = "take whiten away: there is nothing to turn"
        raise DataError("the vectors of all items of training are the same", where="content.whiten", hint=hint)
    values, directions = values[there][:dim], directions[:, there][:, :dim]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.where(directions[largest, np.arange(len(values))] < 0, -1.0, 1.0)
    return unit((matrix.astype(np.float64) - mean) @ (directions / np.sqrt(values)))
