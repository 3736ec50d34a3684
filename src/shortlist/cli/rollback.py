"""Point `current` back to an earlier release."""

import click

from shortlist.cli._talk import emit, json_option, project_option
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.option("--to", default=None, help="A release id; the latest whole one before the current by default.")
@json_option
def command(project_file: str, to: str | None, as_json: bool) -> None:
    """Make an earlier release the current one."""
    from shortlist.artifact import Releases

    release = Releases(load(project_file).home / "releases").rollback(to)
    if as_json:
        emit({"release": release})
    else:
        print(release)
