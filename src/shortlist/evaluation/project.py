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
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Artifact, Release, Releases, amend, check_fits, load
from shortlist.candidates import Ragged, Requests
from shortlist.config import Project, build, find, nearest, plain
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.log import interactions, joinable
from shortlist.dataset.published import published
from shortlist.dataset.split import Split, place, relevant
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.evaluation.channels import Cost, costs
from shortlist.evaluation.cohorts import Cohort, cohorts
from shortlist.evaluation.funnel import Measured, in_budget, measure
from shortlist.evaluation.sampled import sampled
from shortlist.evaluation.stages import Staged, judge, sample
from shortlist.events import slates, workspace
from shortlist.features import content
from shortlist.features.base import Events, Known
from shortlist.features.featureset import FeatureSet
from shortlist.features.replay import Replayed
from shortlist.funnel import recipes
from shortlist.funnel.effective import effective
from shortlist.funnel.pipeline import BACKFILL, Funnel
from shortlist.funnel.requests import make
from shortlist.schema import Catalogue, Schema
from shortlist.store.opening import publish_lists
from shortlist.training.fit import Fitted, Progress, fit, fitted, models_of
from shortlist.training.plan import Plan, plan_of

if TYPE_CHECKING:  # they load torch
    from shortlist.dataset.logged import LoggedData
    from shortlist.training.rankers import RankerData, ToRank

__all__ = [
    "Data", "HeldOut", "Outcome", "Part", "open_data", "train", "to_learn", "held_out", "funnels", "scene_of",
    "evaluate", "publish",
]  # fmt: skip

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
        return _sealed([self.snapshot, part, cut, plain(config.ranking), config.seed, self.features.words()])

    def fed(self, part: Part) -> str:
        """What a ranker's fit depends on besides: all that makes its candidates."""
        config = self.project.config
        makes = [plain(getattr(config, name)) for name in ("recall", "merge", "filters", "scene")]
        logged = config.ranking.rows == "logged"
        return _sealed(
            [self.identity(part), *makes, *([slates.digest(self.project.home / slates.FOLDER)] if logged else [])]
        )

    @cached_property
    def features(self) -> FeatureSet:
        """The project's features. Raises ConfigError for words that none of them owns."""
        return FeatureSet.of(self.project.config.feature, self.schema, self.project.folder)

    @cached_property
    def known(self) -> Known | None:
        """What answers for the features, at any moment of the log; None where there are none."""
        if not len(self.features):
            return None
        log = self.interactions
        events = Events(log.log_offsets, log.users, log.items, log.times, log.actions, log.values)
        return Replayed(events, self.catalogue, self.schema, self.features)

    def requests(
        self,
        users: NDArray[np.int64],
        now: NDArray[np.int64],
        n: int,
        events: Ragged,
        context: Mapping[str, NDArray[Any]] | None = None,
        as_of: NDArray[np.int64] | None = None,
    ) -> Requests:
        """Requests as a server makes them, with what is known at their moments."""
        return make(
            users, now, n, events, self.schema, self.catalogue, context=context, known=self.known, as_of=as_of
        )  # fmt: skip

    @cached_property
    def split(self) -> Split:
        """The project's split, always the same for the same data and seed. Raises ConfigError."""
        config = self.project.config
        kind: Any = find(config.split.use, ["shortlist.dataset.splits"], "split.use")
        options = build(kind.Config, config.split.options, f"split ({config.split.use})")
        fixed, rng = workspace.published(self.project), np.random.default_rng(config.seed)
        if config.split.use == "published":
            parted: Split = kind(options).split(self.interactions, rng, fixed)
            return parted
        split: Split = kind(options).split(self.interactions, rng)
        listed = fixed is not None and "candidates" in fixed.columns and config.split.use == "last_out"
        return published(split, fixed) if fixed is not None and listed else split

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
    costs: Mapping[str, Cost] = field(default_factory=dict)


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
    _fit_texts(data, log, folder, part, created_ms)
    catalogue = _read(data, folder)
    done: dict[str, Fitted] = {}
    if rankers:
        done |= _train_rankers(data, rankers, log, catalogue, part, created_ms, progress)
    channels = fit(
        _plans(data), log, catalogue, data.schema, folder,
        snapshot=data.identity(part), created_ms=created_ms, progress=progress,
        features=data.features, known=data.known,
    )  # fmt: skip
    return channels | done


