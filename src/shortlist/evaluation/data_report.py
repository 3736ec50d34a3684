"""What went into models then and now: coverage and drift of feature columns, between two sets of rows and by week.

N rows, W weeks, C columns. Plain data in; `section` gives a part of a page, `plain` the same as JSON.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Requests
from shortlist.features.base import Column, Rows
from shortlist.features.drift import Drift, drifts, histogram, psi

__all__ = ["DataReport", "Side", "Sample", "sampled", "compared", "plain", "section"]

WEEK_MS = 7 * 86_400_000
MONDAY_MS = 4 * 86_400_000  # the first Monday since the epoch
FEWEST = 30  # rows of a week below which its index says nothing


@dataclass(frozen=True)
class Sample:
    """Raw columns [N] by name, and the moment of each row [N] (ms)."""

    columns: Mapping[str, NDArray[Any]]
    times: NDArray[np.int64]

    def where(self, mask: NDArray[np.bool_]) -> "Sample":
        return Sample({name: column[mask] for name, column in self.columns.items()}, self.times[mask])


@dataclass(frozen=True)
class Side:
    """Columns of requests, or of candidates: each as it was `rows[0]` times and is `rows[1]` times.

    `weeks` are Mondays (2026-01-05), `by_week` [W, C] the index of each week against the first set, in the order of
    `drifts`; NaN where a week has few rows.
    """

    name: str
    rows: tuple[int, int]
    drifts: tuple[Drift, ...]
    weeks: tuple[str, ...]
    by_week: NDArray[np.float64]


@dataclass(frozen=True)
class DataReport:
    """`before` and `after` say in words what is compared."""

    before: str
    after: str
    sides: tuple[Side, ...]

    @property
    def ranked(self) -> list[tuple[str, Drift]]:
        """Every column with its side, the one that moved most first."""
        rows = [(side.name, drift) for side in self.sides for drift in side.drifts]
        return sorted(rows, key=lambda row: -row[1].psi if math.isfinite(row[1].psi) else math.inf)


def sampled(
    requests: Requests, candidates: Candidates | None = None, columns: Mapping[str, Column] | None = None
) -> dict[str, Sample]:
    """The feature columns of requests and of their candidates, as `requests.known` has them; none where nobody
    answers. Of `columns`, those that count hits become shares of their trials."""
    if requests.known is None:
        return {}
    owners = np.arange(len(requests))
    every = {"requests": Rows(requests, owners, None)}
    if candidates is not None:
        every["candidates"] = Rows(requests, candidates.owners, candidates.items)
    out = {}
    for name, rows in every.items():
        raw = dict(requests.known.columns(rows))
        for rate, column in (columns or {}).items():
            if rate in raw and column.trials in raw:
                hits, trials = raw[rate], raw[column.trials]
                raw[rate] = np.divide(hits, trials, out=np.full(len(hits), np.nan), where=trials > 0)
        out[name] = Sample(raw, rows.at)
    return {name: sample for name, sample in out.items() if sample.columns}


def compared(
    before: Mapping[str, Sample],
    after: Mapping[str, Sample],
    words: tuple[str, str] = ("training", "test"),
) -> DataReport:
    """Each side of one set against the same of another, and the weeks of both against the first."""
    sides = []
    for name in before:
        if name not in after:
            continue
        old, new = before[name], after[name]
        found = tuple(drifts(old.columns, new.columns))
        weeks, table = _weekly(old, new, [drift.name for drift in found])
        sides.append(Side(name, (len(old.times), len(new.times)), found, weeks, table))
    return DataReport(*words, tuple(sides))


def _weekly(old: Sample, new: Sample, names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    times = np.concatenate([old.times, new.times])
    week = (times - MONDAY_MS) // WEEK_MS
    every = np.unique(week)
    out = np.full((len(every), len(names)), np.nan)
    for c, name in enumerate(names):
        column = np.concatenate([old.columns[name], new.columns[name]])
        for w, number in enumerate(every):
            mine = column[week == number]
            if len(mine) >= FEWEST:
                _, before, after = histogram(old.columns[name], mine)
                out[w, c] = psi(before, after)
    starts = [datetime.fromtimestamp((int(n) * WEEK_MS + MONDAY_MS) / 1000, UTC).strftime("%Y-%m-%d") for n in every]
    return tuple(starts), out


def plain(report: DataReport) -> dict[str, Any]:
    """As JSON: what is not a number is left out."""
    sides: dict[str, Any] = {}
    for side in report.sides:
        columns = {}
        for c, drift in enumerate(side.drifts):
            row: dict[str, Any] = {
                "verdict": drift.verdict,
                "covered": [drift.covered_before, drift.covered_after],
                "bins": list(drift.bins),
                "before": drift.before.tolist(),
                "after": drift.after.tolist(),
            }
            row |= {key: value for key, value in (("psi", drift.psi), ("ks", drift.ks)) if math.isfinite(value)}
            told = zip(side.weeks, side.by_week[:, c].tolist(), strict=True)
            row["weeks"] = {week: value for week, value in told if math.isfinite(value)}
            columns[drift.name] = row
        sides[side.name] = {"rows": list(side.rows), "columns": columns}
    return {"before": report.before, "after": report.after, "sides": sides}


def section(report: DataReport) -> str:
    """A section of a page, with its pictures inside, in the style of the evaluation report.

    Raises ConfigError when the packages that draw it are not installed.
    """
    from shortlist.evaluation.report import environment

    made = environment()
    from markupsafe import Markup

    from shortlist.evaluation import pictures

    drawn = {name: Markup(svg) for name, svg in pictures.drawn_data(report).items()}
    return str(made.get_template("data.html.jinja").render(data=report, pictures=drawn))
