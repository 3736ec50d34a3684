"""What each feature is worth to the ranker."""

import json

import click

from shortlist.cli._talk import emit, json_option, progress, project_option, say, table
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.option("--on", type=click.Choice(["valid", "test", "release"]), default="test", show_default=True)
@click.option("--scene", default=None, help="The first scene of the project by default.")
@click.option("--stage", default=None, help="coarse or rank; the scene's last by default.")
@click.option("--task", default=None, help="The first task that has both classes by default.")
@click.option("--shuffles", type=click.IntRange(1), default=5, show_default=True, help="Of each feature.")
@click.option("--rows", type=click.IntRange(2), default=50_000, show_default=True, help="Held rows that are scored.")
@json_option
def command(
    project_file: str, on: str, scene: str | None, stage: str | None, task: str | None, shuffles: int, rows: int,
    as_json: bool,
) -> None:  # fmt: skip
    """AUC and GAUC that held rows lose when one feature is shuffled among them: what the ranker takes from it alone.

    valid and test judge the models fitted for that part on its held-out events; release judges the published ranker on
    the users who said when its training was to stop.
    """
    from shortlist.evaluation.importance import drawn, importance
    from shortlist.evaluation.project import open_data
    from shortlist.evaluation.sheet import write_sheet

    project = load(project_file)
    with progress(f"importance on {on}") as step:
        found = importance(
            open_data(project), on, scene, stage, task,  # type: ignore[arg-type]
            shuffles=shuffles, rows=rows, progress=step,
        )  # fmt: skip
    reports = project.home / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "importance.json").write_text(json.dumps(found.words()), encoding="utf-8")
    sheet = drawn(found)
    write_sheet(sheet, reports / "importance.html")
    say(f"report: {reports / 'importance.html'}")
    if as_json:
        emit(found.words())
        return
    table([list(row) for row in sheet.tables[0].rows])
    for note in sheet.notes:
        print(note)
