"""Gowalla check-ins in the split of NGCF and LightGCN (SNAP; Cho et al., KDD 2011): 29,858 users, 40,981 places.

810,128 pairs to learn from and 217,242 to test on, a fifth of each user's, without times. The test pairs are the
published file's; those to learn from are restored from the normalised adjacency beside it, the same set.
"""

from typing import Any, ClassVar

import polars as pl

from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public, fetch
from shortlist.schema import Schema

__all__ = ["Gowalla", "PUBLIC", "pairs"]

PUBLIC = Public(
    name="gowalla",
    files={
        "train": "a01d62ae7d6257f32afcb17db071ba16c3cfaf2f409ed927e6bb576f4a29dbdb",
        "test": "57a045ba1d408f8e6bfffd7c0bbcf6b5b4c6c824d0a5f3012b8beb331d95546b",
    },
)


class Gowalla:
    """`data.adapter = "gowalla"`."""

    split: ClassVar[str] = 'use = "published"'
    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "item_id",
        "time_unit": "none",
        "actions": {"checkin": {}},
    }

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        return pairs(fetch(PUBLIC, say), self.schema)


def pairs(tables: dict[str, pl.DataFrame], schema: dict[str, Any]) -> Raw:
    """A log of the pairs of `train` and then those of `test`, which the published split holds out."""
    columns = ["user_id", "item_id"]
    events = pl.concat([tables[name].select(columns) for name in ("train", "test")])
    held = tables["test"].select(user="user_id", item="item_id", part=pl.lit("test"))
    return Raw(events.lazy(), None, None, Schema.parse(schema), held)
