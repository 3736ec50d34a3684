"""Show what a project file means, every default in place."""

import dataclasses
import json
import re
from typing import Any

import click

from shortlist.cli._talk import emit, json_option, project_option
from shortlist.config import Project, build, find, load, plain

__all__ = ["command"]

PACKAGES = {
    "merge": "shortlist.funnel.mergers",
    "filters": "shortlist.funnel.filters",
    "boosts": "shortlist.traffic",
    "rerank": "shortlist.funnel.selectors",
}


@click.group()
def command() -> None:
    """Look at a project file."""


@command.command()
@project_option
@json_option
def show(project_file: str, as_json: bool) -> None:
    """Print the project with every default in place, as a project file (TOML) or as JSON.

    Options that are not set and have no value of their own are left out of TOML and null in JSON.
    """
    table = effective(load(project_file))
    if as_json:
        emit(table)
    else:
        print(toml(table), end="")


def effective(project: Project) -> dict[str, Any]:
    """A project as tables: each part with the defaults of the file its `use` names, the schema of its adapter with
    what the project adds. Raises ConfigError."""
    from shortlist.events.workspace import schema

    table: dict[str, Any] = plain(project.config)
    table["schema"] = plain(schema(project))
    table["split"] = _flat(table["split"], "shortlist.dataset.splits", "split")
    table["recall"] = [_channel(channel, f"recall.{channel['name']}") for channel in table["recall"]]
    _stages(table, "")
    for name, scene in table["scene"].items():
        _stages(scene, f"scene.{name}.")
    return table


def _stages(table: dict[str, Any], where: str) -> None:
    for key, package in PACKAGES.items():
        value = table[key]
        if isinstance(value, list):
            table[key] = [_flat(part, package, f"{where}{key}") for part in value]
        elif value is not None:
            table[key] = _flat(value, package, f"{where}{key}")


def _flat(part: dict[str, Any], package: str, where: str) -> dict[str, Any]:
    """A part's own keys and its options side by side, as they are written in a project file."""
    kind: Any = find(part["use"], [package], where)
    options = part.pop("options")
    return {**part, **(plain(build(kind.Config, options, where)) if hasattr(kind, "Config") else options)}


def _channel(channel: dict[str, Any], where: str) -> dict[str, Any]:
    """A channel with the options of its model and of the source that queries it."""
    model: Any = find(channel["use"], ["shortlist.models.recall"], where)
    source: Any = find(model.source, ["shortlist.funnel.sources"], where)
    options = channel.pop("options")
    shown = dict(channel)
    for owner in (model.Config, source.Config):
        names = {field.name for field in dataclasses.fields(owner)}
        shown |= plain(build(owner, {k: v for k, v in options.items() if k in names}, where))
        options = {k: v for k, v in options.items() if k not in names}
    if options:  # neither owns them: the model's refusal names the nearest
        build(model.Config, options, where)
    return shown


def toml(table: dict[str, Any]) -> str:
    """A table as TOML text; None is left out. Keys with plain values first, then tables, then lists of tables."""
    lines: list[str] = []
    _write(table, (), lines)
    return "\n".join(lines).strip() + "\n"


def _write(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    later: list[tuple[str, Any]] = []
    for key, value in table.items():
        many = isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)
        if (isinstance(value, dict) or many) and len(path) < 2:
            later.append((key, value))
        elif value is not None:
            lines.append(f"{_key(key)} = {_inline(value)}")
    for key, value in later:
        name = ".".join(_key(part) for part in (*path, key))
        for part in [value] if isinstance(value, dict) else value:
            if value is not part:
                lines.extend(["", f"[[{name}]]"])
            elif not part or path or not all(isinstance(v, dict) for v in part.values()):
                lines.extend(["", f"[{name}]"])  # a table of tables alone needs no line of its own
            _write(part, (*path, key), lines)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        pairs = [f"{_key(key)} = {_inline(v)}" for key, v in value.items() if v is not None]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_inline(v) for v in value if v is not None)}]"
    # JSON writes text, numbers and booleans as TOML does; DEL alone must be escaped in TOML and is not in JSON
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
