"""One slate, without a server."""

import json
from typing import Any

import click
import msgspec

from shortlist.cli._talk import json_option, project_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@click.argument("user")
@project_option
@click.option("-n", "count", type=int, default=None, help="How many items; the scene's page by default.")
@click.option("--scene", default=None, help="The scene; by default what experiments assign, else the first.")
@click.option("--filter", "condition", default=None, help="A condition on item fields: 'year > 1990'.")
@click.option("--exclude", multiple=True, help="An item to leave out; may be repeated.")
@click.option("--debug", is_flag=True, help="With --json: add the whole funnel.")
@json_option
def command(
    user: str, project_file: str, count: int | None, scene: str | None, condition: str | None,
    exclude: tuple[str, ...], debug: bool, as_json: bool,
) -> None:  # fmt: skip
    """What USER would see now, and why."""
    from shortlist.feedback.live import open_engine

    with open_engine(load(project_file)) as engine:
        answer = engine.recommend(
            user, count, scene, exclude=exclude, filter=condition, debug=debug or not as_json, preview=True,
            deadline_ms=30_000.0,
        )  # fmt: skip
    if as_json:
        print(msgspec.json.encode(answer).decode())
        return
    say(f"release {answer.release}, scene {answer.scene}, {answer.took_ms:.1f} ms")
    for note in answer.degraded:
        say(f"degraded: {note}")
    if not answer.items:
        say(f"the page is empty: {_why(answer.trace)}")
    for place, shown in enumerate(answer.items, start=1):
        title = f"  {_plain(shown.title)}" if shown.title else ""
        print(f"{place:>3}  {_plain(shown.item)}{title}  ({'; '.join(_plain(r) for r in shown.reasons)})")


def _why(trace: dict[str, Any] | None) -> str:
    """What became of the candidates of a page without items."""
    ends = dict(trace["counts"]) if trace else {}
    recalled = ends.pop("recalled", 0)
    if not recalled:
        return "no channel had an item for this user"
    return f"of {recalled} candidates none is left ({', '.join(f'{name} {count}' for name, count in ends.items())})"


def _plain(text: str) -> str:
    """On one line, whatever it holds."""
    return text if text.isprintable() else json.dumps(text)
