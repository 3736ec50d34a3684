"""The pictures of a report as SVG text: bars with intervals, a heat map, curves.

Altair describes, vl-convert draws; neither needs network or a browser. Each colour has a dark twin for the page.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import vl_convert
from numpy.typing import NDArray

from shortlist.evaluation.data_report import DataReport
from shortlist.evaluation.report import Cut, Report, Score, count, headline_metrics, metric, share
from shortlist.features.drift import MOVED, STEADY, Drift
from shortlist.metrics.beyond import lorenz
from shortlist.metrics.bootstrap import Estimate
from shortlist.training import curves

__all__ = ["draw", "drawn_bars", "drawn_data", "drawn_trials", "PALETTE"]

INK, SOFT, GRID = "#1d2430", "#5d6675", "#e4e7ec"
BLUE, TEAL, ORANGE, GREY = "#5b8def", "#1f9d8a", "#e0803a", "#9aa4b2"
KINDS = {"channel": BLUE, "merged": TEAL, "page": ORANGE}

PALETTE = {
    INK: "#e6e9ef", SOFT: "#9aa3b2", GRID: "#2c333f",
    BLUE: "#6f9cf5", TEAL: "#35b5a1", ORANGE: "#ee9a5b", GREY: "#6b7584",
}  # fmt: skip
"""Colour of the pictures, and what it becomes on a dark page."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH, STEP, LABEL = 330, 26, 150
FIRST, LINES, SHOWN = 15, 4, 6  # columns whose drift is drawn: as bars, by week, and value by value


def draw(report: Report) -> dict[str, str]:
    """SVG by name; a picture without data is left out."""
    out: dict[str, str] = {}
    for name in headline_metrics(report):
        rows = [(r.name, r.metrics[name], KINDS[r.kind]) for r in report.rows if name in r.metrics]
        out[name] = _svg(_bars(rows, metric))
    adds = [(c.name, c.adds, BLUE) for c in report.channels if c.adds is not None]
    if adds:
        out["adds"] = _svg(_bars(adds, metric))
    if report.overlap.size:
        out["overlap"] = _svg(_heat([c.name for c in report.channels], report.overlap))
    for name in ("coverage", "gini"):
        rows = [(r.name, _exactly(r.figures[name]), KINDS[r.kind]) for r in report.rows if name in r.figures]
        if rows:
            out[name] = _svg(_bars(rows, share if name == "coverage" else metric, (0, 0.2, 0.4, 0.6, 0.8, 1)))
    counts = {name: c for name, c in report.counts.items() if c.sum() > 0}
    if counts:
        out["curves"] = _svg(_curves(counts))
    if report.funnel:
        out["funnel"] = _svg(_bars([(n, _exactly(v), TEAL) for n, v in report.funnel.items()], count))
    if report.drops:
        by_size = sorted(report.drops.items(), key=lambda drop: -drop[1])
        out["drops"] = _svg(_bars([(name, _exactly(n), GREY) for name, n in by_size], count))
    if report.cuts:
        out["cuts"] = _svg(_cuts(report.cuts, report.keep))
    if any(score.curve is not None for score in report.scores):
        out["calibration"] = _svg(_calibration(report.scores))
    for run in report.runs:
        out[f"run {run.name}"] = curves.draw(run.records)
    return out | (drawn_data(report.data) if report.data else {})


def drawn_data(report: DataReport) -> dict[str, str]:
    """SVG by name of what moved: the index of the first columns, their weeks, and how their values are spread."""
    moved = [drift for _, drift in report.ranked if np.isfinite(drift.psi)]
    out = {}
    if moved:
        colors = {"steady": TEAL, "moving": BLUE, "moved": ORANGE}
        rows = [(drift.name, _exactly(drift.psi), colors[drift.verdict]) for drift in moved[:FIRST]]
        out["drift"] = _svg(_bars(rows, count) + _limits(max(drift.psi for drift in moved)))
    lines = [
        (drift.name, side.weeks, side.by_week[:, c])
        for side in report.sides
        for c, drift in enumerate(side.drifts)
        if drift.name in {first.name for first in moved[:LINES]}
    ]
    if any(np.isfinite(values).sum() > 1 for _, _, values in lines):
        out["drift_weeks"] = _svg(_weeks(lines))
    return out | {f"drift {drift.name}": _svg(_spread(drift)) for drift in moved[:SHOWN]}


