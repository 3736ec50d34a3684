"""What kinds of features share: the words of their options, checked, and what a catalogue says, made once.

N rows, H events of histories, V values of a field.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Ragged
from shortlist.config import nearest
from shortlist.errors import ConfigError
from shortlist.features.base import WINDOWS, Known, Rows
from shortlist.features.counters import sliced
from shortlist.features.encoders import lists
from shortlist.schema import FIRST, Catalogue, Entity, Profiles, Schema, Vocabulary, text

__all__ = [
    "DAY_MS", "VALUED", "Edges", "Names", "Side", "Once", "Values", "coded",
    "actions_of", "windows_of", "keys_of", "side_of", "field_of", "item_field", "values_of",
    "past", "weighed", "ranked",
]  # fmt: skip

T = TypeVar("T")
Ints = NDArray[np.int64]
Names = str | tuple[str, ...]  # one name, or several
Edges = dict[str, tuple[float, ...]]  # by key: where numbers are cut into slices
Side = Literal["request", "row"]
VALUED = ("sparse", "varlen", "seq")  # kinds of fields that have values to count by
DAY_MS = 86_400_000


def _several(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def actions_of(names: Names, schema: Schema, where: str) -> tuple[str, ...]:
    """Actions by name. Raises ConfigError for one the schema does not have, and for none."""
    found = _several(names)
    for name in found:
        if name not in schema.actions:
            hint = nearest(name, list(schema.actions))
            raise ConfigError(f"no action is called {name!r}", where=where, hint=hint)
    if not found:
        raise ConfigError("no action is named", where=where, hint=f"actions are {', '.join(schema.actions)}")
    return found


def windows_of(names: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Windows by name. Raises ConfigError for one that does not exist, and for none."""
    for name in names:
        if name not in WINDOWS:
            raise ConfigError(f"no window is called {name!r}", where=where, hint=nearest(name, list(WINDOWS)))
    if not names:
        raise ConfigError("no window is named", where=where, hint=f"windows are {', '.join(WINDOWS)}")
    return names


def keys_of(by: Names, schema: Schema, where: str, edges: Mapping[str, tuple[float, ...]]) -> tuple[str, ...]:
    """The one or two words that name a counter's key, with its `edges`: `user.age[18,25]`. Raises ConfigError."""
    found = _several(by)
    if len(found) not in (1, 2):
        hint = 'write by = "item" or by = ["item", "user.gender"]'
        raise ConfigError(f"counts are kept by one key or two, not {len(found)}", where=where, hint=hint)
    fields: dict[str, str] = {f"user.{name}": field.kind for name, field in schema.users.items()}
    fields |= {f"item.{name}": field.kind for name, field in schema.items.items()}
    for word in found:
        if fields.get(word, VALUED[0]) not in (*VALUED, *(("dense",) if word in edges else ())):
            what = f"{word} is a {fields[word]} field: it has no values to count by"
            cuts = f', or cut it: edges = {{ "{word}" = [18, 25] }}' if fields[word] == "dense" else ""
            raise ConfigError(what, where=where, hint=f"name a sparse or varlen field{cuts}")
        if word not in ("user", "item", *fields):
            words = ["user", "item", *(name for name, kind in fields.items() if kind in VALUED)]
            raise ConfigError(f"no key is called {word!r}", where=where, hint=nearest(word, words))
    if len({word.partition(".")[0] for word in found}) < len(found):
        what = f"{found[0]} and {found[1]} are both of the {found[0].partition('.')[0]}"
        raise ConfigError(what, where=where, hint="name one of the user and one of the item")
    _check_edges(edges, found, where.removesuffix("by") + "edges")
    return tuple(sliced(word, edges[word]) if word in edges else word for word in found)


def _check_edges(edges: Mapping[str, tuple[float, ...]], by: tuple[str, ...], where: str) -> None:
    for word, told in edges.items():
        if word not in by or "." not in word:
            hint = nearest(word, [name for name in by if "." in name])
            raise ConfigError(f"nothing is counted by the values of {word!r}", where=where, hint=hint)
        if not told or not all(map(math.isfinite, told)) or any(a >= b for a, b in pairwise(told)):
            hint = f'write edges = {{ "{word}" = [18, 25, 35, 50] }}'
            raise ConfigError(f"edges of {word} are not numbers that ascend: {list(told)}", where=where, hint=hint)


def side_of(by: tuple[str, ...]) -> Side:
    """A count of the user alone belongs to the request, any other to the candidate."""
    return "request" if all(word.partition(".")[0] == "user" for word in by) else "row"


