"""Raw columns made canonical: ids as text, times in UTC milliseconds, values as numbers; and what is wrong with them.

`events` columns: row (i64, place in the log), user, item, action (text), value (f32), time_ms (i64), and where
declared event_id, request_id (text), position (i32), propensity (f64), context fields. `entities`: row, id, and the
declared fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from shortlist.config import nearest
from shortlist.errors import ConfigError, DataError
from shortlist.events.log import EARLIEST_S, LATEST_S
from shortlist.events.raw import Raw
from shortlist.schema import MAX_ID_BYTES, Field

__all__ = ["Problem", "Name", "ROW", "events", "entities", "problems", "stage", "plausible", "unit_of"]

Name = Literal["events", "items", "users"]

ROW = "(row)"  # the place of a raw row; a name that no data have
RESERVED = {
    "events": (
        "row", "offset", "bucket", "user", "item", "action", "value", "time_ms", "event_id", "request_id", "position",
    ),
    "items": ("row", "key", "id"),
    "users": ("row", "key", "id"),
}  # fmt: skip
_PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_UNITS = {"s": "seconds", "ms": "milliseconds"}


@dataclass(frozen=True)
class Problem:
    """Rows of a log that cannot be used: how many, up to three of them as they lie, and the error an import raises."""

    name: str
    count: int
    examples: list[dict[str, object]]
    error: DataError


@dataclass(frozen=True)
class _Rule:
    name: str
    column: str
    bad: pl.Expr
    what: str
    hint: str


def plausible(low: float, high: float, unit: str) -> bool:
    """Whether numbers of a unit ("seconds", ...) lie between 1990 and 2100."""
    return EARLIEST_S * _PER_SECOND[unit] <= low and high <= LATEST_S * _PER_SECOND[unit]


def unit_of(number: float) -> str | None:
    """The unit in which a number is a plausible time; the four ranges do not overlap."""
    return next((unit for unit in _PER_SECOND if plausible(number, number, unit)), None)


def events(raw: Raw) -> pl.LazyFrame:
    """The log in canonical columns. Raises DataError for a column that is missing or of an impossible type.

    Rows that `problems` counts come out with nulls: call it first.
    """
    schema, types = raw.schema, _types(raw, "events")
    unit = schema.time_unit
    action = pl.col(schema.action).cast(pl.String) if schema.action else pl.lit(schema.action_names[0])
    value = _number(schema.value, types).cast(pl.Float32) if schema.value else pl.lit(None, pl.Float32)
    time = pl.lit(0, pl.Int64) if unit == "none" else _time_ms(schema.time, unit, types)
    columns = [
        _id(schema.user, types).alias("user"),
        _id(schema.item, types).alias("item"),
        action.alias("action"),
        value.alias("value"),
        time.alias("time_ms"),
    ]
    named = {"event_id": schema.event_id, "request_id": schema.request_id}
    columns += [_id(column, types).alias(name) for name, column in named.items() if column]
    if schema.position:
        columns.append(_number(schema.position, types).cast(pl.Int32, strict=False).alias("position"))
    if schema.propensity:
        columns.append(_number(schema.propensity, types).alias("propensity"))
    columns += [_field(name, field, types, schema.time_unit).alias(name) for name, field in schema.context.items()]
    return raw.events.with_row_index(ROW).select(pl.col(ROW).cast(pl.Int64).alias("row"), *columns)


def entities(raw: Raw, entity: Literal["user", "item"]) -> pl.LazyFrame | None:
    """Items or users in canonical columns, None where the project names no table of them."""
    table = raw.table("items" if entity == "item" else "users")
    if table is None:
        return None
    column = raw.schema.item if entity == "item" else raw.schema.user
    types = _types(raw, "items" if entity == "item" else "users")
    fields = raw.schema.fields(entity)
    columns = [_field(name, field, types, raw.schema.time_unit).alias(name) for name, field in fields.items()]
    numbered = table.with_row_index(ROW)
    return numbered.select(pl.col(ROW).cast(pl.Int64).alias("row"), _id(column, types).alias("id"), *columns)


def problems(raw: Raw, table: Name = "events") -> list[Problem]:
    """Everything that keeps rows of a table from being used, most basic first; empty for one that can be imported.

    Raises DataError for a column that is missing or of an impossible type, and for a log without events.
    """
    frame = raw.table(table)
    if frame is None:
        return []
    types = _types(raw, table)
    rules = _rules(raw, types) if table == "events" else _entity_rules(raw, table, types)
    numbered = frame.with_row_index(ROW)
    asked = [pl.len().alias("rows")]
    for n, rule in enumerate(rules):
        asked += [rule.bad.sum().alias(f"count{n}"), pl.when(rule.bad).then(ROW).min().alias(f"first{n}")]
    asking = numbered.select(asked)
    answer = raw.read(table, lambda: asking.collect(engine="streaming").row(0, named=True))
    if not answer["rows"] and table == "events":
        raise DataError("the log is empty", where=_where(raw), hint="a log has at least one event")
    found = []
    for n, rule in enumerate(rules):
        if count := int(answer[f"count{n}"] or 0):
            rows = numbered.filter(rule.bad).head(3).collect(engine="streaming").to_dicts()
            total, first = int(answer["rows"]), int(answer[f"first{n}"])
            error = _told(raw, table, rule, count, total, rows[0].get(rule.column), first)
            found.append(Problem(rule.name, count, rows, error))
    return found


def _told(raw: Raw, table: Name, rule: _Rule, count: int, total: int, value: object, row: int) -> DataError:
    if rule.name.startswith("lengths of ") and isinstance(value, Sequence):
        value = len(value)
    what, hint = rule.what.format(count=count, value=value), rule.hint
    if rule.name == "time range" and isinstance(value, (int, float, str)):
        declared = _UNITS.get(raw.schema.time_unit, "")
        looks = unit_of(float(value))
        if looks and looks != declared:
            what = f"times look like {looks}, but {declared} are declared: {value}"
            short = {unit: key for key, unit in _UNITS.items()}.get(looks)
            hint = f'set schema.time_unit = "{short}"' if short else "divide them down to milliseconds"
            if table != "events":
                hint = "write them in the unit of the log's times"
            elif count < total:
                what = f"{count} of {total} times are no {declared}, the first looks like {looks}: {value}"
                hint = "write all of them in one unit"
    if rule.name == "actions":
        hint = f"{nearest(str(value), raw.schema.action_names)} or declare schema.actions.{value}"
    return DataError(what, where=raw.place(table, row), hint=hint)


def _rules(raw: Raw, types: dict[str, pl.DataType]) -> list[_Rule]:
    schema = raw.schema
    rules = []
    for name, column in (("user ids", schema.user), ("item ids", schema.item), ("event ids", schema.event_id)):
        if column is not None:
            rules += _id_rules(name, column, types)
    if schema.time_unit != "none":
        rules += _time_rules(schema.time, schema.time_unit, types)
    if schema.action:
        unknown = ~pl.col(schema.action).cast(pl.String).is_in(list(schema.action_names)).fill_null(False)
        what = "{count} events have an undeclared action: {value!r}"
        rules.append(_Rule("actions", schema.action, unknown, what, ""))
    if schema.value:
        rules.append(_number_rule("values", schema.value, types))
    if schema.propensity:
        rules += _propensity_rules(schema.propensity, types)
    for name, field in schema.context.items():
        rules += _field_rules(name, field, types, schema.time_unit)
    return rules


def _entity_rules(raw: Raw, table: Name, types: dict[str, pl.DataType]) -> list[_Rule]:
    entity: Literal["user", "item"] = "item" if table == "items" else "user"
    rules = _id_rules(f"{entity} ids", raw.schema.item if entity == "item" else raw.schema.user, types)
    for name, field in raw.schema.fields(entity).items():
        rules += _field_rules(name, field, types, raw.schema.time_unit)
    return rules


def _id_rules(name: str, column: str, types: dict[str, pl.DataType]) -> list[_Rule]:
    rules = []
    if types[column].is_float():
        part = pl.col(column).is_not_null() & (pl.col(column) != pl.col(column).floor()).fill_null(True)
        what, hint = f"{{count}} {name} are fractions: {{value}}", "ids are text or whole numbers"
        rules.append(_Rule(name, column, part, what, hint))
    size = _id(column, types).str.len_bytes()
    empty = pl.col(column).is_null() | (size == 0).fill_null(False)
    rules.append(_Rule(name, column, empty, f"{{count}} {name} are missing or empty", "drop or fill these rows"))
    long = (size > MAX_ID_BYTES).fill_null(False)
    what = f"{{count}} {name} are longer than {MAX_ID_BYTES} bytes"
    rules.append(_Rule(name, column, long, what, "shorten or hash them"))
    return rules


def _field_rules(name: str, field: Field, types: dict[str, pl.DataType], unit: str) -> list[_Rule]:
    if field.kind == "dense" and types[name] != pl.Boolean:
        return [_number_rule(f"values of {name}", name, types)]
    if field.kind == "time":
        return _time_rules(name, "ms" if unit == "none" else unit, types)[1:]  # a time may be missing here
    return _vector_rules(name) if field.kind == "vec" else []


def _vector_rules(name: str) -> list[_Rule]:
    vectors = pl.col(name).cast(pl.List(pl.Float64))
    lengths = vectors.list.len()
    other = (lengths != lengths.drop_nulls().first()).fill_null(False)
    unread = pl.element().is_null() | pl.element().is_nan() | pl.element().is_infinite()
    bad = vectors.list.eval(unread.fill_null(True)).list.any().fill_null(False)
    what = f"{{count}} vectors of {name} are not as long as the first one: {{value}} numbers"
    told = f"{{count}} vectors of {name} hold what is no number"
    return [
        _Rule(f"lengths of {name}", name, other, what, "a vec field has one length; leave out what has none"),
        _Rule(f"numbers of {name}", name, bad, told, "leave the vector out where one of its numbers is missing"),
    ]


def _number_rule(name: str, column: str, types: dict[str, pl.DataType]) -> _Rule:
    number = _number(column, types)
    unread = pl.col(column).is_not_null() & number.is_null()
    bad = unread | number.is_nan().fill_null(False) | number.is_infinite().fill_null(False)
    hint = "leave a value empty where there is none"
    return _Rule(name, column, bad, f"{{count}} {name} are not numbers: {{value!r}}", hint)


def _propensity_rules(column: str, types: dict[str, pl.DataType]) -> list[_Rule]:
    number = _number(column, types)
    outside = (((number <= 0) | (number > 1)) & number.is_not_nan()).fill_null(False)
    what = "{count} propensities are not above 0 and at most 1: {value}"
    hint = "a propensity is the probability with which the item was shown; leave it empty where it is not known"
    return [_number_rule("propensities", column, types), _Rule("propensities", column, outside, what, hint)]


def _time_rules(column: str, unit: str, types: dict[str, pl.DataType]) -> list[_Rule]:
    missing = _Rule("times", column, pl.col(column).is_null(), "{count} times are missing", "drop or fill these rows")
    if types[column].is_temporal() or unit == "iso":
        time = _time_ms(column, unit, types)
        unread = pl.col(column).is_not_null() & time.is_null()
        outside = ((time < EARLIEST_S * 1000) | (time > LATEST_S * 1000)).fill_null(False)
        hint = "write dates as 2024-05-31 or 2024-05-31T12:00:00Z"
        told = "{count} times are not dates: {value!r}"
    else:
        number = _number(column, types)
        per_second = 1 if unit == "s" else 1000
        unread = pl.col(column).is_not_null() & (number.is_null() | number.is_nan().fill_null(False))
        outside = ((number < EARLIEST_S * per_second) | (number > LATEST_S * per_second)) & number.is_not_nan()
        outside = outside.fill_null(False)
        hint = 'for written dates set schema.time_unit = "iso"'
        told = "{count} times are not numbers: {value!r}"
    return [
        missing,
        _Rule("times", column, unread, told, hint),
        _Rule(
            "time range",
            column,
            outside,
            "{count} times are before 1990 or after 2100: {value}",
            "correct or drop these rows",
        ),
    ]


def _types(raw: Raw, table: Name) -> dict[str, pl.DataType]:
    """Types of the raw columns, once every column the schema names is there and can hold what it should."""
    schema = raw.schema
    frame = raw.table(table)
    assert frame is not None
    types = dict(frame.collect_schema())
    where = _where(raw, table)
    ids: list[tuple[str, str | None]] = [("user", schema.user), ("item", schema.item)]
    numbers: list[tuple[str, str | None]] = []
    if table == "events":
        ids += [("event_id", schema.event_id), ("request_id", schema.request_id)]
        numbers = [("value", schema.value), ("position", schema.position), ("propensity", schema.propensity)]
        if schema.time_unit != "none":
            numbers.append(("time", schema.time))
        fields, others = schema.context, [("action", schema.action)]
    else:
        ids = [("item", schema.item)] if table == "items" else [("user", schema.user)]
        fields, others = (schema.items if table == "items" else schema.users), []
    for name in fields:
        if name in RESERVED[table]:
            place = f"schema.{'context' if table == 'events' else table}.{name}"
            raise ConfigError(f"no field can be called {name!r}", where=place, hint="rename the column")
    for key, column in (*ids, *numbers, *others, *((name, name) for name in fields)):
        if column is not None and column not in types:
            owner = f"schema.{'context' if table == 'events' else table}.{key}" if key in fields else f"schema.{key}"
            what = f"no column is called {column!r}, which {owner} names"
            raise DataError(what, where=where, hint=nearest(column, list(types)))
    wanted = [(column, _id_like, "ids are text or whole numbers") for _, column in ids]
    wanted += [
        (column, _time_like if key == "time" else _number_like, f"a {key} is a number") for key, column in numbers
    ]
    wanted += [(column, _id_like, "an action is text") for _, column in others]
    for column, fits, hint in wanted:
        if column is not None and not fits(types[column]):
            raise DataError(f"column {column!r} has type {types[column]}", where=where, hint=hint)
    for name, field in fields.items():
        if not _fits(field, types[name]):
            if types[name] == pl.Null:
                hint = "fill the column, or take the field out of the schema"
                raise DataError(f"column {name!r} has no value in any row", where=where, hint=hint)
            hint = 'name the separator, split = "|"' if field.kind in ("varlen", "seq") else "change its kind"
            what = f"column {name!r} has type {types[name]} but is declared as {field.kind}"
            raise DataError(what, where=where, hint=hint)
    return types


def _id_like(type_: pl.DataType) -> bool:
    return type_.is_integer() or type_.is_float() or _texty(type_)


def _number_like(type_: pl.DataType) -> bool:
    return type_.is_numeric() or type_ == pl.String


def _time_like(type_: pl.DataType) -> bool:
    return _number_like(type_) or type_ in (pl.Date, pl.Datetime)


def _where(raw: Raw, table: str = "events") -> str:
    found = (raw.tables or {}).get(table)
    if found is None:
        return table
    return str(found.files[0] if len(found.files) == 1 else found.files[0].parent)


def _texty(type_: pl.DataType) -> bool:
    return type_ == pl.String or type_ in (pl.Categorical, pl.Enum)


def _fits(field: Field, type_: pl.DataType) -> bool:
    listed = type_ in (pl.List, pl.Array)
    match field.kind:
        case "dense":
            return type_.is_numeric() or type_ == pl.Boolean or type_ == pl.String
        case "time":
            return type_.is_numeric() or type_ in (pl.Date, pl.Datetime) or type_ == pl.String
        case "varlen" | "seq":
            return listed or (_texty(type_) and field.split is not None)
        case "vec":
            return isinstance(type_, (pl.List, pl.Array)) and pl.Series(dtype=type_.inner).dtype.is_numeric()
        case "sparse" | "text":
            return not listed and type_ != pl.Struct


def _id(column: str, types: dict[str, pl.DataType]) -> pl.Expr:
    whole = pl.col(column).cast(pl.Int64, strict=False) if types[column].is_float() else pl.col(column)
    return whole.cast(pl.String)


def _number(column: str, types: dict[str, pl.DataType]) -> pl.Expr:
    if types[column] != pl.String:
        return pl.col(column).cast(pl.Float64)
    return pl.col(column).str.strip_chars().cast(pl.Float64, strict=False)


def _time_ms(column: str, unit: str, types: dict[str, pl.DataType]) -> pl.Expr:
    if types[column] in (pl.Date, pl.Datetime):
        return pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")
    if unit == "iso":
        forms: Sequence[pl.Expr] = [
            pl.col(column).str.to_datetime(form, time_unit="ms", time_zone="UTC", strict=False)
            for form in ("%+", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
        ]
        day = pl.col(column).str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
        return pl.coalesce(*forms, day).dt.epoch("ms")
    # A double holds whole milliseconds exactly far beyond the year 2100, and fractions of a second to a microsecond.
    return (_number(column, types) * (1000 if unit == "s" else 1)).round().cast(pl.Int64, strict=False)


def _field(name: str, field: Field, types: dict[str, pl.DataType], unit: str) -> pl.Expr:
    column = pl.col(name)
    match field.kind:
        case "dense":
            return _number(name, types)
        case "time":
            return _time_ms(name, "ms" if unit == "none" else unit, types)
        case "varlen" | "seq":
            if types[name] in (pl.List, pl.Array):
                return column.cast(pl.List(pl.String))
            parts = column.cast(pl.String).str.split(str(field.split)).list.eval(pl.element().str.strip_chars())
            return parts.list.eval(pl.element().filter(pl.element() != ""))
        case "vec":
            return column.cast(pl.List(pl.Float32))
        case "sparse" | "text":
            return column.cast(pl.String)


def stage(raw: Raw, file: Path) -> None:
    """Write the canonical log to a Parquet file, streaming."""
    raw.read("events", lambda: events(raw).sink_parquet(file))
