"""What is to be trained: a model by name, its options, and the tables `train` and `loss` of the configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shortlist.config import ChannelConfig, RankerConfig, build, find, nearest, own_keys, plain
from shortlist.errors import ConfigError

__all__ = ["Plan", "linked", "plan_of"]

RECALL, COARSE, RANK = "shortlist.models.recall", "shortlist.models.coarse", "shortlist.models.rank"
PACKAGES = {"coarse": COARSE, "rank": RANK}


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
    after: "Plan | None" = None

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
        return build(self.kind.Config, self.options, self.where, beside)

    def words(self) -> dict[str, Any]:
        """All that the result depends on, as plain values: what tells an old fit from a new one."""
        words = {"use": self.use, "options": plain(self.config()), "train": dict(self.train), "loss": dict(self.loss)}
        return words | ({"after": self.after.words()} if self.after is not None else {})


def linked(plans: Sequence[Plan]) -> list[Plan]:
    """The same, each with the channel that its `loss.hard` or its option `of` names. Raises ConfigError where that is
    none before it."""
    done: list[Plan] = []
    for plan in plans:
        hard = plan.loss.get("hard")
        name = hard.get("of") if isinstance(hard, Mapping) else plan.options.get("of")
        word = "of" if hard is None else "loss.hard.of"
        before = {other.name: other for other in done}
        if isinstance(name, str) and name not in before:
            what, hint = f"no channel before it is called {name!r}", nearest(name, list(before))
            raise ConfigError(what, where=f"{plan.where}.{word}", hint=hint)
        done.append(replace(plan, after=before[name]) if isinstance(name, str) else plan)
    return done


def plan_of(config: ChannelConfig | RankerConfig, name: str, options: Mapping[str, Any]) -> Plan:
    """Raises ConfigError for a model that no file has, and for `train` or `loss` of one without gradients."""
    package = PACKAGES.get(name, RECALL) if isinstance(config, RankerConfig) else RECALL
    where = f"{name}.use" if isinstance(config, RankerConfig) else f"recall.{name}.use"
    plan = Plan(name, config.use, find(config.use, [package], where), options, config.train, config.loss)
    for key in ("train", "loss"):
        if plan.solves and getattr(config, key):
            what = f"{config.use} has no gradients: {key} does nothing"
            raise ConfigError(what, where=f"{where.removesuffix('.use')}.{key}", hint=f"take {key} away")
    return plan
