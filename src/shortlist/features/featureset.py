"""The features of a project, in order: what they add to a batch, what they count, and how both are read.

N rows. One definition for training and for serving: a release's document keeps its `words`, and whoever answers for
state (`base.Known`) reads columns with `read`.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from shortlist.config import FeatureConfig, build, find, own_keys, plain
from shortlist.errors import ConfigError
from shortlist.features.base import Column, Counter, Feature, Known, Rows
from shortlist.features.encoders import PLACE
from shortlist.schema import ENTITIES, Schema

__all__ = ["FeatureSet", "KINDS"]

KINDS = "shortlist.features.kinds"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
Side = Literal["request", "row"]


@dataclass(frozen=True)
class Part:
    """One feature: its words, and what they mean."""

    name: str
    use: str
    options: Mapping[str, Any]
    kind: Feature
    side: Side


@dataclass(frozen=True)
class FeatureSet:
    """Build with `of`, from a project's configuration, or `restored`, from a document's words."""

    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, features: Sequence[FeatureConfig], schema: Schema, folder: Path | None = None) -> "FeatureSet":
        """`folder` is that of the project file: files that options name are read there, and their contents become
        part of the words. Raises ConfigError for kinds, options and names that do not fit."""
        parts: list[Part] = []
        for feature in features:
            where = f"feature.{feature.name}"
            if not NAME.fullmatch(feature.name):
                hint = "begin with a letter, and use letters, digits and _"
                raise ConfigError(f"{feature.name!r} is no name", where="feature", hint=hint)
            if any(feature.name == other.name for other in parts):
                raise ConfigError(f"two features are called {feature.name!r}", where="feature", hint="rename one")
            kind: Any = find(feature.use, [KINDS], f"{where}.use")
            config = build(kind.Config, feature.options, f"{where} ({feature.use})", own_keys(FeatureConfig))
            if folder is not None and hasattr(kind, "resolved"):
                config = kind.resolved(config, feature.name, folder)
            made: Feature = kind(config, feature.name, schema)
            parts.append(Part(feature.name, feature.use, plain(config), made, _side(made, where)))
        _check_names(parts, schema)
        return cls(tuple(parts))

    @classmethod
    def restored(cls, words: Sequence[Mapping[str, Any]], schema: Schema) -> "FeatureSet":
        """The inverse of `words`."""
        return cls.of([build(FeatureConfig, dict(word), "release.features") for word in words], schema)

    def words(self) -> list[dict[str, Any]]:
        """Plain JSON, defaults in place."""
        return [{"name": part.name, "use": part.use, "options": dict(part.options)} for part in self.parts]

    @cached_property
    def fingerprint(self) -> str:
        """Identity of every definition."""
        return hashlib.sha256(json.dumps(self.words()).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.parts)

    def side(self, side: Side) -> "FeatureSet":
        """Just the features of requests, or of rows."""
        return FeatureSet(tuple(part for part in self.parts if part.side == side))

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Every column by name, in order."""
        return {name: column for part in self.parts for name, column in part.kind.columns().items()}

    @cached_property
    def counters(self) -> tuple[Counter, ...]:
        """What must be counted, each once."""
        return tuple(dict.fromkeys(counter for part in self.parts for counter in part.kind.counters))

    @cached_property
    def last(self) -> int:
        """How many events of a history are looked at: a shorter one gives other values."""
        return max((int(getattr(part.kind, "last", 0)) for part in self.parts), default=0)

    def read(self, side: Side, rows: Rows, known: Known) -> dict[str, NDArray[Any]]:
        """Raw columns [N] of a side by name."""
        out: dict[str, NDArray[Any]] = {}
        for part in self.parts:
            if part.side == side:
                out |= part.kind.read(side, rows, known)
        return out


def _side(kind: Feature, where: str) -> Side:
    sides = {column.side for column in kind.columns().values()}
    if len(sides) != 1:
        what = "has columns of requests and of candidates" if sides else "has no columns"
        raise ConfigError(what, where=where, hint="a feature is of one side: make two of it")
    return sides.pop()


def _check_names(parts: Sequence[Part], schema: Schema) -> None:
    """Columns do not share a name, and none is called like a field."""
    owners: dict[str, str] = {}
    fields = {name: f"{entity}.{name}" for entity in reversed(ENTITIES) for name in schema.fields(entity)}
    fields[PLACE] = "the place on a page"
    for part in parts:
        for name in dict.fromkeys([part.name, *part.kind.columns()]):
            if name in fields:
                what = f"{name} is what {fields[name]} is called"
                raise ConfigError(what, where=f"feature.{part.name}", hint="rename the feature")
            if owners.setdefault(name, part.name) != part.name:
                what = f"has the column {name}, as the feature {owners[name]} has"
                raise ConfigError(what, where=f"feature.{part.name}", hint="rename one of them")
