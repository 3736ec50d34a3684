"""Write a project file for data never seen before."""

import shlex
from pathlib import Path

import click

from shortlist.cli._talk import emit, json_option, project_option, say
from shortlist.errors import ConfigError

__all__ = ["command"]


@click.command()
@click.argument("data")
@project_option
@click.option("--force", is_flag=True, help="Replace a project file that is there.")
@json_option
def command(data: str, project_file: str, force: bool, as_json: bool) -> None:
    """Write a project file for DATA: a log, a folder, or a public log such as ml-100k. Says what it guessed.

    A log is a CSV, TSV, JSON Lines or Parquet file, or a folder of them. Files called items and users beside it, or in
    the folder, are its catalogue.
    """
    from shortlist.events.infer import infer

    file = Path(project_file)
    if file.is_dir() or not file.suffix:  # a folder, there or to be made
        file = file / "shortlist.toml"
    if file.exists() and not force:
        raise ConfigError("there is a project file already", where=str(file), hint="--force replaces it")
    text, guesses = infer(data, file.resolve().parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    for guess in guesses:
        say(f"guessed {guess}")
    place = "" if project_file == "shortlist.toml" else f" --project {shlex.quote(project_file)}"
    say(f"wrote {file}; correct it where a guess is wrong, then: shortlist check{place} && shortlist import{place}")
    if as_json:
        emit({"project": str(file), "guesses": guesses})
