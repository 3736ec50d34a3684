"""Keep the store near the log: the one process that writes it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict

import click

from shortlist.cli._talk import emit, json_option, project_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.option("--once", is_flag=True, help="End when the store is level with the log.")
@json_option
def command(project_file: str, once: bool, as_json: bool) -> None:
    """Keep the store of the current release level with the log until Ctrl-C. Says its rate and how far behind it is.

    A server does so by itself. One process writes a store: started before the server, this is the one, and the server
    only reads, until this has gone. `shortlist backfill` takes a whole log at once.
    """
    from shortlist.events.opening import open_log
    from shortlist.feedback.nearline import Progress, nearline

    def tell(done: Progress) -> None:
        say(f"{done.applied:,} events, {done.rate:,.0f}/s, at offset {done.offset:,}, {done.lag:,} behind")

    project = load(project_file)
    with closing(open_log(project)) as log, _until_told() as stop:
        if not once:
            say("following; Ctrl-C ends it")
        done = nearline(
            project, log, once=once, stop=stop, tell=tell, complain=lambda error: say(f"trying again: {error}")
        )
    if as_json:
        emit({**asdict(done), "rate": done.rate})
    else:
        tell(done)


@contextmanager
def _until_told() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM: the batch in hand is finished."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
