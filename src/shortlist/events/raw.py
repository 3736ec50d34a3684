"""A project's data as it lies: raw columns, and the schema that says what they mean."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import polars as pl

from shortlist.config import Project, find
from shortlist.errors import ConfigError
from shortlist.events.readers import Table, scan
from shortlist.schema import Schema

__all__ = ["Raw", "Say", "load", "schema_of"]

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Raw:
    """Events, and items and users where there are any, in raw columns that `schema` maps.

    `published` is a split that the makers of a public log fixed: raw ids `user`, `item` of what is held out, and either
    `candidates` to rank, or `part`: for which part, "test" or "valid".
    """

    events: pl.LazyFrame
    items: pl.LazyFrame | None
    users: pl.LazyFrame | None
    schema: Schema
    published: pl.DataFrame | None = None
    tables: Mapping[str, Table] | None = None

    def table(self, name: Literal["events", "items", "users"]) -> pl.LazyFrame | None:
        """A table by name, None where there is none."""
        return {"events": self.events, "items": self.items, "users": self.users}[name]

    def read(self, table: str, work: Callable[[], T]) -> T:
        """What some work over a table returns. Raises DataError naming a file that cannot be read."""
        found = (self.tables or {}).get(table)
        return found.read(work) if found else work()

    def place(self, table: str, row: int) -> str:
        """Where a row of `events`, `items` or `users` lies."""
        found = (self.tables or {}).get(table)
        return found.place(row) if found else f"{table}, row {row}"


def schema_of(project: Project) -> Schema:
    """The project's schema: an adapter's own is the base, the project's `[schema]` overrides it key by key."""
    return Schema.parse(_merge(_adapter(project).schema if project.config.data.adapter else {}, project.config.schema))


def load(project: Project, schema: Schema, say: Say) -> Raw:
    """The data a project names. Raises ConfigError when it names none, DataError when it cannot be read."""
    data = project.config.data
    if data.adapter:
        for name in ("items", "users"):
            if getattr(data, name):
                what = f"{data.adapter} brings its own {name}"
                raise ConfigError(what, where=f"project.data.{name}", hint="take it away")
        adapter = _adapter(project)
        if data.events and not hasattr(adapter, "read"):
            what = f"{data.adapter} is one log and reads no other files"
            raise ConfigError(what, where="project.data.events", hint="take events away, or adapter")
        raw = adapter.read(_resolve(project, "events", data.events), say) if data.events else adapter.load(say)
        return Raw(raw.events, raw.items, raw.users, schema, raw.published, raw.tables)
    if not data.events:
        hint = 'set data.events = "events.parquet", or data.adapter = "ml_100k"'
        raise ConfigError("no log is named", where="project.data", hint=hint)
    named = {"events": data.events, "items": data.items, "users": data.users}
    declared = {"events": schema.context, "items": schema.items, "users": schema.users}
    kinds = {name: {field: kind.kind for field, kind in fields.items()} for name, fields in declared.items()}
    tables = {name: scan(_resolve(project, name, path), kinds[name]) for name, path in named.items() if path}
    frames = {name: table.frame for name, table in tables.items()}
    return Raw(frames["events"], frames.get("items"), frames.get("users"), schema, None, tables)


def _resolve(project: Project, name: str, path: str) -> Path:
    try:
        file = (project.folder / Path(path).expanduser()).resolve()
        file.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL byte
        what = f"no name of a file: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(what, where=f"project.data.{name}", hint="correct the path") from None
    return file


def _adapter(project: Project) -> Any:
    name = str(project.config.data.adapter).replace("-", "_")
    return find(name, ["shortlist.events.adapters"], "project.data.adapter")()


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = {**base[key], **value} if both else value
    return merged
