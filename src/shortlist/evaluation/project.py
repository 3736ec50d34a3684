"""A project's way from its log to a measured release: train, evaluate, publish.

Three fits of the same configuration: `valid` learns on the training part and is judged on validation (choose
there), `test` learns on training and validation and is judged once on the test part, `release` learns on
everything and serves.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Artifact, Release, Releases, amend, load
from shortlist.candidates import Ragged, Requests
from shortlist.config import Project, build, find, nearest, plain
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.log import interactions
from shortlist.dataset.published import published
from shortlist.dataset.split import Split, place, relevant
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.evaluation.cohorts import Cohort, cohorts
from shortlist.evaluation.funnel import Measured, in_budget, measure
from shortlist.evaluation.sampled import sampled
from shortlist.evaluation.stages import Staged, judge, sample
from shortlist.events import workspace
from shortlist.funnel import recipes
from shortlist.funnel.effective import effective
from shortlist.funnel.pipeline import Funnel
from shortlist.funnel.requests import make
from shortlist.schema import Catalogue, Schema
from shortlist.training.fit import Fitted, Progress, fit, fitted, models_of
from shortlist.training.plan import Plan, plan_of

__all__ = ["Data", "HeldOut", "Outcome", "Part", "open_data", "train", "held_out", "funnels", "evaluate", "publish"]

Part = Literal["valid", "test", "release"]
STAGED = 1000  # requests that scoring stages are judged on
EARLY = ".early"  # channels fitted to the time before the rankers'
MEASURED = 20  # requests that runtimes are measured on


@dataclass(frozen=True)
class Data:
    """A project's imported data, opened once."""

    project: Project
    schema: Schema
    interactions: Interactions
    catalogue: Catalogue
    snapshot: str

    def identity(self, part: Part) -> str:
        """What a fit for a part depends on besides schema and models: the data, how it is cut, and the dice."""
        config = self.project.config
        cut = None if part == "release" else plain(config.split)
        return _sealed([self.snapshot, part, cut, plain(config.ranking), config.seed])

    def fed(self, part: Part) -> str:
        """What a ranker's fit depends on besides: all that makes its candidates."""
        config = self.project.config
        makes = [plain(getattr(config, name)) for name in ("recall", "merge", "filters", "scene")]
        return _sealed([self.identity(part), *makes])

    @cached_property
    def split(self) -> Split:
        """The project's split, always the same for the same data and seed. Raises ConfigError."""
        config = self.project.config
        kind: Any = find(config.split.use, ["shortlist.dataset.splits"], "split.use")
        options = build(kind.Config, config.split.options, f"split ({config.split.use})")
        split: Split = kind(options).split(self.interactions, np.random.default_rng(config.seed))
        fixed = workspace.published(self.project)
        return published(split, fixed) if fixed is not None and config.split.use == "last_out" else split

    def part(self, part: Part) -> Interactions:
        """What a fit for this part may learn from."""
        if part == "release":
            return self.interactions
        split = self.split
        return split.train if part == "valid" else split.before_test


