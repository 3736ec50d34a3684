"""Newest of a tag: what was published last in the categories a user prefers (practice, no paper). I items.

Reads fields of items that are tags, and times of publication; nothing of the log. Lists: tag -> items, newest
first; beside them `tags`: tag -> all items that have it, each with the tag's idf."""

__all__ = ["NewestOf"]

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from shortlist.config import Count, Positive, frozen
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError
from shortlist.forms import Built, Lists
from shortlist.models.blocks.tagged import Tagged, fields_of, headed, newest, without
from shortlist.schema import Catalogue, Schema

DAY_MS = 86_400_000.0


class NewestOf:
    """An item is reachable from its publication on, without an event, until `per_tag` newer ones of its tags are.

    Items too old at the end of training are in no list: they only get older. Those announced for later are in; the
    source (`newest_of`) shows them when their time has come, and asks for the newest of the tags preferred in the
    history at hand. `published` and `withdrawn` are for who keeps lists up to date
    between trainings; no command of ours does yet.
    """

    source: ClassVar[str] = "newest_of"
    cold_users: ClassVar[bool] = True
    cold_items: ClassVar[bool] = True

    @frozen
    class Config:
        """Tags are the values of `fields`, of the category where none is named. `keep` items of each, not older than
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
        """Lists of at most `keep` items. Raises DataError where no item has a tag."""
        tagged = Tagged.of(catalogue.items, self.schema, self.fields, "newest_of")
        times = catalogue.items.take(self.published, tagged.items).astype(np.float64)
        days = np.inf if self.config.prune_days is None else self.config.prune_days
        fresh = times >= now - days * DAY_MS  # not so without a time
        codes, items = tagged.codes[fresh], tagged.items[fresh]
        lists = newest(codes, items, times[fresh], self.config.keep, tagged.names)
        return Built(lists, {"tags": tagged.lists(tagged.idf[tagged.codes], None)})


def published(built: Built, item: int, tags: Sequence[str], keep: int | None = None) -> Built:
    """After an item came out: first in the lists of its tags (`category:news`), each cut at `keep`, and among the items
    that have them. A tag that no item had yet is one from then on."""
    form, known = built.form, built.beside["tags"]
    assert isinstance(form, Lists)
    assert isinstance(known, Lists)
    codes = dict(zip(known.labels, known.keys.tolist(), strict=True))
    for tag in tags:
        codes.setdefault(tag, max(codes.values(), default=-1) + 1)
    mine = {codes[tag]: tag for tag in tags}
    rare = np.log((2 + len(np.unique(known.items))) / 2) + 1  # the idf of one item among them
    rest = without(known, np.array([item]))
    worth = [known.of(code)[1][:1] for code in mine]
    owners = np.append(np.repeat(rest.keys, np.diff(rest.offsets)), list(mine)).astype(np.int64)
    items = np.append(rest.items, np.full(len(mine), item))
    scores = np.append(rest.scores, [float(idf[0]) if len(idf) else rare for idf in worth])
    names = {code: tag for tag, code in codes.items()}
    plain = Lists.ranked(owners, items, scores.astype(np.float32))
    every = Lists(plain.keys, plain.offsets, plain.items, plain.scores, tuple(names[int(key)] for key in plain.keys))
    return Built(headed(form, item, mine, keep), {**built.beside, "tags": every})


def withdrawn(built: Built, items: Sequence[int]) -> Built:
    """After items went: they are in no list. What they say of a user's tags stays."""
    assert isinstance(built.form, Lists)
    return Built(without(built.form, np.array(items, dtype=np.int64)), built.beside)
