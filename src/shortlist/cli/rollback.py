"""Point `current` back to an earlier release."""

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, project_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.option("--to", default=None, help="A release id; the latest whole one before the current by default.")
@json_option
def command(project_file: str, to: str | None, as_json: bool) -> None:
    """Make an earlier release the current one. Its lists go to the store first, where they are served from there."""
    from shortlist.artifact import Release, Releases
    from shortlist.events import workspace
    from shortlist.store.opening import publish_lists

    project = load(project_file)
    releases = Releases(project.home / "releases")

    def bring(release: Release) -> None:
        place = project.config.serve, project.home, workspace.identity(project)
        written = publish_lists(*place, release, now=now(), stay=releases.current())
        if written:
            say(f"published to the store anew: {', '.join(written)}")

    checks = [bring] if project.config.serve.lists == "store" else []
    release = releases.rollback(to, checks=checks)
    if as_json:
        emit({"release": release})
    else:
        print(release)
