"""Write the log of a simulated world, for trying things where no data is at hand."""

import shlex
from dataclasses import replace
from pathlib import Path

import click

from shortlist.cli._talk import emit, json_option, progress, say

__all__ = ["command"]

COUNT = click.IntRange(1)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--size", default="tiny", show_default=True, help="tiny, S, M, L, XL: 0.1, 1, 5, 20 and 200 million events."
)
@click.option(
    "--policy",
    default="popularity",
    show_default=True,
    help="Who decides what is shown: uniform, popularity, taste (which knows the truth).",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Same options, version and seed: same files."
)
@click.option("--days", type=COUNT, help="How long the world runs, instead of 30 days.")
@click.option("--users", type=COUNT, help="How many, instead of as many as the size has.")
@click.option("--items", type=COUNT, help="How many, instead of as many as the size has.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["world", "globo", "yidian"]),
    default="world",
    show_default=True,
    help="Whose files: our own, or those of two news logs (docs/news.md).",
)
@json_option
def command(
    folder: Path,
    size: str,
    policy: str,
    seed: int,
    days: int | None,
    users: int | None,
    items: int | None,
    form: str,
    as_json: bool,
) -> None:
    """Write the log of a simulated world to FOLDER, to try things on: tastes that drift, items of hidden quality.

    FOLDER/events/, items.parquet and users.parquet are what `shortlist init FOLDER` reads; FOLDER/truth/ is what it
    must not know. With another --format FOLDER has the files of that log, and no truth.
    """
    from shortlist.config import nearest
    from shortlist.errors import ConfigError
    from shortlist.simulation import folder as files
    from shortlist.simulation import news
    from shortlist.simulation.policy import named
    from shortlist.simulation.sizes import SIZES

    size = next((name for name in SIZES if name.lower() == size.lower()), size)
    if size not in SIZES:
        raise ConfigError(f"no size is called {size!r}", where="--size", hint=nearest(size, list(SIZES)))
    preset = SIZES[size]
    config = replace(preset, days=days or preset.days, users=users or preset.users, items=items or preset.items)
    with progress("simulate") as told:
        if form == "world":
            counts = files.save(folder, config, lambda world: named(policy, world.truth), seed, told)
        else:
            counts = news.save(folder, form, config, lambda world: named(policy, world.truth), seed, told)
    what = ", ".join(f"{n} {name}" for name, n in counts.items())
    total = sum(counts.values())
    say(f"{folder}: {total} events ({what})" if form == "world" else f"{folder}: {what}")
    say(f"next: shortlist init {shlex.quote(str(folder))}")
    if as_json:
        made = {"events": total, "actions": counts} if form == "world" else {"rows": counts}
        emit({"folder": str(folder), **made, "size": size, "policy": policy, "seed": seed})
