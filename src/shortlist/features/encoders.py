"""Raw values become what a model reads: ids, numbers, buckets. Fitted on training entities only, then fixed.

N values. Ids: 0 padding, 1 unknown or missing, values from 2. A number that is missing becomes 0, its training mean.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.candidates import Candidates
from shortlist.errors import DataError
from shortlist.features.base import Column
from shortlist.features.hashing import Hashed, sealed
from shortlist.schema import ENTITIES, FIRST, UNKNOWN, Catalogue, Entity, Field, Profiles, Schema, Vocabulary, text

__all__ = [
    "Encoders", "Scale", "Buckets", "Rate", "Known", "Hashed",
    "HOURS", "LIVE", "MAX_VALUES", "MERGED", "PLACE", "lists", "numbers",
]  # fmt: skip

# Ages and gaps in hours: an hour, a part of a day, days, weeks, months, a year.
HOURS = (1.0, 6.0, 24.0, 72.0, 168.0, 720.0, 2160.0, 8760.0)
MERGED = "recall_score.merge"
PLACE = "position"  # the score column of candidates that says where on a page a row stood
LIVE = "live."  # what the names of feature columns begin with in a batch: they belong to a moment
LOG = logging.getLogger("shortlist.features")
STRENGTH = 20.0  # trials that a prior is worth where rates cannot say it
MAX_WIDTH = 50  # values of a varlen field that are kept
MAX_VALUES = 10_000_000  # of one vocabulary; a table of 32 float32 a value is then 1.2 GiB


@dataclass(frozen=True)
class Scale:
    """(s(x) - mean) / deviation, s(x) = log(1 + max(x, 0)) where `log1p`. Mean and deviation are those of training."""

    log1p: bool
    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: NDArray[Any], log1p: bool) -> Self:
        """From the values present; a column without any, or without spread, keeps its unit."""
        known = _log(numbers(values), log1p)
        known = known[np.isfinite(known)]
        deviation = float(known.std()) if len(known) else 0.0
        return cls(log1p, float(known.mean()) if len(known) else 0.0, deviation or 1.0)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float32]:
        scaled = (_log(numbers(values), self.log1p) - self.mean) / self.deviation
        return np.where(np.isfinite(scaled), scaled, 0.0).astype(np.float32)


@dataclass(frozen=True)
class Buckets:
    """Ids by ascending `edges`: below the first is 2, from the first up to the second 3, and so on; missing is 1."""

    edges: tuple[float, ...]

    @classmethod
    def fit(cls, values: NDArray[Any], count: int) -> Self:
        """`count` buckets of about equally many values each; equal quantiles fall together."""
        known = numbers(values)
        known = known[np.isfinite(known)]
        if not len(known):
            return cls(())
        quantiles = np.quantile(known, np.arange(1, count) / count)
        return cls(tuple(float(edge) for edge in np.unique(quantiles) if edge > known.min()))

    def __len__(self) -> int:
        """Rows an embedding table needs."""
        return FIRST + len(self.edges) + 1

    def __call__(self, values: NDArray[Any]) -> NDArray[np.int64]:
        known = numbers(values)
        place = np.searchsorted(np.array(self.edges), known, side="right") + FIRST
        return np.where(np.isnan(known), UNKNOWN, place).astype(np.int64)


@dataclass(frozen=True)
class Rate:
    """Smoothed rates (a + hits) / (a + b + trials): few trials stay near the mean a / (a + b) of training."""

    a: float
    b: float

    @classmethod
    def fit(cls, hits: NDArray[Any], trials: NDArray[Any], strength: float | None = STRENGTH) -> Self:
        """A prior worth `strength` trials at the mean of all. Without any trial the mean is 1/2.

        None fits the strength to how much the rates differ beyond chance, by moments (Kleinman, 1973), within 1 and a
        million.
        """
        total = float(np.sum(trials))
        mean = float(np.sum(hits)) / total if total else 0.5
        strength = _strength(hits, trials, mean) if strength is None else strength
        return cls(strength * mean, strength * (1 - mean))

    def __call__(self, hits: NDArray[Any], trials: NDArray[Any]) -> NDArray[np.float32]:
        return ((self.a + hits) / (self.a + self.b + trials)).astype(np.float32)


def _strength(hits: NDArray[Any], trials: NDArray[Any], mean: float) -> float:
    """a + b of a beta-binomial. Of k rates x / n, sum n (x/n - m)^2 is about
    m (1 - m) [k - 1 + (N - sum n^2 / N - (k - 1)) / (a + b + 1)], N the sum of n."""
    tried = np.asarray(trials) > 0
    n, x = np.asarray(trials, dtype=np.float64)[tried], np.asarray(hits, dtype=np.float64)[tried]
    spread = mean * (1 - mean)
    if len(n) < 2 or spread <= 0:
        return STRENGTH
    room = n.sum() - np.square(n).sum() / n.sum() - (len(n) - 1)
    beyond = float((n * np.square(x / n - mean)).sum()) / spread - (len(n) - 1)
    if room <= 0:  # one trial each: rates say nothing of how they differ
        return STRENGTH
    return float(np.clip(room / beyond - 1, 1.0, 1e6)) if beyond > 0 else 1e6


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

    `text` fields are not encoded here: they become `vec` in training. Scales of `recall_score.<channel>` come from
    `scored`, what `live.<column>` is encoded by, priors of rates included, from `featured`.
    """

    users: Known
    items: Known
    vocabularies: Mapping[str, Vocabulary | Hashed]
    scales: Mapping[str, Scale]
    buckets: Mapping[str, Buckets]
    widths: Mapping[str, int]
    rates: Mapping[str, Rate] = field(default_factory=dict)
    placed: bool = False  # whether the place of a row on its page is a feature

    @classmethod
    def fit(
        cls,
        schema: Schema,
        catalogue: Catalogue,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        context: Mapping[str, NDArray[Any]] | None = None,
        *,
        features: Mapping[str, tuple[Column, NDArray[Any]]] | None = None,
        max_values: int = MAX_VALUES,
    ) -> Self:
        """From the profiles of training's users and items (keys), from training's context columns and from feature
        columns of training's rows (`featured`) only.

        Raises DataError for a column without a single value, and for a vocabulary of more than `max_values`.
        """
        schema = schema.encoded()
        values: dict[str, list[pl.Series]] = {}
        scales, buckets, widths = {}, {}, {}
        for entity, name, column in _columns(schema, catalogue, users, items, context or {}):
            declared, full = schema.fields(entity)[name], f"{entity}.{name}"
            if declared.kind in ("sparse", "varlen", "seq"):
                lengths, flat = lists(column)
                values.setdefault(schema.vocab_of(entity, name), []).append(text(flat))
                if declared.kind != "sparse":
                    widths[full] = int(min(max(lengths.max(initial=0), 1), MAX_WIDTH))
            elif declared.kind == "dense" and declared.buckets:
                buckets[full] = Buckets.fit(column, declared.buckets)  # quantiles do not mind a logarithm
            elif declared.kind == "dense":
                scales[full] = Scale.fit(column, declared.scale == "log1p")
            elif declared.kind == "vec":
                if any(isinstance(v, str) for v in column):
                    hint = "train again: vectors of texts belong to a fit"
                    raise DataError("texts have not been made vectors", where=full, hint=hint)
                widths[full] = int(max((len(v) for v in column if v is not None), default=0))
        fields = {schema.vocab_of(e, n): schema.fields(e)[n] for e in ENTITIES for n in schema.fields(e)}
        words: dict[str, Vocabulary | Hashed] = {}
        for name, parts in values.items():
            words[name] = _vocabulary(name, parts, fields[name], max_values)
        made = cls(Known.fit(users), Known.fit(items), words, scales, buckets, widths)
        return made.featured(features, max_values=max_values) if features else made

    def featured(self, features: Mapping[str, tuple[Column, NDArray[Any]]], *, max_values: int = MAX_VALUES) -> Self:
        """These with what feature columns are encoded by: raw values of training's rows by name, each with its column.

        A vocabulary that declared fields have stays as it is; columns may share one of their own. A column without a
        single value is told in the log, and reads as missing. Raises DataError for a rate without a single trial and
        for a vocabulary of more than `max_values`.
        """
        scales, buckets = dict(self.scales), dict(self.buckets)
        widths, rates = dict(self.widths), dict(self.rates)
        values: dict[str, list[pl.Series]] = {}
        fields: dict[str, Field] = {}
        for name, (column, raw) in features.items():
            declared, full = column.field, f"{LIVE}{name}"
            if column.trials is not None:
                hits, trials = numbers(raw), numbers(features[column.trials][1])
                told = np.isfinite(hits) & np.isfinite(trials)
                if not trials[told].sum():
                    what = "no row of training has a trial: the log has no such events, or all of them came later"
                    hint = 'import impressions, or count (use = "count") instead of a rate'
                    raise DataError(what, where=f"feature column {name}", hint=hint)
                rates[full] = Rate.fit(hits[told], trials[told], column.strength)
                raw = rates[full](hits, trials)
            if declared.kind in ("dense", "time"):
                some = bool(np.isfinite(numbers(raw)).any())
            else:
                some = _any(raw)
            if len(raw) and not some:
                LOG.warning("feature column %s: no row of training has a value, it says nothing", name)
            if declared.kind in ("sparse", "varlen", "seq"):
                lengths, flat = lists(raw)
                vocabulary = declared.vocab or full
                if vocabulary not in self.vocabularies:
                    values.setdefault(vocabulary, []).append(text(flat))
                    fields.setdefault(vocabulary, declared)
                if declared.kind != "sparse":
                    widths[full] = int(min(max(lengths.max(initial=0), 1), MAX_WIDTH))
            elif declared.kind == "dense" and declared.buckets:
                buckets[full] = Buckets.fit(raw, declared.buckets)
            elif declared.kind == "dense":
                scales[full] = Scale.fit(raw, declared.scale == "log1p")
            elif declared.kind == "vec":
                widths[full] = int(max((len(v) for v in raw if v is not None), default=0))
        words = dict(self.vocabularies)
        for name, parts in values.items():
            words[name] = _vocabulary(name, parts, fields[name], max_values)
        return replace(self, vocabularies=words, scales=scales, buckets=buckets, widths=widths, rates=rates)

    def scored(self, candidates: Candidates) -> Self:
        """These with the scales of channel scores, from training's candidates: what a channel did not bring is 0. Where
        they say how rows were placed, that is a feature."""
        scales = dict(self.scales)
        for n, name in enumerate(candidates.channels):
            brought = candidates.rank[:, n] > 0
            scales[f"recall_score.{name}"] = Scale.fit(candidates.score[brought, n], log1p=False)
        if "merge" in candidates.scores:
            scales[MERGED] = Scale.fit(candidates.scores["merge"][candidates.alive], log1p=False)
        return replace(self, scales=scales, placed=PLACE in candidates.scores)

    @property
    def collisions(self) -> dict[str, float]:
        """Share of training's values that share an id with another, by hashed vocabulary."""
        return {name: v.collisions for name, v in self.vocabularies.items() if isinstance(v, Hashed)}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What an artifact keeps: a JSON table and arrays. A vocabulary is its texts (UTF-8) and where each ends."""
        words = {n: v for n, v in self.vocabularies.items() if isinstance(v, Vocabulary)}
        table = {
            "vocabularies": sorted(words),
            "hashed": {
                n: [v.buckets, v.values, v.shared] for n, v in self.vocabularies.items() if isinstance(v, Hashed)
            },
            "scales": {name: [s.log1p, s.mean, s.deviation] for name, s in self.scales.items()},
            "buckets": {name: list(b.edges) for name, b in self.buckets.items()},
            "widths": dict(self.widths),
            "rates": {name: [r.a, r.b] for name, r in self.rates.items()},
            "placed": self.placed,
        }
        arrays: dict[str, NDArray[Any]] = {"users": self.users.keys, "items": self.items.keys}
        for name, vocabulary in words.items():
            coded = "".join(vocabulary.values.to_list()).encode()
            arrays[f"vocabulary.{name}.text"] = np.frombuffer(coded, dtype=np.uint8)
            arrays[f"vocabulary.{name}.ends"] = vocabulary.values.str.len_bytes().to_numpy().cumsum().astype(np.int64)
        return table, arrays

    @classmethod
    def restore(cls, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        words: dict[str, Vocabulary | Hashed] = {n: Hashed(*parts) for n, parts in table["hashed"].items()}
        for name in table["vocabularies"]:
            coded, ends = arrays[f"vocabulary.{name}.text"].tobytes(), arrays[f"vocabulary.{name}.ends"].tolist()
            words[name] = Vocabulary([coded[a:b].decode() for a, b in pairwise([0, *ends])])
        return cls(
            Known(arrays["users"]),
            Known(arrays["items"]),
            words,
            {name: Scale(*parts) for name, parts in table["scales"].items()},
            {name: Buckets(tuple(edges)) for name, edges in table["buckets"].items()},
            dict(table["widths"]),
            {name: Rate(*parts) for name, parts in table.get("rates", {}).items()},
            bool(table.get("placed", False)),
        )

    @property
    def fingerprint(self) -> str:
        """Identity of everything fitted: equal encoders give equal batches."""
        return sealed(*self.state())


def _vocabulary(name: str, parts: list[pl.Series], declared: Field, max_values: int) -> Vocabulary | Hashed:
    """Of the values of all columns that share it. Raises DataError for more than `max_values`."""
    column = pl.concat([part.rename("value") for part in parts])
    if declared.hash is not None:
        return Hashed.fit(column, declared.hash)
    fitted = Vocabulary.fit(column, declared.min_count)
    if len(fitted.values) > max_values:
        what = f"{len(fitted.values)} values, at most {max_values} fit"
        raise DataError(what, where=f"vocabulary {name}", hint="set min_count or hash on its fields")
    return fitted


def _columns(
    schema: Schema,
    catalogue: Catalogue,
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    context: Mapping[str, NDArray[Any]],
) -> Iterator[tuple[Entity, str, NDArray[Any]]]:
    """Columns of the entities that training knows; a declared field that is nowhere given is left out."""
    sides: tuple[tuple[Entity, Profiles, NDArray[np.int64]], ...] = (
        ("user", catalogue.users, users),
        ("item", catalogue.items, items),
    )
    given: list[tuple[Entity, str, NDArray[Any]]] = []
    for entity, profiles, keys in sides:
        seen = np.unique(keys[profiles.rows(keys) >= 0])
        given += [(entity, n, profiles.take(n, seen)) for n in schema.fields(entity) if n in profiles.columns]
    given += [("context", name, context[name]) for name in schema.context if name in context]
    for entity, name, column in given:
        kind = schema.fields(entity)[name].kind
        if kind == "text":
            continue
        number = kind in ("dense", "time")
        known = bool(np.isfinite(numbers(column)).any()) if number else _any(column)
        if len(column) and not known:
            whose = "request" if entity == "context" else entity
            what = f"none of {len(column)} {whose}s of training has {'a number' if number else 'a value'}"
            raise DataError(what, where=f"{entity}.{name}", hint="fill the column, or take the field out of the schema")
        yield entity, name, column


def lists(column: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """A column of lists (or of single values, a missing one empty) as lengths [N] and values, one after the other."""
    if column.dtype != object:
        missing = np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), dtype=bool)
        return (~missing).astype(np.int64), column[~missing]
    rows = [list(v) if isinstance(v, (list, tuple, np.ndarray)) else [] if v is None else [v] for v in column]
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    return lengths, np.fromiter((v for row in rows for v in row), dtype=object, count=int(lengths.sum()))


def _any(column: NDArray[Any]) -> bool:
    """Whether any value is there: neither None nor NaN nor an empty list."""
    if column.dtype != object:
        return bool(lists(column)[0].any())
    return any(v is not None and not (isinstance(v, (list, tuple, np.ndarray)) and len(v) == 0) for v in column)


def numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """As floats, NaN where there is no number: what a request says of itself may be anything."""
    try:
        return values.astype(np.float64)  # None becomes NaN
    except (TypeError, ValueError, OverflowError):
        return np.fromiter(map(_number, values), dtype=np.float64, count=len(values))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _log(values: NDArray[np.float64], log1p: bool) -> NDArray[np.float64]:
    return np.log1p(np.maximum(values, 0.0)) if log1p else values
