"""Frozen typed configs. TOML becomes objects, strictly: an unknown key names its nearest neighbour.

A `Config` is a class under `@frozen`; `build` turns a table into it, `load` reads a project file, and
`find` turns a word (`use = "item_cf"`) into the class of the file of that name.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import math
import pkgutil
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, Lt

from shortlist.errors import ConfigError

__all__ = [
    "frozen", "build", "plain", "nearest", "find", "catalogue", "own_keys",
    "Positive", "NonNegative", "Count", "Share", "Fraction",
    "Project", "ProjectConfig", "DataConfig", "SplitConfig", "ChannelConfig", "IndexConfig", "RankerConfig",
    "RankingConfig", "StageConfig", "SceneConfig", "Arm", "ExperimentConfig", "TuneConfig", "ServeConfig", "load",
    "parse",
]  # fmt: skip

T = TypeVar("T")

RESERVED = ("merge", "backfill", "coarse", "rank", "boost", "text")  # words that traces and folders use already
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]
Fraction = Annotated[float, Gt(0), Lt(1)]

ENV = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")  # a value that the environment has
SECRET = re.compile(r"password|passphrase|secret|key\.pem$|^sasl\.oauthbearer\.config$")  # names of settings
_ONE_ORDER, _ACKNOWLEDGED = "the topic's one order is the log's", "what is acknowledged must not be lost or doubled"
_POSITION = "the position in the topic is kept in the local file, in one transaction with what was folded"
KEPT = {  # settings of the Kafka client that the log's promises rest on, and what each is for
    "bootstrap.servers": "`use` names the brokers",
    "metadata.broker.list": "`use` names the brokers",
    "group.id": _POSITION,
    "enable.auto.commit": _POSITION,
    "enable.auto.offset.store": _POSITION,
    "auto.offset.reset": _POSITION,
    "enable.partition.eof": "it says when everything is folded",
    "isolation.level": _ONE_ORDER,
    "allow.auto.create.topics": "a topic of one partition is made, and no other",
    "acks": _ACKNOWLEDGED,
    "request.required.acks": _ACKNOWLEDGED,
    "enable.idempotence": _ACKNOWLEDGED,
    "transactional.id": _ACKNOWLEDGED,
    "retries": _ACKNOWLEDGED,
    "message.send.max.retries": _ACKNOWLEDGED,
    "max.in.flight": _ACKNOWLEDGED,
    "max.in.flight.requests.per.connection": _ACKNOWLEDGED,
    "message.timeout.ms": "a writer is answered within the log's own deadline",
    "delivery.timeout.ms": "a writer is answered within the log's own deadline",
    "plugin.library.paths": "no code is run that a file names",
}


@dataclass_transform(frozen_default=True, kw_only_default=False)
def frozen(cls: type[T]) -> type[T]:
    """An immutable dataclass that refuses unknown keys when it is built from a table."""
    cls.__pydantic_config__ = {"extra": "forbid", "arbitrary_types_allowed": True}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


def nearest(word: str, words: Sequence[str]) -> str:
    """`did you mean x?` for the closest of `words`, else the list of them."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(sorted(words))}" if words else "nothing is accepted here"


def build(cls: type[T], table: Mapping[str, Any], where: str, beside: Sequence[str] = ()) -> T:
    """Make a `frozen` config from a table. Raises ConfigError naming the key, the problem and the cure.

    `beside` are keys of the same table that another owns: a key that nobody owns may be meant for one of them.
    """
    from pydantic import TypeAdapter, ValidationError

    _refuse_nan(table, where)
    try:
        return TypeAdapter(cls).validate_json(_json(table), strict=True)
    except ValidationError as error:
        raise _explain(cls, error.errors(include_url=False), where, beside) from None


def _refuse_nan(value: Any, where: str) -> None:
    """NaN has no place in JSON: it would become null, and switch things off."""
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError("not a number", where=where, hint="write a number, or inf for no bound")
    if isinstance(value, Mapping):
        for key, part in value.items():
            _refuse_nan(part, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for n, part in enumerate(value):
            _refuse_nan(part, f"{where}[{n}]")


def _json(table: Mapping[str, Any]) -> bytes:
    # JSON mode lets a TOML array become a tuple and stays strict about everything else.
    import msgspec

    return msgspec.json.encode(table)


_SAYS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "dataclass_type": "a table",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
}


