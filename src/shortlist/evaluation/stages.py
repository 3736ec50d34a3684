"""What scoring stages are worth: which of the ranker's best a coarse cut costs, how well probabilities rank and fit.

The funnel runs without the stages' cuts, so that every stage scores all that is in budget: one stage's choice then
does not flatter or spoil another's figures. R requests, N candidates, K cuts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.evaluation.funnel import in_budget
from shortlist.funnel.pipeline import Funnel, Stage
from shortlist.metrics.calibration import Curve, curve
from shortlist.metrics.ctr import auc, gauc, measure, relative_improvement
from shortlist.schema import Task

__all__ = ["Staged", "Survival", "Judged", "judge", "labelled", "sample"]

DEPTH = 30  # the ranker's best that a coarse cut should not lose
CUTS = 40  # points of a survival curve
MERGE = "merge"

Ints = NDArray[np.int64]
Column = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Labelled(Protocol):
    """What happened after requests (`dataset.ranking.Outcomes`): CSR over requests, T tasks."""

    @property
    def offsets(self) -> Ints: ...
    @property
    def items(self) -> Ints: ...
    @property
    def labels(self) -> NDArray[np.float32]: ...
    @property
    def valid(self) -> Mask: ...


@dataclass(frozen=True)
class Survival:
    """How many of the last stage's best an earlier order keeps. `by` is that order (a stage's name, or `merge`);
    `shares` [R, K]: of the last stage's `depth` best, those within the `cuts[k]` best of that order; NaN where a
    request has no candidate.
    """

    by: str
    depth: int
    cuts: Ints
    shares: Column

    def at(self, cut: int) -> Column:
        """Shares [R] at one of the cuts."""
        return self.shares[:, int(np.flatnonzero(self.cuts == cut)[0])]


@dataclass(frozen=True)
class Judged:
    """One score against one label over the candidates in budget: `label` is a task, or `relevant`.

    `metrics` as of `ctr.measure` for a probability, `auc` and `gauc` alone for any other score; beside them `relaimpr`,
    how much more of an order the AUC is than the merge's. `curve` for a probability.
    """

    score: str
    label: str
    metrics: Mapping[str, float]
    curve: Curve | None = None


@dataclass(frozen=True)
class Staged:
    """A scene's stages on `requests` requests and `rows` candidates. `keep` is the first stage's cut as configured."""

    names: tuple[str, ...]
    requests: int
    rows: int
    keep: int | None
    survivals: tuple[Survival, ...]
    judged: tuple[Judged, ...]


def sample(requests: Requests, offsets: Ints, labels: Ints, rows: Ints) -> tuple[Requests, Ints, Ints]:
    """Just the requests at ascending `rows`, with their labels (CSR over requests)."""

    def part(events: Ragged) -> Ragged:
        mine = events.where(np.isin(events.owners, rows))
        counts = np.diff(events.offsets)[rows]
        return replace(mine, offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    wanted = Ragged.of(offsets, labels)
    some = replace(
        requests,
        users=requests.users[rows],
        now=requests.now[rows],
        history=part(requests.history),
        shown=part(requests.shown),
        exclude=part(requests.exclude),
        context={name: values[rows] for name, values in requests.context.items()},
        ids=tuple(requests.ids[row] for row in rows) if requests.ids else (),
        prefix=None if requests.prefix is None else part(requests.prefix),
        as_of=None if requests.as_of is None else requests.as_of[rows],
    )
    chosen = part(wanted)
    return some, chosen.offsets, chosen.items


def judge(
    funnel: Funnel,
    requests: Requests,
    offsets: Ints,
    labels: Ints,
    tasks: Mapping[str, Task] | None = None,
    outcomes: Labelled | None = None,
) -> Staged | None:
    """A funnel's stages on requests with relevant items (CSR over requests) and, of the schema's tasks, outcomes.

    None for a funnel without stages.
    """
    if not funnel.stages:
        return None
    open_ = replace(funnel, stages=tuple(replace(stage, keep=None) for stage in funnel.stages))
    candidates = in_budget(open_.run(requests).candidates)
    candidates = candidates.only(np.flatnonzero(candidates.alive))
    names = tuple(stage.name for stage in funnel.stages)
    first = funnel.stages[0]
    keep = None if first.keep is None else max(first.keep, requests.n)
    survivals: list[Survival] = []
    if len(names) > 1 and len(candidates):
        deepest = int(np.diff(candidates.offsets).max())
        cuts = np.unique(np.linspace(1, deepest, CUTS).round().astype(np.int64))
        cuts = cuts if keep is None else np.union1d(cuts, [keep])
        pairs = [(names[0], DEPTH), (names[0], requests.n), (MERGE, DEPTH)]
        survivals = [survival(candidates, names[-1], by, depth, cuts) for by, depth in dict.fromkeys(pairs)]
    judged = judgements(candidates, funnel.stages, offsets, labels, tasks or {}, outcomes)
    return Staged(names, len(requests), len(candidates), keep, tuple(survivals), tuple(judged))


def survival(candidates: Candidates, best: str, by: str, depth: int, cuts: Ints) -> Survival:
    """Of the `depth` best by one score column, the share within each cut by another; all candidates count."""
    R = len(candidates.offsets) - 1
    top = np.flatnonzero(places(candidates, candidates.scores[best]) < depth)
    owners, place = candidates.owners[top], places(candidates, candidates.scores[by])[top]
    counts = np.bincount(owners, minlength=R)
    kept = np.stack([np.bincount(owners[place < cut], minlength=R) for cut in cuts], axis=1)
    shares = np.full(kept.shape, np.nan)
    np.divide(kept, counts[:, None], out=shares, where=counts[:, None] > 0)
    return Survival(by, depth, cuts, shares)


def places(candidates: Candidates, scores: NDArray[Any]) -> Ints:
    """Place of each candidate in its request by a score [N], from 0."""
    order = candidates.best_first(scores)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - candidates.offsets[:-1][candidates.owners[order]]
    return place


def judgements(
    candidates: Candidates,
    stages: Sequence[Stage],
    offsets: Ints,
    labels: Ints,
    tasks: Mapping[str, Task],
    outcomes: Labelled | None,
) -> list[Judged]:
    """Each task's probabilities by the last stage first, then by those before it, and the merge's order; at the end
    the fused scores against what is relevant, unless a task has the very same labels.

    A task on an action is judged where that happened, a sampled one on all candidates. One whose labels are not 0 or 1
    is left out: it is a value and no probability; of one whose score is a value the order alone is judged.
    """
    out: list[Judged] = []
    names = [stage.name for stage in reversed(stages)]
    values = {f"{stage.name}.{task}" for stage in stages for task in getattr(stage.scorer, "values", ())}
    groups = candidates.owners
    relevant = found(candidates, offsets, labels) >= 0
    alike = False
    for n, (task, words) in enumerate(tasks.items()):
        if outcomes is None or not len(outcomes.items):
            break
        known, y = labelled(candidates, outcomes, n, words)
        if not bool(known.any()) or not np.isin(y[known], (0.0, 1.0)).all():
            continue
        alike |= bool(known.all()) and bool(((y > 0) == relevant).all())
        for score in (*(f"{name}.{task}" for name in names), MERGE):
            column = candidates.scores.get(score)
            if column is not None:
                order = score == MERGE or score in values
                out.append(judged(score, task, column[known], y[known], groups[known], order=order))
    if not alike and len(candidates):
        out += [
            judged(name, "relevant", candidates.scores[name], relevant.astype(np.float64), groups, order=True)
            for name in (*names, MERGE)
        ]
    return compared(out)


def compared(rows: Sequence[Judged]) -> list[Judged]:
    """Each score beside the order it was given, the merge's on the same label: `relaimpr` of its AUC."""
    base = {row.label: row.metrics["auc"] for row in rows if row.score == MERGE}
    return [
        replace(row, metrics={**row.metrics, "relaimpr": relative_improvement(row.metrics["auc"], base[row.label])})
        if row.score != MERGE and row.label in base
        else row
        for row in rows
    ]