def _texts(data: Data) -> tuple[str, ...]:
    """The artifact of vectors that texts become, where a field has an encoder."""
    return () if data.schema.encoded() is data.schema else (recipes.TEXT,)


def _fit_texts(data: Data, log: Interactions, folder: Path, part: Part, created_ms: int) -> None:
    """Encode texts, with what is fitted on the users and items of this log."""
    if not _texts(data):
        return
    encoders = content.TextEncoders.fit(
        data.schema, data.catalogue, log.user_keys, log.item_keys, data.project.folder
    )  # fmt: skip
    content.save_texts(
        folder / recipes.TEXT, data.schema, data.catalogue, encoders,
        snapshot=data.identity(part), created_ms=created_ms,
    )  # fmt: skip


def _read(data: Data, folder: Path) -> Catalogue:
    """The catalogue as models of a fit see it: texts that have an encoder are vectors."""
    return recipes.seen(data.schema, data.catalogue, lambda name: load(folder / name))


def _opened(early: Path) -> Callable[[str], Artifact]:
    """Artifacts of the channels fitted to the time before the rankers'; the texts are those of the whole fit."""
    return lambda name: load((early.parent if name == recipes.TEXT else early) / name)


def _train_rankers(
    data: Data,
    rankers: list[Plan],
    log: Interactions,
    catalogue: Catalogue,
    part: Part,
    created_ms: int,
    progress: Progress | None,
) -> dict[str, Fitted]:
    from shortlist.training.rankers import ranker  # loads torch

    if data.schema.time_unit == "none":
        hint = "give schema.time, or leave [coarse] and [rank] out"
        raise ConfigError("rankers learn on later events, and this log has no times", where="ranking", hint=hint)
    folder = data.project.home / "models" / part
    if data.project.config.ranking.rows != "logged":
        fit(
            _plans(data), before_rankers(data, log)[0], catalogue, data.schema, folder / EARLY,
            snapshot=data.identity(part), created_ms=created_ms, progress=progress,
            features=data.features, known=data.known,
        )  # fmt: skip
    examples = to_learn(data, part, progress)
    done: dict[str, Fitted] = {}
    for plan in rankers:
        started = time.perf_counter()
        manifest = ranker(
            plan, examples, catalogue, data.schema, folder / plan.name,
            run=folder / ".runs" / plan.name, snapshot=data.fed(part), created_ms=created_ms, progress=progress,
            features=data.features,
        )  # fmt: skip
        done[plan.name] = Fitted(plan.name, folder / plan.name, manifest, time.perf_counter() - started)
    return done


def to_learn(data: Data, part: Part, progress: Progress | None = None) -> "ToRank":
    """What the rankers of a part learn from: served slates, or what channels fitted to the time before theirs recall.

    Raises ArtifactError where these channels were not fitted yet.
    """
    log = data.part(part)
    if data.project.config.ranking.rows == "logged":
        return logged_data(data, log, progress)
    earlier, later = before_rankers(data, log)
    return ranker_data(data, earlier, later, data.project.home / "models" / part / EARLY, log)


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


