"""MovieLens 100K (Harper & Konstan 2015): 100,000 ratings 1-5 of 943 users on 1,682 films, 1997 to 1998.

Terms: research, no redistribution. A user's `region` is the first digit of a zip code of five digits, else "other".
"""

import io
import zipfile
from typing import Any, ClassVar

import polars as pl

from shortlist.events.raw import Raw, Say
from shortlist.events.sources import Public, Wheel, fetch, member
from shortlist.schema import Schema

__all__ = ["Ml100k", "PUBLIC"]

# The flags at the end of a line of u.item, in order.
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


class Ml100k:
    """`data.adapter = "ml_100k"`."""

    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "item_id",
        "time": "timestamp",
        "time_unit": "s",
        "value": "rating",
        "actions": {"rate": {}},
        "items": {"title": "text", "genres": {"kind": "varlen", "split": " "}, "year": "sparse"},
        "users": {"age": "dense", "gender": "sparse", "occupation": "sparse", "region": "sparse"},
        "title": "title",
        "region": "region",
    }

    def __init__(self, public: Public | None = None) -> None:
        self.public = public or PUBLIC

    def load(self, say: Say) -> Raw:
        """Raises DataError when the data cannot be had."""
        tables = fetch(self.public, say)
        say("ml-100k: region is the first digit of the zip code, or other")
        digit = pl.col("zip_code").str.extract(r"^(\d)\d{4}$")
        users = tables["users"].with_columns(region=digit.fill_null("other"))
        items = tables["items"].select(
            "item_id", title="movie_title", genres="class",
            year=pl.col("release_year").str.extract(r"^(\d{4})$"),
        )  # fmt: skip
        return Raw(tables["ratings"].lazy(), items.lazy(), users.lazy(), Schema.parse(self.schema))


def official(archive: zipfile.ZipFile) -> dict[str, pl.DataFrame]:
    """The tables from the archive of 1998: u.data (tabs), u.item and u.user (bars, Latin-1)."""
    data = _columns(member(archive, "ml-100k/u.data"), "\t", 4)
    ratings = data.select(
        user_id=pl.col("0").cast(pl.Int32), item_id=pl.col("1").cast(pl.Int32),
        rating=pl.col("2").cast(pl.UInt8), timestamp=pl.col("3").cast(pl.Int32),
    )  # fmt: skip
    lines = _columns(_utf8(member(archive, "ml-100k/u.item")), "|", 5 + len(GENRES))
    names = [pl.when(pl.col(str(5 + n)) == "1").then(pl.lit(genre)) for n, genre in enumerate(GENRES)]
    # A title ends in its year: "Toy Story (1995)". The last brackets are cut off, as in the other copies.
    cut = r"^(.*) \(([^()]*)\)\s*$"
    items = lines.select(
        item_id=pl.col("0").cast(pl.Int32),
        movie_title=pl.coalesce(pl.col("1").str.extract(cut, 1), "1"),
        release_year=pl.coalesce(pl.col("1").str.extract(cut, 2), "1"),
        **{"class": pl.concat_str(names, separator=" ", ignore_nulls=True)},
    )
    people = _columns(_utf8(member(archive, "ml-100k/u.user")), "|", 5)
    users = people.select(
        user_id=pl.col("0").cast(pl.Int32), age=pl.col("1").cast(pl.Int32),
        gender="2", occupation="3", zip_code="4",
    )  # fmt: skip
    return _tidy(ratings, items, users)


def atomic(archive: zipfile.ZipFile) -> dict[str, pl.DataFrame]:
    """The tables from RecBole's atomic files: tabs, a header of `name:type`."""
    parts = {}
    for suffix in ("inter", "item", "user"):
        data = member(archive, f"recbole/dataset_example/ml-100k/ml-100k.{suffix}")
        frame = pl.read_csv(data, separator="\t", infer_schema=False, quote_char=None)
        parts[suffix] = frame.rename({name: name.split(":")[0] for name in frame.columns})
    whole = {"user_id": pl.Int32, "item_id": pl.Int32, "rating": pl.UInt8, "timestamp": pl.Int32}
    ratings = parts["inter"].select([pl.col(name).cast(type_) for name, type_ in whole.items()])
    items = parts["item"].with_columns(pl.col("item_id").cast(pl.Int32))
    users = parts["user"].with_columns(pl.col("user_id", "age").cast(pl.Int32))
    return _tidy(ratings, items, users)


def _tidy(ratings: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame) -> dict[str, pl.DataFrame]:
    items = items.select("item_id", "movie_title", "release_year", "class")
    return {
        "ratings": ratings,
        "items": items,
        "users": users.select("user_id", "age", "gender", "occupation", "zip_code"),
    }


def _utf8(latin1: bytes) -> bytes:
    return latin1.decode("latin-1").encode()


def _columns(data: bytes, separator: str, width: int) -> pl.DataFrame:
    names = [str(n) for n in range(width)]
    return pl.read_csv(
        io.BytesIO(data), separator=separator, has_header=False, new_columns=names, infer_schema=False, quote_char=None
    )


PUBLIC = Public(
    name="ml-100k",
    files={
        "ratings": "d5b9fc15a0ef92f8cf05dc5c032bb9b0c3dccdceb04abc469878f44e1883c648",
        "items": "7069f579f8d959e66a9317c03686db9c2291e86d32508a679a9586c1bb23fdb8",
        "users": "548fe3a3a5e3125c87b3f521d36a35a9a5257d328932d12aab0f745bc32ac5de",
    },
    content="ec862504a8c24b195f5194e51fb18bb2d59428d00d96d6d1c63433a3bd5f2f47",
    url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    parse=official,
    wheel=Wheel("recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407", atomic),
)
