"""What each feature is worth to a ranker: AUC and GAUC that held rows lose when it is shuffled among them.

R requests, N rows, T tasks. Features that say the same stand in for one another: each alone may lose little.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Releases
from shortlist.candidates import Candidates, Requests
from shortlist.config import nearest
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.evaluation.funnel import in_budget
from shortlist.evaluation.project import Data, put_to_test, scene_of, to_learn, trained
from shortlist.evaluation.sheet import Figure, Sheet, Table
from shortlist.evaluation.stages import labelled, sample
from shortlist.funnel import recipes
from shortlist.metrics.bootstrap import Estimate, ratio
from shortlist.metrics.ctr import auc, gauc, permutation_importance

if TYPE_CHECKING:  # it loads torch
    from shortlist.models.ablation import Feature

__all__ = ["Importance", "Rows", "Worth", "drawn", "held_out_rows", "importance"]

ROWS = 50_000  # at most, that one shuffle scores
PIECE = 8_192  # rows scored at a time
Part = Literal["valid", "test", "release"]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Worth:
    """One feature of one side (`request` or `row`): GAUC lost in the mean of the shuffles, its interval over requests,
    and AUC lost, its least and most over the shuffles."""

    feature: str
    side: str
    gauc: Estimate
    auc: Estimate


@dataclass(frozen=True)
class Importance:
    """A task's features, those that lose most first. `auc` and `gauc` are those of nothing shuffled, of `rows` rows of
    `requests` requests, `told` of which have both classes."""

    stage: str
    task: str
    on: Part
    shuffles: int
    rows: int
    requests: int
    told: int
    auc: float
    gauc: float
    worth: tuple[Worth, ...]

    def words(self) -> dict[str, Any]:
        """As plain values."""
        features = [
            {
                "feature": w.feature, "side": w.side,
                "gauc": [w.gauc.value, w.gauc.low, w.gauc.high], "auc": [w.auc.value, w.auc.low, w.auc.high],
            }
            for w in self.worth
        ]  # fmt: skip
        told = {name: getattr(self, name) for name in ("stage", "task", "on", "shuffles", "rows", "requests", "told")}
        return {**told, "auc": self.auc, "gauc": self.gauc, "features": features}


@dataclass(frozen=True)
class Rows:
    """Candidates that are judged, and of each task what became of them (`labels`, `known` [N, T])."""

    requests: Requests
    candidates: Candidates
    labels: NDArray[np.float32]
    known: NDArray[np.bool_]


def importance(
    data: Data,
    on: Part = "test",
    scene: str | None = None,
    stage: str | None = None,
    task: str | None = None,
    *,
    shuffles: int = 5,
    rows: int = ROWS,
    progress: Callable[[int, int, str], None] | None = None,
) -> Importance:
    """Shuffle each feature of a scene's ranker (its last stage by default) for one task (the first that can be judged).

    On `valid` and `test` the models fitted for that part score all candidates in budget of held-out requests. On
    `release` the published ranker scores the lists of the users who said when its training was to stop. At most about
    `rows` rows of evenly drawn requests are looked at. Raises ArtifactError where models or release are missing,
    ConfigError for a stage or a task that is not there, DataError where no task has both classes.
    """
    import torch

    from shortlist.models.ablation import answers, features, shuffled

    scene = scene_of(data.project, scene)
    seed = data.project.config.seed
    judged, held = _published(data, scene, stage) if on == "release" else held_out_rows(data, on, scene, stage, rows)
    learned: Any = judged.scorer
    n = _task(data, judged.name, task, held)
    name = list(data.schema.tasks)[n]
    at = _some(held, n, rows, seed)
    y, groups = held.labels[at, n], held.candidates.owners[at]
    batch = learned.assembler(held.requests, held.candidates).take(torch.from_numpy(at))
    known = features(learned.layout)
    done, total = 0, shuffles * len(known) + 2

    def score(given: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        nonlocal done
        made = batch
        for feature in known:
            order = given[_key(feature)]
            if order is not orders[_key(feature)]:
                made = shuffled(made, feature, torch.from_numpy(order))
        parts = []
        for start in range(0, len(made), PIECE):
            piece = held.candidates.only(at[start : start + PIECE])
            parts.append(answers(learned, made.rows(start, start + PIECE), piece)[name])
        done += 1
        if progress:
            progress(done, total, "shuffles")
        return np.concatenate(parts).astype(np.float64)

    sizes = {"request": len(batch.request), "row": len(batch)}
    orders: Mapping[str, NDArray[Any]] = {_key(feature): np.arange(sizes[feature.side]) for feature in known}
    lost = permutation_importance(score, orders, y, np.random.default_rng(seed), shuffles, groups)
    base = score(orders)
    whole = gauc(base, y, groups)
    if not whole.groups:
        hint = "look at more rows (--rows), or choose another task"
        raise DataError("no request has rows of both classes", where=f"held rows of {judged.name}", hint=hint)
    worth = []
    for feature in known:
        found = lost[_key(feature)]
        of_gauc = ratio(found.by_group * found.rows, found.rows.astype(np.float64), np.random.default_rng(seed))
        of_auc = Estimate(float(found.auc.mean()), float(found.auc.min()), float(found.auc.max()))
        worth.append(Worth(feature.name, feature.side, of_gauc, of_auc))
    ordered = tuple(sorted(worth, key=lambda w: (-w.gauc.value, w.feature)))
    return Importance(
        judged.name, name, on, shuffles, len(y), len(batch.request), whole.groups, auc(base, y), whole.value, ordered
    )


def _key(feature: "Feature") -> str:
    return f"{feature.side} {feature.name}"


def held_out_rows(
    data: Data, on: Literal["valid", "test"], scene: str, stage: str | None, rows: int
) -> tuple[Any, Rows]:
    """A stage over the models of a part, and what its funnel brings to some held-out requests, about `rows` rows."""
    from shortlist.dataset.ranking import Outcomes  # loads torch

    _, funnel, asked = put_to_test(data, on, scene)
    chosen = _stage(funnel.stages, scene, stage)
    most = max(1, rows // max(1, min(funnel.budget, sum(channel.quota for channel in funnel.channels))))
    rng = np.random.default_rng(data.project.config.seed)
    hopeful = np.flatnonzero(np.diff(asked.offsets) > 0)  # others have no positive to rank
    at = np.sort(rng.permutation(hopeful)[:most])
    requests, _, _ = sample(asked.requests, asked.offsets, asked.labels, at)
    candidates = in_budget(replace(funnel, stages=(), boosters=()).run(requests).candidates)
    candidates = candidates.only(np.flatnonzero(candidates.alive))
    split = data.split
    outcomes = Outcomes.of(split.valid if on == "valid" else split.test, requests, data.schema)
    told = [labelled(candidates, outcomes, n, task) for n, task in enumerate(data.schema.tasks.values())]
    labels, known = np.stack([y for _, y in told], axis=1), np.stack([mask for mask, _ in told], axis=1)
    return chosen, Rows(requests, candidates, labels, known)


def _published(data: Data, scene: str, stage: str | None) -> tuple[Any, Rows]:
    """A stage of the current release, and the lists of the users held from its training."""
    release = Releases(data.project.home / "releases").load()
    funnels = recipes.assemble(release.document, release.artifact, release.catalogue)
    if scene not in funnels:
        where, hint = f"release {release.id}", "publish again"
        raise ConfigError(f"no scene is called {scene!r}", where=where, hint=hint)
    if trained(data, "release") is None:
        what = "what the release learned from is not what this data and configuration say now"
        raise ArtifactError(what, where=f"release {release.id}", hint="publish again")
    chosen = _stage(funnels[scene].stages, scene, stage)
    examples = to_learn(data, "release")
    units = examples.some(examples.held, chosen.scorer.assembler, data.project.config.seed)
    made = units.examples(np.arange(len(units)))
    return chosen, Rows(made.requests, made.candidates, made.labels, made.valid & made.recalled[:, None])


def _stage(stages: Any, scene: str, name: str | None) -> Any:
    names = [stage.name for stage in stages]
    if not names:
        raise ConfigError(f"scene {scene!r} has no ranker", where="scene", hint="add [rank] to the project")
    name = names[-1] if name is None else name
    if name not in names:
        raise ConfigError(f"scene {scene!r} has no stage {name!r}", where="stage", hint=nearest(name, names))
    return stages[names.index(name)]


def _task(data: Data, stage: str, name: str | None, held: Rows) -> int:
    """The task that is judged: the one named, else the first of both classes."""
    tasks = list(data.schema.tasks)
    if name is not None and name not in tasks:
        raise ConfigError(f"no task is called {name!r}", where="task", hint=nearest(name, tasks))
    for n, task in enumerate(tasks):
        y = held.labels[held.known[:, n], n]
        if name in (None, task) and len(y) and np.isin(y, (0, 1)).all() and y.min() < y.max():
            return n
    what = "no task has rows of both classes" if name is None else f"task {name} has not rows of both classes"
    hint = "choose another task, or look at the labels (`shortlist evaluate`)"
    raise DataError(what, where=f"held rows of {stage}", hint=hint)


def _some(held: Rows, n: int, most: int, seed: int) -> Ints:
    """Labelled rows of the n-th task of some requests, evenly drawn, about `most` of them, ascending."""
    mine = np.flatnonzero(held.known[:, n])
    owners = held.candidates.owners[mine]
    counts = np.bincount(owners, minlength=len(held.requests))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(counts > 0))
    enough = int(np.searchsorted(np.cumsum(counts[order]), most, side="right"))
    return mine[np.isin(owners, order[: max(1, enough)])]


def drawn(found: Importance) -> Sheet:
    """As a page."""
    rows = [["feature", "side", "GAUC lost", "95 % interval", "AUC lost", "least to most"]]
    rows += [
        [
            w.feature, w.side, f"{w.gauc.value:.4f}", f"{w.gauc.low:.4f} to {w.gauc.high:.4f}",
            f"{w.auc.value:.4f}", f"{w.auc.low:.4f} to {w.auc.high:.4f}",
        ]
        for w in found.worth
    ]  # fmt: skip
    sure = [w.feature for w in found.worth if w.gauc.low > 0]
    most = f"Shuffled alone, {', '.join(sure[:5])} cost GAUC for sure." if sure else "No feature alone costs GAUC."
    notes = (
        f"{found.stage} on {found.task}: GAUC {found.gauc:.4f} of {found.told} requests with both classes, AUC"
        f" {found.auc:.4f} of {found.rows} rows.",
        most,
        "Features that say the same stand in for one another: each alone may lose little.",
    )
    return Sheet(
        f"What features are worth to {found.stage}",
        f"GAUC of {found.task} that held rows ({found.on}) lose when one is shuffled: mean of {found.shuffles}.",
        (Figure("GAUC lost", "the most of them first, the line is the interval over requests", bars(found)),),
        (Table("Every feature", rows),),
        notes,
    )


def bars(found: Importance) -> str:
    """The features that lose most, as SVG."""
    from shortlist.evaluation.pictures import drawn_bars

    return drawn_bars([(w.feature, w.gauc) for w in found.worth[:20]])