def field_of(
    word: str, schema: Schema, where: str, entities: tuple[Entity, ...] = ("user", "context")
) -> tuple[Entity, str]:
    """`context.lat` as an entity and its field. Raises ConfigError."""
    head, _, name = word.partition(".")
    for entity in entities:
        if head == entity and name in schema.fields(entity):
            return entity, name
    words = [f"{entity}.{field}" for entity in entities for field in schema.fields(entity)]
    raise ConfigError(f"no field is called {word!r}", where=where, hint=nearest(word, words))


def item_field(name: str, schema: Schema, where: str, kinds: Sequence[str]) -> str:
    """An item field of one of these kinds. Raises ConfigError."""
    own = [field for field, declared in schema.items.items() if declared.kind in kinds]
    if name not in schema.items:
        raise ConfigError(f"no item field is called {name!r}", where=where, hint=nearest(name, own))
    if name not in own:
        what = f"item.{name} is a {schema.items[name].kind} field"
        raise ConfigError(what, where=where, hint=f"name a field of kind {' or '.join(kinds)}")
    return name


def values_of(field: tuple[Entity, str], rows: Rows, known: Known) -> NDArray[Any]:
    """Raw values [N] of a field for each row, None or NaN where there is none."""
    entity, name = field
    if entity == "user":
        return known.catalogue.users.take(name, rows.users)
    if entity == "context":
        column = rows.requests.context.get(name)
        return np.full(len(rows.owners), None, dtype=object) if column is None else column[rows.owners]
    assert rows.items is not None
    return known.catalogue.items.take(name, rows.items)


def coded(field: str) -> "Once[Values]":
    """The values of an item field, by catalogue."""
    return Once(lambda catalogue: Values.of(catalogue.items, field))


class Once(Generic[T]):
    """What is made of a catalogue, made when it is first asked for and kept until another one is asked about."""

    def __init__(self, make: Callable[[Catalogue], T]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._kept: tuple[Catalogue, T] | None = None

    def __call__(self, catalogue: Catalogue) -> T:
        kept = self._kept
        if kept is not None and kept[0] is catalogue:
            return kept[1]
        with self._lock:
            if self._kept is None or self._kept[0] is not catalogue:
                self._kept = catalogue, self._make(catalogue)
            return self._kept[1]


@dataclass(frozen=True)
class Values:
    """A field's values as codes: row n of the profiles has `codes[offsets[n]:offsets[n+1]]`, places in `words` [V]."""

    profiles: Profiles
    offsets: Ints
    codes: Ints
    words: NDArray[Any]

    @classmethod
    def of(cls, profiles: Profiles, name: str) -> "Values":
        column = profiles.columns.get(name, np.full(len(profiles), np.nan))
        lengths, flat = lists(column)
        given = text(flat)
        missing = given.is_null().to_numpy()
        lengths = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[~missing], minlength=len(lengths))
        words = Vocabulary.fit(given)
        codes = words.encode(given.filter(~given.is_null())) - FIRST
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(profiles, offsets, codes, np.array(words.values.to_list(), dtype=object))

    def take(self, keys: Ints) -> tuple[Ints, Ints]:
        """Codes of entities by key: the place each is of in `keys`, and the codes."""
        rows = self.profiles.rows(keys)
        low = self.offsets[rows]
        counts = np.where(rows < 0, 0, self.offsets[rows + 1] - low)
        place = np.repeat(np.arange(len(keys)), counts)
        return place, self.codes[np.arange(len(place)) + (low - (np.cumsum(counts) - counts))[place]]


def past(rows: Rows, last: int) -> Ragged:
    """At most the `last` events of each request that happened strictly before it."""
    requests = rows.requests
    history = requests.history
    return history.where(history.times < requests.now[history.owners]).last(last)


def weighed(
    history: Ragged, values: Values, weights: NDArray[np.float32], half_life_ms: float | None
) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """What the requests [R] have to do with each value: request, code and share [P], by request and code.

    An event weighs what its action does, half as much for each half-life until the request's latest event; shares of a
    request add up to 1.
    """
    place, codes = values.take(history.items)
    owners = history.owners[place]
    weight = weights[history.actions[place]].astype(np.float64)
    if half_life_ms is not None:
        latest = history.times[history.offsets[1:][owners] - 1]
        weight *= np.exp2((history.times[place] - latest) / half_life_ms)
    wide = max(len(values.words), 1)
    pairs, at = np.unique(owners * wide + codes, return_inverse=True)
    summed = np.bincount(at, weights=weight, minlength=len(pairs)).astype(np.float64)
    owner, code = np.divmod(pairs, wide)
    total = np.bincount(owner, weights=summed, minlength=len(history.offsets) - 1)
    return owner, code, summed / total[owner]


def ranked(owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each row inside its run of equal owners."""
    place = np.arange(len(owner))
    first = np.ones(len(owner), dtype=bool)
    first[1:] = owner[1:] != owner[:-1]
    return place - np.maximum.accumulate(np.where(first, place, 0)) if len(owner) else place