def ranker_data(
    data: Data, earlier: Interactions, later: Interactions, folder: Path, log: Interactions
) -> "RankerData":
    """Requests at some moments of the later time, what the funnel recalls for them, and what happened from then on."""
    from shortlist.dataset.ranking import Outcomes  # loads torch
    from shortlist.training.rankers import RankerData

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
    context = {name: column[at] for name, column in later.context.items()}
    requests = data.requests(users, now, n, known, context)
    words = document(data)
    words["scenes"] = {name: table | {"stages": []} for name, table in words["scenes"].items()}
    words["stages"] = {}
    funnel = next(iter(recipes.assemble(words, _opened(folder), data.catalogue).values()))
    candidates = in_budget(funnel.run(requests).candidates)
    held_users = rng.choice(np.unique(users), max(1, int(config.held * len(np.unique(users)))), replace=False)
    outcomes = Outcomes.of(later, requests, schema, log=log)
    owners = np.repeat(np.arange(len(requests)), np.diff(outcomes.offsets))
    shown = funnel.keep(requests)(owners, outcomes.items)  # what the filters drop is never ranked, so it is no example
    outcomes = replace(outcomes, valid=outcomes.valid & shown[:, None])
    return RankerData(requests, candidates, outcomes, np.isin(users, held_users), log)


def logged_data(data: Data, log: Interactions, progress: Progress | None = None) -> "LoggedData":
    """What was served, and what became of it, as far as a fit on this log may know: a slate whose window reaches into
    what is held out is left out. Channels are those of the project now; their ranks and scores those of then.
    """
    from shortlist.dataset.logged import Asked, LoggedData, join, served  # loads torch

    config, schema, project = data.project.config.ranking, data.schema, data.project
    window_ms = config.window_minutes * 60_000
    found = served(project.home / slates.FOLDER, workspace.keys(project, "user"))
    joined = join(found, joinable(project), schema, window_ms)
    until = joined.rows["time_ms"].to_numpy() + window_ms
    users = joined.rows["user"].to_numpy()
    joined = joined.where((users >= 0) & (until < _held_from(data, log, users)))
    if len(users) and not len(joined.rows):
        hint = "hold out less (see [split]), or serve for longer"
        what = f"all logged slates are of held-out time: {joined.report.words()}"
        raise DataError(what, where="ranking.rows", hint=hint)
    if progress:
        progress(0, 1, joined.report.words())
    of_request = joined.rows.unique("request_id", maintain_order=True)["request_id"]
    if len(of_request) > config.requests:  # the latest: they are of releases most like the next
        late = of_request[-config.requests :]
        joined = joined.where(joined.rows["request_id"].is_in(late.implode()).to_numpy())
    n = max(scene.page for scene in project.config.scene.values())

    def ask(asked: Asked) -> Requests:
        events = log.histories(asked.users, asked.now, asked.as_of)
        return data.requests(asked.users, asked.now, n, events, asked.context, asked.counted)

    names = (*(channel.name for channel in project.config.recall), BACKFILL)
    rng = np.random.default_rng(project.config.seed)
    return LoggedData.of(
        joined, ask, schema, names, config.held, log, data.features.columns, rng, config.position
    )  # fmt: skip


