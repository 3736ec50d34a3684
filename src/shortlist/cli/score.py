"""Score pairs of a file with the ranker of a release."""

from contextlib import nullcontext
from pathlib import Path

import click

from shortlist.cli._talk import emit, json_option, progress, project_option, say
from shortlist.config import load

__all__ = ["command"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Parquet file for the scores.")
@project_option
@click.option("--release", type=click.Path(path_type=Path), default=None, help="A release's folder, from it alone.")
@click.option("--scene", default=None, help="The first scene by default.")
@click.option("--stage", default=None, help="coarse or rank; the scene's last by default.")
@click.option("--user", default="user", show_default=True, help="Column of users.")
@click.option("--item", default="item", show_default=True, help="Column of items.")
@click.option("--recall/--no-recall", default=True, help="Ask the channels at which rank they bring each item.")
@click.option("--block", type=click.IntRange(1), default=16_384, show_default=True, help="Rows in memory at a time.")
@json_option
def command(
    file: Path, out: Path, project_file: str, release: Path | None, scene: str | None, stage: str | None,
    user: str, item: str, recall: bool, block: int, as_json: bool,
) -> None:  # fmt: skip
    """Score each (user, item) of FILE: CSV, Parquet or JSON Lines, with fields of the context by name.

    Users are known as they are now; with a column `time_ms`, as they were at that moment. A file sorted by user asks
    about each of them once. Ids that nobody knows are strangers. Columns named as served rows are logged
    (`channel_rank.C`, `channel_score.C`, `score.merge`, `feature.F`) are taken as they are.
    """
    from shortlist.evaluation.scores import score_file
    from shortlist.events.readers import scan
    from shortlist.feedback.scores import opened
    from shortlist.funnel.scoring import TIME, open_scoring

    table = scan(file)
    past = TIME in table.read(lambda: table.frame.collect_schema()).names()
    if release is not None:
        source = nullcontext(open_scoring(release, scene, stage, recall=recall))
    else:
        source = opened(load(project_file), scene, stage, known="then" if past else "now", recall=recall)  # type: ignore[assignment]
    with source as scoring:
        if scoring.silent:
            named = ", ".join(scoring.silent)
            say(f"features with their defaults, as nobody answers for them: {named}")
        with progress("score") as step:
            rows = score_file(
                scoring, table, out, user, item, block=block, progress=lambda done, total: step(done, total, "rows")
            )
    lost = without(out)
    if lost:
        why = "reads a field that their items have not, or divides by 0"
        say(f"{lost} of {rows} rows have no finite score: {scoring.stage.fuse.text!r} {why}")
    if as_json:
        told = {"rows": rows, "out": str(out), "stage": scoring.stage.name, "tasks": list(scoring.tasks)}
        emit(told | {"without": lost})
    else:
        print(out)


def without(out: Path) -> int:
    """How many rows of a file of scores have none that is finite."""
    import polars as pl

    return int(pl.scan_parquet(out).select((~pl.col("score").is_finite()).sum()).collect().item())
