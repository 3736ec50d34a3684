"""News clicks of a Brazilian portal (Globo.com, 2017; de Souza Pereira Moreira et al., DLRS 2018), as files of the
Tianchi news recommendation contest, and a small public sample of the log itself: 586 clicks of 164 users.

Files: `train_click_log.csv`, and behind it `testA_click_log.csv` and `testB_click_log.csv` where they are (other users,
whose last clicks the contest keeps); `articles.csv`; `articles_emb.csv`, with `emb_0`, `emb_1`, ..., where it is there.
The sample has no vectors. Terms: research.

A click says where it was made. A user's own `click_region` and `click_country` are those of the user's first click:
what a request does not tell. Wherever a log is cut in time, they were known before; those of most clicks were not.
"""

from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from shortlist.errors import DataError
from shortlist.events.raw import Raw, Say
from shortlist.events.readers import Table, guard, scan
from shortlist.events.sources import Public, fetch
from shortlist.schema import Schema

__all__ = ["GloboNews", "homes", "PUBLIC", "LOGS", "ARTICLES", "VECTORS"]

LOGS = ("train_click_log.csv", "testA_click_log.csv", "testB_click_log.csv")
ARTICLES, VECTORS = "articles.csv", "articles_emb.csv"
PUBLIC = Public(
    name="globo-news-sample",
    files={
        "clicks": "0da88fd483868270c4af25d6c2200a146f293a314d95ed972e74fb5ba5ef2f50",
        "articles_metadata": "6892231bf7b7aad9081509988c071eab0ba59326c5ab769c2849d0fd2705b535",
    },
)


class GloboNews:
    """`data.adapter = "globo_news"`: the sample; with `data.events`, a folder of the contest's files."""

    files: ClassVar[tuple[str, ...]] = (LOGS[0], ARTICLES)
    split: ClassVar[str] = 'use = "global_time"'
    schema: ClassVar[dict[str, Any]] = {
        "user": "user_id",
        "item": "article_id",
        "time": "click_timestamp",
        "time_unit": "ms",
        "actions": {"click": {}},
        "tasks": {"click": {"positive": "click", "on": {"sample": "mixed", "per": 4}}},
        "items": {
            "category_id": "sparse",
            "created_at_ts": "time",
            "words_count": {"kind": "dense", "scale": "log1p", "buckets": 16},
            "emb": "vec",
        },
        "users": {"click_region": "sparse", "click_country": "sparse"},
        "context": {
            "click_environment": "sparse", "click_deviceGroup": "sparse", "click_os": "sparse",
            "click_country": "sparse", "click_region": "sparse", "click_referrer_type": "sparse",
        },
        "category": "category_id",
        "published": "created_at_ts",
        "region": "click_region",
    }  # fmt: skip

    def __init__(self, public: Public = PUBLIC) -> None:
        self.public = public

    def load(self, say: Say) -> Raw:
        """The sample. Raises DataError when it cannot be had."""
        tables = fetch(self.public, say)
        items = tables["articles_metadata"].lazy().with_columns(emb=pl.lit(None, pl.List(pl.Float32)))
        return self._raw(tables["clicks"].lazy(), items)

    def read(self, folder: Path, say: Say) -> Raw:
        """A folder of the contest's files. Raises DataError for one that is missing or cannot be read."""
        logs = [scan(folder / name) for name in LOGS if name == LOGS[0] or (folder / name).is_file()]
        for log in logs[1:]:
            say(f"{log.files[0].name}: its clicks come behind those of {LOGS[0]}")
        articles = scan(folder / ARTICLES)
        if (folder / VECTORS).is_file():
            items = articles.frame.join(_vectors(folder / VECTORS), on="article_id", how="left", maintain_order="left")
        else:
            say(f"no {VECTORS}: articles have no vectors")
            items = articles.frame.with_columns(emb=pl.lit(None, pl.List(pl.Float32)))
        names = logs[0].frame.collect_schema().names()
        clicks = pl.concat([_alike(log, names) for log in logs])
        raw = self._raw(clicks, items)
        files = tuple(file for log in logs for file in log.files)
        tables = {
            "events": Table(raw.events, files, logs[0].kind),
            "items": Table(items, articles.files, articles.kind),
        }
        return Raw(raw.events, raw.items, raw.users, raw.schema, None, tables)

    def _raw(self, clicks: pl.LazyFrame, items: pl.LazyFrame) -> Raw:
        names = clicks.collect_schema().names()
        for name in ("user_id", "click_article_id", "click_timestamp", "click_country", "click_region"):
            if name not in names:
                hint = f"columns are {', '.join(names)}"
                raise DataError(f"no column is called {name!r}", where="the click log", hint=hint)
        events = clicks.rename({"click_article_id": "article_id"})
        return Raw(events, items, homes(clicks), Schema.parse(self.schema))


def homes(clicks: pl.LazyFrame) -> pl.LazyFrame:
    """Of each user the country and region of the first click; of several at one moment the smallest."""
    place = ["click_country", "click_region"]
    time = pl.col("click_timestamp").cast(pl.Int64, strict=False)
    ordered = clicks.select("user_id", *place, time=time).sort("user_id", "time", *place, nulls_last=True)
    return ordered.unique("user_id", keep="first", maintain_order=True).select("user_id", *place)


def _alike(log: Table, names: list[str]) -> pl.LazyFrame:
    """A log's columns as the first one has them."""
    own = log.frame.collect_schema().names()
    if set(own) != set(names):
        odd = sorted(set(own) ^ set(names))[0]
        what = f"its columns differ from those of {LOGS[0]}, first at {odd!r}"
        raise DataError(what, where=str(log.files[0]), hint="files of the contest have the same columns")
    return log.frame.select(names)


def _vectors(file: Path) -> pl.LazyFrame:
    """`article_id` and `emb`, the columns `emb_N` in order of N. Raises DataError where an article comes twice."""
    frame = scan(file).frame
    names = frame.collect_schema().names()
    numbered = {name: name.removeprefix("emb_") for name in names if name.startswith("emb_")}
    columns = sorted((name for name, number in numbered.items() if number.isdecimal()), key=lambda n: int(numbered[n]))
    if "article_id" not in names or not columns:
        hint = f"columns are {', '.join(names[:5])}"
        raise DataError("no columns article_id and emb_0, emb_1, ...", where=str(file), hint=hint)
    ids = guard(lambda: frame.select("article_id").collect(engine="streaming"), file)["article_id"]
    again = ids.filter(~ids.is_first_distinct())
    if len(again):
        what = f"{len(again)} articles have two vectors: {again[0]!r}"
        raise DataError(what, where=str(file), hint="keep one row for each article")
    numbers = [pl.col(name).str.strip_chars().cast(pl.Float32, strict=False) for name in columns]
    return frame.select("article_id", emb=pl.concat_list(numbers))