@dataclass(frozen=True)
class HeldOut:
    """Requests at the moment before each user's held-out events, and what was then relevant: CSR over
    requests.
    """

    requests: Requests
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What one evaluation found, with the recipe to find it again."""

    measured: Measured
    recipe: Mapping[str, str]
    popularity: NDArray[np.int64]
    cohorts: tuple[Cohort, ...] = ()
    staged: Staged | None = None
    sampled: Mapping[str, Mapping[str, NDArray[np.float64]]] = field(default_factory=dict)


def open_data(project: Project) -> Data:
    """Raises ConfigError for a word in the project that no part owns, DataError when nothing was imported."""
    schema = workspace.schema(project)
    effective(project.config, schema)
    return Data(
        project,
        schema,
        interactions(project),
        workspace.catalogue(project),
        workspace.snapshot(project),
    )


def train(data: Data, part: Part, *, created_ms: int, progress: Progress | None = None) -> dict[str, Fitted]:
    """Fit every channel and ranker for one part, into `var/models/<part>/<name>`.

    Rankers come first, on candidates of channels fitted to the time before theirs: a channel that had seen the labels
    would leak them into its scores. What rankers learn is told in `RankingConfig`.
    """
    folder = data.project.home / "models" / part
    log, rankers = data.part(part), _rankers(data)
    done: dict[str, Fitted] = {}
    if rankers:
        done |= _train_rankers(data, rankers, log, part, created_ms, progress)
    channels = fit(
        _plans(data), log, data.catalogue, data.schema, folder,
        snapshot=data.identity(part), created_ms=created_ms, progress=progress,
    )  # fmt: skip
    return channels | done


def _train_rankers(
    data: Data, rankers: list[Plan], log: Interactions, part: Part, created_ms: int, progress: Progress | None
) -> dict[str, Fitted]:
    from shortlist.training.learn import ranker  # loads torch

    if data.schema.time_unit == "none":
        hint = "give schema.time, or leave [coarse] and [rank] out"
        raise ConfigError("rankers learn on later events, and this log has no times", where="ranking", hint=hint)
    folder = data.project.home / "models" / part
    earlier, later = before_rankers(data, log)
    fit(
        _plans(data), earlier, data.catalogue, data.schema, folder / EARLY,
        snapshot=data.identity(part), created_ms=created_ms, progress=progress,
    )  # fmt: skip
    examples = ranker_data(data, earlier, later, folder / EARLY, log)
    done: dict[str, Fitted] = {}
    for plan in rankers:
        started = time.perf_counter()
        manifest = ranker(
            plan, examples, data.catalogue, data.schema, folder / plan.name,
            run=folder / ".runs" / plan.name, snapshot=data.fed(part), created_ms=created_ms, progress=progress,
        )  # fmt: skip
        done[plan.name] = Fitted(plan.name, folder / plan.name, manifest, time.perf_counter() - started)
    return done


def before_rankers(data: Data, log: Interactions) -> tuple[Interactions, Interactions]:
    """What recall may know when rankers learn, and the later events they learn on.

    One moment for all where the split has one moment for all, else each user's own latest share.
    """
    share = data.project.config.ranking.share
    if data.split.order == "global":
        late = log.times >= np.quantile(log.times, 1 - share)
    else:
        position, count = place(log)
        late = count - position <= np.floor(share * count)
    return log.where(~late), log.where(late)


def ranker_data(data: Data, earlier: Interactions, later: Interactions, folder: Path, log: Interactions) -> Any:
    """Requests at some moments of the later time, what the funnel recalls for them, and what happened from then on."""
    from shortlist.dataset.ranking import Outcomes  # loads torch
    from shortlist.training.learn import RankerData

    config, schema = data.project.config.ranking, data.schema
    position, count = place(later)
    asked = np.zeros(len(later), dtype=bool)
    for moment in range(config.moments):
        asked |= position == moment * count // config.moments
    at = np.flatnonzero(asked)
    rng = np.random.default_rng(data.project.config.seed)
    at = np.sort(rng.permutation(at)[: config.requests])
    users, now = later.users[at], later.times[at]
    if len(np.unique(users)) < 2:
        what = f"rankers learn on the later events of at least 2 users, this log has {len(np.unique(users))}"
        raise DataError(what, where="ranking", hint="raise ranking.share, or leave [coarse] and [rank] out")
    known = histories_before(log, users, now)
    n = max(scene.page for scene in data.project.config.scene.values())
    requests = make(users, now, n, known, schema, data.catalogue)
    words = document(data)
    words["scenes"] = {name: table | {"stages": []} for name, table in words["scenes"].items()}
    words["stages"] = {}
    funnel = next(iter(recipes.assemble(words, lambda name: load(folder / name), data.catalogue).values()))
    candidates = in_budget(funnel.run(requests).candidates)
    held_users = rng.choice(np.unique(users), max(1, int(config.held * len(np.unique(users)))), replace=False)
    outcomes = Outcomes.of(later, requests, schema)
    owners = np.repeat(np.arange(len(requests)), np.diff(outcomes.offsets))
    shown = funnel.keep(requests)(owners, outcomes.items)  # what the filters drop is never ranked, so it is no example
    outcomes = replace(outcomes, valid=outcomes.valid & shown[:, None])
    return RankerData(requests, candidates, outcomes, np.isin(users, held_users), log)


def histories_before(log: Interactions, users: NDArray[np.int64], now: NDArray[np.int64]) -> Ragged:
    """Events of each user [R] strictly before a moment [R], oldest first."""
    events = log.histories(users)
    return events.where(events.times < now[events.owners])


def trained(data: Data, part: Part) -> dict[str, Artifact] | None:
    """What `train` left for this part, unless data, schema or configuration have changed since."""
    folder = data.project.home / "models" / part
    channels = fitted(_plans(data), data.schema, folder, data.identity(part))
    rankers = fitted(_rankers(data), data.schema, folder, data.fed(part))
    return None if channels is None or rankers is None else channels | rankers


def _plans(data: Data) -> list[Plan]:
    channels = data.project.config.recall
    if not channels:
        raise DataError("no recall channel is configured", where=str(data.project.file), hint="add a [[recall]] table")
    models = models_of(channels)
    return [plan_of(c, c.name, recipes.split_options(c, models[c.name])[0]) for c in channels]


def _rankers(data: Data) -> list[Plan]:
    config = data.project.config
    pairs = (("coarse", config.coarse), ("rank", config.rank))
    return [plan_of(ranker, name, ranker.options) for name, ranker in pairs if ranker is not None]


def document(data: Data) -> dict[str, Any]:
    """The words of a release of this project."""
    config = data.project.config
    return recipes.document(config, data.schema, models_of(config.recall))


def funnels(data: Data, artifact: Callable[[str], Artifact]) -> dict[str, Funnel]:
    """The project's scenes over these artifacts."""
    return recipes.assemble(document(data), artifact, data.catalogue)


