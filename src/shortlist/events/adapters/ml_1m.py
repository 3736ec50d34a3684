"""MovieLens 1M, rebuilt from its public parts: 999,721 of the 1,000,209 pairs (user, film), without times.

A rating is known for 424 thousand pairs and left empty elsewhere; the order of the log means nothing, so protocols in
time do not apply (`ml_1m_sample` has times). Terms: research, no redistribution.
"""

from typing import Any, ClassVar

import polars as pl

from shortlist.events.adapters.ml_latest_small import films
from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public, fetch
from shortlist.schema import Schema

__all__ = ["Ml1m", "PUBLIC", "SIDES", "people"]

PUBLIC = Public(
    name="ml-1m",
    files={
        "interactions": "47044da29c677d66c808f33b3a27004100f8ec5250fe131c3e07722d164feab1",
        "melu_rated_states": "0fa069e38b0ecd7594e7253cf128fbbc8547ae54dce5d368748d9d51482cf7e6",
        "ratings_sample_100k": "8af9ac617e7d19fd3a72d2cac70fc12218f93575cf2448d446c78174dc81b3e1",
        "movies": "adb4ba702cef7e7722d90c80c9da0c9d8d658774085ba6e6b52a8fef88c70c5d",
        "users": "a06adf0cda8f07855fca498cea0668045f8b2c455e3e08eac61d1c504ad0a9f3",
    },
)

SIDES: dict[str, Any] = {
    "items": {"title": "text", "genres": {"kind": "varlen", "split": "|"}, "year": "sparse"},
    "users": {"age": "sparse", "gender": "sparse", "occupation": "sparse", "region": "sparse"},
    "title": "title",
    "region": "region",
}


class Ml1m:
    """`data.adapter = "ml_1m"`."""

    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "movie_id",
        "time_unit": "none",
        "value": "rating",
        "actions": {"rate": {}},
        **SIDES,
    }

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        tables = fetch(PUBLIC, say)
        pair = ["user_id", "movie_id"]
        known = pl.concat(
            [tables[name].select(*pair, "rating") for name in ("melu_rated_states", "ratings_sample_100k")]
        )
        # The two sources agree wherever both know a pair.
        events = tables["interactions"].join(
            known.unique(pair, keep="first", maintain_order=True), on=pair, how="left", maintain_order="left"
        )
        return Raw(
            events.lazy(), films(tables["movies"]).lazy(), people(tables["users"]).lazy(), Schema.parse(self.schema)
        )


def people(users: pl.DataFrame) -> pl.DataFrame:
    """Users with a `region`: the first digit of a zip code, "other" where it does not begin with five digits."""
    return users.with_columns(region=pl.col("zip").str.extract(r"^(\d)\d{4}(?:-\d+)?$").fill_null("other"))
