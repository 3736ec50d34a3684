"""MovieLens latest-small, the edition of 2016: 100,004 ratings 0.5-5 of 671 users on 9,066 films, 1995 to 2016.

Terms: research, no commercial use. The year in brackets behind a title becomes `year`; "(no genres listed)" none.
"""

from typing import Any, ClassVar

import polars as pl

from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public, fetch
from shortlist.schema import Schema

__all__ = ["MlLatestSmall", "PUBLIC", "films"]

PUBLIC = Public(
    name="ml-latest-small",
    files={
        "ratings": "953d1d6f76f5577ebe48bd148c844faad48f5873e26529426c5d03f157389d47",
        "movies": "fb4ae2405639d290d0d987c95e49e5c20206d77286d9894db3b131644c495729",
    },
)


class MlLatestSmall:
    """`data.adapter = "ml_latest_small"`."""

    schema: ClassVar[dict[str, Any]] = {
        "user": "userId",
        "item": "movieId",
        "time": "timestamp",
        "time_unit": "s",
        "value": "rating",
        "actions": {"rate": {}},
        "items": {"title": "text", "genres": {"kind": "varlen", "split": "|"}, "year": "sparse"},
        "title": "title",
    }

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        tables = fetch(PUBLIC, say)
        return Raw(tables["ratings"].lazy(), films(tables["movies"]).lazy(), None, Schema.parse(self.schema))


def films(movies: pl.DataFrame) -> pl.DataFrame:
    """MovieLens films with the year taken out of the title."""
    year = pl.col("title").str.extract(r"\((\d{4})[-–]?(?:\d{4})?\)\s*$")
    title = pl.col("title").str.replace(r"\s*\(\d{4}[-–]?(?:\d{4})?\)\s*$", "")
    genres = pl.when(pl.col("genres") != "(no genres listed)").then("genres")
    return movies.with_columns(title=title, year=year, genres=genres)
