"""Raw values become what a model reads: ids, numbers, buckets. Fitted on training entities only, then fixed.

N values. Ids: 0 padding, 1 unknown or missing, values from 2. A number that is missing becomes 0, its training mean.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.schema import FIRST, UNKNOWN, Catalogue, Entity, Schema, Vocabulary, text

__all__ = ["Encoders", "Scale", "Buckets", "Rate", "Known", "HOURS", "lists"]

# Ages and gaps in hours: an hour, a part of a day, days, weeks, months, a year.
HOURS = (1.0, 6.0, 24.0, 72.0, 168.0, 720.0, 2160.0, 8760.0)
MAX_WIDTH = 50  # values of a varlen field that are kept


@dataclass(frozen=True)
class Scale:
    """(s(x) - mean) / deviation, s(x) = log(1 + max(x, 0)) where `log1p`. Mean and deviation are those of training."""

    log1p: bool
    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: NDArray[Any], log1p: bool) -> Self:
        """From the values present; a column without any, or without spread, keeps its unit."""
        known = _log(_numbers(values), log1p)
        known = known[np.isfinite(known)]
        deviation = float(known.std()) if len(known) else 0.0
        return cls(log1p, float(known.mean()) if len(known) else 0.0, deviation or 1.0)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float32]:
        scaled = (_log(_numbers(values), self.log1p) - self.mean) / self.deviation
        return np.where(np.isfinite(scaled), scaled, 0.0).astype(np.float32)


@dataclass(frozen=True)
class Buckets:
    """Ids by ascending `edges`: below the first is 2, from the first up to the second 3, and so on; missing is 1."""

    edges: tuple[float, ...]

    @classmethod
    def fit(cls, values: NDArray[Any], count: int) -> Self:
        """`count` buckets of about equally many values each; equal quantiles fall together."""
        known = _numbers(values)
        known = known[np.isfinite(known)]
        if not len(known):
            return cls(())
        quantiles = np.quantile(known, np.arange(1, count) / count)
        return cls(tuple(float(edge) for edge in np.unique(quantiles) if edge > known.min()))

    def __len__(self) -> int:
        """Rows an embedding table needs."""
        return FIRST + len(self.edges) + 1

    def __call__(self, values: NDArray[Any]) -> NDArray[np.int64]:
        numbers = _numbers(values)
        place = np.searchsorted(np.array(self.edges), numbers, side="right") + FIRST
        return np.where(np.isnan(numbers), UNKNOWN, place).astype(np.int64)


@dataclass(frozen=True)
class Rate:
    """Smoothed rates (a + hits) / (a + b + trials): few trials stay near the mean a / (a + b) of training."""

    a: float
    b: float

    @classmethod
    def fit(cls, hits: NDArray[Any], trials: NDArray[Any], strength: float = 20.0) -> Self:
        """A prior worth `strength` trials at the mean of all. Without any trial the mean is 1/2."""
        total = float(np.sum(trials))
        mean = float(np.sum(hits)) / total if total else 0.5
        return cls(strength * mean, strength * (1 - mean))

    def __call__(self, hits: NDArray[Any], trials: NDArray[Any]) -> NDArray[np.float32]:
        return ((self.a + hits) / (self.a + self.b + trials)).astype(np.float32)


@dataclass(frozen=True)
class Known:
    """Ids of keys: the n-th known key, ascending, is n + 2; any other is 1."""

    keys: NDArray[np.int64]

    @classmethod
    def fit(cls, keys: NDArray[np.int64]) -> Self:
        return cls(np.unique(keys[keys >= 0]))

    def __len__(self) -> int:
        """Rows an embedding table needs."""
        return FIRST + len(self.keys)

    def __call__(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(self.keys):
            return np.full(len(keys), UNKNOWN, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at + FIRST, UNKNOWN)


@dataclass(frozen=True)
class Encoders:
    """Everything fitted, by field (`item.category`): vocabularies (shared by name), scales, buckets, widths of lists.

    `text` fields are not encoded here: they become `vec` in training.
    """

    users: Known
    items: Known
    vocabularies: Mapping[str, Vocabulary]
    scales: Mapping[str, Scale]
    buckets: Mapping[str, Buckets]
    widths: Mapping[str, int]

    @classmethod
    def fit(
        cls,
        schema: Schema,
        catalogue: Catalogue,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        context: Mapping[str, NDArray[Any]] | None = None,
    ) -> Self:
        """From the profiles of training's users and items (keys) and from training's context columns only."""
        columns: dict[tuple[Entity, str], NDArray[Any]] = {}
        for entity, profiles, keys in (("user", catalogue.users, users), ("item", catalogue.items, items)):
            seen = np.unique(keys[profiles.rows(keys) >= 0])
            for name in schema.fields(cast(Entity, entity)):
                if name in profiles.columns:
                    columns[cast(Entity, entity), name] = profiles.take(name, seen)
        for name in schema.context:
            if context is not None and name in context:
                columns["context", name] = context[name]

        values: dict[str, list[pl.Series]] = {}
        scales, buckets, widths = {}, {}, {}
        for (entity_, name), column in columns.items():
            declared, full = schema.fields(entity_)[name], f"{entity_}.{name}"
            if declared.kind in ("sparse", "varlen", "seq"):
                lengths, flat = lists(column)
                values.setdefault(schema.vocab_of(entity_, name), []).append(text(flat))
                if declared.kind != "sparse":
                    widths[full] = int(min(max(lengths.max(initial=0), 1), MAX_WIDTH))
            elif declared.kind == "dense" and declared.buckets:
                buckets[full] = Buckets.fit(column, declared.buckets)  # quantiles do not mind a logarithm
            elif declared.kind == "dense":
                scales[full] = Scale.fit(column, declared.scale == "log1p")
            elif declared.kind == "vec":
                widths[full] = int(max((len(v) for v in column if v is not None), default=0))
        fitted = {
            name: Vocabulary.fit(pl.concat([part.rename("value") for part in parts])) for name, parts in values.items()
        }
        return cls(Known.fit(users), Known.fit(items), fitted, scales, buckets, widths)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[np.int64]]]:
        """What an artifact keeps: a JSON table and arrays."""
        table = {
            "vocabularies": {name: v.values.to_list() for name, v in self.vocabularies.items()},
            "scales": {name: [s.log1p, s.mean, s.deviation] for name, s in self.scales.items()},
            "buckets": {name: list(b.edges) for name, b in self.buckets.items()},
            "widths": dict(self.widths),
        }
        return table, {"users": self.users.keys, "items": self.items.keys}

    @classmethod
    def restore(cls, table: Mapping[str, Any], arrays: Mapping[str, NDArray[np.int64]]) -> Self:
        """The inverse of `state`."""
        return cls(
            Known(arrays["users"]),
            Known(arrays["items"]),
            {name: Vocabulary(values) for name, values in table["vocabularies"].items()},
            {name: Scale(*parts) for name, parts in table["scales"].items()},
            {name: Buckets(tuple(edges)) for name, edges in table["buckets"].items()},
            dict(table["widths"]),
        )

    @property
    def fingerprint(self) -> str:
        """Identity of everything fitted: equal encoders give equal batches."""
        table, arrays = self.state()
        digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode())
        for name in sorted(arrays):
            digest.update(name.encode() + arrays[name].tobytes())
        return digest.hexdigest()


def lists(column: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """A column of lists (or of single values, a missing one empty) as lengths [N] and values, one after the other."""
    if column.dtype != object:
        missing = np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), dtype=bool)
        return (~missing).astype(np.int64), column[~missing]
    rows = [list(v) if isinstance(v, (list, tuple, np.ndarray)) else [] if v is None else [v] for v in column]
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    return lengths, np.fromiter((v for row in rows for v in row), dtype=object, count=int(lengths.sum()))


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """As floats, NaN where there is no number."""
    if values.dtype == object:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    return values.astype(np.float64)


def _log(values: NDArray[np.float64], log1p: bool) -> NDArray[np.float64]:
    return np.log1p(np.maximum(values, 0.0)) if log1p else values
