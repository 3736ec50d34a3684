"""From words to a funnel: a release's document and forms become the funnels of its scenes.

The document is plain JSON and names parts by their files, so a server needs no model code to run a release.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np

from shortlist.artifact import Artifact
from shortlist.config import (
    ChannelConfig,
    IndexConfig,
    ProjectConfig,
    RankerConfig,
    SceneConfig,
    StageConfig,
    build,
    find,
    nearest,
    own_keys,
    plain,
)
from shortlist.errors import ConfigError
from shortlist.expressions import Expression
from shortlist.features.content import stored, with_vectors
from shortlist.features.featureset import FeatureSet
from shortlist.forms import Lists, Vectors
from shortlist.funnel.pipeline import ITEM, Channel, Funnel, Source, Stage
from shortlist.index.building import opened
from shortlist.index.lists import Elsewhere
from shortlist.schema import Catalogue, Schema

__all__ = ["document", "assemble", "seen", "split_options", "placed", "of_vectors", "source_of", "part_of", "TEXT"]

TEXT = "text"  # the artifact of vectors that texts became
SOURCES, FILTERS, MERGERS = "shortlist.funnel.sources", "shortlist.funnel.filters", "shortlist.funnel.mergers"
SELECTORS, BOOSTERS = "shortlist.funnel.selectors", "shortlist.traffic"


def source_of(model: Any) -> str:
    """The file of `funnel/sources/` that queries a model's form: what it says itself, else a vector search."""
    return str(getattr(model, "source", "nearest"))


