"""Choose what a project leaves open on its validation part."""

from typing import Any

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, progress, project_option, say, table
from shortlist.config import load

__all__ = ["command"]


@click.group()
def command() -> None:
    """Choose what the project leaves open, on its validation part."""


@command.command()
@project_option
@click.option(
    "--budget",
    type=click.IntRange(1),
    default=None,
    help="Distinct candidates a request; the scene's budget by default.",
)
@click.option("--step", type=click.IntRange(1), default=10, show_default=True, help="The smallest piece of a quota.")
@click.option("--scene", default=None, help="The first scene of the project by default.")
@json_option
def quotas(project_file: str, budget: int | None, step: int, scene: str | None, as_json: bool) -> None:
    """Quotas of the recall channels that find most on the validation part; judged on the test part against equal ones
    and against a reciprocal-rank merge of as many candidates. Nothing is written: it prints what to write."""
    from shortlist.evaluation.project import open_data, train, trained
    from shortlist.evaluation.tuning import tuned_quotas

    project = load(project_file)
    data = open_data(project)
    for part in ("valid", "test"):
        if trained(data, part) is None:
            say(f"no models for the {part} part yet: training them first")
            with progress(f"train for {part}") as step_of:
                train(data, part, created_ms=now(), progress=step_of)
    with progress("quotas") as told:
        tuned = tuned_quotas(data, scene, budget, step, lambda done, total: told(done, total, "users"))
    every: dict[str, Any] = tuned.words(project.config.seed)
    if as_json:
        emit(every)
        return
    rows = [[name, str(row["now"]), str(row["equal"]), str(row["tuned"])] for name, row in every["quotas"].items()]
    table([["channel", "now", "equal", "tuned"], *rows])
    print()
    cells = [
        [name, *("{:.4f} [{:.4f}, {:.4f}]".format(*row["recall"]), f"{row['candidates']:.1f}")]
        for name, row in every["test"].items()
    ]
    table([["on the test part", "recall", "candidates"], *cells])
    print()
    for line in tuned.said(project.config.seed):
        print(line)
