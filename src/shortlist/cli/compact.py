"""Seal days that are over, drop old ones, erase users from every file."""

from dataclasses import asdict

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, progress, project_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@json_option
def command(project_file: str, as_json: bool) -> None:
    """Do what [log] says: days that are over become Parquet, old ones go, erased users leave every file of var/.

    Ends with 1 when an erasure could not be finished. A server does the same by itself.
    """
    from contextlib import closing

    from shortlist.events.compact import compact
    from shortlist.events.opening import open_log
    from shortlist.feedback.stores import tidy

    project = load(project_file)
    with progress("compact"):
        report = compact(project, now())
        with closing(open_log(project)) as log:
            tidy(project, log)
    if as_json:
        emit(asdict(report))
    else:
        print(f"{report.sealed} events sealed in {report.files} files, {report.dropped} dropped")
        if report.row_files:
            print(f"{report.row_files} files of served rows dropped")
        print(f"{report.erased} users erased, {report.waiting} waiting")
        for place, rows in report.gone.items():
            print(f"  {rows} rows from {place}")
    for place, why in report.left.items():
        say(f"{place} still holds erased users: {why}")
    for place in report.learned:
        say(f"{place} was learned with an erased user: publish anew and remove it")
    if report.waiting:
        click.get_current_context().exit(1)