def labelled(candidates: Candidates, outcomes: Labelled, n: int, task: Task) -> tuple[Mask, NDArray[np.float32]]:
    """Which candidates [N] carry the label of the n-th task, and the labels: on an action where that happened, of one
    whose negatives are drawn all."""
    if not len(outcomes.items):
        return np.zeros(len(candidates), dtype=bool), np.zeros(len(candidates), dtype=np.float32)
    at = found(candidates, outcomes.offsets, outcomes.items)
    met = at >= 0
    y = np.where(met, outcomes.labels[:, n][at], 0).astype(np.float32)
    told = outcomes.valid[:, n][at]
    return (met & told if isinstance(task.on, str) else ~met | told), y


def judged(score: str, label: str, s: NDArray[Any], y: NDArray[Any], groups: Ints, *, order: bool = False) -> Judged:
    """A score column against labels. `order`: it is no probability, whatever its range."""
    s, y = s.astype(np.float64), y.astype(np.float64)
    if order:
        return Judged(score, label, {"auc": auc(s, y), "gauc": gauc(s, y, groups).value})
    return Judged(score, label, measure(s, y, groups), curve(s, y))


def found(candidates: Candidates, offsets: Ints, items: Ints) -> Ints:
    """Where each candidate [N] stands in a CSR of items over the same requests, -1 where it does not."""
    width = int(max(candidates.items.max(initial=0), items.max(initial=0))) + 1
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    known = np.flatnonzero(items >= 0)
    codes = owners[known] * width + items[known]
    if not len(codes):
        return np.full(len(candidates), -1, dtype=np.int64)
    order = np.argsort(codes)
    asked = candidates.owners * width + candidates.items
    at = np.minimum(np.searchsorted(codes, asked, sorter=order), len(codes) - 1)
    return np.where(codes[order][at] == asked, known[order][at], -1)
