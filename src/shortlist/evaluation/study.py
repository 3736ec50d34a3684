"""Which options of a model do best on a project's validation part: a study of trials, which goes on where it stopped.

A trial fits the model anew as training for the validation part does, and is judged on what is held out there; the test
part is never looked at. A ranker is judged by its GAUC over the candidates in budget, a channel by its own recall.
Trials whose validation curve runs below that of most before it are cut short. N trials.
"""

import hashlib
import importlib.util
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np

from shortlist.artifact import load
from shortlist.config import ChannelConfig, RankerConfig, build, find, nearest, plain
from shortlist.errors import ConfigError, DataError
from shortlist.evaluation.funnel import channel_lists
from shortlist.evaluation.importance import Rows, held_out_rows
from shortlist.evaluation.project import Data, document, held_out, scene_of, to_learn, train, trained
from shortlist.evaluation.sheet import Figure, Sheet, Table
from shortlist.evaluation.space import Part, Range, declared, spread
from shortlist.funnel import recipes
from shortlist.metrics.ctr import auc, gauc
from shortlist.metrics.topk import accuracy
from shortlist.training.fit import fit, models_of
from shortlist.training.plan import Plan, linked, plan_of

if TYPE_CHECKING:  # they load torch, or optuna
    from shortlist.training.loop import Step

__all__ = ["METRICS", "Study", "Trial", "as_table", "drawn", "listed", "said", "space_of", "study"]

METRICS = {"rank": ("gauc", "auc"), "recall": ("recall", "ndcg")}
FILE = "tune.db"
TRAINING = logging.getLogger("shortlist.training")
WARM = 5  # trials before any is cut short
ROWS = 50_000  # at most, that a ranker is judged on
Watch = Callable[["Step"], None]


@dataclass(frozen=True)
class Trial:
    """`value` of a finished one, `why` another failed or was cut short; `curve` is what validation said meanwhile."""

    number: int
    state: str  # finished, cut short, failed
    options: Mapping[str, Any]
    value: float | None = None
    why: str = ""
    seconds: float = 0.0
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Study:
    """`name` of what was tuned (`rank`, a channel), `now` what the project's own options reach, trials in order."""

    name: str
    use: str
    metric: str
    space: Mapping[str, Part]
    now: float
    present: Mapping[str, Any]
    trials: tuple[Trial, ...]
    recipe: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Trial | None:
        """The finished trial of the highest value, the first of equals."""
        done = [trial for trial in self.trials if trial.value is not None]
        return max(done, key=lambda trial: (trial.value, -trial.number), default=None)

    def words(self) -> dict[str, Any]:
        """As plain values."""
        best = self.best
        return {
            "name": self.name, "use": self.use, "metric": self.metric, "now": self.now,
            "space": {name: part.words() for name, part in self.space.items()}, "present": dict(self.present),
            "best": None if best is None else {"number": best.number, "value": best.value, "options": best.options},
            "trials": [plain(trial) for trial in self.trials], "recipe": dict(self.recipe),
        }  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What is tuned: the table of the project that names it, its plan, and how well a fit with other tables does."""

    name: str
    config: RankerConfig | ChannelConfig
    plan: Plan
    metric: str
    judge: Callable[[RankerConfig | ChannelConfig, Watch | None, int], float]


def study(
    data: Data,
    name: str = "rank",
    *,
    scene: str | None = None,
    metric: str | None = None,
    trials: int | None = None,
    only: Sequence[str] = (),
    prune: bool = True,
    created_ms: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> Study:
    """Try options of `rank`, `coarse` or a channel until the study has that many `trials` (those of `[tune]` by
    default), the ones it has already counted. `only` narrows the space to these keys.

    Raises ConfigError for names that are not there and where optuna is not installed, ArtifactError and DataError where
    the project cannot be trained or judged.
    """
    optuna = _optuna()
    config = data.project.config
    table, plan = _table(data, name)
    space = space_of(data, name, only)
    _tried(table, name, space)
    metric = _metric(name, metric)
    if trained(data, "valid") is None:
        train(data, "valid", created_ms=created_ms, progress=progress)
    subject = (_ranker if isinstance(table, RankerConfig) else _channel)(data, name, table, plan, metric, scene)
    present = {key: _at(table, plan, key) for key in space}
    recipe = [data.fed("valid"), plain(table), metric, scene, {key: plain(part) for key, part in space.items()}, prune]
    mark = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    data.project.home.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{data.project.home / FILE}")
    pruner: Any = optuna.pruners.MedianPruner(WARM, 1) if prune else optuna.pruners.NopPruner()
    made = optuna.create_study(
        storage=storage, study_name=f"{name}-{mark}", direction="maximize", pruner=pruner, load_if_exists=True
    )
    for left in made.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        made.tell(left.number, state=optuna.trial.TrialState.FAIL)  # it was killed: it has no reason of its own
    if "now" not in made.user_attrs:
        made.set_user_attr("now", subject.judge(table, None, created_ms))
    wanted = config.tune.trials if trials is None else trials
    once = Once()
    TRAINING.addFilter(once)
    try:
        while (done := len(told(made))) < wanted:
            if progress:
                progress(done, wanted, f"trials of {name}")
            made.sampler = optuna.samplers.TPESampler(seed=config.seed + done)
            _run(optuna, made, subject, space, created_ms, partial(_nth, progress, done, wanted))
    finally:
        TRAINING.removeFilter(once)
    if progress:
        progress(wanted, wanted, f"trials of {name}")
    how = {
        "study": f"{name}-{mark}", "in": FILE, "data": data.snapshot[:12], "seed": str(config.seed),
        "judged on": f"the validation part, {subject.metric}", "sampler": "TPE (optuna), seed and number of each trial",
    }  # fmt: skip
    storage.remove_session()
    return Study(
        name, table.use, subject.metric, space, float(made.user_attrs["now"]), present, tuple(told(made)[:wanted]), how
    )


def _nth(progress: Callable[[int, int, str], None] | None, done: int, wanted: int, text: str) -> None:
    if progress:
        progress(done, wanted, text)


class Once(logging.Filter):
    """Lets a warning through the first time: every trial has the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self.told
        self.told.add(text)
        return new


