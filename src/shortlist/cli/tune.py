"""Choose what a project leaves open on its validation part."""

import json
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


@command.command()
@project_option
@click.option("--channel", default=None, help="A recall channel, in place of the ranker.")
@click.option("--stage", type=click.Choice(["rank", "coarse"]), default="rank", show_default=True)
@click.option("--trials", type=click.IntRange(1), default=None, help="In all, those done already too; [tune] trials.")
@click.option("--metric", default=None, help="gauc or auc of a ranker, recall or ndcg of a channel; the first.")
@click.option("--only", default="", help="Keys to vary, with commas: dim,train.lr.")
@click.option("--prune/--no-prune", default=True, help="Cut trials short whose curve is below the median.")
@click.option("--scene", default=None, help="The first scene of the project by default.")
@json_option
def model(
    project_file: str, channel: str | None, stage: str, trials: int | None, metric: str | None, only: str, prune: bool,
    scene: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Options of a ranker or of a channel that do best on the validation part. The test part is not looked at.

    Goes on where it stopped, in var/tune.db, until it has so many trials. Nothing is written into the project: it
    prints what to write. [tune.space.rank] in the project says what is varied and how far.
    """
    from shortlist.cli.config import toml
    from shortlist.evaluation.project import open_data
    from shortlist.evaluation.sheet import write_sheet
    from shortlist.evaluation.study import as_table, drawn, listed, said, study

    project = load(project_file)
    name = stage if channel is None else channel
    with progress(f"tune {name}") as step:
        found = study(
            open_data(project), name, scene=scene, metric=metric, trials=trials, prune=prune, created_ms=now(),
            only=[key for key in only.split(",") if key], progress=step,
        )  # fmt: skip
    better = as_table(found, channel is not None)
    code = toml(better) if better else ""
    reports = project.home / "reports"
    every = found.words() | {"toml": code}
    reports.mkdir(parents=True, exist_ok=True)
    (reports / f"tune-{name}.json").write_text(json.dumps(every), encoding="utf-8")
    write_sheet(drawn(found, code), reports / f"tune-{name}.html")
    say(f"report: {reports / f'tune-{name}.html'}")
    if as_json:
        emit(every)
        return
    table(listed(found))
    print()
    for line in said(found):
        print(line)
    if code:
        print()
        print(code, end="")
