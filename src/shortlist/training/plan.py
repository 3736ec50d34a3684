"""What is to be trained: a model by name, its options, and the tables `train` and `loss` of the configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from shortlist.config import (
    ChannelConfig,
    IndexConfig,
    RankerConfig,
    build,
    catalogue,
    find,
    nearest,
    own_keys,
    plain,
)
from shortlist.errors import ConfigError
from shortlist.index.building import kind_of

__all__ = ["Plan", "linked", "options_of", "plan_of", "trained_by", "unknown"]

RECALL, COARSE, RANK = "shortlist.models.recall", "shortlist.models.coarse", "shortlist.models.rank"
PACKAGES = {"coarse": COARSE, "rank": RANK}
TABLE_TRAIN = ("history", "seed", "calibration")  # what every table ranker has use for of `train`


@dataclass(frozen=True)
class Plan:
    """`kind` is the class; `options` are the model's own, without those of the source that will query it. `after` is
    the channel that must be fitted before it: whose index its hard negatives come from, or which its option `of` names.
    """

    name: str
    use: str
    kind: Any
    options: Mapping[str, Any]
    train: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    after: "Plan | None" = None
    index: IndexConfig = field(default_factory=IndexConfig)

    @property
    def where(self) -> str:
        place = self.name if self.name in PACKAGES else f"recall.{self.name}"
        return f"{place} ({self.use})"

    @property
    def solves(self) -> bool:
        """Whether it is a solver: without gradients, `train` and `loss`."""
        return hasattr(self.kind, "solve")

    def config(self) -> Any:
        """The model's options, typed. Raises ConfigError."""
        beside = own_keys(RankerConfig if self.name in PACKAGES else ChannelConfig)
        own = options_of(self.kind)
        for key in self.options:
            if key not in own:
                raise unknown(key, self.kind, PACKAGES.get(self.name, RECALL), self.where, [*own, *beside])
        config = build(self.kind.Config, self.options, self.where, beside)
        self.head(config)
        return config

    def head(self, config: Any) -> Any:
        """The typed options of the head that `heads` names, None where it is empty. Raises ConfigError."""
        if not getattr(config, "heads", None):
            return None
        from shortlist.models.blocks.heads import head_of  # loads torch, as the model did

        return head_of(config.heads, f"{self.where}.heads")[1]

    def words(self) -> dict[str, Any]:
        """All that the result depends on, as plain values: what tells an old fit from a new one."""
        words = {"use": self.use, "options": plain(self.config()), "train": dict(self.train), "loss": dict(self.loss)}
        if self.tables:
            words["tables"] = dict(self.tables)
        return words | ({"after": self.after.words()} if self.after is not None else {})


def options_of(kind: Any) -> tuple[str, ...]:
    """Options of a model's own."""
    return tuple(f.name for f in fields(kind.Config))


def unknown(
    key: str,
    kind: Any,
    package: str,
    where: str,
    names: Sequence[str],
    options: Callable[[Any], Sequence[str]] = options_of,
) -> ConfigError:
    """What is said of an option that a model does not have: where it belongs, whose of the package it is, or the
    nearest of `names`. Loads all models of the package."""
    owners = [use for use in catalogue(package) if key in options(find(use, [package], where))]
    hint = nearest(key, names)
    if key in trained_by(kind):
        hint = f"write it into train = {{ {key} = ... }}"
    elif owners:
        hint = f"an option of {', '.join(owners)}: take it away, or choose another model (use)"
    return ConfigError(f"unknown key {key!r}", where=where, hint=hint)


def trained_by(kind: Any) -> tuple[str, ...]:
    """Keys of the table `train` that a model has use for. Loads torch for one with gradients."""
    if hasattr(kind, "solve"):
        return ()
    return (*TABLE_TRAIN, *kind.uses) if hasattr(kind, "fit") else _training()


def _training() -> tuple[str, ...]:
    from shortlist.training.learn import Training  # loads torch

    return tuple(f.name for f in fields(Training))


def linked(plans: Sequence[Plan]) -> list[Plan]:
    """The same, each with the channel that its `loss.hard` or its option `of` names. Raises ConfigError where that is
    none before it."""
    done: list[Plan] = []
    for plan in plans:
        hard = plan.loss.get("hard")
        name = hard.get("of") if isinstance(hard, Mapping) else plan.options.get("of")
        word = "of" if hard is None else "loss.hard.of"
        before = {other.name: other for other in done}
        if isinstance(name, str) and name and name not in before:
            what, hint = f"no channel before it is called {name!r}", nearest(name, list(before))
            raise ConfigError(what, where=f"{plan.where}.{word}", hint=hint)
        done.append(replace(plan, after=before[name]) if isinstance(name, str) and name else plan)
    return done


def _check_table(plan: Plan) -> None:
    """Raises ConfigError for words of `train` and `loss` that a table ranker has no use for."""
    place, own = plan.where.partition(" ")[0], options_of(plan.kind)
    if plan.loss:
        what = f"{plan.use} has no gradients: loss does nothing"
        raise ConfigError(what, where=f"{place}.loss", hint="take loss away")
    plan.kind.ready(f"{place}.use")
    used = trained_by(plan.kind)
    for key in plan.train:
        if key not in used and (key in own or key in _training()):
            hint = f"write {key} = ... beside use" if key in own else f"take {key} away; it has {', '.join(used)}"
            raise ConfigError(f"{key} does nothing for {plan.use}", where=f"{place}.train", hint=hint)


def plan_of(config: ChannelConfig | RankerConfig, name: str, options: Mapping[str, Any]) -> Plan:
    """Raises ConfigError for a model or an index that no file has, for `train` or `loss` without gradients, and
    for `tables` without embeddings."""
    package = PACKAGES.get(name, RECALL) if isinstance(config, RankerConfig) else RECALL
    where = f"{name}.use" if isinstance(config, RankerConfig) else f"recall.{name}.use"
    kind = find(config.use, [package], where)
    plan = Plan(name, config.use, kind, options, config.train, config.loss, config.tables)
    for key in ("train", "loss"):
        if plan.solves and getattr(config, key):
            what = f"{config.use} has no gradients: {key} does nothing"
            raise ConfigError(what, where=f"{where.removesuffix('.use')}.{key}", hint=f"take {key} away")
    if hasattr(kind, "fit"):
        _check_table(plan)
    if config.tables and (plan.solves or hasattr(plan.kind, "fit")):
        what = f"{config.use} has no embeddings: tables does nothing"
        raise ConfigError(what, where=f"{where.removesuffix('.use')}.tables", hint="take tables away")
    if isinstance(config, ChannelConfig):
        kind_of(config.index, f"recall.{name}.index")  # before hours of training
        plan = replace(plan, index=config.index)
    return plan