def _explain(cls: type, errors: Sequence[Mapping[str, Any]], where: str, beside: Sequence[str] = ()) -> ConfigError:
    """The first problem in our words. Members of a union that failed are one problem: `text or a table`."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = next((e for e in errors if e["type"] in unknown), errors[0])  # before the key it was meant to be
    kind = first["type"]
    path, owner = _follow(cls, first["loc"])
    at = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    if kind in unknown:
        names = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        names += beside if len(path) == 1 else ()
        at = at.removesuffix(f".{path[-1]}")
        return ConfigError(f"unknown key {path[-1]!r}", where=f"{where}{at}", hint=nearest(str(path[-1]), names))
    if kind in ("missing", "missing_argument"):
        return ConfigError("this key is required", where=f"{where}{at}", hint=f"add {path[-1]} = ...")
    alike = [e for e in errors if _follow(cls, e["loc"])[0] == path]
    says = dict.fromkeys(_SAYS[e["type"]].format(**e.get("ctx", {})) for e in alike if e["type"] in _SAYS)
    what = f"should be {' or '.join(says)}" if says else str(first["msg"])
    return ConfigError(f"{what}, got {first['input']!r}", where=f"{where}{at}", hint="correct the value")


def _follow(cls: Any, loc: Sequence[str | int]) -> tuple[list[str | int], Any]:
    """The keys that an error's location names (union members left out) and the class that owns the last."""
    path: list[str | int] = []
    owner: Any = cls
    for step in loc:
        members = [a for a in get_args(cls) if a is not type(None)] if get_origin(cls) in (Union, UnionType) else []
        if len(members) > 1:
            cls = None
            continue
        owner = members[0] if members else cls
        if isinstance(owner, type) and dataclasses.is_dataclass(owner):
            cls = get_type_hints(owner).get(str(step))
        elif get_origin(owner) is dict:
            cls = get_args(owner)[1]
        else:
            cls = next(iter(get_args(owner)), None)
        path.append(step)
    return path, owner


def plain(value: Any) -> Any:
    """A config as plain tables, defaults in place: what `config show` prints and a manifest keeps."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list, frozenset, set)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


# ---------------------------------------------------------------------------------------------- registry


def catalogue(package: str) -> tuple[str, ...]:
    """Names of the files of a package: the directory is the registry."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    files = (m.name for m in pkgutil.iter_modules(places) if not m.ispkg)
    return tuple(sorted(name for name in files if not name.startswith("_")))


def find(use: str, packages: Sequence[str], where: str) -> Callable[..., Any]:
    """The class a config's `use` means: a file in one of `packages`, or `module:Class` outside.

    Raises ConfigError when no file has that name, naming the nearest.
    """
    if ":" in use:
        module_name, _, name = use.partition(":")
        try:
            return cast(Callable[..., Any], getattr(importlib.import_module(module_name), name))
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            what = f"cannot import {use!r}: {error}"
            raise ConfigError(what, where=where, hint="write module:Class") from None
    for package in packages:
        if use in catalogue(package):
            module = importlib.import_module(f"{package}.{use}")
            return cast(Callable[..., Any], getattr(module, module.__all__[0]))
    names = [name for package in packages for name in catalogue(package)]
    raise ConfigError(f"nothing is called {use!r}", where=where, hint=nearest(use, names))


# ---------------------------------------------------------------------------------------------- project file


@frozen
class DataConfig:
    """Where the log and the catalogue are: files, folders, or a named public log (`adapter`). Beside an adapter that
    reads a format, `events` is the folder of files in it.

    `engine` is where table work runs (`tables/engine.py`)."""

    adapter: str | None = None
    engine: str = "polars"
    events: str | None = None
    items: str | None = None
    users: str | None = None


@frozen
class SplitConfig:
    """How held-out events are chosen (`dataset/splits/`) and which events count as relevant.

    `positive` is an expression over event columns, e.g. `value >= 4`; empty means every
    event of an action that has weight.
    """

    use: str = "user_time"
    positive: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@frozen
class IndexConfig:
    """How the vectors of a channel are searched (`index/kinds/`); `auto` is exact for few items and lists for many.

    Of the best items at least the share `recall` is found, measured when the index is built, with sampled queries and
    dice of this `seed`.
    """

    use: str = "auto"
    recall: Annotated[float, Gt(0), Le(1)] = 0.95
    seed: Annotated[int, Ge(0)] = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@frozen
