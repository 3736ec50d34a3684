"""Check a project's data."""

from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from shortlist import now
from shortlist.cli._talk import json_option, progress, project_option, say
from shortlist.config import load

__all__ = ["command"]

COLOURS = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}


@click.command()
@project_option
@json_option
def command(project_file: str, as_json: bool) -> None:
    """Check the project file and the data: columns, ids, times, order, duplicates, joins, coverage.

    Ends with 1 when something FAILs, with 2 when the project file is wrong.
    """
    import json

    from shortlist.events.check import check
    from shortlist.events.workspace import schema
    from shortlist.funnel.effective import effective

    project = load(project_file)
    effective(project.config, schema(project))
    with progress("check"):
        findings = check(project, say, now())
    if as_json:
        # Examples are rows as they lie: dates and the like are written as text.
        print(json.dumps([asdict(f) for f in findings], ensure_ascii=False, default=str))
    else:
        table = Table("", "check", "finding", box=None)
        for finding in findings:
            table.add_row(f"[{COLOURS[finding.status]}]{finding.status}[/]", finding.name, finding.what)
        Console().print(table)
        for finding in findings:
            for example in finding.examples:
                say(f"{finding.name}: {example}")
    if any(finding.status == "FAIL" for finding in findings):
        click.get_current_context().exit(1)
