"""Fit the channels of a project."""

import os
from contextlib import ExitStack

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, progress, project_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.option("--for", "part", type=click.Choice(["valid", "test", "release"]), default="test", show_default=True)
@json_option
def command(project_file: str, part: str, as_json: bool) -> int:
    """Fit every recall channel and ranker: for validation, for the test part, or on everything for a release."""
    from shortlist.evaluation.project import open_data, train

    with ExitStack() as stack:
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started it, beside others
            from shortlist.training import distributed, worker

            rank, ranks = distributed.started() or (0, 1)
            if rank:
                return worker.main(rank, ranks)
            stack.enter_context(distributed.dismissed())
        data = open_data(load(project_file))
        step = stack.enter_context(progress(f"train for {part}"))
        done = train(data, part, created_ms=now(), progress=step)  # type: ignore[arg-type]
    for fitted in done.values():
        say(f"{fitted.name}: {fitted.manifest.kind} in {fitted.seconds:.2f} s -> {fitted.folder}")
    if as_json:
        emit({name: {"seconds": f.seconds, "folder": str(f.folder)} for name, f in done.items()})
    return 0
