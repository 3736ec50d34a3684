"""The contract between rooms: entities, fields, actions, tasks, vocabularies and keys.

Raw ids are opaque; a number and its decimal text are the same id. Every user and item has an int64 key,
given once, never reused. Encoded values: 0 is padding, 1 is unknown, known values start at 2.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, fields, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import Count, NonNegative, build, frozen, nearest, plain
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.expressions import Expression

__all__ = [
    "Schema", "Field", "Action", "Task", "Sample", "Vocabulary", "Keys", "Profiles", "Catalogue",
    "canonical", "text", "PAD", "UNKNOWN", "FIRST", "MISSING", "MAX_ID_BYTES",
]  # fmt: skip

PAD, UNKNOWN, FIRST = 0, 1, 2
MISSING = -1  # the key of an id that has none
MAX_ID_BYTES = 256

Kind = Literal["dense", "sparse", "varlen", "seq", "vec", "text", "time"]
Entity = Literal["user", "item", "context"]
ENTITIES: tuple[Entity, ...] = ("user", "item", "context")
RESERVED_VOCABULARIES = ("user.id", "item.id", "history.action", "history.age")


@frozen
class Field:
    """One column of an entity. `vocab` names the vocabulary it is encoded with (its own name by default).

    `split` cuts a text into the values of a `varlen` field (`"|"` for `Action|Drama`). Of its values, only those that
    at least `min_count` training entities have are known; `hash` puts all values into that many ids instead, for
    fields without bound. A text becomes a `vec` as `encode` says: the name of a file of `features/text/`, or a table
    of its options with that name as `use`. A text without `encode` is for people alone.
    """

    kind: Kind
    vocab: str | None = None
    split: str | None = None
    scale: Literal["none", "log1p"] = "none"
    buckets: int | None = None
    min_count: Count = 1
    hash: Count | None = None
    encode: str | dict[str, Any] | None = None


@frozen
class Action:
    """Something that can happen to an item. `weight` is its worth as a positive; 0 is an exposure."""

    weight: NonNegative = 1.0


@frozen
class Sample:
    """`tasks.click.on` of a log without impressions: `per` negatives for each positive, from the recalled candidates,
    uniformly from the catalogue, or half and half.
    """

    sample: Literal["recalled", "uniform", "mixed"] = "mixed"
    per: Count = 4


@frozen
class Task:
    """A label derived from actions. `on` says which rows carry it: those where an action happened, those that are
    positive for another task, or, with a sampling rule (`Sample`), all of them and negatives that are drawn."""

    positive: str
    on: str | dict[str, Any] = "impression"

    def actions(self, names: Sequence[str]) -> list[str]:
        """Which actions it reads."""
        read = {name.removesuffix(".value") for name in Expression.parse(self.positive).names} | {str(self.on)}
        return [name for name in names if name in read]


@frozen
class Schema:
    """What the columns of a log and a catalogue mean.

    `user`, `item`, `time`, `action`, `value`, `event_id`, `request_id`, `position`, `propensity` name columns of the
    event table; `action` None means that every row is the one action declared. `time_unit` is checked against the
    data: `ms` and `s` since the epoch, `iso` for written dates (UTC where no zone is given), `none` for a log without
    times, whose rows are in order. A propensity is the probability, above 0, with which an item was shown at its place.
    """

    user: str = "user"
    item: str = "item"
    time: str = "time_ms"
    time_unit: Literal["ms", "s", "iso", "none"] = "ms"
    action: str | None = None
    value: str | None = None
    event_id: str | None = None
    request_id: str | None = None
    position: str | None = None
    propensity: str | None = None
    actions: dict[str, Action] = field(default_factory=lambda: {"click": Action()})
    users: dict[str, Field] = field(default_factory=dict)
    items: dict[str, Field] = field(default_factory=dict)
    context: dict[str, Field] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    region: str | None = None
    title: str | None = None
    image: str | None = None
    category: str | None = None
    published: str | None = None
    available_from: str | None = None
    available_to: str | None = None

    @classmethod
    def parse(cls, table: Mapping[str, Any], where: str = "schema") -> "Schema":
        """From a project's `[schema]`. A field may be written as its kind alone. Raises ConfigError."""
        table = dict(table)
        for group in ("users", "items", "context"):
            if isinstance(table.get(group), Mapping):
                table[group] = {k: {"kind": v} if isinstance(v, str) else v for k, v in table[group].items()}
        schema = build(cls, table, where)
        schema._check(where)
        return schema

    def _check(self, where: str) -> None:
        if not self.actions:
            raise ConfigError("no action is declared", where=f"{where}.actions", hint="add actions.click = {}")
        if self.action is None and len(self.actions) > 1:
            hint = "set schema.action to the column that names the action"
            raise ConfigError("several actions but no action column", where=f"{where}.action", hint=hint)
        for key in ("title", "image", "category", "published", "available_from", "available_to"):
            name = getattr(self, key)
            if name is not None and name not in self.items:
                hint = nearest(name, list(self.items))
                raise ConfigError(f"no item field is called {name!r}", where=f"{where}.{key}", hint=hint)
        if self.region is not None and self.region not in self.users and self.region not in self.context:
            what = f"no user or context field is called {self.region!r}"
            hint = nearest(self.region, [*self.users, *self.context])
            raise ConfigError(what, where=f"{where}.region", hint=hint)
        if self.propensity is not None and "propensity" in self.context:
            what = "propensity is a column of its own: models must not read it"
            raise ConfigError(what, where=f"{where}.context.propensity", hint="take it out of context")
        self._check_vocabularies(where)
        self._check_tasks(where)

    def _check_tasks(self, where: str) -> None:
        for name, task in self.tasks.items():
            known = ["value", "time_ms", *self.actions, *(f"{action}.value" for action in self.actions)]
            Expression.parse(task.positive, f"{where}.tasks.{name}.positive").check(known)
            at = f"{where}.tasks.{name}.on"
            if not isinstance(task.on, str):
                build(Sample, task.on, at)
            elif task.on not in self.actions and task.on not in self.tasks:
                hint = nearest(task.on, [*self.actions, *self.tasks])
                raise ConfigError(f"no action is called {task.on!r}", where=at, hint=hint)
        for name in self.tasks:
            path = [name]
            while (before := self.before(path[-1])) is not None:
                if before in path:
                    what = f"rests on itself: {' on '.join([*path, before])}"
                    raise ConfigError(what, where=f"{where}.tasks.{name}.on", hint="name an action")
                path.append(before)

    def before(self, task: str) -> str | None:
        """The task that must be positive for this one to have a label; None where an action says so, or nothing."""
        on = self.tasks[task].on
        return on if isinstance(on, str) and on not in self.actions else None

    def _check_vocabularies(self, where: str) -> None:
        """Fields that share a vocabulary say the same of it; ids and buckets are vocabularies of their own."""
        declared = [(e, n, f) for e in ENTITIES for n, f in self.fields(e).items()]
        own = {f"{e}.{n}" for e, n, f in declared if f.kind == "dense"} | {
            f"{e}.{n}.age" for e, n, f in declared if f.kind == "time"
        }
        known: dict[str, tuple[str, Field]] = {}
        for entity, name, field_ in declared:
            at = f"{where}.{'context' if entity == 'context' else entity + 's'}.{name}"
            _check_encode(field_, entity, f"{at}.encode")
            if field_.kind not in ("sparse", "varlen", "seq"):
                if field_.min_count > 1 or field_.hash is not None:
                    key = "hash" if field_.hash is not None else "min_count"
                    what = f"a {field_.kind} field has no vocabulary"
                    raise ConfigError(what, where=f"{at}.{key}", hint=f"take {key} away, or make it sparse")
                continue
            if field_.hash is not None and field_.min_count > 1:
                what = "a hashed field has no counts"
                raise ConfigError(what, where=f"{at}.min_count", hint="set hash or min_count, not both")
            vocab = self.vocab_of(entity, name)
            if vocab in own or vocab in RESERVED_VOCABULARIES:
                hint = "choose another name for vocab"
                raise ConfigError(f"the vocabulary {vocab!r} is taken", where=f"{at}.vocab", hint=hint)
            first, other = known.setdefault(vocab, (f"{entity}.{name}", field_))
            for key in ("min_count", "hash"):
                if getattr(other, key) != getattr(field_, key):
                    what = f"shares the vocabulary {vocab!r} with {first}, which has another {key}"
                    raise ConfigError(what, where=at, hint="give both the same")

    def fields(self, entity: Entity) -> dict[str, Field]:
        return {"user": self.users, "item": self.items, "context": self.context}[entity]

    def encoded(self) -> "Schema":
        """As models see it: a text that becomes a vector is a `vec`. Itself where there is none."""
        if not any(f.encode for fields_ in (self.users, self.items) for f in fields_.values()):
            return self
        groups = {"users": self.users, "items": self.items}
        seen = {group: {name: _encoded(f) for name, f in fields_.items()} for group, fields_ in groups.items()}
        return replace(self, users=seen["users"], items=seen["items"])

    def vocab_of(self, entity: Entity, name: str) -> str:
        """The vocabulary a field is encoded with: fields that name the same one share it."""
        return self.fields(entity)[name].vocab or f"{entity}.{name}"

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """Actions in code order: an action column holds positions in this tuple."""
        return tuple(self.actions)

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """Worth of each action as a positive, by code."""
        return np.array([a.weight for a in self.actions.values()], dtype=np.float32)

    def fingerprint(self, reads: Iterable[str] = (), vocabularies: Mapping[str, "Vocabulary"] | None = None) -> str:
        """Identity of what an artifact reads: just these fields (`item.category`, `actions`, `tasks.click`) and
        their vocabularies. An artifact fits a schema when the two agree; a field it does not read may change.
        Raises ArtifactError for a name the schema does not have."""
        parts: list[Any] = []
        for name in sorted(set(reads)):
            head, _, tail = name.partition(".")
            if head in ("user", "item", "context"):
                table = self.fields(cast(Entity, head))
                if tail not in table:
                    hint = nearest(tail, list(table))
                    raise ArtifactError(f"the schema has no field {name!r}", where="schema", hint=hint)
                vocab = self.vocab_of(cast(Entity, head), tail)
                known = (vocabularies or {}).get(vocab)
                parts.append([name, plain(table[tail]), known.fingerprint if known else None])
            elif head in ("tasks", "actions") and tail:
                declared: Mapping[str, Any] = self.tasks if head == "tasks" else self.actions
                if tail not in declared:
                    hint = nearest(tail, list(declared))
                    raise ArtifactError(f"the schema has no {name!r}", where="schema", hint=hint)
                parts.append([name, plain(declared[tail])])
            else:
                names = [f.name for f in fields(self)]
                if name not in names:
                    raise ArtifactError(f"the schema has no {name!r}", where="schema", hint=nearest(name, names))
                parts.append([name, plain(getattr(self, name))])
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _encoded(field_: Field) -> Field:
    return replace(field_, kind="vec", encode=None) if field_.kind == "text" and field_.encode is not None else field_


