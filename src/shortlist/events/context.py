"""Context of events and requests, typed as the schema declares it: what was told in JSON, and what a log was imported
with, are the same columns. Fields that are not declared are left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from shortlist.schema import Field

__all__ = ["dtype", "typed", "from_json"]

TYPES: dict[str, pl.DataType] = {
    "dense": pl.Float64(),
    "time": pl.Int64(),
    "varlen": pl.List(pl.String),
    "seq": pl.List(pl.String),
    "vec": pl.List(pl.Float32),
    "sparse": pl.String(),
    "text": pl.String(),
}


def dtype(field: Field) -> pl.DataType:
    """The type of a column of this field."""
    return TYPES[field.kind]


def typed(values: Sequence[Any], field: Field, name: str = "") -> pl.Series:
    """Values as they were told [N], null where there is none or where one cannot be read as the field's kind."""
    if field.kind in ("sparse", "text"):
        return pl.Series(name, [_scalar(v) for v in values], dtype=pl.String)
    if field.kind in ("dense", "time"):
        numbers = pl.Series(name, [_number(v) for v in values], dtype=pl.Float64)
        return numbers if field.kind == "dense" else numbers.round().cast(pl.Int64, strict=False)
    if field.kind == "vec":
        return pl.Series(name, [_vector(v) for v in values], dtype=pl.List(pl.Float32))
    return pl.Series(name, [_list(v, field.split) for v in values], dtype=pl.List(pl.String))


def from_json(texts: pl.Series, fields: Mapping[str, Field]) -> pl.DataFrame:
    """Declared columns of JSON objects [N] (null where there is none), in the order of `fields`."""
    told: list[Mapping[str, Any]] = [{} if value is None else msgspec.json.decode(value) for value in texts]
    return pl.DataFrame([typed([each.get(name) for each in told], field, name) for name, field in fields.items()])


def _scalar(value: Any) -> str | None:
    """The one text form of a value: 5 and 5.0 are the same."""
    if value is None or isinstance(value, (list, dict)) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2.0**63:
        return str(int(value))
    return str(value)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _vector(value: Any) -> list[float] | None:
    numbers = [_number(v) for v in value] if isinstance(value, list) else [None]
    return None if None in numbers else numbers  # type: ignore[return-value]


def _list(value: Any, split: str | None) -> list[str] | None:
    if value is None:
        return None
    parts = value if isinstance(value, list) else str(value).split(split) if split else [value]
    known = [_scalar(part) for part in parts]
    return [part.strip() for part in known if part is not None and part.strip()]
