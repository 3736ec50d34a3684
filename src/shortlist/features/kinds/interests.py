"""What a user is about: the values (categories, keywords, brands) that their history has most of. R requests.

Columns `NAME_<field>`, lists that share the field's vocabulary. A value stands in its list as often as its share says,
the strongest first: the mean over a list is the weighted mean over its values.
"""

__all__ = ["Interests"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import Count, Positive, frozen
from shortlist.errors import ConfigError
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.kinds._words import DAY_MS, VALUED, Names, Side, coded, item_field, past, ranked, weighed
from shortlist.schema import Field, Schema


class Interests:
    @frozen
    class Config:
        """`of` are item fields. Of the `last` events of a history each weighs what its action does, half as much for
        every `half_life_days` since (None: all alike). The `k` strongest values fill `slots` places by their shares."""

        of: Names
        k: Count = 5
        slots: Count = 10
        last: Count = 100
        half_life_days: Positive | None = 30.0

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for a field that is not there or has no values, and for more values than places."""
        where = f"feature.{name}"
        self.config, self.name, self.schema, self.last = config, name, schema, config.last
        self.counters: tuple[Counter, ...] = ()
        names = (config.of,) if isinstance(config.of, str) else config.of
        if not names:
            raise ConfigError("no item field is named", where=f"{where}.of", hint='write of = "category"')
        if config.k > config.slots:
            what = f"{config.k} values do not fit into {config.slots} places"
            raise ConfigError(what, where=f"{where}.slots", hint="raise slots, or lower k")
        self.values = {
            field: coded(field) for field in (item_field(one, schema, f"{where}.of", VALUED) for one in names)
        }
        self.half_life_ms = None if config.half_life_days is None else config.half_life_days * DAY_MS

    def columns(self) -> Mapping[str, Column]:
        out = {}
        for name in self.values:
            own = self.schema.items[name]
            field = Field("varlen", vocab=self.schema.vocab_of("item", name), min_count=own.min_count, hash=own.hash)
            out[f"{self.name}_{name}"] = Column("request", field)
        return out

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        history, asked = past(rows, self.last), len(rows.requests)
        out = {}
        for name, made in self.values.items():
            values = made(known.catalogue)
            found = weighed(history, values, self.schema.weights, self.half_life_ms)
            owner, code, times = apportioned(*found, self.config.k, self.config.slots)
            flat, counts = np.repeat(values.words[code], times), np.bincount(owner, weights=times, minlength=asked)
            ends = np.cumsum(counts.astype(np.int64))
            lists_ = np.empty(asked, dtype=object)
            lists_[:] = [part.tolist() for part in np.split(flat, ends[:-1])] if asked else []
            out[f"{self.name}_{name}"] = lists_[rows.owners]
        return out


def apportioned(
    owner: NDArray[np.int64], code: NDArray[np.int64], share: NDArray[np.float64], k: int, slots: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The k strongest of each owner, strongest first, and how many of `slots` places each takes (largest remainder).

    Everyone of the k takes at least one place; ties go to the smaller code.
    """
    order = np.lexsort((code, -share, owner))
    owner, code, share = owner[order], code[order], share[order]
    keep = ranked(owner) < k
    owner, code, share = owner[keep], code[keep], share[keep]
    size = int(owner.max(initial=-1)) + 1
    total, members = np.bincount(owner, weights=share, minlength=size), np.bincount(owner, minlength=size)
    free = slots - members  # what is left when each has one
    exact = share / total[owner] * free[owner]
    places = np.floor(exact).astype(np.int64)
    left = free - np.bincount(owner, weights=places, minlength=size).astype(np.int64)
    remainder = exact - places
    by = np.lexsort((code, -remainder, owner))
    more = np.zeros(len(owner), dtype=np.int64)
    more[by] = ranked(owner[by]) < left[owner[by]]
    return owner, code, places + 1 + more
