"""The evaluation report: one HTML file with its pictures inside, read without network and without JavaScript.

Plain data in, a page out; who measures fills a `Report`. Metrics are named `recall@10`, `ndcg@10`, ...; C
channels.
"""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ConfigError
from shortlist.evaluation.data_report import DataReport
from shortlist.metrics.bootstrap import Estimate
from shortlist.metrics.calibration import Curve

__all__ = [
    "write_report", "write_map", "render", "render_map", "environment",
    "Report", "Row", "ChannelFigures", "Part", "Cut", "Score", "Run", "MapPage", "Kind",
]  # fmt: skip

Kind = Literal["channel", "merged", "page"]


@dataclass(frozen=True)
class Row:
    """What one list maker reached: a channel alone, the merged candidates, or the page that is shown.

    `figures` without interval: `coverage` and `gini` are drawn, any other (`novelty`, `ild`, ...) goes to the
    table.
    """

    name: str
    kind: Kind
    metrics: Mapping[str, Estimate]
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ChannelFigures:
    """One channel in the mix. `items` it brings per request, `alone` the share of them no other channel
    brings.

    `adds`: what the merged recall loses when the channel is left out. `took_ms` per request among many, `single_ms` the
    median of a request alone, `bytes` of its artifact. `figures` (`coverage`, `novelty`, ...) at the page's length;
    `cold` says for whom and what it serves without events.
    """

    name: str
    use: str
    items: float
    alone: float
    adds: Estimate | None = None
    took_ms: float | None = None
    single_ms: float | None = None
    bytes: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    cold: str = ""


@dataclass(frozen=True)
class Part:
    """Some of the users or of the labels: `words` say which, `metrics[list][metric]` what the lists reach there."""

    name: str
    words: str
    metrics: Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class Cut:
    """Share [K] of a ranker's best that are within the first `cuts` [K] of an earlier order."""

    name: str
    cuts: NDArray[np.int64]
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One score against one label; `curve` where it is a probability."""

    name: str
    label: str
    metrics: Mapping[str, float]
    curve: Curve | None = None


@dataclass(frozen=True)
class Run:
    """A model's training: records of its log, as `training.curves.read` gives them."""

    name: str
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class MapPage:
    """A map of items. `near` of the nearest `k` neighbours share an item's category, `chance` would by accident."""

    title: str
    words: str
    svg: str
    k: int = 10
    near: float = float("nan")
    chance: float = float("nan")


@dataclass(frozen=True)
class Report:
    """Everything the page shows.

    `ks` are the cuts of recall to draw, `rows` come in the order of the funnel. `overlap` [C, C]: share of
    the row channel's items that the column channel brought too, NaN where it brought none. `funnel`:
    candidates per request left after each stage, in order. `drops`: candidates dropped by reason, over all
    requests. `counts`: per item of the catalogue, zeros included, by name (`training log`, `page`): the
    popularity curves. `adds_metric` says what `ChannelFigures.adds` is measured in. `skipped` of the
    `requests` have no label and are not in the means. `parts` are cohorts by what is parted (`users`, `items`), of
    which `part_metrics` are shown; `cuts` and `scores` say what scoring stages are worth, `keep` is the first stage's
    cut as configured, `stage_words` say over what. `data` is what feature columns were and are. `map` names the map's
    file where one lies beside the report.
    """

    title: str
    subtitle: str
    recipe: Mapping[str, str]
    rows: tuple[Row, ...]
    ks: tuple[int, ...]
    channels: tuple[ChannelFigures, ...] = ()
    overlap: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    drops: Mapping[str, int] = field(default_factory=dict)
    funnel: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    adds_metric: str = "recall"
    requests: int = 0
    skipped: int = 0
    level: float = 0.95
    notes: tuple[str, ...] = ()
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    part_metrics: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()
    keep: int | None = None
    scores: tuple[Score, ...] = ()
    stage_words: str = ""
    runs: tuple[Run, ...] = ()
    map: str | None = None
    data: DataReport | None = None

    def __post_init__(self) -> None:
        C = len(self.channels)
        if self.overlap.size and self.overlap.shape != (C, C):
            raise ValueError(f"overlap is {self.overlap.shape} for {C} channels")


def write_report(report: Report, path: Path) -> None:
    """Write the page to `path` in one step: a reader sees the old file or the new one, never half of it.

    Raises ConfigError when the packages that draw it are not installed.
    """
    replaced(render(report), path)


