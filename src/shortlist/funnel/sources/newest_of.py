"""u2tag2i: the newest items of the tags that a user prefers. R requests, N items."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests
from shortlist.config import Count, Positive, frozen
from shortlist.forms import Form, Lists
from shortlist.funnel.ages import Ages
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.funnel.preferences import Preferences
from shortlist.funnel.shares import found, in_turn
from shortlist.index.lists import Kept
from shortlist.schema import Profiles, Schema

__all__ = ["NewestOf"]


class NewestOf:
    """Of the `top` tags that a user prefers, the `per_tag` newest that are out and not older than `max_age_hours`
    (None: however old), tags in turn: the item at place p of a tag scores pref / p.

    An item that the catalogue does not have yet came after the release: it is new.
    """

    needs: ClassVar[tuple[str, ...]] = ("beside", "items")

    @frozen
    class Config:
        top: Count = 10
        per_tag: Count = 20
        half_life_days: Positive | None = 7.0
        max_age_hours: Positive | None = 720.0

    def __init__(
        self, config: Config, form: Lists | Kept, schema: Schema, beside: Mapping[str, Form], items: Profiles
    ) -> None:
        tags = beside["tags"]
        assert isinstance(tags, Lists)
        self.config, self.form = config, form
        self.preferences = Preferences(tags, schema, config.half_life_days)
        self.ages = Ages(items, schema, config.max_age_hours, "max_age_hours", later=True)

    @staticmethod
    def check(config: "NewestOf.Config", schema: Schema) -> None:
        Ages(None, schema, config.max_age_hours, "max_age_hours")

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """At most `top` times `per_tag` items; what the user has already taken is among them."""
        owners, tags, share = self.preferences.of(requests, self.config.top)
        limits = np.full(len(tags), self.config.per_tag, dtype=np.int64)
        rows = found(self.form, owners, tags, limits, keep, partial(self.ages.within, requests))
        return in_turn(rows, owners, share, n, keep)