def held_out(data: Data, on: Literal["valid", "test"], n: int) -> HeldOut:
    """One request per user with held-out events, at the time of the first of them, knowing all that came
    before.

    Relevant are the distinct held-out items that satisfy `split.positive` and were not met before: a seen
    item is never recommended, so it is no label.
    """
    split = data.split
    known, asked = split.known(on), split.valid if on == "valid" else split.test
    users = asked.user_keys
    now = asked.times[np.searchsorted(asked.users, users)]
    events = known.histories(users)
    offsets, labels = relevant(asked, users, data.project.config.split.positive, data.schema, known)
    return HeldOut(make(users, now, n, events, data.schema, data.catalogue), offsets, labels)


def evaluate(
    data: Data,
    on: Literal["valid", "test"] = "test",
    scene: str | None = None,
    ks: tuple[int, ...] = (10, 50, 200),
    step: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Measure a scene's funnel (the first one's by default) on held-out events with the models fitted for that part.

    Raises ArtifactError when these are missing or stale, ConfigError for an unknown scene.
    """
    scenes = data.project.config.scene
    scene = next(iter(scenes)) if scene is None else scene
    if scene not in scenes:
        raise ConfigError(f"no scene is called {scene!r}", where="scene", hint=nearest(scene, list(scenes)))
    artifacts = trained(data, on)
    if artifacts is None:
        hint = f"run `shortlist train --for {on}`"
        raise ArtifactError("models are missing, or older than the data or the configuration", where=on, hint=hint)
    funnel = funnels(data, artifacts.__getitem__)[scene]
    asked = held_out(data, on, data.project.config.scene[scene].page)
    if not bool((np.diff(asked.offsets) > 0).any()):
        raise DataError(
            "no held-out event is relevant", where=f"split on {on}", hint="loosen split.positive or the cuts"
        )
    learned = data.part(on)
    items = data.catalogue.items.keys
    pairs = np.unique(np.stack([learned.users, learned.items]), axis=1)
    popularity = np.bincount(pairs[1], minlength=int(items.max()) + 1)[items].astype(np.int64)
    measured = measure(
        funnel, asked.requests, asked.offsets, asked.labels, items, popularity, len(learned.user_keys), ks, step
    )
    config = data.project.config
    recipe = {
        "project": data.project.file.name,
        "scene": scene,
        "split": f"{config.split.use}, {on} part",
        "relevant": config.split.positive or "every held-out event",
        "snapshot": data.snapshot[:12],
        "seed": str(config.seed),
        "learned from": f"{len(learned):,} events",
        "asked": f"{measured.requests:,} users, {measured.labelled:,} with something to find",
    }
    parts = cohorts(measured, asked.requests, asked.offsets, asked.labels, items, popularity)
    lists = data.split.candidates if on == "test" else None
    drawn = {} if lists is None else sampled(funnel, asked.requests, lists)
    return Outcome(measured, recipe, popularity, parts, judged_stages(data, on, funnel, asked), drawn)


def judged_stages(data: Data, on: Literal["valid", "test"], funnel: Funnel, asked: HeldOut) -> Staged | None:
    """What the funnel's scoring stages are worth, on some of the requests; None where it has no stage."""
    if not funnel.stages:
        return None
    from shortlist.dataset.ranking import Outcomes  # loads torch

    rng = np.random.default_rng(data.project.config.seed)
    n = len(asked.requests)
    rows = np.sort(rng.choice(n, min(n, STAGED), replace=False))
    requests, offsets, labels = sample(asked.requests, asked.offsets, asked.labels, rows)
    split = data.split
    outcomes = Outcomes.of(split.valid if on == "valid" else split.test, requests, data.schema)
    return judge(funnel, requests, offsets, labels, data.schema.tasks, outcomes)


