"""Write a generated log, for trying things where no data is at hand."""

from pathlib import Path

import click

from shortlist.cli._talk import emit, json_option, say

__all__ = ["command"]


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--users", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--items", default=500, show_default=True, type=click.IntRange(1))
@click.option("--events", default=50_000, show_default=True, type=click.IntRange(1))
@click.option("--clusters", default=20, show_default=True, type=click.IntRange(1), help="Clusters of taste.")
@click.option("--seed", default=0, show_default=True)
@json_option
def command(folder: Path, users: int, items: int, events: int, clusters: int, seed: int, as_json: bool) -> None:
    """A seeded log with Zipf popularity and clusters of taste: FOLDER/{events,items,users}.parquet."""
    import numpy as np
    import polars as pl

    from shortlist.schema import Profiles
    from shortlist.simulation.clusters import Clusters

    config = Clusters.Config(users=users, items=items, events=events, clusters=clusters)
    world = Clusters.generate(config, np.random.default_rng(seed))
    folder.mkdir(parents=True, exist_ok=True)
    log = world.interactions
    columns = {"user": log.users, "item": log.items, "time_ms": log.times}
    frame = pl.DataFrame(columns).sort("time_ms", maintain_order=True)

    def profile(entities: Profiles, name: str) -> pl.DataFrame:
        return pl.DataFrame({name: entities.keys, **{k: v.tolist() for k, v in entities.columns.items()}})

    for name, table in (
        ("events", frame),
        ("items", profile(world.catalogue.items, "item")),
        ("users", profile(world.catalogue.users, "user")),
    ):
        table.write_parquet(folder / f"{name}.parquet")
        say(f"{folder / f'{name}.parquet'}: {len(table)} rows")
    if as_json:
        emit({"folder": str(folder), "events": len(frame), "seed": seed})
