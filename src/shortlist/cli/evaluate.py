"""Measure a project's funnel on held-out events."""

import json
import time
from typing import Any, Literal, cast

import click

from shortlist import now
from shortlist.cli._talk import emit, json_option, progress, project_option, say, table
from shortlist.config import load

__all__ = ["command"]


@click.command()
@project_option
@click.option("--on", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@click.option("--scene", default=None, help="The first scene of the project by default.")
@click.option("--map/--no-map", "mapped", default=True, help="Draw the items' map beside the report (seconds).")
@click.option("--channels", is_flag=True, help="Print what each channel finds, adds and costs, and how they overlap.")
@json_option
def command(project_file: str, on: str, scene: str | None, mapped: bool, channels: bool, as_json: bool) -> None:
    """Every channel, the merged candidates and the page: recall, NDCG, coverage, with intervals; and a report."""
    from shortlist.evaluation import outcome
    from shortlist.evaluation.data_report import plain
    from shortlist.evaluation.project import digest, evaluate, open_data, scene_of, train, trained
    from shortlist.evaluation.report import write_map, write_report

    project = load(project_file)
    scene = scene_of(project, scene)  # before models are trained for it
    data, part = open_data(project), cast(Literal["valid", "test"], on)
    took: dict[str, float] = {}
    if trained(data, part) is None:
        say(f"no models for the {on} part yet: training them first")
        started = time.perf_counter()
        with progress(f"train for {on}") as step:
            train(data, part, created_ms=now(), progress=step)
        took["training"] = time.perf_counter() - started
    started = time.perf_counter()
    with progress(f"evaluate on {on}") as step:
        found = evaluate(data, part, scene, step=lambda done, total: step(done, total, "users"))
    took["evaluation"] = time.perf_counter() - started
    figures = outcome.figures(found, project.config.seed)
    reports = project.home / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    recipe = {"on": on, **found.recipe}
    every: dict[str, Any] = {
        "about": digest(data),
        "recipe": recipe,
        "figures": figures,
        "cohorts": outcome.cohort_figures(found, project.config.seed),
        "stages": outcome.stage_figures(found, project.config.seed),
        "channels": outcome.channel_figures(found, figures, project.config.seed),
    }
    drift = outcome.data_report(data, part, project.config.seed)
    if drift is not None:
        every["features"] = plain(drift)
    (reports / "metrics.json").write_text(json.dumps(every), encoding="utf-8")
    started = time.perf_counter()
    page = outcome.item_map_page(data, part, project.config.seed, folder=reports) if mapped else None
    if page is not None:
        write_map(page, reports / "map.html")
        took["map"] = time.perf_counter() - started
        say(f"map: {reports / 'map.html'} (as a picture and as coordinates: item_map.png, item_map.csv)")
    else:
        for name in ("map.html", *outcome.MAP_FILES):  # of an earlier evaluation
            (reports / name).unlink(missing_ok=True)
    told = outcome.report(
        found, project.config, data.catalogue.items.keys, took, outcome.runs(data, part), "map.html" if page else None,
        drift,
    )  # fmt: skip
    write_report(told, reports / "report.html")
    say(f"report: {reports / 'report.html'}")
    if as_json:
        emit(every)
        return
    if channels:
        table(outcome.channel_table(every["channels"], every["cohorts"], found.measured.page))
        print()
        table(outcome.overlap_table(every["channels"]))
        print()
    else:
        table(outcome.table(figures, found.measured.ks, found.measured.page))
    for line in outcome.said(found, project.config.seed):
        print(line)
