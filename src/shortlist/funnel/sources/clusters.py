"""u2i2c2i: the newest items of the clusters that a user's last items are in. R requests, N items."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import numpy as np

from shortlist.candidates import Requests, located
from shortlist.config import Count, Positive, frozen
from shortlist.forms import Form, Lists
from shortlist.funnel.ages import Ages
from shortlist.funnel.pipeline import Keep, Recalled
from shortlist.funnel.shares import found, in_turn
from shortlist.index.lists import Kept
from shortlist.schema import Profiles, Schema

__all__ = ["Clusters"]


class Clusters:
    """Of the clusters of the `last` distinct items of a history, the `per_cluster` newest items each that are out and
    not older than `max_age_hours` (None: however old), clusters in turn by how many of these items they have.

    An item that the catalogue does not have yet came after the release: it is new.
    """

    needs: ClassVar[tuple[str, ...]] = ("beside", "items")

    @frozen
    class Config:
        last: Count = 30
        per_cluster: Count = 5
        max_age_hours: Positive | None = None

    def __init__(
        self, config: Config, form: Lists | Kept, schema: Schema, beside: Mapping[str, Form], items: Profiles
    ) -> None:
        clusters = beside["clusters"]
        assert isinstance(clusters, Lists)
        self.config, self.form = config, form
        order = np.argsort(clusters.items, kind="stable")
        self.items = clusters.items[order]
        self.cluster = np.repeat(clusters.keys, np.diff(clusters.offsets))[order]
        self.ages = Ages(items, schema, config.max_age_hours, "max_age_hours", later=True)

    @staticmethod
    def check(config: "Clusters.Config", schema: Schema) -> None:
        Ages(None, schema, config.max_age_hours, "max_age_hours")

    def recall(self, requests: Requests, n: int, keep: Keep) -> Recalled:
        """At most `last` times `per_cluster` items; what the user has already taken is among them."""
        history = requests.history.latest().last(self.config.last)
        at, known = located(self.items, history.items)
        owner, cluster = history.owners[known], self.cluster[at[known]]
        width = int(self.cluster.max(initial=0)) + 1
        pair, sizes = np.unique(owner * width + cluster, return_counts=True)
        who, which = pair // width, pair % width
        share = sizes / np.bincount(who, weights=sizes, minlength=len(requests))[who]
        limits = np.full(len(pair), self.config.per_cluster, dtype=np.int64)
        rows = found(self.form, who, which, limits, keep, partial(self.ages.within, requests))
        return in_turn(rows, who, share, n, keep)
