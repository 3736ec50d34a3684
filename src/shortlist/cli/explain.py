"""Why an item is, or is not, on a user's page."""

import click
import msgspec

from shortlist.cli._talk import json_option, project_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@click.argument("user")
@click.argument("item")
@project_option
@click.option("-n", "count", type=int, default=None, help="Length of the page; the scene's own by default.")
@click.option("--scene", default=None, help="The scene; the first by default.")
@json_option
def command(user: str, item: str, project_file: str, count: int | None, scene: str | None, as_json: bool) -> None:
    """Why ITEM is, or is not, what USER would see now."""
    from shortlist.feedback.live import open_engine

    with open_engine(load(project_file)) as engine:
        found = engine.explain(user, item, scene, count)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    say(f"release {found.release}, scene {found.scene}")
    for sentence in found.words:
        print(sentence)
