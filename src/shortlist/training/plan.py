"""What is to be trained: a model by name, its options, and the tables `train` and `loss` of the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shortlist.config import ChannelConfig, RankerConfig, build, find, own_keys, plain
from shortlist.errors import ConfigError

__all__ = ["Plan", "plan_of"]

RECALL, COARSE, RANK = "shortlist.models.recall", "shortlist.models.coarse", "shortlist.models.rank"
PACKAGES = {"coarse": COARSE, "rank": RANK}


@dataclass(frozen=True)
class Plan:
    """`kind` is the class; `options` are the model's own, without those of the source that will query it."""

    name: str
    use: str
    kind: Any
    options: Mapping[str, Any]
    train: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)

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
        return {"use": self.use, "options": plain(self.config()), "train": dict(self.train), "loss": dict(self.loss)}


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
