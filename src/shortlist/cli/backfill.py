"""Fill the store from the whole log."""

import time
from contextlib import closing

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, progress, project_option, say, table
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.option("--chunk", type=click.IntRange(1), default=None, help="Events in memory at a time; 2,000,000 by default.")
@json_option
def command(project_file: str, chunk: int | None, as_json: bool) -> None:
    """Build the store of the current release from the whole log, as following it would, and switch to it in one step.

    Before the first release it is that of the configuration. One that breaks off changes nothing; begin it again.
    Where recall channels are lists that are served from the store, those of the release are brought there too.
    """
    from shortlist.artifact import Releases
    from shortlist.events.opening import open_log
    from shortlist.feedback.backfill import CHUNK, backfill
    from shortlist.feedback.live import states
    from shortlist.store.opening import publish_lists

    project, started = load(project_file), time.perf_counter()
    releases = Releases(project.home / "releases")
    release = None if releases.current() is None else releases.load()
    with closing(open_log(project)) as log:
        store = states(project, release, write=True)
        with closing(store.blobs), progress("backfill") as step:
            offset = backfill(log, store, chunk=chunk or CHUNK, progress=step)
            sizes = store.blobs.sizes()
        place = project.config.serve, project.home, log.identity
        brought = () if release is None else publish_lists(*place, release, now=now(), stay=None)
    if brought:
        say(f"published to the store: {', '.join(brought)}")
    if as_json:
        told = {name: {"keys": keys, "bytes": size} for name, (keys, size) in sizes.items()}
        emit({"offset": offset, "seconds": time.perf_counter() - started, "namespaces": told})
    else:
        table([["namespace", "keys", "bytes"], *([name, f"{k:,}", f"{size:,}"] for name, (k, size) in sizes.items())])