def write_map(page: MapPage, path: Path) -> None:
    """The same for a map of items."""
    replaced(render_map(page), path)


def replaced(page: str, path: Path) -> None:
    """Put a text in the place of a file, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def render(report: Report) -> str:
    """The page as text."""
    templates = environment()
    from markupsafe import Markup

    from shortlist.evaluation import pictures

    drawn = {name: Markup(svg) for name, svg in pictures.draw(report).items()}
    headline = headline_metrics(report)
    known = {name for row in report.rows for name in row.metrics}
    text: str = templates.get_template("report.html.jinja").render(
        report=report,
        data=report.data,
        score_metrics=list(dict.fromkeys(name for score in report.scores for name in score.metrics)),
        cards=_cards(report),
        pictures=drawn,
        palette=pictures.PALETTE,
        headline=headline,
        rest=sorted(known - set(headline), key=_metric_order),
        figures=list(dict.fromkeys(name for row in report.rows for name in row.figures)),
        channel_figures=list(dict.fromkeys(name for channel in report.channels for name in channel.figures)),
        dropped=sum(report.drops.values()),
        percent=f"{100 * report.level:g} %",
    )
    return text


def render_map(page: MapPage) -> str:
    """A map as text."""
    templates = environment()
    from markupsafe import Markup

    template = templates.get_template("map.html.jinja")
    return str(template.render(page=page, svg=Markup(page.svg), known=not math.isnan(page.near)))


def environment() -> Any:
    """Where templates are read. Raises ConfigError when the packages that draw are not installed."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        what, hint = f"{error.name} is not installed", 'pip install "shortlist[serve]"'
        raise ConfigError(what, where="report", hint=hint) from None
    made = Environment(
        loader=PackageLoader("shortlist.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(metric=metric, count=count, share=share, label=label, size=size)
    return made


def headline_metrics(report: Report) -> list[str]:
    """The metrics that are drawn: recall at each cut and NDCG@10, as far as a row has them."""
    wanted = [*(f"recall@{k}" for k in report.ks), "ndcg@10"]
    return [name for name in wanted if any(name in row.metrics for row in report.rows)]


def metric(value: float | None) -> str:
    """0.1234; a dash where nothing was measured."""
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def share(value: float | None) -> str:
    """12.3 %."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """12,345 for whole numbers, three digits for others."""
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """1.5 MB."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def label(name: str) -> str:
    """`ndcg@10` as a person writes it: NDCG@10."""
    stem, at, cut = name.partition("@")
    words = {
        "ndcg": "NDCG", "f1": "F1", "mrr": "MRR", "map": "MAP", "hit_rate": "Hit rate", "ild": "ILD", "gini": "Gini",
        "auc": "AUC", "gauc": "GAUC", "ne": "NE", "ece": "ECE", "calibration": "Σp / Σy",
        "relaimpr": "RelaImpr",
    }  # fmt: skip
    return words.get(stem, stem.replace("_", " ").capitalize()) + at + cut


def _metric_order(name: str) -> tuple[str, int]:
    stem, _, cut = name.partition("@")
    return stem, int(cut) if cut.isdigit() else 0


def _cards(report: Report) -> list[tuple[str, str, str]]:
    """The figures on top: (label, value, small print)."""
    cards = []
    page = next((row for row in report.rows if row.kind == "page"), None)
    merged = next((row for row in report.rows if row.kind == "merged"), None)
    if page is not None:
        names = [name for name in ("ndcg@10", "recall@10", "hit_rate@10") if name in page.metrics][:2]
        cards += [(f"{label(name)}, page", *_interval(page.metrics[name])) for name in names]
    if merged is not None and (recalls := [n for n in headline_metrics(report) if n in merged.metrics]):
        deepest = max(recalls, key=_metric_order)
        cards.append((f"{label(deepest)}, merged", *_interval(merged.metrics[deepest])))
    if page is not None and "coverage" in page.figures:
        cards.append(("Catalogue shown", share(page.figures["coverage"]), "of all items"))
    if report.requests:
        small = f"{count(report.skipped)} without a label" if report.skipped else "all with a label"
        cards.append(("Requests", count(report.requests), small))
    return cards


def _interval(estimate: Estimate) -> tuple[str, str]:
    return metric(estimate.value), f"{metric(estimate.low)} to {metric(estimate.high)}"
