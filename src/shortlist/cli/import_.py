"""Import a project's data."""

import time
from dataclasses import asdict

import click

from shortlist.cli._talk import emit, json_option, project_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.option("--fresh", is_flag=True, help="Drop what was imported before; keys stay.")
@json_option
def command(project_file: str, fresh: bool, as_json: bool) -> None:
    """Bring the log and the catalogue into var/. Importing again adds what is new and changes nothing else."""
    from shortlist.events.workspace import import_log, schema
    from shortlist.funnel.effective import effective

    project = load(project_file)
    effective(project.config, schema(project))
    report = import_log(project, say, time.time_ns() // 1_000_000, fresh)
    if as_json:
        emit(asdict(report))
        return
    print(f"{report.rows} rows: {report.added} added, {report.known} known, {report.duplicates} duplicates dropped")
    print(f"{report.events} events of {report.users} users on {report.items} items, snapshot {report.snapshot[:12]}")
