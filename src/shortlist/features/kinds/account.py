"""How old an account is, and how active it has been of late. R requests, W windows.

Columns `NAME_age` (a time: models see its age in buckets) where a field says when the account was made, and
`NAME_active_<window>`: log(1 + events).
"""

__all__ = ["Account"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import frozen, nearest
from shortlist.errors import ConfigError
from shortlist.features.base import WINDOWS, Column, Counter, Known, Rows
from shortlist.features.encoders import numbers
from shortlist.features.kinds._words import Names, Side, actions_of, windows_of
from shortlist.schema import Field, Schema


class Account:
    @frozen
    class Config:
        """`created` is the user field of kind time that says when an account was made; none, and there is no age.
        `actions` that count as activity, by default all that show interest, in each of `windows`."""

        created: str = ""
        actions: Names = ()
        windows: tuple[str, ...] = tuple(WINDOWS)

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for a field, an action or a window that is not there."""
        self.name, self.created = name, config.created
        times = [field for field, declared in schema.users.items() if declared.kind == "time"]
        if config.created and config.created not in times:
            what = f"no user field of kind time is called {config.created!r}"
            hint = nearest(config.created, times) if times else "declare one in schema.users"
            raise ConfigError(what, where=f"feature.{name}.created", hint=hint)
        interest = tuple(action for action, declared in schema.actions.items() if declared.weight > 0)
        actions = actions_of(config.actions or interest, schema, f"feature.{name}.actions")
        self.windows = windows_of(config.windows, f"feature.{name}.windows")
        self.counters = (Counter(("user",), actions, self.windows),)

    def columns(self) -> Mapping[str, Column]:
        age = {f"{self.name}_age": Column("request", Field("time"))} if self.created else {}
        active = Column("request", Field("dense", scale="log1p"))
        return age | {f"{self.name}_active_{window}": active for window in self.windows}

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        counts = known.counts(self.counters[0], rows)
        active = [np.ascontiguousarray(column) for column in counts.T]
        out = {f"{self.name}_active_{w}": column for w, column in zip(self.windows, active, strict=True)}
        if self.created:
            out[f"{self.name}_age"] = numbers(known.catalogue.users.take(self.created, rows.users))
        return out