def _limits(far: float) -> Any:
    """Dashed lines where a column is called moving and moved, as far as they are in the picture."""
    marks = [{"x": x} for x in (STEADY, MOVED) if x <= far]
    return alt.Chart(alt.InlineData(values=marks)).mark_rule(color=SOFT, strokeDash=[3, 3]).encode(x="x:Q")


def _weeks(lines: Sequence[tuple[str, Sequence[str], NDArray[np.float64]]]) -> Any:
    """A line each over Mondays, the names in the empty corner."""
    colors = [ORANGE, BLUE, TEAL, GREY]
    points: list[dict[str, Any]] = [
        {"x": week, "y": _or_none(value), "name": name, "color": color}
        for (name, weeks, values), color in zip(lines, colors, strict=False)
        for week, value in zip(weeks, values.tolist(), strict=True)
    ]
    mondays = sorted({point["x"] for point in points})
    ticks = mondays[:: 1 + len(mondays) // 7]
    across: dict[str, Any] = {"title": "week from", "format": "%d %b", "labelOverlap": True, "values": ticks}
    x_of = alt.X("x:T", scale=alt.Scale(type="utc"), axis=alt.Axis(**across))
    y_of = alt.Y("y:Q", axis=alt.Axis(title="PSI", tickCount=5, format="~g"))
    chart = alt.Chart(alt.InlineData(values=points))
    color_of = alt.Color("color:N", scale=None)
    line = chart.mark_line(strokeWidth=2, point=True).encode(x=x_of, y=y_of, detail="name:N", color=color_of)
    keys: list[dict[str, Any]] = [
        {"name": name, "color": color, "at": 14 + 17 * n}
        for n, ((name, _, _), color) in enumerate(zip(lines, colors, strict=False))
    ]
    legend = alt.Chart(alt.InlineData(values=keys))
    place: dict[str, Any] = {"y": alt.Y("at:Q", scale=None, axis=None), "color": color_of}
    marks = legend.mark_point(shape="stroke", size=260, strokeWidth=3, opacity=1, x=24).encode(**place)
    words = legend.mark_text(align="left", fontSize=12, color=INK, x=40).encode(y=place["y"], text="name:N")
    return alt.layer(line, marks, words).properties(width=400, height=270)


def _spread(drift: Drift) -> Any:
    """Shares of each bin, before above and after below."""
    rows = [
        {"bin": str(n), "share": float(share_), "set": which, "color": color}
        for which, shares, color in (("1", drift.before, GREY), ("2", drift.after, ORANGE))
        for n, share_ in enumerate(shares)
    ]
    y_of = alt.Y("bin:N", sort=_order(drift.bins), axis=_names(drift.bins))
    x_of = alt.X("share:Q", axis=alt.Axis(title=None, format="%", tickCount=4))
    return (
        alt.Chart(alt.InlineData(values=rows), width=WIDTH, height={"step": 11})
        .mark_bar(cornerRadiusEnd=2)
        .encode(y=y_of, x=x_of, yOffset=alt.YOffset("set:N"), color=alt.Color("color:N", scale=None))
    )


def drawn_bars(rows: Sequence[tuple[str, Estimate]]) -> str:
    """Values with their intervals as SVG, in the order given."""
    return _svg(_bars([(name, estimate, BLUE) for name, estimate in rows], metric))


def drawn_trials(
    rows: Sequence[Mapping[str, Any]], now: float, metric_name: str, space: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """(title, words, SVG) of trials with a `value`: in order, with the best so far as a line; then by each option."""
    best, points, line = -np.inf, [], []
    for row in rows:
        best = max(best, row["value"])
        points.append({"x": row["number"], "y": row["value"]})
        line.append({"x": row["number"], "y": best})
    y_of = alt.Y("y:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title=metric_name, tickCount=5))
    x_of = alt.X("x:Q", axis=alt.Axis(title="trial", tickMinStep=1, format="d", grid=False))
    dots = alt.Chart(alt.InlineData(values=points)).mark_circle(size=44, color=BLUE, opacity=0.9).encode(x=x_of, y=y_of)
    steps = alt.Chart(alt.InlineData(values=line)).mark_line(color=TEAL, interpolate="step-after", strokeWidth=2)
    rule = alt.Chart(alt.InlineData(values=[{"y": now}])).mark_rule(color=ORANGE, strokeDash=[4, 3], strokeWidth=1.4)
    chart = alt.layer(rule.encode(y=y_of), steps.encode(x=x_of, y=y_of), dots).properties(width=520, height=240)
    out = [("Trials in order", "the line is the best so far, the dashed one what the project has now", _svg(chart))]
    panels = []
    for key, part in space.items():
        number = not hasattr(part, "values")
        mine = [
            {"x": row["options"][key] if number else json.dumps(row["options"][key]), "y": row["value"]}
            for row in rows
            if key in row["options"]
        ]
        across: Any = alt.X("x:N", axis=alt.Axis(title=key, labelAngle=0, grid=False))
        if number:
            scale = alt.Scale(type="log", nice=False) if part.log else alt.Scale(zero=False)
            across = alt.X("x:Q", scale=scale, axis=alt.Axis(title=key, tickCount=4, format="~g", grid=False))
        base = alt.Chart(alt.InlineData(values=mine), width=220, height=160)
        panels.append(base.mark_circle(size=40, color=BLUE, opacity=0.85).encode(x=across, y=y_of))
    if panels:
        out.append(("By option", "each dot is a trial that came to its end", _svg(alt.concat(*panels, columns=3))))
    return out


def _exactly(value: float) -> Estimate:
    return Estimate(float(value), float("nan"), float("nan"))


def _bars(
    rows: Sequence[tuple[str, Estimate, str]], text: Callable[[float | None], str], ticks: Sequence[float] | None = None
) -> Any:
    """Horizontal bars in the given order; the interval as a thin line, the value behind it."""
    values: list[dict[str, Any]] = []
    for n, (name, estimate, color) in enumerate(rows):
        value, low, high = (_or_none(x) for x in (estimate.value, estimate.low, estimate.high))
        end = max(x for x in (value, high, 0.0) if x is not None)
        row = {"at": str(n), "value": value, "low": low, "high": high, "end": end, "color": color}
        values.append(row | {"name": name, "text": text(estimate.value)})
    top = max(v["end"] for v in values) or 1
    bottom = min(x for v in values for x in (v["low"], v["value"], 0.0) if x is not None)
    # Room on the right for the longest number, in a wide font.
    room = 10 + 7.4 * max(len(v["text"]) for v in values)
    scale = alt.Scale(domain=[bottom * 1.05, top + (top - bottom) * room / (WIDTH - room)], nice=False)
    labels: dict[str, Any] = {"values": list(ticks)} if ticks else {"tickCount": 4}
    figures = "%" if text is share else "~s" if text is count else "~g"
    x_axis = alt.Axis(title=None, format=figures, labelOverlap=True, **labels)

    def x_of(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=scale, axis=x_axis, stack=None)

    base = alt.Chart(alt.InlineData(values=values), width=WIDTH, height={"step": STEP}).encode(
        y=alt.Y("at:N", sort=_order(rows), axis=_names([name for name, _, _ in rows]))
    )
    bar = base.mark_bar(height=15, cornerRadiusEnd=2).encode(x=x_of("value"), color=alt.Color("color:N", scale=None))
    line = base.mark_rule(color=INK, strokeWidth=1.4).encode(x=x_of("low"), x2="high:Q")
    ends = [base.mark_tick(color=INK, thickness=1.4, height=7).encode(x=x_of(side)) for side in ("low", "high")]
    number = base.mark_text(align="left", dx=7, color=INK, fontSize=11.5).encode(x=x_of("end"), text="text:N")
    return alt.layer(bar, line, *ends, number)


def _order(rows: Sequence[object]) -> list[str]:
    return [str(n) for n in range(len(rows))]


def _names(names: Sequence[str], **more: Any) -> alt.Axis:
    """Rows are placed by position and labelled here: two may share a name, and a name may hold anything.

    The room kept for them is that of a wide font: the reader's differs from the one that measures.
    """
    text = f"{json.dumps(list(names))}[toNumber(datum.value)]"
    extent = 14 + min(LABEL, 7.6 * max(len(name) for name in names))
    room: dict[str, Any] = {} if more else {"minExtent": extent, "labelPadding": 8}
    return alt.Axis(labelExpr=text, title=None, ticks=False, domain=False, grid=False, **room, **more)


def _heat(names: Sequence[str], overlap: NDArray[np.float64]) -> Any:
    """Shares in a square; strength of one colour, so that it reads on light and on dark."""
    values = [
        {"row": str(a), "column": str(b), "share": _or_none(overlap[a, b]), "text": _percent(overlap[a, b])}
        for a in range(len(names))
        for b in range(len(names))
    ]
    across = _names(names, orient="top", labelAngle=-30, labelPadding=6)
    base = alt.Chart(alt.InlineData(values=values), width={"step": 58}, height={"step": 34}).encode(
        x=alt.X("column:N", sort=_order(names), axis=across),
        y=alt.Y("row:N", sort=_order(names), axis=_names(names)),
    )
    strength = alt.Scale(domain=[0, 1], range=[0.06, 0.85])
    cells = base.mark_rect(fill=BLUE, cornerRadius=3, width=54, height=30).encode(
        fillOpacity=alt.FillOpacity("share:Q", scale=strength, legend=None)
    )
    return cells + base.mark_text(color=INK, fontSize=12).encode(text="text:N")


def _curves(counts: Mapping[str, NDArray[np.int64]]) -> Any:
    """Share of all counts that the most frequent x of the items hold; the diagonal is equal shares."""
    x = np.linspace(0, 1, 101)
    lines = {name: 1 - lorenz(values, 101)[::-1] for name, values in counts.items()}
    colors = dict(zip(lines, [GREY, ORANGE, TEAL, BLUE] * (1 + len(lines) // 4), strict=False))
    points = [
        {"x": float(a), "y": float(b), "name": name, "color": colors[name]}
        for name, line in lines.items()
        for a, b in zip(x, line, strict=True)
    ]
    unit = alt.Scale(domain=[0, 1])
    axis: dict[str, Any] = {"format": "%", "tickCount": 5}
    x_of = alt.X("x:Q", scale=unit, axis=alt.Axis(title="share of the items, most frequent first", **axis))
    y_of = alt.Y("y:Q", scale=unit, axis=alt.Axis(title="share of all counts", **axis))
    line = (
        alt.Chart(alt.InlineData(values=points))
        .mark_line(strokeWidth=2)
        .encode(x=x_of, y=y_of, detail="name:N", color=alt.Color("color:N", scale=None))
    )
    even = alt.Chart(alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
    diagonal = even.mark_line(strokeDash=[3, 3], strokeWidth=1, color=SOFT).encode(x=x_of, y=y_of)
    # The names stand in the empty corner below the curves, in their colours.
    legend = [
        {"x": 0.6, "y": 0.08 + 0.08 * n, "name": name, "color": colors[name]} for n, name in enumerate(reversed(lines))
    ]
    return alt.layer(diagonal, line, *_legend(legend, x_of, y_of)).properties(width=400, height=270)


def _cuts(cuts: Sequence[Cut], keep: int | None) -> Any:
    """Survival by cut, each order a line, its name in the empty corner; the configured cut stands as a dashed line."""
    colors = [TEAL, BLUE, GREY, ORANGE]
    points: list[dict[str, Any]] = [
        {"x": int(a), "y": _or_none(b), "name": cut.name, "color": color}
        for cut, color in zip(cuts, colors, strict=False)
        for a, b in zip(cut.cuts, cut.shares, strict=True)
    ]
    far = max(p["x"] for p in points)
    across = alt.Axis(title="candidates kept", format="~s", tickCount=5)
    up = alt.Axis(title="share of the ranker's best that are kept", format="%", tickCount=5)
    x_of = alt.X("x:Q", scale=alt.Scale(domain=[0, far], nice=False), axis=across)
    y_of = alt.Y("y:Q", scale=alt.Scale(domain=[0, 1]), axis=up)
    color_of = alt.Color("color:N", scale=None)
    line = alt.Chart(alt.InlineData(values=points)).mark_line(strokeWidth=2)
    layers = [line.encode(x=x_of, y=y_of, detail="name:N", color=color_of)]
    if keep is not None and keep <= far:
        mark = alt.Chart(alt.InlineData(values=[{"x": keep}])).mark_rule(color=SOFT, strokeDash=[3, 3])
        layers.append(mark.encode(x=x_of))
    names = [(cut.name, color) for cut, color in zip(cuts, colors, strict=False)]
    legend = [
        {"x": 0.42 * far, "y": 0.06 + 0.08 * n, "name": name, "color": color}
        for n, (name, color) in enumerate(reversed(names))
    ]
    return alt.layer(*layers, *_legend(legend, x_of, y_of)).properties(width=400, height=270)


def _calibration(scores: Sequence[Score]) -> Any:
    """Said against seen, a point per bin with its interval; on the dashed line both are the same."""
    shown = [score for score in scores if score.curve is not None][:4]
    colors = [TEAL, BLUE, ORANGE, GREY]
    points: list[dict[str, Any]] = []
    for score, color in zip(shown, colors, strict=False):
        assert score.curve is not None
        c = score.curve
        columns: list[list[float]] = np.stack([c.predicted, c.observed, c.low, c.high], axis=1).tolist()
        points += [dict(zip(("x", "y", "low", "high"), row, strict=True)) | {"color": color} for row in columns]
    far = max(max(p["x"], p["y"], p["high"]) for p in points) or 1.0
    scale = alt.Scale(domain=[0, far], nice=False, clamp=True)
    axis: dict[str, Any] = {"tickCount": 5, "format": ".2~g"}
    x_of = alt.X("x:Q", scale=scale, axis=alt.Axis(title="probability said", **axis))
    y_of = alt.Y("y:Q", scale=scale, axis=alt.Axis(title="share of positives seen", **axis))
    color_of = alt.Color("color:N", scale=None)
    ends: list[dict[str, Any]] = [{"x": 0, "y": 0}, {"x": far, "y": far}]
    even = alt.Chart(alt.InlineData(values=ends))
    diagonal = even.mark_line(strokeDash=[3, 3], strokeWidth=1, color=SOFT).encode(x=x_of, y=y_of)
    base = alt.Chart(alt.InlineData(values=points))
    rule = base.mark_rule(strokeWidth=1.2).encode(x=x_of, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=color_of)
    dots = base.mark_circle(size=36, opacity=1).encode(x=x_of, y=y_of, color=color_of)
    names = [(score.name, color) for score, color in zip(shown, colors, strict=False)]
    legend = [
        {"x": 0.55 * far, "y": (0.06 + 0.08 * n) * far, "name": name, "color": color}
        for n, (name, color) in enumerate(reversed(names))
    ]
    return alt.layer(diagonal, rule, dots, *_legend(legend, x_of, y_of)).properties(width=400, height=270)


def _legend(rows: Sequence[Mapping[str, Any]], x_of: alt.X, y_of: alt.Y) -> tuple[Any, Any]:
    """Names in their colours at places inside the picture."""
    keys = alt.Chart(alt.InlineData(values=list(rows)))
    marks = keys.mark_point(shape="stroke", size=260, strokeWidth=3, opacity=1)
    words = keys.mark_text(align="left", dx=16, fontSize=12, color=INK)
    return (
        marks.encode(x=x_of, y=y_of, color=alt.Color("color:N", scale=None)),
        words.encode(x=x_of, y=y_of, text="name:N"),
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.0f}"


def _svg(chart: Any) -> str:
    axis = alt.AxisConfig(
        labelColor=SOFT, titleColor=SOFT, gridColor=GRID, domainColor=GRID, tickColor=GRID, labelFontSize=11,
        titleFontSize=11, titleFontWeight="normal", labelLimit=LABEL,
    )  # fmt: skip
    y_axis = alt.AxisConfig(labelColor=INK, labelFontSize=12, grid=False)
    styled = chart.configure(
        aria=False,
        font=FONT,
        background="transparent",
        axis=axis,
        axisY=y_axis,
        view=alt.ViewConfig(stroke=None),
        padding=4,
    )
    text: str = vl_convert.vegalite_to_svg(styled.to_dict())
    return text.replace("<svg ", '<svg role="img" ', 1)