class ChannelConfig:
    """One recall channel: the model it is built with (`use`) and its share of the merged candidates.

    A model with gradients is trained as `train` (`training/loop.py`) and `loss` (`training/objectives/softmax.py`) say,
    its embeddings are kept as `tables` (`batch.py`) says.
    """

    name: str
    use: str
    quota: Count = 100
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    loss: dict[str, Any] = dataclasses.field(default_factory=dict)
    tables: dict[str, Any] = dataclasses.field(default_factory=dict)
    index: IndexConfig = IndexConfig()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@frozen
class RankerConfig:
    """A coarse ranker or a ranker: the model (`use`), how its tasks become one score (`fuse`), how many go on (`keep`).

    `fuse` is an expression over the tasks' probabilities, `merge`, the score of the merged channels, and dense fields
    of items (`item.price`); empty means the only task.
    """

    use: str
    fuse: str = ""
    keep: Count | None = None
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    loss: dict[str, Any] = dataclasses.field(default_factory=dict)
    tables: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@frozen
class RankingConfig:
    """What rankers learn on: the latest `share` of what the fit may learn from; recall is fitted before it for that.

    Each user is asked about at `moments` of that time, in all at most `requests`; a share of users `held` says when to
    stop. Publish measures these `runtimes` beside torch and keeps the fastest; `aot` compiles for a while.
    `rows = "logged"` learns instead on what was served and what became of it within `window_minutes`; `position` then
    says whether the place on the page is a feature of the ranker, unknown when it serves.
    """

    rows: Literal["sampled", "logged"] = "sampled"
    window_minutes: Count = 30
    position: bool = False
    share: Fraction = 0.2
    moments: Count = 3
    requests: Count = 20_000
    held: Fraction = 0.1
    runtimes: tuple[Literal["torch", "onnx", "aot"], ...] = ("torch", "onnx")


@frozen
class FeatureConfig:
    """A feature of requests or candidates beside the declared fields: its kind (`features/kinds/`) and options."""

    name: str
    use: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@frozen
class LogConfig:
    """Where events are kept: `sqlite:` beside the project, or `kafka://HOST:PORT/TOPIC`.

    `options` are settings of the Kafka client (librdkafka's: `"security.protocol" = "SASL_SSL"`); `"env:NAME"` is what
    the environment has for NAME when the log is opened, and the only way to give a secret.
    Days that have been over for `seal_after_days` become Parquet; those older than `keep_days` are dropped (None keeps
    everything). A deleted user's events are erased within `erase_within_hours`.
    """

    use: str = "sqlite:"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    seal_after_days: Count = 2
    keep_days: Count | None = None
    erase_within_hours: Positive = 24.0


@frozen
class StageConfig:
    """A part chosen by `use`, with options of its own."""

    use: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@frozen
class SceneConfig:
    """One funnel of a release. What is None is taken from the project's own table of that name.

    `fuse` is that of its last scoring stage, where it is not the stage's own: experiments compare scenes.
    """

    page: Count = 10
    budget: Count = 1000
    channels: tuple[str, ...] | None = None
    stages: tuple[Literal["coarse", "rank"], ...] | None = None
    merge: StageConfig | None = None
    filters: tuple[StageConfig, ...] | None = None
    boosts: tuple[StageConfig, ...] | None = None
    rerank: StageConfig | None = None
    fuse: str = ""


@frozen
class Arm:
    """One side of an experiment: the scene its units get, and its share of all units."""

    scene: str
    share: Share


@frozen
class ExperimentConfig:
    """A layer of traffic: units hashed into `arms` by share. What the shares leave over is held out.

    `salt` (the name where empty) makes a layer independent of the others; a new salt is a new draw.
    """

    name: str
    arms: dict[str, Arm]
    unit: Literal["user", "request"] = "user"
    salt: str = ""


@frozen
class TuneConfig:
    """What `shortlist tune model` tries: `space.rank`, `space.coarse` or `space.<channel>` say what is varied and how
    far, by key (`dim`, `"train.lr"`): a list of values, or `{ low = ..., high = ..., log = true }`. Without a word the
    model's own options and `train.lr` are varied, as far as their types and values say.
    """

    trials: Count = 20
    space: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


