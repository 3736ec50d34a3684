"""The whole way on MovieLens-100K: import, check, train, evaluate, publish, serve."""

import time
from importlib import resources
from pathlib import Path

import click

from shortlist.cli._talk import say

__all__ = ["command"]


@click.command()
@click.option("--folder", default="demo", show_default=True, help="Where the demo project is made.")
@click.option("--no-serve", is_flag=True, help="Stop after the report.")
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.pass_context
def command(context: click.Context, folder: str, no_serve: bool, port: int) -> None:
    """From a real log to a page in a browser."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    file = place / "shortlist.toml"
    words = resources.files("shortlist.cli").joinpath("demo.toml").read_text(encoding="utf-8")
    if file.exists() and file.read_text(encoding="utf-8") != words:
        say(f"{file} has been edited: it is used as it stands")
    else:
        file.write_text(words, encoding="utf-8")
    started = time.perf_counter()
    group = context.find_root().command
    assert isinstance(group, click.Group)
    for name, options in (
        ("import", {"fresh": False}), ("check", {}), ("train", {"part": "test"}),
        ("evaluate", {"on": "test", "scene": None}), ("publish", {}),
    ):  # fmt: skip
        say(f"\n== {name} ({time.perf_counter() - started:.0f} s so far)")
        step = group.get_command(context, name)
        assert step is not None
        context.invoke(step, project_file=str(file), as_json=False, **options)
    say(f"\nfrom log to release in {time.perf_counter() - started:.0f} s")
    say(f"report: {(file.parent / 'var' / 'reports' / 'report.html')}")
    if no_serve:
        say(f"to serve it: shortlist serve --project {file}")
        return
    serve = group.get_command(context, "serve")
    assert serve is not None
    context.invoke(serve, project_file=str(file), port=port)
