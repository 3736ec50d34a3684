"""Write the log of a simulated world, for trying things where no data is at hand."""

from dataclasses import replace
from pathlib import Path

import click

from shortlist.cli._talk import emit, json_option, progress, say

__all__ = ["command"]

COUNT = click.IntRange(1)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--size", default="tiny", show_default=True, help="tiny, S, M, L, XL: 100 thousand to 200 million events."
)
@click.option(
    "--policy", default="popularity", show_default=True, help="Who decides what is shown: uniform, taste, ..."
)
@click.option("--seed", default=0, show_default=True)
@click.option("--days", type=COUNT, help="How long the world runs; a size is meant for 30 days.")
@click.option("--users", type=COUNT, help="Other than the size has.")
@click.option("--items", type=COUNT, help="Other than the size has.")
@json_option
def command(
    folder: Path,
    size: str,
    policy: str,
    seed: int,
    days: int | None,
    users: int | None,
    items: int | None,
    as_json: bool,
) -> None:
    """Users whose tastes drift, items of hidden quality, and what comes of a policy: FOLDER/events/, items.parquet,
    users.parquet for `shortlist init FOLDER`; FOLDER/truth/ for who wants to know."""
    from shortlist.config import nearest
    from shortlist.errors import ConfigError
    from shortlist.simulation.folder import save
    from shortlist.simulation.policy import named
    from shortlist.simulation.sizes import SIZES

    if size not in SIZES:
        raise ConfigError(f"no size is called {size!r}", where="--size", hint=nearest(size, list(SIZES)))
    preset = SIZES[size]
    config = replace(preset, days=days or preset.days, users=users or preset.users, items=items or preset.items)
    with progress("simulate") as told:
        counts = save(folder, config, lambda world: named(policy, world.truth), seed, told)
    total = sum(counts.values())
    say(f"{folder}: {total} events ({', '.join(f'{n} {name}' for name, n in counts.items())})")
    if as_json:
        emit({"folder": str(folder), "events": total, "actions": counts, "size": size, "policy": policy, "seed": seed})