def digest(data: Data) -> str:
    """Identity of what an evaluation is about: figures of another one say nothing of a release."""
    config = data.project.config
    parts = ("schema", "split", "recall", "merge", "filters", "ranking", "coarse", "rank", "boosts", "rerank", "scene")
    return _sealed([data.snapshot, {name: plain(getattr(config, name)) for name in parts}, config.seed])


def publish(
    data: Data, *, created_ms: int, metrics: Mapping[str, Any] | None = None, progress: Progress | None = None
) -> str:
    """Fit on everything unless that was done, choose what runs each ranker, check the release by asking it, and make it
    current.
    """
    if trained(data, "release") is None:
        train(data, "release", created_ms=created_ms, progress=progress)
    folder = data.project.home / "models" / "release"
    histories = workspace.events(data.project).select("offset", "user", "item", "action", "time_ms").collect()
    words: dict[str, Any] = document(data) | {
        "snapshot": data.snapshot,
        "offset": int(histories["offset"].max() or 0),  # type: ignore[arg-type]
        "metrics": dict(metrics or {}),
        "events": len(histories),
    }
    project = data.project
    for name in words["stages"]:
        choose_runtime(data, words, folder, name, created_ms, progress)
    return Releases(project.home / "releases").publish(
        None,
        {name: folder / name for name in (*(c.name for c in project.config.recall), *words["stages"])},
        words,
        workspace.keys(project, "user"),
        workspace.keys(project, "item"),
        data.catalogue,
        tables={"histories": histories},
        created_ms=created_ms,
        metrics=metrics,
        checks=(answers,),
    )


def choose_runtime(
    data: Data, words: Mapping[str, Any], folder: Path, name: str, now: int, progress: Progress | None = None
) -> None:
    """Measure what can run a ranker on some users' requests; the fastest is written into its artifact."""
    from shortlist.models import learned, runtimes  # loads torch

    artifact = load(folder / name)
    rng = np.random.default_rng(data.project.config.seed)
    users = data.interactions.user_keys
    users = np.sort(rng.choice(users, min(len(users), MEASURED), replace=False))
    at = np.full(len(users), now, dtype=np.int64)
    asked = make(users, at, 1, data.interactions.histories(users), data.schema, data.catalogue)
    ranker = learned.restore(artifact, data.schema, data.catalogue)
    n = max(scene["budget"] for scene in words["scenes"].values())
    if name == "rank" and "coarse" in words["stages"]:
        n = words["stages"]["coarse"]["keep"] or n
    candidates = runtimes.sample(ranker, asked, artifact.manifest.config["channels"], n, rng)
    offered = data.project.config.ranking.runtimes
    record, graphs = runtimes.settle(ranker, artifact.manifest, offered, asked, candidates, rng)
    amend(folder / name, config=record, graphs=graphs)
    if progress:
        found = record[runtimes.RECORD]
        times = ", ".join(f"{use} {ms:.2f} ms" for use, ms in found["p50_ms"].items())
        progress(1, 1, f"{name} runs on {found['use']} ({times} for {found['candidates']} candidates)")


def answers(release: Release) -> None:
    """A release's check: every scene gives a known and an unknown user a page. Raises ArtifactError."""
    schema = Schema.parse(release.document["schema"], "release.schema")
    scenes = recipes.assemble(release.document, release.artifact, release.catalogue)
    histories = release.table("histories")
    now = np.array([release.manifest.created_ms], dtype=np.int64)
    for scene, funnel in scenes.items():
        known = int(histories["user"][0]) if len(histories) else -1
        for user in (known, -1):
            asked = np.array([user], dtype=np.int64)
            events = Ragged.empty(1)
            n = int(release.document["scenes"][scene]["page"])
            page = funnel.run(make(asked, now, n, events, schema, release.catalogue))
            if not len(page.picks):
                hint = "add a hot channel: it answers when nothing else does"
                raise ArtifactError(f"scene {scene!r} has nothing to show", where="release check", hint=hint)


def _sealed(words: Any) -> str:
    """Identity of plain values."""
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()
