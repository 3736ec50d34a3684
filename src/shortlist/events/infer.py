"""A first project file for data never seen before: what each column seems to mean, and why."""

import json
import os
import re
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from shortlist.config import catalogue, find
from shortlist.errors import DataError
from shortlist.events.readers import scan
from shortlist.events.rows import unit_of
from shortlist.events.slates import FOLDER

__all__ = ["infer"]

ADAPTERS = "shortlist.events.adapters"
SAMPLE = 10_000
HEAD = "# Guessed by `shortlist init`: correct what is wrong. `shortlist config show` says what is in force.\n"
RESERVED = ("value", "time_ms", "merge", "true", "false")  # what expressions mean otherwise
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
PROPENSITY = ("propensity", "propensityscore", "pscore", "showprobability")
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
# What an action is by a word of its name, or by all of them together.
EXPOSED = (
    "impression", "imp", "expose", "exposed", "exposure", "show", "shown", "display", "displayed", "serve", "served",
)  # fmt: skip
UNWANTED = (
    "dislike", "hide", "hidden", "skip", "block", "report", "mute", "downvote", "uninterested", "notinterested",
    "thumbsdown",
)  # fmt: skip
UNDONE = ("remove", "removed", "delete", "deleted", "cancel", "canceled", "cancelled", "return", "refund", "not", "no")
LOOKED = ("view", "pv", "pageview")  # seen, or opened: what else the log has decides
WORTH = {  # of a click, how many
    1.0: (
        "click", "tap", "open", "visit", "detail", "read", "watch", "play", "listen", "stream", "rate", "rating",
        "review", *LOOKED,
    ),
    2.0: ("like", "upvote", "thumbsup", "love", "vote", "comment", "reply"),
    3.0: (
        "favourite", "favorite", "fav", "save", "bookmark", "wishlist", "collect", "share", "repost", "retweet",
        "forward", "follow", "subscribe", "download", "install", "cart", "basket", "addtocart",
    ),
    5.0: ("purchase", "buy", "bought", "order", "checkout", "transaction", "pay", "payment", "conversion"),
}  # fmt: skip
ACTED = {word: worth for worth, words in WORTH.items() for word in words}
RARE = 0.001  # share of events below which an action teaches no task
DRAWN = '{ sample = "mixed", per = 4 }'  # negatives of a log that does not say what was shown
WRITTEN = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$"
FEW = 200  # distinct values up to which a number is taken for a category


@dataclass(frozen=True)
class _Action:
    """An action of the log, what it is taken for, and its share of all events."""

    name: str
    kind: str
    weight: float
    share: float

    @property
    def words(self) -> str:
        told = {
            "exposure": "seen but not wanted",
            "interest": "interest",
            "dislike": "the opposite of interest",
            "undoing": "takes something back",
            "unknown": "no word that is known",
        }[self.kind]
        return f"{told}, {self.share:.2%} of events"


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
    if not Path(data).exists() and adapter in catalogue(ADAPTERS):
        return _adapted(adapter), [f"data: {adapter}, a public log whose schema comes with it"]
    if (form := _form(Path(data))) is not None:
        place = os.path.relpath(Path(data).resolve(), folder.resolve())
        return _adapted(form, place), [f"data: {data} has the files of {form}, whose schema comes with it"]
    files, guesses = _tables(Path(data))
    lines = [HEAD, "[data]"]
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
    rest = _rest(positive, not timed)
    if any((folder / "var" / FOLDER).glob("*.arrow")):
        rest += ["", "[ranking]", 'rows = "logged"']
        guesses.append(f"ranking.rows: logged, var/{FOLDER}/ holds slates that were served")
    return "\n".join([*lines, "", *rest]) + "\n", guesses


def _adapted(adapter: str, place: str | None = None) -> str:
    """The project of an adapter, which may say its own split; `place` is a folder of files in its format."""
    kind: Any = find(adapter, [ADAPTERS], "adapter")
    rated, untimed = "value" in kind.schema, kind.schema["time_unit"] == "none"
    lines = [HEAD, "[data]", f'adapter = "{adapter}"']
    if place is not None:
        lines.append(f"events = {json.dumps(place, ensure_ascii=False)}")
    return "\n".join([*lines, "", *_rest("value >= 4" if rated else "", untimed, getattr(kind, "split", ""))]) + "\n"


def _form(folder: Path) -> str | None:
    """The adapter that reads a folder of files with these names."""
    for name in catalogue(ADAPTERS) if folder.is_dir() else ():
        files = getattr(find(name, [ADAPTERS], "adapter"), "files", ())
        if files and all((folder / file).is_file() for file in files):
            return name
    return None


def _rest(positive: str, untimed: bool, split: str = "") -> list[str]:
    split = split or ('use = "last_out"\nvalid = "random"' if untimed else 'use = "user_time"')
    lines = ["[split]", split]
    if positive:
        lines.append(f"positive = {json.dumps(positive)}")
    for name in ("hot", "item_cf", "ease"):
        lines += ["", "[[recall]]", f'name = "{name}"', f'use = "{name}"', "quota = 200"]
    return lines


