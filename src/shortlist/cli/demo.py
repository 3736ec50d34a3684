"""The whole way on MovieLens-100K: import, check, train, evaluate, publish, serve."""

import contextlib
import json
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import click

from shortlist.cli._talk import emit, json_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@click.option("--folder", default="demo", show_default=True, help="Where the demo project is made.")
@click.option("--no-serve", is_flag=True, help="Stop after the report.")
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@json_option
@click.pass_context
def command(context: click.Context, folder: str, no_serve: bool, port: int, as_json: bool) -> None:
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
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            context.invoke(step, project_file=str(file), as_json=False, **options)
    say(f"\nfrom log to release in {time.perf_counter() - started:.0f} s")
    reports = load(file).home / "reports"
    say(f"report: {reports / 'report.html'}")
    if no_serve:
        say(f"to serve it: shortlist serve --project {file}")
        if as_json:
            emit(_made(file, None))
        return
    from shortlist.cli.serve import serve

    serve(str(file), None, port, lambda url: emit(_made(file, url)) if as_json else print(url, flush=True))


def _made(file: Path, url: str | None) -> dict[str, Any]:
    """What the demo leaves: the release, its figures, where the report lies, and where it is served."""
    from shortlist.artifact import Releases

    home = load(file).home
    figures = json.loads((home / "reports" / "metrics.json").read_text(encoding="utf-8"))["figures"]
    release, report = Releases(home / "releases").current(), home / "reports" / "report.html"
    return {"project": str(file), "release": release, "report": str(report), "figures": figures, "url": url}
