"""The leave-one-out benchmark of neural collaborative filtering (He et al., WWW 2017) on MovieLens 1M.

6,040 users, one held-out film each, ranked among 99 published negatives (`dataset/published.py` over `last_out` with
`valid = "random"`: train has no order, the held-out event comes last). The held-out events are exact; of the
994,169 training events 993,681 are rebuilt, without times or ratings. 156 published negatives equal the user's own
held-out film: a defect of the files, kept and counted. Film ids with `pinned` false may be exchanged with one as rare.
"""

from typing import Any, ClassVar

import polars as pl

from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public, fetch
from shortlist.schema import Schema

__all__ = ["NcfMl1m", "PUBLIC"]

PUBLIC = Public(
    name="ncf-ml-1m",
    files={
        "train.rebuilt": "556031db42dc1432c6e191db6763db9b7837b027b0ac34689085722e2cad638c",
        "test.rating": "d8fe50a1a146aa9c8651775eae01aee61272ad82c5edcca2cc7aec6f1af2a076",
        "test.negative": "cc79870cf5a4abed5236a0e87b6cb9e573f64e1ddc500af68bc626b2ee23f830",
        "item_map.rebuilt": "e1656882a0a09e44b16b7bd8fda27934fc4949b717040b8ff63dc3c073e94fee",
    },
)


class NcfMl1m:
    """`data.adapter = "ncf_ml_1m"`."""

    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "item_id",
        "time_unit": "none",
        "actions": {"rate": {}},
        "items": {"movie_id": "sparse", "pinned": "sparse"},
    }

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        tables = fetch(PUBLIC, say)
        pair = ["user_id", "item_id"]
        events = pl.concat([tables["train.rebuilt"].select(pair), tables["test.rating"].select(pair)])
        lists = pl.concat_list(pl.col("pos_item_id"), pl.col("neg_item_ids"))
        published = tables["test.negative"].select(user="user_id", item="pos_item_id", candidates=lists)
        return Raw(events.lazy(), tables["item_map.rebuilt"].lazy(), None, Schema.parse(self.schema), published)
