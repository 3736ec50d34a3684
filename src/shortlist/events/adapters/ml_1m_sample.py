"""MovieLens 1M, the 100,000 ratings whose true times are at hand: 5,958 users on 3,312 films, 2000 to 2003.

A tenth of the log drawn at random: sequences have gaps. Terms: research, no redistribution.
"""

from typing import Any, ClassVar

from shortlist.events.adapters.ml_1m import PUBLIC, SIDES, people
from shortlist.events.adapters.ml_latest_small import films
from shortlist.events.raw import Raw, Say
from shortlist.events.sources import fetch
from shortlist.schema import Schema

__all__ = ["Ml1mSample"]


class Ml1mSample:
    """`data.adapter = "ml_1m_sample"`."""

    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "movie_id",
        "time": "timestamp",
        "time_unit": "s",
        "value": "rating",
        "actions": {"rate": {}},
        **SIDES,
    }

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        tables = fetch(PUBLIC, say)
        items, users = films(tables["movies"]), people(tables["users"])
        return Raw(tables["ratings_sample_100k"].lazy(), items.lazy(), users.lazy(), Schema.parse(self.schema))
