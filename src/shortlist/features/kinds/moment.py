"""When a request is made, by the clock on the wall: part of the day, weekday, holiday. R requests.

Columns `NAME_part` (night until 6, morning until 12, afternoon until 18, evening), `NAME_weekday` (1 is Monday), and
`NAME_holiday` (1 or 0) where days are declared.
"""

__all__ = ["Moment"]

import zoneinfo
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import frozen, nearest
from shortlist.errors import ConfigError
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.kinds._words import Side
from shortlist.schema import Field, Schema

PARTS = np.array(["night", "morning", "afternoon", "evening"], dtype=object)  # of six hours each
EPOCH = date(1970, 1, 1)


class Moment:
    @frozen
    class Config:
        """`zone` is the time zone of the clock (`Europe/Oslo`). `holidays` are dates (`2026-12-25`), or the file that
        lists one at the beginning of each line, beside the project file."""

        zone: str = "UTC"
        holidays: str | tuple[str, ...] = ()

    @classmethod
    def resolved(cls, config: Config, name: str, folder: Path) -> Config:
        """With the dates of the file in its place. Raises ConfigError when it cannot be read."""
        if not isinstance(config.holidays, str):
            return config
        file = folder / config.holidays
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            what = f"{config.holidays} cannot be read: {said}"
            hint = "name a file beside the project file, or list the dates"
            raise ConfigError(what, where=f"feature.{name}.holidays", hint=hint) from None
        words = [line.replace(",", " ").split() for line in lines]
        return replace(config, holidays=tuple(row[0] for row in words if row and not row[0].startswith("#")))

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for a zone that does not exist and for a date that is none."""
        self.name, self.zone, self.declared = name, config.zone, bool(config.holidays)
        self.counters: tuple[Counter, ...] = ()
        try:
            zoneinfo.ZoneInfo(config.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            hint = nearest(config.zone, sorted(zoneinfo.available_timezones()))
            what = f"no time zone is called {config.zone!r}"
            raise ConfigError(what, where=f"feature.{name}.zone", hint=hint) from None
        self.days: NDArray[np.int64] | None = None  # since the epoch; a file that was not read says nothing
        if not isinstance(config.holidays, str):
            self.days = np.array([_day(word, f"feature.{name}.holidays") for word in config.holidays], dtype=np.int64)

    def columns(self) -> Mapping[str, Column]:
        word = Column("request", Field("sparse"))
        out = {f"{self.name}_part": word, f"{self.name}_weekday": word}
        return out | ({f"{self.name}_holiday": Column("request", Field("dense"))} if self.declared else {})

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        moments = pl.Series(rows.requests.now).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(self.zone)
        found: dict[str, NDArray[Any]] = {
            "part": PARTS[moments.dt.hour().to_numpy().astype(np.int64) // 6],
            "weekday": moments.dt.weekday().cast(pl.String).to_numpy().astype(object),
        }
        if self.declared:
            if self.days is None:
                what = "the file of holidays was not read"
                raise ConfigError(what, where=f"feature.{self.name}.holidays", hint="give FeatureSet.of the folder")
            today = moments.dt.date().cast(pl.Int32).to_numpy()
            found["holiday"] = np.isin(today, self.days).astype(np.float64)
        return {f"{self.name}_{key}": column[rows.owners] for key, column in found.items()}


def _day(word: str, where: str) -> int:
    try:
        return (date.fromisoformat(word) - EPOCH).days
    except ValueError:
        raise ConfigError(f"{word!r} is no date", where=where, hint="write dates as 2026-12-25") from None
