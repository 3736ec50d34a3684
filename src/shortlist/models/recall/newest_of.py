"""Newest of a label: what was published last in the categories a user prefers (practice, no paper). I items.

Reads fields of items that hold labels, and times of publication; nothing of the log. Lists: label -> items, newest
first; beside them `tags`: label -> all items that have it, each with the label's idf."""

__all__ = ["NewestOf"]

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from shortlist.config import Count, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import Built, Lists
from shortlist.models.blocks.labels import Labelled, fields_of, headed, newest, without
from shortlist.schema import Catalogue, Schema

DAY_MS = 86_400_000.0


class NewestOf:
    """An item is reachable from its publication on, without an event, until `per_label` newer ones of its labels are.

    Items too old at the end of training are in no list: they only get older. Those announced for later are in; the
    source (`newest_of`) shows them when their time has come, and asks for the newest of the labels preferred in the
    history at hand. `published` and `withdrawn` keep lists up to date between trainings.
    """

    source: ClassVar[str] = "newest_of"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = True

    @frozen
    class Config:
        """Labels are the values of `fields`, of the category where none is named. `keep` items of each, not older than
        `prune_days` (24 hours for news, 30 days for goods; None, `inf` in TOML: of any age)."""

        fields: tuple[str, ...] = ()
        keep: Count = 500
        prune_days: Positive | None = 30.0

    def __init__(self, config: Config, schema: Schema) -> None:
        self.config, self.schema = config, schema
        self.fields = fields_of(schema, config.fields, "newest_of")
        if schema.published is None:
            hint = "set schema.published to a time field of [schema.items]"
            raise ConfigError("what is newest needs a time of publication", where="newest_of", hint=hint)
        self.published = schema.published
        self.reads: tuple[str, ...] = (*(f"item.{field}" for field in self.fields), f"item.{self.published}")

    def solve(self, interactions: Interactions, catalogue: Catalogue, now: int) -> Built:
        """Lists of at most `keep` items. Raises DataError where no item has a label."""
        labelled = Labelled.of(catalogue.items, self.schema, self.fields, "newest_of")
        times = catalogue.items.take(self.published, labelled.items).astype(np.float64)
        days = np.inf if self.config.prune_days is None else self.config.prune_days
        fresh = times >= now - days * DAY_MS  # not so without a time
        codes, items = labelled.codes[fresh], labelled.items[fresh]
        lists = newest(codes, items, times[fresh], self.config.keep, labelled.names)
        return Built(lists, {"tags": labelled.lists(labelled.idf[labelled.codes], None)})


def published(lists: Lists, item: int, labels: Sequence[str], keep: int | None = None) -> Lists:
    """The lists after an item came out: first in those of its labels (`category:news`), each cut at `keep`."""
    return headed(lists, item, labels, keep)


def withdrawn(lists: Lists, items: Sequence[int]) -> Lists:
    """The lists without items that are gone."""
    return without(lists, np.array(items, dtype=np.int64))
