"""Make a checked release and switch to it."""

import json

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, progress, project_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@json_option
def command(project_file: str, as_json: bool) -> None:
    """Fit on everything, check the release by asking it, publish it by one rename."""
    from shortlist.evaluation.project import digest, open_data, publish

    project = load(project_file)
    data = open_data(project)
    found = project.home / "reports" / "metrics.json"
    metrics = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {}
    if metrics.pop("about", None) != digest(data):
        metrics = {}
        say("no evaluation of this data and configuration: the release will carry no metrics (`shortlist evaluate`)")
    with progress("publish") as step:
        release = publish(data, created_ms=now(), metrics=metrics, progress=step)
    if as_json:
        emit({"release": release})
    else:
        print(release)