@frozen
class ServeConfig:
    """The HTTP server. `deadline_ms` bounds one answer; the `max_*` bound what one request may ask.

    `store` is where the state of users and items lives: `memory:`, `lmdb:` (a folder of the project, or `lmdb:PATH`) or
    `redis://HOST:PORT/DB`. Of each user the latest `history` interactions and `shown` exposures are kept there. With
    `lists = "store"` the forms of recall channels are published to it with each release and read from there, else from
    the release's files; with `lists_ttl_hours` they are told no longer than that. Of each slate `rejected` candidates
    are logged beside what was shown.
    """

    store: str = "lmdb:"
    history: Count = 1000
    shown: Count = 1000
    lists: Literal["release", "store"] = "release"
    lists_ttl_hours: Positive | None = None
    rejected: Annotated[int, Ge(0)] = 10
    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 8000
    deadline_ms: Positive = 100.0
    max_n: Count = 500
    max_body_bytes: Count = 1_000_000
    max_batch: Count = 1000
    traces: Count = 1000


@frozen
class ProjectConfig:
    """A whole project file."""

    data: DataConfig = DataConfig()
    schema: dict[str, Any] = dataclasses.field(default_factory=dict)
    log: LogConfig = LogConfig()
    feature: tuple[FeatureConfig, ...] = ()
    split: SplitConfig = SplitConfig()
    recall: tuple[ChannelConfig, ...] = ()
    merge: StageConfig = StageConfig("snake")
    filters: tuple[StageConfig, ...] = (StageConfig("seen"), StageConfig("available"))
    ranking: RankingConfig = RankingConfig()
    coarse: RankerConfig | None = None
    rank: RankerConfig | None = None
    boosts: tuple[StageConfig, ...] = ()
    rerank: StageConfig = StageConfig("top")
    scene: dict[str, SceneConfig] = dataclasses.field(default_factory=lambda: {"home": SceneConfig()})
    experiment: tuple[ExperimentConfig, ...] = ()
    tune: TuneConfig = TuneConfig()
    serve: ServeConfig = ServeConfig()
    seed: int = 0


@frozen
class Project:
    """A project file and the folders beside it. Everything the program writes lies under `home`: `kept`, else `var/`
    beside the file."""

    file: Path
    config: ProjectConfig
    kept: Path | None = None

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def home(self) -> Path:
        """Tables, log, releases, reports."""
        return self.folder / "var" if self.kept is None else self.kept


def parse(table: Mapping[str, Any], where: str = "project") -> ProjectConfig:
    """A project table as typed config. Keys a part does not own become its `options`, checked by the part."""
    _refuse_nan(table, where)  # while each key is where it was written
    table = dict(table)
    for key in ("split", "merge", "rerank"):
        if key in table:
            table[key] = _part(table[key], SplitConfig if key == "split" else StageConfig, f"{where}.{key}")
    for key in ("coarse", "rank"):
        if key in table:
            table[key] = _part(table[key], RankerConfig, f"{where}.{key}")
    for key in ("filters", "boosts"):
        if key in table:
            table[key] = _parts(table[key], f"{where}.{key}")
    if isinstance(table.get("recall"), Sequence) and not isinstance(table["recall"], str):
        table["recall"] = [_channel(channel, f"{where}.recall[{n}]") for n, channel in enumerate(table["recall"])]
    if isinstance(table.get("feature"), Sequence) and not isinstance(table["feature"], str):
        table["feature"] = [
            _part(feature, FeatureConfig, f"{where}.feature[{n}]") for n, feature in enumerate(table["feature"])
        ]
    if isinstance(table.get("scene"), Mapping):
        scenes = table["scene"].items()
        table["scene"] = {name: _scene(scene, f"{where}.scene.{name}") for name, scene in scenes}
    config = build(ProjectConfig, table, where)
    _check_log(config.log, f"{where}.log.options")
    names = [channel.name for channel in config.recall]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two channels are called {name!r}", where=f"{where}.recall", hint="rename one")
        if name in RESERVED or "/" in name or name.startswith("."):
            raise ConfigError(f"a channel cannot be called {name!r}", where=f"{where}.recall", hint="rename it")
    for scene_name, scene in config.scene.items():
        for name in scene.channels or ():
            if name not in names:
                at = f"{where}.scene.{scene_name}.channels"
                raise ConfigError(f"no channel is called {name!r}", where=at, hint=nearest(name, names))
        for stage in scene.stages or ():
            if getattr(config, stage) is None:
                at = f"{where}.scene.{scene_name}.stages"
                raise ConfigError(f"there is no [{stage}]", where=at, hint=f"add [{stage}] use = ...")
    for n, experiment in enumerate(config.experiment):
        _check_experiment(experiment, list(config.scene), f"{where}.experiment[{n}]")
        if experiment.name in [other.name for other in config.experiment[:n]]:
            what = f"two experiments are called {experiment.name!r}"
            raise ConfigError(what, where=f"{where}.experiment", hint="rename one")
    return config


