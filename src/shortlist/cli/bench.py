"""Measure sets of projects, and keep what was measured."""

import json
import sys
from pathlib import Path

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, say, table
from shortlist.errors import ConfigError

__all__ = ["command"]


@click.group()
def command() -> None:
    """Measure sets of projects, and keep what was measured."""


@command.command()
@click.argument("name")
@click.option(
    "--work", type=click.Path(path_type=Path), default=None, help="Folder of the runs; bench-NAME by default."
)
@click.option("--seeds", default="", help="With commas: 1,2,3; the set's own by default, else each project's.")
@click.option("--again", is_flag=True, help="Make finished runs anew.")
@json_option
def quality(name: str, work: Path | None, seeds: str, again: bool, as_json: bool) -> int:
    """Train and measure each project of the set NAME (configs/sets/NAME.toml, or a file), under each seed.

    Goes on where it stopped: a finished run is not made again unless its recipe changed. The table goes to
    WORK/quality.md, everything to WORK/quality.json.
    """
    from shortlist.evaluation.quality import markdown, open_set, rows, run_set

    found, file = open_set(name, Path.cwd())
    place = Path(f"bench-{file.stem}") if work is None else work
    runs = run_set(found, file, place, _numbers(seeds), again=again, created_ms=now(), say=say)
    command_ = " ".join(["shortlist bench quality", name, *(["--seeds", seeds] if seeds else [])])
    text = markdown(found, file, runs, command_)
    (place / "quality.md").write_text(text, encoding="utf-8")
    say(f"table: {place / 'quality.md'}")
    if as_json:
        emit(json.loads((place / "quality.json").read_text(encoding="utf-8")))
    else:
        table(rows(found, runs))
    for run in runs:
        if run.why:
            print(f"{run.config}, seed {run.seed}, did not run: {run.why}", file=sys.stderr)
    return 1 if any(run.why for run in runs) else 0


def _numbers(text: str) -> list[int]:
    """Raises ConfigError for what is no whole number."""
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError:
        raise ConfigError(f"{text!r} are no seeds", where="--seeds", hint="write 1,2,3") from None
