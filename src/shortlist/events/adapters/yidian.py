"""What a news app showed and what was clicked (Yidian, 2021), as files of its contest, and a small public sample of
it: 1,000 exposures of 2 users, without documents.

Files, of tabs and without headers: `train_data.txt` (user, document, time of the exposure in ms, network, refreshes,
place, click, seconds read), `user_info.txt` (user, device, system, province, city, age, gender), `doc_info.txt`
(document, title, time of publication in ms, images, category, sub-category, keywords). Ages, genders and keywords are
`name:number,name:number`; places count from 0. Terms: not stated.

An exposure is an impression, and a click where there was one, both at the time of the exposure: the log has no other.
Exposures from before their document was published are left out and counted; so are those that say neither click nor
none. Users have the likelihood of each group of ages, `age0` (below 25) to `age3` (40 and above), `female` and `male`.
"""

from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from shortlist.errors import DataError
from shortlist.events.raw import Raw, Say
from shortlist.events.readers import guard
from shortlist.events.sources import Public, fetch
from shortlist.schema import Schema

__all__ = ["Yidian", "PUBLIC", "SHOWN", "PEOPLE", "DOCUMENTS"]

SHOWN, PEOPLE, DOCUMENTS = "train_data.txt", "user_info.txt", "doc_info.txt"
COLUMNS = {
    SHOWN: ("userId", "itemId", "showTime", "network", "refresh", "showPos", "click", "duration"),
    PEOPLE: ("userId", "deviceName", "OS", "province", "city", "age", "gender"),
    DOCUMENTS: ("itemId", "title", "published", "images", "category", "subcategory", "keywords"),
}
AGES = ("A_0_24", "A_25_29", "A_30_39", "A_40\\+")  # as patterns
USER = ("deviceName", "OS", "province", "city", "age0", "age1", "age2", "age3", "female", "male")
PUBLIC = Public(
    name="yidian-sample",
    files={"yidian_news_sampled": "630184920aa7822f22cc25a1a2527db9e6296f3f7fcfa293bea54ae796530116"},
    suffix="csv.gz",
)


class Yidian:
    """`data.adapter = "yidian"`: the sample; with `data.events`, a folder of the contest's files."""

    files: ClassVar[tuple[str, ...]] = (SHOWN, PEOPLE, DOCUMENTS)
    split: ClassVar[str] = 'use = "days"\nutc_offset_hours = 8.0'
    schema: ClassVar[dict[str, Any]] = {
        "user": "userId",
        "item": "itemId",
        "time": "showTime",
        "time_unit": "ms",
        "action": "action",
        "request_id": "request",
        "position": "position",
        "actions": {"impression": {"weight": 0.0}, "click": {"weight": 1.0}},
        "tasks": {"click": {"positive": "click", "on": "impression"}},
        "items": {
            "title": "text", "published": "time", "images": "dense", "category": "sparse", "subcategory": "sparse",
            "keywords": "varlen",
        },
        "users": {
            "deviceName": "sparse", "OS": "sparse", "province": "sparse", "city": "sparse",
            **dict.fromkeys(USER[4:], "dense"),
        },
        "context": {"network": "sparse", "refresh": "dense"},
        "title": "title",
        "category": "category",
        "published": "published",
        "region": "province",
    }  # fmt: skip

    def __init__(self, public: Public = PUBLIC) -> None:
        self.public = public

    def load(self, say: Say) -> Raw:
        """The sample: nothing is known of its documents. Raises DataError when it cannot be had."""
        shown = fetch(self.public, say)["yidian_news_sampled"].lazy()
        users = shown.select("userId", *USER).unique("userId", keep="first", maintain_order=True)
        ids = shown.select(itemId=pl.col("itemId").unique(maintain_order=True))
        nothing = [pl.lit(None, pl.String).alias(name) for name in COLUMNS[DOCUMENTS][1:]]
        return self._raw(shown, users, documents(ids.with_columns(nothing)), say)

    def read(self, folder: Path, say: Say) -> Raw:
        """A folder of the contest's files. Raises DataError for one that is missing or cannot be read."""
        shown, users, docs = (_scan(folder / name) for name in self.files)
        return self._raw(shown, people(users), documents(docs), say)

    def _raw(self, shown: pl.LazyFrame, users: pl.LazyFrame, docs: pl.LazyFrame, say: Say) -> Raw:
        return Raw(events(shown, docs, say), docs, users, Schema.parse(self.schema))