def _check_log(log: LogConfig, where: str) -> None:
    """Raises ConfigError, which never quotes a value: it may be a secret."""
    if log.options and not log.use.startswith("kafka:"):
        hint = 'remove them, or write use = "kafka://HOST:PORT/TOPIC"'
        raise ConfigError("these are settings of a Kafka client, and there is none", where=where, hint=hint)
    for name, value in log.options.items():
        at = f'{where}."{name}"'
        if name in KEPT:
            raise ConfigError("this setting is the log's own", where=at, hint=f"remove it: {KEPT[name]}")
        if isinstance(value, Mapping):
            raise ConfigError(
                "should be text, a number or true or false", where=at, hint="put the whole name in quotes"
            )
        if not isinstance(value, (str, int, float)):
            raise ConfigError("should be text, a number or true or false", where=at, hint="correct the value")
        if isinstance(value, str) and value.startswith("env:") and not ENV.fullmatch(value):
            raise ConfigError("no variable is called so", where=at, hint='write "env:NAME", of letters, digits and _')
        if SECRET.search(name) and not (isinstance(value, str) and ENV.fullmatch(value)):
            hint = 'write "env:NAME", and set NAME in the environment'
            raise ConfigError("a secret has no place in a project file", where=at, hint=hint)


def _check_experiment(experiment: ExperimentConfig, scenes: Sequence[str], where: str) -> None:
    for name, arm in experiment.arms.items():
        if arm.scene not in scenes:
            hint = nearest(arm.scene, scenes)
            raise ConfigError(f"no scene is called {arm.scene!r}", where=f"{where}.arms.{name}.scene", hint=hint)
    total = sum(arm.share for arm in experiment.arms.values())
    if not experiment.arms or total > 1 + 1e-9:
        what = f"the shares of the arms add up to {total:g}"
        raise ConfigError(what, where=f"{where}.arms", hint="they may add up to 1; what is left is held out")


def _part(value: Any, cls: type, where: str) -> Any:
    if isinstance(value, str):
        return {"use": value}
    if not isinstance(value, Mapping):
        what = f"should be a table or a name, got {value!r}"
        raise ConfigError(what, where=where, hint='write { use = "..." }')
    own = own_keys(cls)
    options = {k: v for k, v in value.items() if k not in own}
    return {**{k: v for k, v in value.items() if k in own}, "options": options}


def _channel(value: Any, where: str) -> Any:
    table = _part(value, ChannelConfig, where)
    return {**table, "index": _part(table["index"], IndexConfig, f"{where}.index")} if "index" in table else table


def own_keys(cls: type) -> tuple[str, ...]:
    """Keys that a part's table has whatever `use` says; the others are options."""
    return tuple(f.name for f in dataclasses.fields(cls) if f.name != "options")


def _parts(values: Any, where: str) -> Any:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConfigError(f"should be a list, got {values!r}", where=where, hint='write [ "seen" ]')
    return [_part(value, StageConfig, f"{where}[{n}]") for n, value in enumerate(values)]


def _scene(scene: Any, where: str) -> Any:
    if not isinstance(scene, Mapping):
        return scene
    scene = dict(scene)
    for key in ("merge", "rerank"):
        if key in scene:
            scene[key] = _part(scene[key], StageConfig, f"{where}.{key}")
    for key in ("filters", "boosts"):
        if key in scene:
            scene[key] = _parts(scene[key], f"{where}.{key}")
    return scene


def load(path: str | Path) -> Project:
    """Read a project file. Raises ConfigError when it is absent, is not TOML, or does not fit."""
    file = Path(path)
    try:
        if file.is_dir():
            file = file / "shortlist.toml"
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such project file", where=str(file), hint="run `shortlist init DATA`") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(file), hint="allow reading it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML: {error}", where=str(file), hint="correct the line it names") from None
    except ValueError as error:  # of the path
        raise ConfigError(f"no name of a file: {error}", where=repr(str(file)), hint="correct --project") from None
    return Project(file.resolve(), parse(table, file.name))
