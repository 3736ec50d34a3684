"""CiteULike-a (Wang, Chen and Li, IJCAI 2013) in the cold-item split of DropoutNet: 5,551 users and 16,980 articles.

164,210 pairs to learn from; 13,037 pairs on 1,018 articles and 27,739 on 2,378 others are held out for validation and
test, articles that have no pair to learn from. What is known of an article is its tags (3,461 have none); its text is
not among the files. Terms: none stated.
"""

from typing import Any, ClassVar

import polars as pl

from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public, fetch
from shortlist.schema import Schema

__all__ = ["CiteulikeA", "PUBLIC", "parts"]

PUBLIC = Public(
    name="citeulike-a",
    files={
        "cold_items.train": "5a91e6fdaff8d7c0398d114e090c1f903f1abada20f9dc5e3c051c7b08287243",
        "cold_items.cold_valid": "b475496a97b0d4200bacb828f23fcb75510631e80d2b46ef082bf5862c027c6a",
        "cold_items.cold_test": "dd3bd2d7d4d8eb874bf217c5e6d3cfff94d14f24a65d77a1f2fcd04c4238b662",
        "item_tags": "65b5fb93079f6152fd5eca9c3d009f296eec179f88cdec01107fccd2f76c530f",
        "tags": "7fa6ac1ff795ff01d6e9b4cb151069e22e42bd37dd2c47475934b8b97eac76ec",
    },
)


class CiteulikeA:
    """`data.adapter = "citeulike_a"`. `words` are the tags once more, as one text."""

    split: ClassVar[str] = 'use = "published"'
    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "item_id",
        "time_unit": "none",
        "actions": {"save": {}},
        "items": {"tags": {"kind": "varlen", "split": "|"}, "words": "text"},
    }

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        tables = fetch(PUBLIC, say)
        tags = tables["tags"]
        word = pl.element().replace_strict(tags["tag_id"], tags["tag"], return_dtype=pl.String)
        named = tables["item_tags"].with_columns(tag=pl.col("tag_ids").list.eval(word))
        items = named.select("item_id", tags=pl.col("tag").list.join("|"), words=pl.col("tag").list.join(" "))
        frames = {name: tables[f"cold_items.{name}"] for name in ("train", "cold_valid", "cold_test")}
        return parts(frames, items, self.schema)


def parts(tables: dict[str, pl.DataFrame], items: pl.DataFrame, schema: dict[str, Any]) -> Raw:
    """A log of the pairs of `train`, then of `cold_valid` and `cold_test`, which the published split holds out."""
    columns = ["user_id", "item_id"]
    events = pl.concat([tables[name].select(columns) for name in ("train", "cold_valid", "cold_test")])
    held = pl.concat(
        tables[f"cold_{part}"].select(user="user_id", item="item_id", part=pl.lit(part)) for part in ("valid", "test")
    )
    return Raw(events.lazy(), items.lazy(), None, Schema.parse(schema), held)