def events(shown: pl.LazyFrame, docs: pl.LazyFrame, say: Say) -> pl.LazyFrame:
    """Exposures as impressions, and behind them those that were clicked as clicks. `say` tells how many are left out.

    A document without a time of publication is taken to have been there.
    """
    born = docs.select("itemId", born=pl.col("published").cast(pl.Int64)).unique("itemId", keep="first")
    joined = shown.join(born, on="itemId", how="left", maintain_order="left")
    known = pl.col("click").str.strip_chars().is_in(["0", "1"]).fill_null(False)
    early = (pl.col("born") > pl.col("showTime").cast(pl.Int64, strict=False)).fill_null(False)
    counts = joined.select(rows=pl.len(), early=early.sum(), odd=(~early & ~known).sum()).collect(engine="streaming")
    rows, before, odd = counts.row(0)
    if before:
        say(f"{before} of {rows} exposures lie before their document was published: left out")
    if odd:
        say(f"{odd} of {rows} exposures say neither 0 nor 1 of the click: left out")
    kept = joined.filter(~early & known).drop("born")
    place = pl.col("showPos").cast(pl.Int64, strict=False) + 1
    told = kept.with_columns(position=place, request=pl.concat_str("userId", pl.lit("-"), "showTime"))
    clicked = told.filter(pl.col("click").str.strip_chars() == "1")
    return pl.concat([told.with_columns(action=pl.lit("impression")), clicked.with_columns(action=pl.lit("click"))])


def people(users: pl.LazyFrame) -> pl.LazyFrame:
    """Users with the likelihoods that `age` and `gender` say."""
    ages = [_said("age", name).alias(f"age{n}") for n, name in enumerate(AGES)]
    return users.with_columns(*ages, *(_said("gender", name).alias(name) for name in ("female", "male")))


def documents(docs: pl.LazyFrame) -> pl.LazyFrame:
    """Documents with what cannot be read as a number left empty, and keywords without their numbers."""
    words = pl.col("keywords").str.split(",").list.eval(pl.element().str.replace(r":[^:]*$", "").str.strip_chars())
    return docs.with_columns(
        published=pl.col("published").str.strip_chars().cast(pl.Int64, strict=False),
        images=pl.col("images").str.strip_chars().cast(pl.Float64, strict=False),
        keywords=words.list.eval(pl.element().filter(pl.element() != "")),
    )


def _said(column: str, name: str) -> pl.Expr:
    """The number behind a name in `name:number,name:number`, null where there is none."""
    return pl.col(column).str.extract(rf"(?:^|,)\s*{name}:([^,]*)", 1).str.strip_chars().cast(pl.Float64, strict=False)


def _scan(file: Path) -> pl.LazyFrame:
    """A table of tabs without a header, all text."""
    if not file.is_file():
        hint = f"a folder of this format has {SHOWN}, {PEOPLE} and {DOCUMENTS}"
        raise DataError("no such file", where=str(file), hint=hint)
    if not file.stat().st_size:
        raise DataError("the file is empty", where=str(file), hint="copy it again")
    names = COLUMNS[file.name]
    width = len(guard(lambda: _tabs(file).collect_schema(), file))
    if width != len(names):
        what = f"it has {width} columns, not {len(names)}: {', '.join(names)}"
        raise DataError(what, where=str(file), hint="is it another file, or are its columns not parted by tabs?")
    return _tabs(file, dict.fromkeys(names, pl.String()))


def _tabs(file: Path, schema: dict[str, pl.DataType] | None = None) -> pl.LazyFrame:
    return pl.scan_csv(file, separator="\t", has_header=False, infer_schema=False, schema=schema, quote_char=None)