def space_of(data: Data, name: str, only: Sequence[str] = ()) -> dict[str, Part]:
    """What is varied: as `[tune]` says, else the model's own options and `train.lr` as far as their types say.

    Raises ConfigError for keys that are not there, and where nothing is left to vary.
    """
    table, plan = _table(data, name)
    kinds, present = _kinds(table, plan)
    words = data.project.config.tune.space
    for other in words:
        names = _names(data)
        if other not in names:
            what = f"nothing of the project is called {other!r}"
            raise ConfigError(what, where="tune.space", hint=nearest(other, names))
    space: dict[str, Part] = {}
    if name in words:
        space = declared(words[name], kinds, f"tune.space.{name}")
    else:
        typed = plan.config()
        space = {key: part for key, part in spread(typed).items() if key in kinds}
        rate = present.get("train.lr")
        if rate is not None:
            space["train.lr"] = Range(rate / 10, rate * 10, log=True)
    for key in only:
        if key not in space:
            hint = nearest(key, list(space)) if key not in kinds else f"say how far it may go in [tune.space.{name}]"
            raise ConfigError(f"{key!r} is not varied", where="tune", hint=hint)
    space = {key: part for key, part in space.items() if not only or key in only}
    if not space:
        what, hint = f"{plan.use} has no option that says how far it may go", f"write [tune.space.{name}]"
        raise ConfigError(what, where="tune", hint=hint)
    return space


def told(made: Any) -> list[Trial]:
    """The trials of a study that came to an end, as ours; those that were killed are not counted."""
    out: list[Trial] = []
    for trial in made.get_trials(deepcopy=False):
        state, why = trial.state.name, str(trial.user_attrs.get("why", ""))
        if state not in ("COMPLETE", "PRUNED") and not (state == "FAIL" and why):
            continue
        options = {key: _plain(value) for key, value in trial.params.items()}
        curve = tuple(value for _, value in sorted(trial.intermediate_values.items()))
        word = {"COMPLETE": "finished", "PRUNED": "cut short", "FAIL": "failed"}[state]
        value = float(trial.value) if state == "COMPLETE" else None
        took = trial.duration.total_seconds() if trial.duration else 0.0
        out.append(Trial(len(out), word, options, value, why, took, curve))
    return out


class CutShortError(Exception):
    """A trial's curve is below that of most before it."""


