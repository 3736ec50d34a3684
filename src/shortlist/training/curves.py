"""The learning curve of a run, drawn from its log: loss by step, and what validation said."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shortlist.errors import DataError

__all__ = ["read", "ended", "draw"]

INK, SOFT, GRID = "#1d2430", "#5d6675", "#e4e7ec"
BLUE, TEAL, ORANGE = "#5b8def", "#1f9d8a", "#e0803a"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
POINTS = 200  # of a drawn line: the mean of the steps each stands for


def read(log: str | Path) -> list[dict[str, Any]]:
    """Records of a run's `log.jsonl`, in order; a line that is still being written is left out. Raises DataError."""
    try:
        lines = Path(log).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(log), hint="name a run's log") from None
    records: list[dict[str, Any]] = []
    for n, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except ValueError:
            if n == len(lines) - 1:
                break
            raise DataError("not a record", where=f"{log}, line {n + 1}", hint="name a run's log") from None
    return records


def ended(log: str | Path) -> dict[str, float]:
    """The last `loss` that a run wrote down and the metrics of its best validation, also those of before a stop.
    Raises DataError."""
    records = read(log)
    best: dict[str, float] = next((r["metrics"] for r in reversed(records) if r.get("best")), {})
    return {"loss": records[-1]["loss"], **best} if records else {}


def draw(records: Sequence[Mapping[str, Any]]) -> str:
    """The curves as SVG text. Raises DataError where no step was recorded."""
    import altair as alt
    import vl_convert

    steps = [r for r in records if "metrics" not in r and "notes" not in r]
    if not steps:
        raise DataError("no step was recorded", where="log", hint="train first")
    size = -(-len(steps) // POINTS)
    chunks = [steps[start : start + size] for start in range(0, len(steps), size)]
    loss = [{"step": c[-1]["step"], "value": sum(r["loss"] for r in c) / len(c)} for c in chunks]
    x = alt.X("step:Q", axis=alt.Axis(title="step", tickMinStep=1, format="~s"))

    def panel(values: Sequence[Mapping[str, Any]], title: str, color: str) -> Any:
        y = alt.Y("value:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title=title, tickCount=5))
        data = alt.InlineData(values=list(values))
        chart = alt.Chart(data, width=420, height=150).encode(x=x, y=y)
        dots = {"size": 18, "color": color} if len(values) < 60 else False
        line = chart.mark_line(color=color, strokeWidth=1.8, point=dots)
        best = chart.transform_filter("datum.best").mark_point(color=ORANGE, size=70, filled=True)
        word = chart.transform_filter("datum.best").mark_text(dy=-11, color=INK, fontSize=11).encode(text="label:N")
        return alt.layer(line, best, word)

    panels = [panel(loss, "loss", BLUE)]
    found = [r for r in records if "metrics" in r]
    last = max((r["step"] for r in found if r["best"]), default=None)
    for name in dict.fromkeys(name for r in found for name in r["metrics"]):
        rows = [(r["step"], r["metrics"][name]) for r in found if name in r["metrics"]]
        points = [{"step": n, "value": v, "best": n == last, "label": f"{v:.4g}"} for n, v in rows]
        panels.append(panel(points, name, TEAL))
    axis = alt.AxisConfig(
        labelColor=SOFT, titleColor=SOFT, gridColor=GRID, domainColor=GRID, tickColor=GRID, titleFontWeight="normal"
    )
    styled = alt.vconcat(*panels, spacing=14).resolve_scale(x="shared")
    styled = styled.configure(
        aria=False, font=FONT, background="transparent", axis=axis, view=alt.ViewConfig(stroke=None), padding=4
    )
    text: str = vl_convert.vegalite_to_svg(styled.to_dict())
    return text.replace("<svg ", '<svg role="img" ', 1)
