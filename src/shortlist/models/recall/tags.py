"""U2TAG2I: items by the tags a user prefers (practice, no paper; inverse document frequency: Spärck Jones 1972). I
items, T tags.

Reads fields of items that are tags, and who took what when. Lists: tag -> items by what they are worth there; beside
them `tags`: tag -> all items that have it, each with the tag's idf."""

__all__ = ["Tags"]

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import located
from shortlist.config import Count, NonNegative, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import Built
from shortlist.models.blocks.tagged import Tagged, fields_of
from shortlist.schema import Catalogue, Schema

DAY_MS = 86_400_000.0


class Tags:
    """q(i | t) of an item i that has the tag t, by `by`:

    - `clicks`: (c_i + prior) / (sum of c_j + prior over the items j of the tag), c the weights of an item's events,
    each halved for every `item_half_life_days` before the end of training: the share of the tag's events, smoothed;
    - `recency`: 0.5 for every `item_half_life_days` since its publication, 0 without one and before it.

    What a user prefers is made of the history at hand (source `tags`), so a new user needs no training. An item that
    nobody took has the prior's share; one without a tag is in no list. A smoothed click rate would need impressions,
    which a recall model is not given.
    """

    source: ClassVar[str] = "tags"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = True

    @frozen
    class Config:
        """Tags are the values of `fields`, of the category where none is named. `keep` items of each."""

        fields: tuple[str, ...] = ()
        by: Literal["clicks", "recency"] = "clicks"
        item_half_life_days: Positive | None = 7.0
        prior: NonNegative = 1.0
        keep: Count = 500

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.fields = fields_of(schema, config.fields, "tags")
        recent = config.by == "recency"
        if recent and schema.published is None:
            hint = "set schema.published to a time field of [schema.items]"
            raise ConfigError("recency needs a time of publication", where="tags.by", hint=hint)
        if recent and config.item_half_life_days is None:
            hint = "set item_half_life_days"
            raise ConfigError("recency without a half-life is the same for all", where="tags.by", hint=hint)
        self.reads: tuple[str, ...] = (
            "actions", *(f"item.{field}" for field in self.fields), *((f"item.{schema.published}",) if recent else ())
        )  # fmt: skip

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Built:
        """Lists of at most `keep` items. Raises DataError where no item has a tag."""
        tagged = Tagged.of(catalogue.items, self.schema, self.fields, "tags")
        if self.config.by == "recency":
            worth = self._recency(tagged, catalogue, now)
        else:
            worth = self._share(tagged, interactions.liked(self.schema.weights), now)
        return Built(tagged.lists(worth, self.config.keep), {"tags": tagged.lists(tagged.idf[tagged.codes], None)})

    def _share(self, tagged: Tagged, log: Interactions, now: int) -> NDArray[np.float64]:
        worth = self.schema.weights[log.actions].astype(np.float64)
        if self.config.item_half_life_days is not None:
            worth *= np.exp2(-(now - log.times) / (self.config.item_half_life_days * DAY_MS))
        keys, at = np.unique(tagged.items, return_inverse=True)
        place, known = located(keys, log.items)
        total = np.bincount(place[known], weights=worth[known], minlength=len(keys))[at] + self.config.prior
        sums = np.bincount(tagged.codes, weights=total, minlength=len(tagged.names))
        share: NDArray[np.float64] = total / np.where(sums > 0, sums, 1.0)[tagged.codes]
        return share

    def _recency(self, tagged: Tagged, catalogue: Catalogue, now: int) -> NDArray[np.float64]:
        assert self.schema.published is not None
        assert self.config.item_half_life_days is not None
        times = catalogue.items.take(self.schema.published, tagged.items).astype(np.float64)
        age = (now - times) / (self.config.item_half_life_days * DAY_MS)
        recency: NDArray[np.float64] = np.where(age >= 0, np.exp2(-np.maximum(age, 0.0)), 0.0)
        return np.nan_to_num(recency)
