"""Items by what they are labelled with (a category, a brand, keywords), and lists of the newest of each label. I items,
M pairs of an item and a label."""

__all__ = ["Labelled", "fields_of", "newest", "headed", "without"]

from collections.abc import Sequence
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
class Labelled:
    """Pairs of an item's key and the code of a label [M], each once, by label, then key; `names` by code, in order of
    text: `category:news`."""

    items: Ints
    codes: Ints
    names: tuple[str, ...]

    @classmethod
    def of(cls, items: Profiles, schema: Schema, fields: Sequence[str], where: str) -> "Labelled":
        """Of these fields; a missing value is no label. Raises DataError where no item has one."""
        owners, values = [np.zeros(0, dtype=np.int64)], []
        for field in fields:
            rows, found = _flat(items.columns.get(field), schema.items[field].split)
            owners.append(rows)
            values += [f"{field}:{value}" for value in text(found)]
        names = sorted(set(values))
        if not names:
            what = f"no item has a value in {', '.join(fields)}"
            raise DataError(what, where=where, hint="give items labels, or leave this channel out")
        code = {name: n for n, name in enumerate(names)}
        codes = np.fromiter((code[value] for value in values), dtype=np.int64, count=len(values))
        row = np.concatenate(owners)
        pairs = np.unique(codes * max(len(items), 1) + row)  # a value twice in a list is there once
        return cls(items.keys[pairs % len(items)], pairs // len(items), tuple(names))

    @property
    def sizes(self) -> Ints:
        """How many items each label has."""
        return np.bincount(self.codes, minlength=len(self.names)).astype(np.int64)

    @property
    def idf(self) -> NDArray[np.float64]:
        """log((1 + N) / (1 + n)) + 1 of each label, N items that have any, n that have it: least for one that all
        have."""
        idf: NDArray[np.float64] = np.log((1 + len(np.unique(self.items))) / (1 + self.sizes)) + 1
        return idf

    def lists(self, worth: NDArray[Any], keep: int | None) -> Lists:
        """Label -> items by what they are worth there [M], named."""
        return Lists.ranked(self.codes, self.items, worth.astype(np.float32), keep, self.names)


def fields_of(schema: Schema, fields: Sequence[str], where: str) -> tuple[str, ...]:
    """The fields of items that are labels: those named, else the category. Raises ConfigError."""
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


def headed(lists: Lists, item: int, groups: Sequence[int | str], keep: int | None = None) -> Lists:
    """With an item put first into the lists of these groups (keys, or names where lists have labels), wherever else it
    was taken out, each cut at `keep`. A group that has no list gets one."""
    left = without(lists, np.array([item]))
    labels = left.labels
    names = {label: int(key) for label, key in zip(labels, left.keys, strict=True)} if labels else {}
    behind = int(left.keys.max(initial=-1)) + 1
    keys = []
    for group in dict.fromkeys(groups):
        if isinstance(group, str):
            keys.append(names.setdefault(group, behind + len(names) - len(labels)))
        else:
            keys.append(int(group))
    at = np.array(sorted(keys), dtype=np.int64)
    first = np.array([float(left.of(int(key))[1][0]) + 1 if len(left.of(int(key))[0]) else 1.0 for key in at])
    owners = np.concatenate([np.repeat(left.keys, np.diff(left.offsets)), at])
    items = np.concatenate([left.items, np.full(len(at), item)])
    scores = np.concatenate([left.scores, first.astype(np.float32)])
    made = Lists.ranked(owners, items, scores, keep)
    if not names:
        return made
    name = {key: label for label, key in names.items()}
    return Lists(made.keys, made.offsets, made.items, made.scores, tuple(name[int(key)] for key in made.keys))


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
