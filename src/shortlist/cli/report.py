"""Write the report of an evaluation, and say where it is."""

import contextlib
import io
from pathlib import Path

import click

from shortlist.cli._talk import emit, json_option, project_option
from shortlist.cli.evaluate import command as evaluate
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.option("--on", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@click.option("--scene", default=None, help="The first scene of the project by default.")
@json_option
@click.pass_context
def command(context: click.Context, project_file: str, on: str, scene: str | None, as_json: bool) -> None:
    """Measure a project and write the report with pictures; prints its path."""
    with contextlib.redirect_stdout(io.StringIO()):
        context.invoke(evaluate, project_file=project_file, on=on, scene=scene, mapped=True, as_json=False)
    path: Path = load(project_file).home / "reports" / "report.html"
    if as_json:
        emit({"report": str(path)})
    else:
        print(path)