def _run(
    optuna: Any, made: Any, subject: Subject, space: Mapping[str, Part], now: int, say: Callable[[str], object]
) -> None:
    """One more trial of the study."""
    state = optuna.trial.TrialState
    trial = made.ask()
    options = {key: _plain(_suggested(trial, key, part)) for key, part in space.items()}
    seen = 0

    def watch(step: "Step") -> None:
        nonlocal seen
        say(f"epoch {step.epoch}, loss {step.loss:.3f}")
        if not step.metrics:
            return
        trial.report(next(iter(step.metrics.values())), seen)
        seen += 1
        if trial.should_prune():
            raise CutShortError

    try:
        value = subject.judge(changed(subject.config, options), watch, now)
    except CutShortError:
        trial.set_user_attr("why", f"its curve was below the median after {seen} validations")
        made.tell(trial, state=state.PRUNED)
    except (ConfigError, DataError) as error:  # these options do not go together, or the loss ran away
        trial.set_user_attr("why", str(error))
        made.tell(trial, state=state.FAIL)
    except BaseException:
        with suppress(Exception):
            made.tell(trial, state=state.FAIL)
        raise
    else:
        made.tell(trial, value)


def _suggested(trial: Any, key: str, part: Part) -> Any:
    if isinstance(part, Range):
        if part.whole:
            return trial.suggest_int(key, int(part.low), int(part.high), log=part.log)
        return trial.suggest_float(key, part.low, part.high, log=part.log)
    return trial.suggest_categorical(key, [json.dumps(value) for value in part.values])


def _plain(value: Any) -> Any:
    """A suggested value, with as many digits as a person would write; choices are kept as JSON."""
    if isinstance(value, str):
        return json.loads(value)
    return float(f"{value:.4g}") if isinstance(value, float) else value


# ------------------------------------------------------------------------------------------ what is tuned


def changed(table: Any, options: Mapping[str, Any]) -> Any:
    """The table with these options in place of its own; `train.lr` goes to its table `train`."""
    own = dict(table.options)
    inner: dict[str, dict[str, Any]] = {}
    for key, value in options.items():
        owner, dot, name = key.partition(".")
        if dot:
            inner.setdefault(owner, dict(getattr(table, owner)))[name] = value
        else:
            own[key] = value
    return replace(table, options=own, **inner)


def _names(data: Data) -> list[str]:
    config = data.project.config
    rankers = [name for name in ("rank", "coarse") if getattr(config, name) is not None]
    return [*rankers, *(channel.name for channel in config.recall)]


def _table(data: Data, name: str) -> tuple[RankerConfig | ChannelConfig, Plan]:
    config = data.project.config
    if name in ("rank", "coarse"):
        ranker: RankerConfig | None = getattr(config, name)
        if ranker is None:
            raise ConfigError(f"there is no [{name}]", where="tune", hint=f"add [{name}], or name a channel")
        return ranker, plan_of(ranker, name, ranker.options)
    for channel in config.recall:
        if channel.name == name:
            model = models_of(config.recall)[name]
            return channel, plan_of(channel, name, recipes.split_options(channel, model)[0])
    raise ConfigError(f"no channel is called {name!r}", where="tune", hint=nearest(name, _names(data)))