def _tables(path: Path) -> tuple[dict[str, Path], list[str]]:
    """Which file is the log, which the items, which the users."""
    if not path.exists():
        known = ", ".join(name.replace("_", "-") for name in catalogue(ADAPTERS))
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
    if not len(sample):
        what = "there are columns but no rows"
        raise DataError(what, where=str(path), hint="put rows in, or take it away")
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
    propensity = _named(columns, PROPENSITY)
    if propensity is not None and propensity.numbers is not None:
        lines.append(f"propensity = {_text(propensity.name)}")
        guesses.append(f"propensity: {propensity.name}, by its name: the probability of having been shown")
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
        guesses.append(f"actions: the values of {action.name}, their weights by their names")
        actions = _actions(_counts(file, action.name))
    else:
        name = "rate" if positive else "click"
        guesses.append(f"no column names an action: every row is a {name}")
        actions = [_Action(name, "interest", 1.0, 1.0)]
    for one in actions:
        lines.append(f"actions.{_key(one.name)} = {{ weight = {one.weight:g} }}  # {one.words}")
        if len(actions) > 1:
            guesses.append(f"action {one.name}: {one.words}, weight {one.weight:g}")
    if not any(one.weight for one in actions):
        guesses.append("no action shows interest: give one a weight above 0, or nothing can be learned")
    for column in columns:
        if column.plain in CONTEXT and len(column.values) and column.values.n_unique() <= FEW and column is not action:
            lines.append(f'context.{_key(column.name)} = "sparse"')
            guesses.append(f"context.{column.name}: what holds of a request, by its name")
    lines += _tasks(actions, guesses) if time is not None else []
    return (user.name, item.name), lines, positive, time is not None


def _counts(file: Path, column: str) -> dict[str, int]:
    """How many events each action has, by name."""
    names = scan(file).frame.select(pl.col(column).cast(pl.String).alias("name")).drop_nulls()
    counted = names.group_by("name").agg(n=pl.len()).sort("name").collect(engine="streaming")
    return dict(zip(counted["name"].to_list(), counted["n"].to_list(), strict=True))


def _actions(counts: dict[str, int]) -> list[_Action]:
    """What each action means, by its name; what a view is, by how often there is one for a click."""
    total = sum(counts.values())
    found = [_Action(name, *_meaning(name), count / total) for name, count in counts.items()]
    clicks = sum(one.share for one in found if "click" in _words(one.name))
    if not any(one.kind == "exposure" for one in found) and clicks:
        found = [
            _Action(one.name, "exposure", 0.0, one.share)
            if one.kind == "interest" and set(_words(one.name)) & set(LOOKED) and one.share >= 2 * clicks
            else one
            for one in found
        ]
    return found


def _meaning(name: str) -> tuple[str, float]:
    """Exposure, interest, dislike, undoing, or unknown; and a weight."""
    words = _words(name)
    every = (*words, "".join(words))
    if any(word in UNWANTED for word in every):
        return "dislike", 0.0
    if any(word in UNDONE for word in words) or any(w[:2] == "un" and w[2:] in ACTED for w in every):
        return "undoing", 0.0
    if any(word in EXPOSED for word in every):
        return "exposure", 0.0
    worth = [ACTED[word] for word in every if word in ACTED]
    return ("interest", max(worth)) if worth else ("unknown", 1.0)


def _words(name: str) -> list[str]:
    """`AddToCart`, `add_to_cart` as words in small letters, without an ending where that makes one of those known."""
    parts = re.findall(r"[a-z]+|[0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    known = {*EXPOSED, *UNWANTED, *UNDONE, *ACTED}
    stems = ((part, *(part.removesuffix(end) for end in ("s", "d", "ed", "ing", "ped"))) for part in parts)
    return [next((stem for stem in some if stem in known), some[0]) for some in stems]


def _tasks(actions: list[_Action], guesses: list[str]) -> list[str]:
    """What rankers learn: of what was shown, or of what was done and what is drawn beside it, each action that is
    frequent enough."""
    ordered = sorted(actions, key=lambda one: (-one.share, one.name))
    shown = next((one for one in ordered if one.kind == "exposure"), None)
    named = [one for one in ordered if one.name.isidentifier() and not iskeyword(one.name) and one.name not in RESERVED]
    learned = [one for one in named if one.kind in ("interest", "dislike") and one.share >= RARE]
    if not any(one.weight for one in learned):
        learned = [*[one for one in named if one.weight][:1], *learned]
    if not any(one.weight for one in learned):
        return []
    on = _text(shown.name) if shown else DRAWN
    lines = [f"tasks.{_key(one.name)} = {{ positive = {_text(one.name)}, on = {on} }}" for one in learned]
    of = f"of what has the action {shown.name}" if shown else "beside items drawn, as nothing says what was shown"
    guesses.append(f"tasks: {', '.join(one.name for one in learned)}, {of}")
    fuse = ""
    for one in learned:
        sign = "-" if one.kind == "dislike" else "+"
        fuse += f" {sign} {one.name}" if one.weight <= 1 else f" {sign} {one.weight:g} * {one.name}"
    if len(learned) > 1:
        fuse = fuse.removeprefix(" + ").removeprefix(" ")
        lines.insert(0, f"# what rankers learn; in [rank], what it is worth together: fuse = {_text(fuse)}")
    return lines


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
        lines.append(f"{role}.{_key(column.name)} = {kind}")
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


def _key(name: str) -> str:
    """A TOML key, bare where it may be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(name: str) -> str:
    """A TOML string; JSON writes it the same way but for DEL."""
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
