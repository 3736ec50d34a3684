"""Show what a project file means, every default in place."""

import json
import math
import re
from typing import Any

import click

from shortlist.cli._talk import emit, json_option, project_option
from shortlist.config import load

__all__ = ["command"]


@click.group()
def command() -> None:
    """Look at a project file."""


@command.command()
@project_option
@json_option
def show(project_file: str, as_json: bool) -> None:
    """Print the project with every default in place, as a project file (TOML) or as JSON.

    Options that are not set and have no value of their own are left out of TOML and null in JSON; `inf` is null too.
    """
    from shortlist.events.workspace import schema
    from shortlist.funnel.effective import effective

    project = load(project_file)
    table = effective(project.config, schema(project))
    if as_json:
        emit(_finite(table))
    else:
        print(toml(table), end="")


def _finite(value: Any) -> Any:
    """As JSON has it: None for `inf`."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if value == math.inf else value


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
    if value == math.inf:
        return "inf"
    # JSON writes text, numbers and booleans as TOML does; DEL alone must be escaped in TOML and is not in JSON
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