def _held_from(data: Data, log: Interactions, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """The moment from which on nothing of a user [N] may be learned: that of the first event that is not in the log."""
    every, forever = data.interactions, np.iinfo(np.int64).max
    if len(log) == len(every):
        return np.full(len(users), forever)
    out = ~np.isin(every.log_offsets, log.log_offsets)
    if data.split.order == "global":
        return np.full(len(users), every.times[out].min())
    first = every.where(out)  # by user, then time
    at = np.minimum(np.searchsorted(first.users, users), len(first) - 1)
    return np.where(first.users[at] == users, first.times[at], forever)


def histories_before(log: Interactions, users: NDArray[np.int64], now: NDArray[np.int64]) -> Ragged:
    """Events of each user [R] strictly before a moment [R], oldest first."""
    events = log.histories(users)
    return events.where(events.times < now[events.owners])


def trained(data: Data, part: Part) -> dict[str, Artifact] | None:
    """What `train` left for this part, unless data, schema or configuration have changed since."""
    folder = data.project.home / "models" / part
    channels = fitted(_plans(data), data.schema, folder, data.identity(part))
    rankers = fitted(_rankers(data), data.schema, folder, data.fed(part))
    texts = _fitted_texts(data, folder, part)
    return None if channels is None or rankers is None or texts is None else channels | rankers | texts


def _fitted_texts(data: Data, folder: Path, part: Part) -> dict[str, Artifact] | None:
    """The vectors of an earlier fit; None where they are missing or older than what they depend on."""
    found = {}
    for name in _texts(data):
        try:
            found[name] = load(folder / name, verify=False)
            check_fits(found[name].manifest, data.schema)
        except ArtifactError:
            return None
        if found[name].manifest.snapshot != data.identity(part):
            return None
    return found


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
    return recipes.document(config, data.schema, models_of(config.recall), data.project.folder)


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
    first = np.searchsorted(asked.users, users)
    now = asked.times[first]
    context = {name: column[first] for name, column in asked.context.items()}
    events = known.histories(users)
    offsets, labels = relevant(asked, users, data.project.config.split.positive, data.schema, known)
    return HeldOut(data.requests(users, now, n, events, context), offsets, labels)


def scene_of(project: Project, name: str | None) -> str:
    """A scene by name, the first one by default. Raises ConfigError for one that is not there."""
    scenes = project.config.scene
    name = next(iter(scenes)) if name is None else name
    if name not in scenes:
        raise ConfigError(f"no scene is called {name!r}", where="scene", hint=nearest(name, list(scenes)))
    return name


def put_to_test(data: Data, on: Literal["valid", "test"], scene: str) -> tuple[Mapping[str, Artifact], Funnel, HeldOut]:
    """What a scene is judged with: the models fitted for the part, its funnel over them, the held-out requests.

    Raises ArtifactError when models are missing or stale, DataError when nothing held out is relevant.
    """
    artifacts = trained(data, on)
    if artifacts is None:
        hint = f"run `shortlist train --for {on}`"
        raise ArtifactError("models are missing, or older than the data or the configuration", where=on, hint=hint)
    asked = held_out(data, on, data.project.config.scene[scene].page)
    if not bool((np.diff(asked.offsets) > 0).any()):
        raise DataError(
            "no held-out event is relevant", where=f"split on {on}", hint="loosen split.positive or the cuts"
        )
    return artifacts, funnels(data, artifacts.__getitem__)[scene], asked


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
    scene = scene_of(data.project, scene)
    artifacts, funnel, asked = put_to_test(data, on, scene)
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
    spent = costs(funnel, asked.requests, artifacts, models_of(config.recall))
    return Outcome(measured, recipe, popularity, parts, judged_stages(data, on, funnel, asked), drawn, spent)


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
    parts = (
        "schema",
        "feature",
        "split",
        "recall",
        "merge",
        "filters",
        "ranking",
        "coarse",
        "rank",
        "boosts",
        "rerank",
        "scene",
    )
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
    log = workspace.identity(data.project)
    histories = workspace.events(data.project).select(workspace.COLUMNS).collect()
    words: dict[str, Any] = document(data) | {
        "snapshot": data.snapshot,
        "log": log,
        "offset": int(histories["offset"].max() or 0),  # type: ignore[arg-type]
        "metrics": dict(metrics or {}),
        "events": len(histories),
    }
    project = data.project
    for name in words["stages"]:
        choose_runtime(data, words, folder, name, created_ms, progress)
    releases = Releases(project.home / "releases")

    def bring(release: Release) -> None:
        place = project.config.serve, project.home, log
        written = publish_lists(*place, release, now=created_ms, stay=releases.current())
        if written and progress:
            progress(1, 1, f"in the store: lists of {', '.join(written)}")

    return releases.publish(
        None,
        {name: folder / name for name in (*(c.name for c in project.config.recall), *words["stages"], *_texts(data))},
        words,
        workspace.keys(project, "user"),
        workspace.keys(project, "item"),
        data.catalogue,
        tables={"histories": histories},
        created_ms=created_ms,
        metrics=metrics,
        checks=(answers, bring),
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
    asked = data.requests(users, at, 1, data.interactions.histories(users))
    ranker = learned.restore(artifact, data.schema, _read(data, folder))
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
