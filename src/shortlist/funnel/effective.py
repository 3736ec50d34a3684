"""A project as it is meant: every part it names is found and made, and every default is in place.

One check for all that read a project: a word that no part owns is refused before anything is computed.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from shortlist.config import (
    ChannelConfig,
    ProjectConfig,
    RankerConfig,
    SceneConfig,
    SplitConfig,
    StageConfig,
    build,
    find,
    own_keys,
    plain,
)
from shortlist.expressions import Expression
from shortlist.features import content
from shortlist.funnel import recipes
from shortlist.index.building import kind_of
from shortlist.schema import Catalogue, Schema

__all__ = ["effective"]

RELEVANT = ("value", "time_ms", "action")  # columns that `split.positive` may read
PACKAGES = {
    "merge": recipes.MERGERS, "filters": recipes.FILTERS, "boosts": recipes.BOOSTERS, "rerank": recipes.SELECTORS
}  # fmt: skip


def effective(config: ProjectConfig, schema: Schema) -> dict[str, Any]:
    """The project as tables: each part with the defaults of the file its `use` names, `schema` as it is given.

    Where None is set and is not the default, it is `inf`, which reads back as None. Parts are made over an empty
    catalogue. Loads torch only where a model that needs it is named. Raises ConfigError.
    """
    channels = tuple(channel.name for channel in config.recall)
    table: dict[str, Any] = _shown(config)
    table["schema"] = _shown(schema)
    table["split"] = _split(config.split)
    models = {c.name: find(c.use, ["shortlist.models.recall"], f"recall.{c.name}.use") for c in config.recall}
    table["recall"] = [_channel(channel, models[channel.name], schema) for channel in config.recall]
    for name in ("coarse", "rank"):
        ranker: RankerConfig | None = getattr(config, name)
        if ranker is not None:
            table[name] = _ranker(ranker, name, schema)
    content.check(schema)
    words = recipes.document(config, schema, models)
    table["feature"] = [{"name": f["name"], "use": f["use"], **_shown(f["options"])} for f in words["features"]]
    table |= _stages(config, "", schema, channels)
    for name, scene in config.scene.items():
        table["scene"][name] |= _stages(scene, f"scene.{name}.", schema, tuple(words["scenes"][name]["channels"]))
        if scene.merge is None:  # the project's own, over the scene's channels
            _part(config.merge, "merge", f"scene.{name}.merge", tuple(words["scenes"][name]["channels"]))
    return table


def _shown(config: Any) -> Any:
    """As `plain`, with `inf` for a None that is not the default: TOML has no word for it, and leaves None out."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: math.inf if value is None and f.default is not None else _shown(value)
            for f in dataclasses.fields(config)
            for value in [getattr(config, f.name)]
        }
    if isinstance(config, Mapping):
        return {str(key): _shown(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [_shown(value) for value in config]
    return plain(config)


def _split(split: SplitConfig) -> dict[str, Any]:
    kind: Any = find(split.use, ["shortlist.dataset.splits"], "split.use")
    options = build(kind.Config, split.options, f"split ({split.use})", own_keys(SplitConfig))
    if split.positive:
        Expression.parse(split.positive, "split.positive").check(RELEVANT)
    return {"use": split.use, "positive": split.positive, **_shown(options)}


def _channel(channel: ChannelConfig, model: Any, schema: Schema) -> dict[str, Any]:
    """A channel with the options of its model and of the source that queries it."""
    own, query = recipes.split_options(channel, model)
    shown = {"name": channel.name, "use": channel.use, "quota": channel.quota}
    shown |= _trained(channel, channel.name, own, schema)
    source: Any = find(recipes.source_of(model), [recipes.SOURCES], f"recall.{channel.name}.source")
    options = build(source.Config, query, f"recall.{channel.name}")
    if hasattr(source, "check"):
        with recipes.placed(channel.name):
            source.check(options, schema)
    shown |= _shown(options)
    if recipes.of_vectors(source):
        index = channel.index
        _, _, built = kind_of(index, f"recall.{channel.name}.index")
        shown["index"] = {"use": index.use, "recall": index.recall, "seed": index.seed}
        if index.use != "auto":
            shown["index"] |= _shown(built)
    return shown


def _ranker(ranker: RankerConfig, name: str, schema: Schema) -> dict[str, Any]:
    return {"use": ranker.use, "fuse": ranker.fuse, "keep": ranker.keep} | _trained(
        ranker, name, ranker.options, schema
    )


def _trained(
    config: ChannelConfig | RankerConfig, name: str, options: Mapping[str, Any], schema: Schema
) -> dict[str, Any]:
    """How a model is trained, and its options."""
    from shortlist.training.plan import plan_of, trained_by  # a server has no use for it

    plan = plan_of(config, name, options)
    typed = plan.config()
    shown: dict[str, Any] = {"train": {}, "loss": {}} | _shown(typed)
    if (head := plan.head(typed)) is not None:
        shown["heads"] = {"use": typed.heads["use"]} | _shown(head)
    if not plan.solves:
        from shortlist.training.learn import settings, tables_of  # loads torch

        shown["train"], shown["loss"] = map(_shown, settings(plan, schema))
        shown["tables"] = _shown(tables_of(plan))
    if hasattr(plan.kind, "fit"):  # what does nothing is not shown, for it would be refused
        shown["train"] = {key: shown["train"][key] for key in trained_by(plan.kind)}
        del shown["loss"], shown["tables"]
    return shown


def _stages(
    owner: ProjectConfig | SceneConfig, where: str, schema: Schema, channels: tuple[str, ...]
) -> dict[str, Any]:
    """The parts that a project or a scene names itself."""
    items = Catalogue.empty().items
    shown: dict[str, Any] = {}
    for key in PACKAGES:
        stage: StageConfig | tuple[StageConfig, ...] | None = getattr(owner, key)
        given: tuple[Any, ...] = (channels,) if key == "merge" else (schema, items)
        if isinstance(stage, StageConfig):
            shown[key] = _part(stage, key, f"{where}{key}", *given)
        elif stage is not None:
            shown[key] = [_part(part, key, f"{where}{key}[{part.use}]", *given) for part in stage]
    return shown


def _part(stage: StageConfig, key: str, where: str, *given: Any) -> dict[str, Any]:
    """A part's `use` and its options side by side, as they are written in a project file."""
    kind, config = recipes.part_of(PACKAGES[key], stage.use, stage.options, where)
    kind(config, *given)  # refuses what does not fit the schema and the channels
    return {"use": stage.use, **_shown(config)}