def split_options(channel: ChannelConfig, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A channel's options as (the model's, its source's): each key goes to the Config that owns it.

    Raises ConfigError for a key neither owns, naming the nearest of both.
    """
    source = find(source_of(model), [SOURCES], f"recall.{channel.name}.source")
    own = {f.name for f in dataclasses.fields(model.Config)}
    query = {f.name for f in dataclasses.fields(source.Config)}  # type: ignore[attr-defined]
    for key in channel.options:
        if key not in own | query:
            where = f"recall.{channel.name} ({channel.use})"
            names = [*own, *query, *own_keys(ChannelConfig)]
            from shortlist.training.plan import RECALL, unknown  # a server has no use for it

            raise unknown(key, model, RECALL, where, names, _options_of)
    if channel.index != IndexConfig() and not of_vectors(source):
        what = f"{channel.use} makes lists: an index does nothing"
        raise ConfigError(what, where=f"recall.{channel.name}.index", hint="take index away")
    options = channel.options
    return {k: v for k, v in options.items() if k in own}, {k: v for k, v in options.items() if k in query}


@contextmanager
def placed(channel: str) -> Iterator[None]:
    """What a source says of one of its options, said of the channel's."""
    try:
        yield
    except ConfigError as error:
        place = f"recall.{channel}.{error.where}" if error.where else f"recall.{channel}"
        raise ConfigError(error.what, where=place, hint=error.hint) from None


def of_vectors(source: Any) -> bool:
    """Whether a source searches vectors, as the type of its form says; one that does not say may."""
    form = get_type_hints(source.__init__).get("form", Vectors)
    return Vectors in (form, *get_args(form))


def _options_of(model: Any) -> tuple[str, ...]:
    """Options of a model and of the source that queries it."""
    source: Any = find(source_of(model), [SOURCES], "recall")
    return tuple(f.name for kind in (model, source) for f in dataclasses.fields(kind.Config))


def document(
    config: ProjectConfig, schema: Schema, models: Mapping[str, Any], folder: Path | None = None
) -> dict[str, Any]:
    """The part of a release that is words: schema, features, channels and scenes, defaults in place.

    `models` by channel name; `folder` is the project's, where files are that features name.
    """
    channels = []
    for channel in config.recall:
        model = models[channel.name]
        _, options = split_options(channel, model)
        channels.append({
            "name": channel.name, "model": channel.use, "source": source_of(model),
            "quota": channel.quota, "options": options,
            **({"of": channel.options["of"]} if "of" in channel.options else {}),
        })  # fmt: skip
    scenes = {name: plain(_inherit(config, scene)) for name, scene in config.scene.items()}
    tasks = list(schema.tasks)
    stages: dict[str, Any] = {}
    for name in ("coarse", "rank"):
        ranker: RankerConfig | None = getattr(config, name)
        if ranker is None:
            continue
        if not tasks:
            hint = 'add tasks.NAME = { positive = "..." } to [schema]'
            raise ConfigError("a ranker needs a task to learn", where=name, hint=hint)
        if not ranker.fuse and len(tasks) > 1:
            hint = f"write fuse over {', '.join(tasks)}"
            raise ConfigError("several tasks and no word how they become one score", where=f"{name}.fuse", hint=hint)
        stages[name] = {"model": ranker.use, "fuse": ranker.fuse or tasks[0], "keep": ranker.keep, "tasks": tasks}
        _fuse(name, stages[name], schema)
    for name, scene in scenes.items():
        if scene["fuse"] and not scene["stages"]:
            what = "there is no stage whose score it could be"
            raise ConfigError(what, where=f"scene.{name}.fuse", hint="add [rank] use = ..., or take fuse away")
        _staged(f"scene.{name}", scene, stages, schema)
    fallback = next((c.name for c in config.recall if source_of(models[c.name]) == "popular"), None)
    return {
        "schema": plain(schema), "features": FeatureSet.of(config.feature, schema, folder).words(),
        "channels": channels, "stages": stages, "scenes": scenes, "fallback": fallback,
        "experiments": plain(config.experiment),
    }  # fmt: skip


def _inherit(config: ProjectConfig, scene: SceneConfig) -> SceneConfig:
    """A scene with what it leaves open taken from the project."""
    return replace(
        scene,
        channels=scene.channels if scene.channels is not None else tuple(c.name for c in config.recall),
        stages=scene.stages if scene.stages is not None else _stages(config),
        merge=scene.merge or config.merge,
        filters=scene.filters if scene.filters is not None else config.filters,
        boosts=scene.boosts if scene.boosts is not None else config.boosts,
        rerank=scene.rerank or config.rerank,
    )


def _stages(config: ProjectConfig) -> tuple[Literal["coarse", "rank"], ...]:
    names: tuple[Literal["coarse", "rank"], ...] = ("coarse", "rank")
    return tuple(name for name in names if getattr(config, name) is not None)


def assemble(
    document: Mapping[str, Any],
    artifact: Callable[[str], Artifact],
    catalogue: Catalogue,
    pool: ThreadPoolExecutor | None = None,
    lists: Callable[[str], Elsewhere] | None = None,
) -> dict[str, Funnel]:
    """Funnels by scene. `artifact(name)` opens a channel's or a stage's; parts are built once and shared by scenes.

    `lists(name)` gives a channel's forms where they lie elsewhere than in its artifact. The fallback's never do: it is
    what answers when nothing else can.
    """
    schema = Schema.parse(document["schema"], "release.schema")
    read = seen(schema, catalogue, artifact)
    sources: dict[str, Channel] = {}
    fallback: Source | None = None
    for entry in document["channels"]:
        name = entry["name"]
        kind: Any = find(entry["source"], [SOURCES], f"recall.{name}")
        options = build(kind.Config, entry["options"], f"recall.{name}")
        made = artifact(name)
        elsewhere = None if lists is None else lists(name)
        given: dict[str, Callable[[], Any]] = {
            "queries": lambda: _restored(artifact(_asks(name, document)), schema, read),  # noqa: B023 (called below)
            "beside": made.beside if elsewhere is None else lambda: elsewhere.beside,  # noqa: B023 (called below)
            "items": lambda: read.items,
            "users": lambda: read.users,
        }
        needed = {word: given[word]() for word in getattr(kind, "needs", ())}
        if elsewhere is None:
            form: Any = opened(made)
        else:
            held = elsewhere.form
            form = opened(made, held) if isinstance(held, Vectors | Lists) else held
        with placed(name):
            sources[name] = Channel(name, kind(options, form, schema, **needed), entry["quota"])
        if name == document["fallback"]:
            fallback = sources[name].source if elsewhere is None else kind(options, made.form(), schema, **needed)
    stages = {
        name: Stage(
            name, _restored(artifact(name), schema, read), _fuse(name, table, schema), table["keep"], catalogue.items
        )
        for name, table in document.get("stages", {}).items()
    }
    funnels = {}
    for scene, table in document["scenes"].items():
        names = table["channels"]
        where = f"scene.{scene}"
        funnels[scene] = Funnel(
            channels=tuple(sources[name] for name in names),
            merger=_part(MERGERS, table["merge"], f"{where}.merge", tuple(names)),
            filters=_parts(FILTERS, [{"use": "excluded"}, *table["filters"]], f"{where}.filters", schema, catalogue),
            stages=tuple(
                stages[name] if fuse is None else replace(stages[name], fuse=fuse)
                for name, fuse in _staged(where, table, document.get("stages", {}), schema).items()
            ),
            boosters=tuple(_parts(BOOSTERS, table["boosts"], f"{where}.boosts", schema, catalogue).values()),
            selector=_part(SELECTORS, table["rerank"], f"{where}.rerank", schema, catalogue.items),
            budget=table["budget"],
            fallback=fallback,
            pool=pool,
        )
    return funnels


def seen(schema: Schema, catalogue: Catalogue, artifact: Callable[[str], Artifact]) -> Catalogue:
    """The catalogue as models see it: texts that have an encoder are the vectors of the artifact `text`."""
    return with_vectors(catalogue, stored(artifact(TEXT))) if schema.encoded() is not schema else catalogue


def _asks(name: str, document: Mapping[str, Any]) -> str:
    """The channel whose model makes the queries: its own, or that of the channel it is `of`, and so on."""
    of = {entry["name"]: entry.get("of") for entry in document["channels"]}
    while of[name]:
        name = of[name]
    return name


def _restored(artifact: Artifact, schema: Schema, catalogue: Catalogue) -> Any:
    from shortlist.models.learned import restore  # torch is loaded only where a release needs it

    return restore(artifact, schema, catalogue)


def _fuse(name: str, table: Mapping[str, Any], schema: Schema) -> Expression:
    """The stage's expression over tasks, the merge's score and numbers of items. Raises ConfigError for any other name,
    and for one that gives no number."""
    fuse = Expression.parse(table["fuse"], f"{name}.fuse", ranks=True)
    numbers = [f"{ITEM}{field}" for field, kind in schema.items.items() if kind.kind == "dense"]
    for word in sorted(fuse.names):
        if word.startswith(ITEM) and word not in numbers:
            field = word.removeprefix(ITEM)
            what = f"{word} is no number" if field in schema.items else f"no item field is called {field!r}"
            raise ConfigError(what, where=f"{name}.fuse", hint=nearest(word, numbers))
        if word not in (*table["tasks"], "merge", *numbers):
            raise ConfigError(f"no task is called {word!r}", where=f"{name}.fuse", hint=nearest(word, table["tasks"]))
    if fuse({word: np.ones(1) for word in fuse.names}, 1).dtype.kind not in "biuf":
        hint = f"write a score, e.g. {table['tasks'][0]} * merge"
        raise ConfigError(f"{table['fuse']!r} is no number", where=f"{name}.fuse", hint=hint)
    return fuse


def _staged(
    where: str, scene: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]], schema: Schema
) -> dict[str, Expression | None]:
    """A scene's stages in order, the last with the scene's own expression where it has one. Raises ConfigError."""
    names = tuple(scene.get("stages") or ())
    own = scene.get("fuse")
    return {
        name: _fuse(where, {**stages[name], "fuse": own}, schema) if own and name == names[-1] else None
        for name in names
    }


def _part(package: str, table: Mapping[str, Any], where: str, *given: Any) -> Any:
    """One part, `given` passed on."""
    kind, config = part_of(package, table["use"], table.get("options") or {}, where)
    return kind(config, *given)


def part_of(package: str, use: str, options: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """A part's class, found by name, and its Config, built from the options. Raises ConfigError."""
    kind: Any = find(use, [package], where)
    return kind, build(kind.Config, options, f"{where} ({use})", own_keys(StageConfig))


def _parts(
    package: str, tables: Sequence[Mapping[str, Any]], where: str, schema: Schema, catalogue: Catalogue
) -> dict[str, Any]:
    """Parts in order, by their file's name; one used again is `seen 2`, so that its drops can be told apart."""
    parts: dict[str, Any] = {}
    for n, table in enumerate(tables):
        use = table["use"]
        times = 1 + sum(other["use"] == use for other in tables[:n])
        name = use if times == 1 else f"{use} {times}"
        parts[name] = _part(package, table, f"{where}[{use}]", schema, catalogue.items)
    return parts
