"""Items by their tags (values of fields: a category, a brand, keywords), and lists of the newest of each. I items, M
pairs of an item and a tag."""

__all__ = ["Tagged", "fields_of", "newest", "headed", "without"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import nearest
from shortlist.errors import ConfigError, DataError
from shortlist.forms import Lists
from shortlist.schema import Profiles, Schema, text

KINDS = ("sparse", "varlen")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tagged:
    """Pairs of an item's key and the code of a tag [M], each once, by tag, then key; `names` by code, in order of
    text: `category:news`."""

    items: Ints
    codes: Ints
    names: tuple[str, ...]

    @classmethod
    def of(cls, items: Profiles, schema: Schema, fields: Sequence[str], where: str) -> "Tagged":
        """Of these fields; a missing value is no tag. Raises DataError where no item has one."""
        owners, values = [np.zeros(0, dtype=np.int64)], []
        for field in fields:
            rows, found = _flat(items.columns.get(field), schema.items[field].split)
            owners.append(rows)
            values += [f"{field}:{value}" for value in text(found)]
        names = sorted(set(values))
        if not names:
            what = f"no item has a value in {', '.join(fields)}"
            raise DataError(what, where=where, hint="give items tags, or leave this channel out")
        code = {name: n for n, name in enumerate(names)}
        codes = np.fromiter((code[value] for value in values), dtype=np.int64, count=len(values))
        row = np.concatenate(owners)
        pairs = np.unique(codes * max(len(items), 1) + row)  # a value twice in a list is there once
        return cls(items.keys[pairs % len(items)], pairs // len(items), tuple(names))

    @property
    def sizes(self) -> Ints:
        """How many items each tag has."""
        return np.bincount(self.codes, minlength=len(self.names)).astype(np.int64)

    @property
    def idf(self) -> NDArray[np.float64]:
        """log((1 + N) / (1 + n)) + 1 of each tag, N items that have any, n that have it: least for one that all
        have."""
        idf: NDArray[np.float64] = np.log((1 + len(np.unique(self.items))) / (1 + self.sizes)) + 1
        return idf

    def lists(self, worth: NDArray[Any], keep: int | None) -> Lists:
        """Tag -> items by what they are worth there [M], named."""
        return Lists.ranked(self.codes, self.items, worth.astype(np.float32), keep, self.names)


def fields_of(schema: Schema, fields: Sequence[str], where: str) -> tuple[str, ...]:
    """The fields of items that are tags: those named, else the category. Raises ConfigError."""
    at = f"{where}.fields"
    if not fields:
        if schema.category is None:
            raise ConfigError("no field of items is named", where=at, hint="set fields, or schema.category")
        fields = (schema.category,)
    for field in fields:
        if field not in schema.items:
            raise ConfigError(f"no item field is called {field!r}", where=at, hint=nearest(field, list(schema.items)))
        if schema.items[field].kind not in KINDS:
            what = f"{field!r} is a {schema.items[field].kind} field"
            raise ConfigError(what, where=at, hint="name fields of kind sparse or varlen")
    return tuple(fields)


def newest(
    groups: Ints, items: Ints, times: NDArray[np.float64], keep: int | None, labels: tuple[str, ...] = ()
) -> Lists:
    """Lists of items by falling time, ties by smaller key, cut at `keep`. The score is the place from the last one of
    the list on, from 1: single precision has no room for a time."""
    order = np.lexsort((items, -times, groups))
    groups, items = groups[order], items[order]
    _, starts, counts = np.unique(groups, return_index=True, return_counts=True)
    kept = counts if keep is None else np.minimum(counts, keep)
    place = np.arange(len(groups)) - np.repeat(starts, counts)
    return Lists.ranked(groups, items, (np.repeat(kept, counts) - place).astype(np.float32), keep, labels)


def headed(lists: Lists, item: int, groups: Mapping[int, str], keep: int | None = None) -> Lists:
    """With an item put first into the lists of these keys, wherever else it was taken out, each cut at `keep`. A key
    that has no list gets one, by the name given where lists have names."""
    left = without(lists, np.array([item]))
    at = np.array(sorted(groups), dtype=np.int64)
    behind = [left.of(int(key))[1] for key in at]
    first = np.array([scores[0] + 1 if len(scores) else 1 for scores in behind], dtype=np.float32)
    owners = np.concatenate([np.repeat(left.keys, np.diff(left.offsets)), at])
    items = np.concatenate([left.items, np.full(len(at), item)])
    made = Lists.ranked(owners, items, np.concatenate([left.scores, first]), keep)
    if not any(groups.values()):
        return made
    names = {**dict(zip(left.keys.tolist(), left.labels, strict=True)), **groups}
    return Lists(made.keys, made.offsets, made.items, made.scores, tuple(names[int(key)] for key in made.keys))


def without(lists: Lists, items: Ints) -> Lists:
    """With these items taken out; a list that is empty then is gone."""
    stay = ~np.isin(lists.items, items)
    owners = np.repeat(np.arange(len(lists)), np.diff(lists.offsets))
    sizes = np.bincount(owners[stay], minlength=len(lists))
    there = sizes > 0
    offsets = np.concatenate([[0], np.cumsum(sizes[there])]).astype(np.int64)
    labels = tuple(label for label, has in zip(lists.labels, there, strict=True) if has) if lists.labels else ()
    return Lists(lists.keys[there], offsets, lists.items[stay], lists.scores[stay], labels)


def _flat(column: NDArray[Any] | None, split: str | None) -> tuple[Ints, list[Any]]:
    """Every value of a column and the row that has it; missing ones are left out."""
    rows: list[int] = []
    values: list[Any] = []
    for n, value in enumerate([] if column is None else column.tolist()):
        parts = value.split(split) if isinstance(value, str) and split else value
        for part in parts if isinstance(parts, (list, tuple, np.ndarray)) else [parts]:
            if part is not None and part == part and part != "":
                rows.append(n)
                values.append(part)
    return np.array(rows, dtype=np.int64), values
