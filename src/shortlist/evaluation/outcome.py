"""What an evaluation says, in three voices: plain figures, a table for a terminal, a report with pictures."""

import os
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from shortlist import __version__
from shortlist.config import ProjectConfig
from shortlist.evaluation.funnel import Listed, Measured
from shortlist.evaluation.project import Outcome
from shortlist.evaluation.report import ChannelFigures, Report, Row
from shortlist.metrics.beyond import exposure
from shortlist.metrics.bootstrap import Estimate, mean, means

__all__ = ["figures", "table", "verdicts", "report"]

Figures = dict[str, dict[str, list[float]]]


def estimates(listed: Listed, seed: int) -> dict[str, Estimate]:
    """Every metric of a list maker with its interval."""
    return means(listed.columns, np.random.default_rng(seed))


def figures(outcome: Outcome, seed: int) -> Figures:
    """`{list: {metric: [value, low, high]}}`: what `--json` prints and a release carries."""
    out: Figures = {}
    for listed in outcome.measured.listed:
        row = {name: [e.value, e.low, e.high] for name, e in estimates(listed, seed).items()}
        row |= {f"coverage@{k}": [value] * 3 for k, value in listed.coverage.items()}
        out[listed.name] = row
    return out


def table(found: Figures, ks: tuple[int, ...], page: int) -> list[list[str]]:
    """Rows of text, the first the head: each list with recall at every cut, NDCG and coverage at the page's length."""
    columns = [*(f"recall@{k}" for k in ks), f"ndcg@{page}", f"coverage@{page}"]
    rows = [["list", *columns]]
    for name, row in found.items():
        cells = [_cell(row[c], interval=not c.startswith("coverage")) if c in row else "" for c in columns]
        rows.append([name, *cells])
    return rows


def _cell(values: list[float], *, interval: bool) -> str:
    value, low, high = values
    return f"{value:.4f} [{low:.3f}, {high:.3f}]" if interval else f"{value:.3f}"


def verdicts(measured: Measured, seed: int) -> list[str]:
    """What the figures say in words: the merge against the best channel, the page against it and against hot lists."""
    k, page = max(measured.ks), measured.page
    recall, ndcg = f"recall@{k}", f"ndcg@{page}"
    if ndcg not in measured.of("page").columns:
        ndcg = f"ndcg@{min(measured.ks)}"
    out = []
    best = measured.best_channel(recall).name
    _, share = measured.compare("merged", best, recall, seed)
    out.append(f"merged {recall} is {_span(share)} of the best channel ({best})")
    for name, column in measured.left_out.items():
        lost = mean(measured.of("merged").columns[recall] - column, np.random.default_rng(seed))
        out.append(f"without {name} the merge loses {_span(lost)} {recall}")
    best = measured.best_channel(ndcg).name
    gap, _ = measured.compare("page", best, ndcg, seed)
    out.append(f"page {ndcg} minus the best channel ({best}): {_span(gap)}")
    if "hot" in {c.name for c in measured.channels} and best != "hot":
        _, times = measured.compare("page", "hot", ndcg, seed)
        out.append(f"page {ndcg} is {_span(times, 2)} times the hot list's")
    return out


def _span(e: Estimate, digits: int = 4) -> str:
    return f"{e.value:.{digits}f} [{e.low:.{digits}f}, {e.high:.{digits}f}]"


def report(
    outcome: Outcome, config: ProjectConfig, items: np.ndarray[Any, np.dtype[np.int64]], took: Mapping[str, float]
) -> Report:
    """The report with pictures. `items` are the catalogue's keys, `took` seconds by step."""
    measured = outcome.measured
    deepest, page = max(measured.ks), measured.page
    rows = []
    for listed in measured.listed:
        k = page if page in listed.coverage else min(listed.coverage)
        extra = {"coverage": listed.coverage[k], "gini": listed.gini[k], "novelty": listed.novelty[k]}
        rows.append(Row(listed.name, listed.kind, estimates(listed, config.seed), extra))
    asked = max(measured.requests, 1)
    merged = measured.of("merged").columns[f"recall@{deepest}"]
    channels = []
    for n, channel in enumerate(measured.channels):
        lists = channel.lists[:, :deepest]
        lost = mean(merged - measured.left_out[channel.name], np.random.default_rng(config.seed))
        use = next(c.use for c in config.recall if c.name == channel.name)
        ms = measured.took_ms.get(f"recall:{channel.name}", 0.0) / asked
        channels.append(
            ChannelFigures(channel.name, use, float((lists >= 0).sum(1).mean()), measured.alone[n], lost, ms)
        )
    fates = measured.fates
    recalled = sum(fates.values())
    later = ("selected", "not_selected", "over_budget")
    dropped = {name: n for name, n in fates.items() if name not in later and not name.startswith("below_")}
    eligible = recalled - sum(dropped.values())
    in_budget = eligible - fates.get("over_budget", 0)
    funnel = {
        "recalled": recalled / asked, "eligible": eligible / asked,
        "in budget": in_budget / asked, "shown": fates.get("selected", 0) / asked,
    }  # fmt: skip
    recipe = {
        **outcome.recipe,
        "shortlist": __version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        **{f"{step} took": f"{seconds:.1f} s" for step, seconds in took.items()},
    }
    return Report(
        title="How good are the recommendations?",
        subtitle=f"{measured.requests:,} users asked at the moment before their held-out events.",
        recipe=recipe,
        rows=tuple(rows),
        ks=measured.ks,
        channels=tuple(channels),
        overlap=measured.overlap,
        drops={name: n for name, n in fates.items() if name != "selected"},
        funnel=funnel,
        counts={
            "training log": outcome.popularity,
            "page": exposure(measured.of("page").lists, items),
        },
        adds_metric=f"recall@{deepest}",
        requests=measured.requests,
        skipped=measured.requests - measured.labelled,
        notes=tuple(verdicts(measured, config.seed)),
    )
