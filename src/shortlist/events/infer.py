"""A first project file for data never seen before: what each column seems to mean, and why."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from shortlist.config import catalogue
from shortlist.errors import DataError
from shortlist.events.readers import scan
from shortlist.events.rows import unit_of

__all__ = ["infer"]

SAMPLE = 10_000
USER = (
    "user",
    "userid",
    "uid",
    "visitorid",
    "customerid",
    "memberid",
    "reviewerid",
    "account",
    "accountid",
    "profileid",
)
ITEM = (
    "item", "itemid", "iid", "movieid", "productid", "articleid", "clickarticleid", "videoid", "trackid", "songid",
    "bookid",     "asin", "sku", "postid", "newsid", "adid", "objectid", "contentid", "goodsid",
)  # fmt: skip
TIME = (
    "time",
    "timestamp",
    "timems",
    "timestampms",
    "ts",
    "datetime",
    "date",
    "createdat",
    "eventtime",
    "clicktimestamp",
)
ACTION = ("action", "event", "eventtype", "actiontype", "behavior", "behaviour", "behaviortype", "type", "interaction")
VALUE = ("value", "rating", "score", "stars", "overall", "amount", "duration", "watchseconds", "playtime", "dwell")
EVENT_ID = ("eventid", "uuid", "interactionid")
REQUEST_ID = ("requestid", "impressionid", "slateid")
POSITION = ("position", "pos", "slot")
CONTEXT = (
    "device", "devicetype", "platform", "os", "browser", "app", "network", "referrer", "surface", "scene",
)  # fmt: skip
TITLE = ("title", "name", "itemtitle", "movietitle", "productname", "headline")
REGION = ("region", "country", "city", "state", "province")
EVENTS_FILES = ("events", "ratings", "interactions", "log", "clicks", "reviews", "actions", "behaviors", "behaviours")
ITEMS_FILES = ("items", "movies", "products", "articles", "videos", "songs", "tracks", "books", "catalogue", "catalog")
USERS_FILES = ("users", "members", "customers", "visitors", "people")
CATEGORY = ("category", "categoryid", "genre", "genres")
PUBLISHED = (
    "published",
    "publishedat",
    "publishedms",
    "publishtime",
    "created",
    "createdat",
    "createdatts",
    "createdms",
)
UNITS = {
    "s": "seconds",
    "ms": "milliseconds",
    "iso": "written dates",
    "none": "milliseconds",
}  # of fields, by the log's
WRITTEN = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$"
FEW = 200  # distinct values up to which a number is taken for a category


@dataclass(frozen=True)
class _Column:
    name: str
    type_: pl.DataType
    values: pl.Series  # without nulls

    @property
    def plain(self) -> str:
        return re.sub(r"[^a-z0-9]", "", self.name.lower())

    @property
    def numbers(self) -> pl.Series | None:
        """The values as numbers, None when one of them is not."""
        if self.type_.is_numeric():
            return self.values.cast(pl.Float64)
        if self.type_ != pl.String or not len(self.values):
            return None
        numbers = self.values.str.strip_chars().cast(pl.Float64, strict=False)
        return None if numbers.null_count() else numbers


def infer(data: str, folder: Path) -> tuple[str, list[str]]:
    """A project file's text for a log, a folder or a public log's name; and what was guessed. `folder` will hold it.

    Raises DataError when there is nothing to read or users, items or times cannot be told.
    """
    adapter = data.replace("-", "_")
    if not Path(data).exists() and adapter in catalogue("shortlist.events.adapters"):
        positive = "" if adapter == "ncf_ml_1m" else "value >= 4"
        text = [f'[data]\nadapter = "{adapter}"', "", *_rest(positive, adapter in ("ncf_ml_1m", "ml_1m"))]
        return "\n".join(text) + "\n", [f"data: {adapter}, a public log whose schema comes with it"]
    files, guesses = _tables(Path(data))
    lines = ["[data]"]
    for role, path in files.items():
        lines.append(f"{role} = {json.dumps(os.path.relpath(path, folder), ensure_ascii=False)}")
    columns = _columns(files["events"])
    lines += ["", "[schema]"]
    used, schema, positive, timed = _events(columns, guesses, files["events"])
    lines += schema
    for role, key in (("items", ITEM), ("users", USER)):
        if role in files:
            unit = next(unit for unit in UNITS if f'time_unit = "{unit}"' in schema)
            lines += _fields(role, _columns(files[role]), used, key, guesses, files[role], unit)
    return "\n".join([*lines, "", *_rest(positive, not timed)]) + "\n", guesses


def _rest(positive: str, untimed: bool) -> list[str]:
    split = 'use = "last_out"\nvalid = "random"' if untimed else 'use = "user_time"'
    lines = ["[split]", split]
    if positive:
        lines.append(f"positive = {json.dumps(positive)}")
    for name in ("hot", "item_cf", "ease"):
        lines += ["", "[[recall]]", f'name = "{name}"', f'use = "{name}"', "quota = 200"]
    return lines


def _tables(path: Path) -> tuple[dict[str, Path], list[str]]:
    """Which file is the log, which the items, which the users."""
    if not path.exists():
        known = ", ".join(name.replace("_", "-") for name in catalogue("shortlist.events.adapters"))
        raise DataError("no such file, folder or public log", where=str(path), hint=f"public logs: {known}")
    if path.is_file():
        siblings, found, guesses = sorted(path.resolve().parent.iterdir()), {"events": path.resolve()}, []
    else:
        inside = sorted(path.resolve().iterdir())
        log = [p for p in inside if _stem(p) in EVENTS_FILES]
        if not log:
            scan(path)  # a folder of parts of one log, or an error that says why not
            return {"events": path.resolve()}, [f"events: every file of {path.name}/"]
        siblings, found, guesses = inside, {"events": log[0]}, [f"events: {log[0].name}, by its name"]
    for role, names in (("items", ITEMS_FILES), ("users", USERS_FILES)):
        near = [p for p in siblings if _stem(p) in names and p != found["events"]]
        if near:
            found[role] = near[0]
            guesses.append(f"{role}: {near[0].name}, by its name")
    return found, guesses


def _stem(path: Path) -> str:
    return path.name.lower().split(".")[0] if not path.name.startswith(".") else ""


def _columns(path: Path) -> list[_Column]:
    sample = scan(path).frame.head(SAMPLE).collect()
    return [_Column(name, sample[name].dtype, sample[name].drop_nulls()) for name in sample.columns]


def _named(columns: list[_Column], names: tuple[str, ...]) -> _Column | None:
    """The column with the most telling of these names."""
    ranked = sorted((names.index(c.plain), n) for n, c in enumerate(columns) if c.plain in names)
    return columns[ranked[0][1]] if ranked else None


def _need(column: _Column | None, what: str, columns: list[_Column], file: Path) -> _Column:
    if column is None:
        names = ", ".join(c.name for c in columns)
        hint = f"columns are {names}; rename one, or write the project file by hand"
        raise DataError(f"cannot tell which column is the {what}", where=str(file), hint=hint)
    return column


def _events(columns: list[_Column], guesses: list[str], file: Path) -> tuple[tuple[str, str], list[str], str, bool]:
    """Ids used, lines of the schema, the expression of a positive, and whether there are times."""
    user = _need(_named(columns, USER), "user", columns, file)
    item = _need(_named(columns, ITEM), "item", columns, file)
    lines = [f"user = {_text(user.name)}", f"item = {_text(item.name)}"]
    guesses += [f"user: {user.name}, by its name", f"item: {item.name}, by its name"]
    time = _named(columns, TIME)
    if time is None:
        lines.append('time_unit = "none"')
        guesses.append("no column looks like a time: rows are taken to be in order")
    else:
        unit, why = _unit(time, file)
        lines += [f"time = {_text(time.name)}", f'time_unit = "{unit}"']
        guesses.append(f"time: {time.name} in {unit}, {why}")
    event_id = _named(columns, EVENT_ID)
    if event_id is not None:
        lines.append(f"event_id = {_text(event_id.name)}")
        guesses.append(f"event_id: {event_id.name}, by its name: repeated ids are dropped")
    answers = _named(columns, REQUEST_ID)
    if answers is not None:
        lines.append(f"request_id = {_text(answers.name)}")
        guesses.append(f"request_id: {answers.name}, by its name: rows of one slate share it")
    position = _named(columns, POSITION)
    if position is not None and position.numbers is not None:
        lines.append(f"position = {_text(position.name)}")
        guesses.append(f"position: {position.name}, by its name: places in a slate, from 1")
    value = _named(columns, VALUE)
    numbers = value.numbers if value is not None else None
    positive = ""
    if value is not None and numbers is not None:
        lines.append(f"value = {_text(value.name)}")
        guesses.append(f"value: {value.name}, by its name")
        if value.plain in ("rating", "score", "stars", "overall") and len(numbers):
            top = float(numbers.max())  # type: ignore[arg-type]
            positive = f"value >= {top * 0.8:g}"
            guesses.append(f"relevant: {positive}, four fifths of the highest {value.name} seen, {top:g}")
    action = _named(columns, ACTION)
    if action is not None and action.values.n_unique() <= 50 and action.numbers is None:
        lines.append(f"action = {_text(action.name)}")
        every = scan(file).frame.select(pl.col(action.name).cast(pl.String).unique().drop_nulls())
        names = sorted(every.collect(engine="streaming")[action.name])
        for name in names:
            seen_only = re.search(r"impression|show|expos|served", name.lower()) is not None
            lines.append(f"actions.{_text(name)} = {{{' weight = 0.0 ' if seen_only else ''}}}")
            if seen_only:
                guesses.append(f"action {name}: seen but not wanted, weight 0")
        guesses.append(f"actions: the values of {action.name}, each with weight 1 unless said")
    else:
        name = "rate" if positive else "click"
        lines.append(f"actions.{name} = {{}}")
        guesses.append(f"no column names an action: every row is a {name}")
    for column in columns:
        if column.plain in CONTEXT and len(column.values) and column.values.n_unique() <= FEW and column is not action:
            lines.append(f'context.{_text(column.name)} = "sparse"')
            guesses.append(f"context.{column.name}: what holds of a request, by its name")
    return (user.name, item.name), lines, positive, time is not None


def _unit(time: _Column, file: Path) -> tuple[str, str]:
    if time.type_ in (pl.Date, pl.Datetime):
        return "ms", "a column of dates"
    numbers = time.numbers
    if numbers is None:
        return "iso", "written dates"
    middle = float(np.median(numbers.to_numpy())) if len(numbers) else 0.0
    unit = unit_of(middle)
    if unit == "seconds":
        return "s", f"{middle:.0f} is a moment between 1990 and 2100 in seconds"
    if unit == "milliseconds":
        return "ms", f"{middle:.0f} is a moment between 1990 and 2100 in milliseconds"
    what = f"times in {time.name!r} look like {unit}" if unit else f"numbers in {time.name!r} are no plausible times"
    raise DataError(what, where=str(file), hint="bring them to seconds or milliseconds since 1970")


def _fields(
    role: str,
    columns: list[_Column],
    used: tuple[str, str],
    names: tuple[str, ...],
    guesses: list[str],
    file: Path,
    unit: str,
) -> list[str]:
    key = used[1] if role == "items" else used[0]
    if key not in [c.name for c in columns]:
        guesses.append(f"{file.name} has no column {key}: left out (name it as in the log to use it)")
        return []
    lines = []
    for column in columns:
        if column.name == key or not len(column.values):
            continue
        kind, why = _kind(column, role, unit)
        if kind is None:
            guesses.append(f"{role}.{column.name}: {why}")
            continue
        lines.append(f"{role}.{_text(column.name)} = {kind}")
        guesses.append(f"{role}.{column.name}: {kind}, {why}")
    title = _named(columns, TITLE) if role == "items" else None
    region = _named(columns, REGION) if role == "users" else None
    if title is not None:
        lines.append(f"title = {_text(title.name)}")
    category = _named(columns, CATEGORY) if role == "items" else None
    if category is not None:
        lines.append(f"category = {_text(category.name)}")
        guesses.append(f"category: {category.name}, by its name")
    published = _named(columns, PUBLISHED) if role == "items" else None
    if published is not None and _kind(published, role, unit)[0] == '"time"':
        lines.append(f"published = {_text(published.name)}")
        guesses.append(f"published: {published.name}, by its name")
    if region is not None:
        lines.append(f"region = {_text(region.name)}")
    return lines


def _kind(column: _Column, role: str, unit: str) -> tuple[str | None, str]:
    """What a field is, and why; None for a time that the log's unit cannot read."""
    if column.type_ in (pl.List, pl.Array):
        vector = column.type_.inner.is_float()  # type: ignore[attr-defined]
        return ('"vec"', "lists of fractions") if vector else ('"varlen"', "lists")
    if column.type_ in (pl.Date, pl.Datetime):
        return '"time"', "dates"
    numbers = column.numbers
    found = _moments(column)
    if found is not None:
        if found == UNITS[unit]:
            return '"time"', f"moments in {found}"
        log = "beside a log without times they are" if unit == "none" else "the log is"
        return None, f"looks like a time in {found}, {log} in {UNITS[unit]}: left out"
    if numbers is not None:
        few = column.values.n_unique() <= FEW and bool((numbers == numbers.floor()).all())
        return ('"sparse"', "few whole numbers") if few else ('"dense"', "numbers")
    text = column.values.cast(pl.String)
    for separator in ("|", ";"):
        if int(text.str.contains(separator, literal=True).sum()) > len(text) / 10:
            return f'{{ kind = "varlen", split = "{separator}" }}', f"values between {separator}"
    wordy = int(text.str.len_chars().sum()) > 30 * len(text)
    long = wordy or column.values.n_unique() > max(FEW, len(text) // 2)
    if column.plain in TITLE or (long and role == "items"):
        return '"text"', "free text"
    return '"sparse"', "words"


def _moments(column: _Column) -> str | None:
    """The unit of a field that is named like a time and holds plausible ones, else None."""
    if column.plain not in (*PUBLISHED, *TIME) or not len(column.values):
        return None
    numbers = column.numbers
    if numbers is not None:
        return unit_of(float(np.median(numbers.to_numpy())))
    written = column.type_ == pl.String and bool(column.values.str.strip_chars().str.contains(WRITTEN).all())
    return "written dates" if written else None


def _text(name: str) -> str:
    """A TOML string; JSON writes it the same way but for DEL."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