def _check_encode(field_: Field, entity: Entity, where: str) -> None:
    if field_.encode is None:
        return
    if field_.kind != "text":
        what = f"a {field_.kind} field is not encoded"
        raise ConfigError(what, where=where, hint="take encode away, or make it text")
    if entity == "context":
        what = "a request's text is not encoded: servers encode no text"
        raise ConfigError(what, where=where, hint="take encode away")
    if isinstance(field_.encode, dict) and not isinstance(field_.encode.get("use"), str):
        raise ConfigError("this key is required", where=f"{where}.use", hint='add use = "ngrams"')


class Vocabulary:
    """Values of a field and their ids: 0 padding, 1 unknown, then values in the order given. Immutable."""

    def __init__(self, values: Sequence[str] | pl.Series) -> None:
        self.values: pl.Series = pl.Series("value", values, dtype=pl.String)
        if self.values.n_unique() != len(self.values) or self.values.null_count():
            what = "vocabulary values must be distinct and present"
            raise DataError(what, where="vocabulary", hint="drop nulls and repeats first")

    @classmethod
    def fit(cls, column: pl.Series, min_count: int = 1) -> "Vocabulary":
        """Values seen at least `min_count` times, most frequent first, ties by value; a null is not a value."""
        flat = column.explode() if column.dtype == pl.List else column
        values = text(flat).drop_nulls().rename("value")
        counted = values.to_frame().group_by("value").len().filter(pl.col("len") >= min_count)
        return cls(counted.sort(["len", "value"], descending=[True, False])["value"])

    def __len__(self) -> int:
        """Rows an embedding table needs: values and the two reserved ids."""
        return len(self.values) + FIRST

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for value in self.values:
            coded = value.encode()
            digest.update(len(coded).to_bytes(8, "little") + coded)
        return digest.hexdigest()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {value: n + FIRST for n, value in enumerate(self.values)}

    def encode(self, column: pl.Series | Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        """Ids [N] of a column of values; a value outside the vocabulary, or a null, is UNKNOWN. Never raises."""
        series = text(column)
        if len(series) <= 64:  # a request: a dict beats building a join
            ids = self._ids
            return np.fromiter((ids.get(v, UNKNOWN) for v in series), dtype=np.int64, count=len(series))
        return _lookup(series, self.values, UNKNOWN, FIRST)

    def decode(self, ids: NDArray[np.int64]) -> list[str | None]:
        """Values of ids; None for padding and unknown."""
        return [self.values[int(i) - FIRST] if i >= FIRST else None for i in ids]


def _lookup(series: pl.Series, values: pl.Series, default: int, shift: int) -> NDArray[np.int64]:
    table = pl.DataFrame({"value": values}).with_row_index("id")
    joined = series.rename("value").to_frame().join(table, on="value", how="left", maintain_order="left")
    found = joined["id"].cast(pl.Int64)
    return (found + shift).fill_null(default).to_numpy().astype(np.int64, copy=False)


def text(column: pl.Series | Sequence[Any] | NDArray[Any]) -> pl.Series:
    """The one text form of raw values [N]: 5, 5.0 and "5" are the same; null where there is none (None, NaN)."""
    if isinstance(column, np.ndarray) and column.dtype == object:
        column = cast(list[Any], column.tolist())
    series = column if isinstance(column, pl.Series) else pl.Series(column, strict=False)
    if series.dtype == pl.Object:
        return pl.Series(series.name, [None if v is None else str(v) for v in series], dtype=pl.String)
    if not series.dtype.is_float():
        return series.cast(pl.String)
    known = series.fill_nan(None)
    whole = (known == known.floor()) & (known.abs() < 2.0**63)
    return whole.to_frame("whole").select(
        pl.when(pl.col("whole"))
        .then(known.cast(pl.Int64, strict=False).cast(pl.String))
        .otherwise(known.cast(pl.String))
        .alias(series.name)
    )[series.name]


def canonical(column: pl.Series, where: str = "ids") -> pl.Series:
    """Raw ids as text: integers in decimal, text as it is. Raises DataError for empty, null or over-long ids."""
    kind = column.dtype
    if kind.is_float():
        known = column.fill_nan(None).drop_nulls()
        if not bool(((known == known.floor()) & (known.abs() < 2.0**63)).all()):
            raise DataError("ids are fractions", where=where, hint="ids are text or whole numbers")
    elif not (kind == pl.String or kind.is_integer() or kind in (pl.Categorical, pl.Enum)):
        raise DataError(f"ids have type {kind}", where=where, hint="ids are text or whole numbers")
    ids = text(column)
    if ids.null_count():
        what = f"{ids.null_count()} ids are missing, the first in row {ids.is_null().arg_true()[0]}"
        raise DataError(what, where=where, hint="drop or fill these rows")
    size = ids.str.len_bytes()
    bad = ((size == 0) | (size > MAX_ID_BYTES)).arg_true()
    if len(bad):
        what = f"{len(bad)} ids are empty or longer than {MAX_ID_BYTES} bytes, the first in row {bad[0]}"
        raise DataError(what, where=where, hint="shorten or hash them")
    return ids


class Keys:
    """Append-only map of raw ids to int64 keys: the n-th id ever seen has key n, for good.

    Immutable; `extend` returns a new one.
    """

    def __init__(self, ids: pl.Series | Sequence[str] = ()) -> None:
        self.ids: pl.Series = pl.Series("id", ids, dtype=pl.String)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _keys(self) -> dict[str, int]:
        return {value: n for n, value in enumerate(self.ids)}

    def key(self, raw: str | int) -> int:
        """Key of one id, MISSING if it has none."""
        return self._keys.get(str(raw), MISSING)

    def encode(self, column: pl.Series | Sequence[str | int] | NDArray[Any]) -> NDArray[np.int64]:
        """Keys [N] of a column of raw ids, MISSING where an id has none."""
        series = text(column)
        if len(series) <= 64:
            keys = self._keys
            return np.fromiter((keys.get(v, MISSING) for v in series), dtype=np.int64, count=len(series))
        return _lookup(series, self.ids, MISSING, 0)

    def extend(self, column: pl.Series, where: str = "ids") -> "Keys":
        """These keys plus one for each new id of the column, in order of first appearance."""
        fresh = canonical(column, where).unique(maintain_order=True)
        fresh = (
            fresh.rename("id").to_frame().join(self.ids.to_frame(), on="id", how="anti", maintain_order="left")["id"]
        )
        return Keys(pl.concat([self.ids, fresh])) if len(fresh) else self

    def decode(self, keys: NDArray[np.int64]) -> list[str]:
        """Raw ids of keys. Raises IndexError for a key never given."""
        if len(keys) and (keys.min() < 0 or keys.max() >= len(self.ids)):
            raise IndexError(f"no id has key {int(keys.min() if keys.min() < 0 else keys.max())}")
        return cast(list[str], self.ids.gather(keys).to_list())


class Profiles:
    """Fields of users or items by key: raw values, one row an entity. Immutable.

    `keys` [N] ascending; `columns` name -> array [N] (object arrays hold text or lists, None where missing).
    """

    def __init__(self, keys: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> None:
        if len(keys) > 1 and not bool((np.diff(keys) > 0).all()):
            what = "keys must be ascending and distinct"
            raise DataError(what, where="profiles", hint="sort by key, drop repeats")
        self.keys = keys
        self.columns: dict[str, NDArray[Any]] = dict(columns)

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> "Profiles":
        """From a frame with a `key` column."""
        frame = frame.sort("key")
        columns: dict[str, NDArray[Any]] = {}
        for name in frame.columns:
            if name == "key":
                continue
            series = frame[name]
            if series.dtype.is_numeric() or series.dtype == pl.Boolean:
                columns[name] = series.to_numpy()
            else:
                columns[name] = np.fromiter(series.to_list(), dtype=object, count=len(series))
        return cls(frame["key"].to_numpy().astype(np.int64), columns)

    def rows(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each key, -1 where the key has no row."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)

    def take(self, name: str, keys: NDArray[np.int64], default: Any = None) -> NDArray[Any]:
        """Values of a field for keys [N]; `default` where the key or the field is absent."""
        column = self.columns.get(name)
        rows = self.rows(keys)
        if column is None or not len(column):
            return np.full(len(keys), default, dtype=object if default is None else None)
        values = column[np.maximum(rows, 0)]
        if (rows < 0).any():
            if default is None and values.dtype != object:
                values = values.astype(np.float64) if values.dtype.kind in "iufb" else values.astype(object)
                default = np.nan
            values = values.copy()
            values[rows < 0] = default
        return values


@frozen
class Catalogue:
    """What is known of users and items themselves, apart from what happened: the features a solver may read."""

    users: Profiles
    items: Profiles

    @classmethod
    def empty(cls) -> "Catalogue":
        none = np.zeros(0, dtype=np.int64)
        return cls(Profiles(none, {}), Profiles(none, {}))