def _kinds(table: RankerConfig | ChannelConfig, plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """The types and the present values of all that may be varied: options, of a channel those of its source too, and
    keys of `train`."""
    owners: list[tuple[str, Any]] = [("", plan.kind.Config)]
    if isinstance(table, ChannelConfig):
        source: Any = find(recipes.source_of(plan.kind), [recipes.SOURCES], "tune")
        owners.append(("", source.Config))
    given = {"": dict(table.options), "train.": dict(table.train)}
    if not plan.solves:
        from shortlist.models.tabular import tabular  # loads torch
        from shortlist.training.learn import Training

        owners.append(("train.", Training))
    kinds: dict[str, Any] = {}
    present: dict[str, Any] = {}
    for prefix, owner in owners:
        hints = get_type_hints(owner, include_extras=True)
        names = {f.name for f in fields(owner)}
        if prefix and tabular(plan.kind):  # the others do nothing for it
            names &= {*plan.kind.uses, "history", "seed", "calibration"}
        mine = {key: value for key, value in given[prefix].items() if key in names}
        typed = build(owner, mine, plan.where)
        for name in names:
            kinds.setdefault(f"{prefix}{name}", hints[name])
            present.setdefault(f"{prefix}{name}", getattr(typed, name))
    return kinds, present


def _at(table: RankerConfig | ChannelConfig, plan: Plan, key: str) -> Any:
    return plain(_kinds(table, plan)[1][key])


def _tried(table: RankerConfig | ChannelConfig, name: str, space: Mapping[str, Part]) -> None:
    """Raises ConfigError for an end of the space that the model refuses, before hours of trials."""
    for key, part in space.items():
        for value in part.ends:
            try:
                _kinds_of(changed(table, {key: value}), name)
            except ConfigError as error:
                raise ConfigError(error.what, where=f"tune.space.{name}.{key}", hint=error.hint) from None


def _kinds_of(table: RankerConfig | ChannelConfig, name: str) -> None:
    options = table.options
    if isinstance(table, ChannelConfig):
        options = recipes.split_options(table, models_of((table,))[name])[0]
    plan = plan_of(table, name, options)
    plan.config()
    _kinds(table, plan)


def _metric(name: str, metric: str | None) -> str:
    known = METRICS["rank" if name in ("rank", "coarse") else "recall"]
    if metric is None:
        return known[0]
    if metric not in known:
        raise ConfigError(f"no metric is called {metric!r}", where="tune", hint=nearest(metric, known))
    return metric


def _optuna() -> Any:
    """Raises ConfigError where optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("optuna is not installed", where="tune", hint="pip install 'shortlist[tune]'")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _ranker(data: Data, name: str, table: Any, plan: Plan, metric: str, scene: str | None) -> Subject:
    """Trials of a ranker learn from what the project's learns from, and score the same held-out candidates."""
    from shortlist.training.rankers import ranker  # loads torch

    scene = scene_of(data.project, scene)
    folder, examples = data.project.home / "models" / "valid", to_learn(data, "valid")
    catalogue = recipes.seen(data.schema, data.catalogue, lambda word: load(folder / word))
    _, held = held_out_rows(data, "valid", scene, name, ROWS)
    tasks = list(data.schema.tasks)
    n = next((n for n in range(len(tasks)) if _both(held, n)), None)
    if n is None:
        hint = "look at what positive and on say, or hold out more"
        raise DataError("no task has rows of both classes", where="validation", hint=hint)
    at = np.flatnonzero(held.known[:, n])
    y, groups = held.labels[at, n], held.candidates.owners[at]

    def judge(words: Any, watch: Watch | None, now: int) -> float:
        from shortlist.models.learned import restore

        scratch = folder / f".tune-{name}"
        try:
            ranker(
                plan_of(words, name, words.options), examples, catalogue, data.schema, scratch / name,
                run=scratch / "run", snapshot="tune", created_ms=now, features=data.features, watch=watch,
            )  # fmt: skip
            learned = restore(load(scratch / name, verify=False), data.schema, catalogue)
            p = learned.score(held.requests, held.candidates)[tasks[n]][at]
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return float(gauc(p, y, groups).value if metric == "gauc" else auc(p, y))

    return Subject(name, table, plan, f"{metric.upper()} of {tasks[n]}", judge)


def _both(held: Rows, n: int) -> bool:
    y = held.labels[held.known[:, n], n]
    return bool(len(y)) and bool(np.isin(y, (0, 1)).all()) and bool(y.min() < y.max())


def _channel(data: Data, name: str, table: Any, plan: Plan, metric: str, scene: str | None) -> Subject:
    """Trials of a channel are fitted beside those it rests on, and asked alone."""
    scene = scene_of(data.project, scene)
    folder = data.project.home / "models" / "valid"
    catalogue = recipes.seen(data.schema, data.catalogue, lambda word: load(folder / word))
    asked = held_out(data, "valid", min(table.quota, data.project.config.serve.max_n))
    depth, label = table.quota, f"{metric}@{table.quota}"

    def judge(words: Any, watch: Watch | None, now: int) -> float:
        config = data.project.config
        recall = tuple(words if channel.name == name else channel for channel in config.recall)
        other = _with(data, replace(config, recall=recall, coarse=None, rank=None))
        models = models_of(recall)
        plans = linked([plan_of(c, c.name, recipes.split_options(c, models[c.name])[0]) for c in recall])
        mine = next(p for p in plans if p.name == name)
        scratch = folder / f".tune-{name}"
        try:
            fit(
                _up_to(mine), data.part("valid"), catalogue, data.schema, scratch,
                snapshot="tune", created_ms=now, features=data.features, known=data.known, watch=watch,
            )  # fmt: skip
            drawn = document(other)
            drawn["stages"], drawn["fallback"] = {}, None
            needed = [plan.name for plan in _up_to(mine)]
            drawn["channels"] = [entry for entry in drawn["channels"] if entry["name"] in needed]
            alone = {"channels": [name], "stages": [], "merge": {"use": "snake", "options": {}}, "boosts": []}
            drawn["scenes"] = {scene: drawn["scenes"][scene] | alone | {"budget": depth}}
            where = {recipes.TEXT: folder}
            opened = lambda word: load(where.get(word, scratch) / word, verify=False)  # noqa: E731
            funnel = recipes.assemble(drawn, opened, data.catalogue)[scene]
            lists = [channel_lists(slates.candidates, 0, depth) for slates in funnel.runs(asked.requests)]
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        found = accuracy(np.concatenate(lists), asked.offsets, asked.labels, [depth], [metric])[label]
        return float(np.nanmean(found))

    return Subject(name, table, plan, label, judge)


def _up_to(plan: Plan) -> list[Plan]:
    """The plan, behind those that it rests on."""
    return [*([] if plan.after is None else _up_to(plan.after)), plan]


def _with(data: Data, config: Any) -> Data:
    """The same data under another configuration of models; what was read and cut already stays."""
    other = replace(data, project=replace(data.project, config=config))
    for name in ("split", "features", "known"):
        if name in data.__dict__:
            other.__dict__[name] = data.__dict__[name]
    return other


# ------------------------------------------------------------------------------------------ as a page


def as_table(found: Study, channel: bool) -> dict[str, Any]:
    """The best trial's options as tables of a project file; nothing where the project has no worse ones."""
    best = found.best
    if best is None or best.value is None or best.value <= found.now:
        return {}
    own: dict[str, Any] = {"name": found.name, "use": found.use} if channel else {"use": found.use}
    for key, value in best.options.items():
        owner, dot, name = key.partition(".")
        if dot:
            own.setdefault(owner, {})[name] = value
        else:
            own[key] = value
    return {"recall": [own]} if channel else {found.name: own}


def listed(found: Study) -> list[list[str]]:
    """Trials as a table, the best first, the head above them."""
    keys = list(found.space)
    order = sorted(found.trials, key=lambda t: (t.value is None, -(t.value or 0.0), t.number))
    rows = [
        [str(t.number), t.state, _figure(t.value), f"{t.seconds:.1f} s", *(_short(t.options.get(key)) for key in keys)]
        for t in order
    ]
    return [["trial", "state", found.metric, "took", *keys], *rows]


def said(found: Study) -> list[str]:
    """In words: what was reached, and whether it is more than what the project has."""
    best, cut = found.best, sum(t.state == "cut short" for t in found.trials)
    failed = [t for t in found.trials if t.state == "failed"]
    lines = [f"the project's own options reach {found.metric} {found.now:.4f} on the validation part"]
    if failed:
        lines.append(f"{len(failed)} trials failed, the first of them: {failed[0].why}")
    if best is None or best.value is None:
        return [*lines, "no trial came to its end"]
    more = best.value - found.now
    verdict = f"trial {best.number} reaches {best.value:.4f} ({more:+.4f})"
    if more <= 0:
        verdict += ": keep what the project has"
    lines.append(verdict)
    lines.append(f"{len(found.trials)} trials, {cut} cut short; one fit each: seeds differ by some of what is won here")
    return lines


def drawn(found: Study, code: str) -> Sheet:
    """As a page, with the options to write down as TOML `code`."""
    from shortlist.evaluation.pictures import drawn_trials

    rows = [
        {"number": t.number, "value": t.value, "state": t.state, "options": dict(t.options)}
        for t in found.trials
        if t.value is not None
    ]
    figures = []
    if rows:
        pictures = drawn_trials(rows, found.now, found.metric, found.space)
        figures = [Figure(title, words, svg) for title, words, svg in pictures]
    return Sheet(
        f"Tuning {found.name} ({found.use})",
        f"{found.metric} on the validation part by options; the test part was not looked at.",
        tuple(figures),
        (Table("Trials, the best first", listed(found)),),
        tuple(said(found)),
        code,
        found.recipe,
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
