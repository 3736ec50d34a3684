"""u2tag2i: what is best under the tags that a user prefers. R requests, T tags, N items."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests
from shortlist.config import Count, Positive, frozen
from shortlist.forms import Form, Lists
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.funnel.preferences import Preferences
from shortlist.funnel.shares import found, summed
from shortlist.index.lists import Kept
from shortlist.schema import Schema

__all__ = ["Tags"]


class Tags:
    """s(u, i) = the sum over the `top` tags t of u that i has of pref(u, t) * q(i | t), the lists' scores; a user whose
    items have no tag gets nothing.

    Of each tag at most `per_tag` items (None: all), and where `by_share` holds at most the share pref(u, t) of what is
    asked for, rounded up: a tag that a user prefers brings more.
    """

    needs: ClassVar[tuple[str, ...]] = ("beside",)

    @frozen
    class Config:
        top: Count = 10
        per_tag: Count | None = 50
        by_share: bool = True
        half_life_days: Positive | None = 7.0

    def __init__(self, config: Config, form: Lists | Kept, schema: Schema, beside: Mapping[str, Form]) -> None:
        tags = beside["tags"]
        assert isinstance(tags, Lists)
        self.config, self.form = config, form
        self.preferences = Preferences(tags, schema, config.half_life_days)

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """At most `top` times `per_tag` items; what the user has already taken is among them."""
        owners, tags, share = self.preferences.of(requests, self.config.top)
        limits = None
        if self.config.by_share:
            limits = np.ceil(share * n - 1e-9).astype(np.int64)
        if self.config.per_tag is not None:
            most = np.full(len(tags), self.config.per_tag, dtype=np.int64)
            limits = most if limits is None else np.minimum(limits, most)
        rows = found(self.form, owners, tags, limits, keep)
        return summed(owners[rows.pairs], rows.items, share[rows.pairs] * rows.scores, n, keep)
