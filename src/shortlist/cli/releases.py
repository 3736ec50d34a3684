"""List releases."""

from dataclasses import asdict

import click

from shortlist.cli._talk import emit, json_option, project_option
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@json_option
def command(project_file: str, as_json: bool) -> None:
    """Releases of a project, newest last; the current one is marked, a damaged one says so."""
    from shortlist.artifact import Releases

    found = Releases(load(project_file).home / "releases").list()
    if as_json:
        emit([asdict(release) for release in found])
        return
    for release in found:
        problem = f"  {release.problem}" if release.problem else ""
        print(f"{'*' if release.current else ' '} {release.id}{problem}")
