"""How commands speak: data to stdout, talk to stderr, progress with time left."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["say", "progress", "emit", "table", "project_option", "json_option"]

project_option = click.option(
    "--project", "project_file", default="shortlist.toml", show_default=True, help="Project file or its folder."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")


def say(text: str) -> None:
    """A line of talk."""
    print(text, file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """A result, as one JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress line with time left, on a terminal; otherwise a line at the start and one at the end.

    What is inside calls it with (done, total, what); until it does, only the time that passed is shown.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        say(f"{title} ...")
        started = time.perf_counter()
        yield lambda done, total, what: None
        say(f"{title}: done in {time.perf_counter() - started:.1f} s")
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, what="")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, what=what)


def table(rows: list[list[str]]) -> None:
    """Rows of text on stdout, the first the head, columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for at, row in enumerate(rows):
        cells = zip(row, widths, strict=True)
        print("  ".join(cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(cells)))
        if not at:
            print("  ".join("-" * w for w in widths))
