"""Import a project's data."""

from dataclasses import asdict

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, progress, project_option, say
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
    with progress("import"):
        report = import_log(project, say, now(), fresh)
    if as_json:
        emit(asdict(report))
        return
    print(f"{report.rows} rows: {report.added} added, {report.known} known, {report.duplicates} duplicates dropped")
    print(f"{report.events} events of {report.users} users on {report.items} items, snapshot {report.snapshot[:12]}")
