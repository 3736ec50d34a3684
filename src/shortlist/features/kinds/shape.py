"""What an item looks like in a list: letters and words of its title, how many images it has. N rows.

Columns `NAME_characters`, `NAME_words` where there is a title and `NAME_images` where there is a list of images, in
buckets.
"""

__all__ = ["Shape"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import Count, frozen
from shortlist.errors import ConfigError
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.encoders import lists
from shortlist.features.kinds._words import Once, Side, item_field
from shortlist.schema import Catalogue, Field, Schema

WRITTEN = ("text", "sparse", "vec")  # a vector is what a text has become for models; its letters are in the catalogue
LISTED = ("varlen", "seq")


class Shape:
    @frozen
    class Config:
        """`title` and `images` are item fields, the title the schema's own by default. Of each number training makes
        `buckets` of about equal size."""

        title: str = ""
        images: str = ""
        buckets: Count = 8

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for a field that is not there or of another kind, and where neither is."""
        where = f"feature.{name}"
        self.name, self.buckets = name, config.buckets
        self.counters: tuple[Counter, ...] = ()
        title = config.title or schema.title or ""
        self.title = item_field(title, schema, f"{where}.title", WRITTEN) if title else ""
        self.images = item_field(config.images, schema, f"{where}.images", LISTED) if config.images else ""
        if not self.title and not self.images:
            hint = "set schema.title, or name title or images"
            raise ConfigError("neither a title nor images to measure", where=where, hint=hint)
        self.measured = Once(self._measured)

    def columns(self) -> Mapping[str, Column]:
        names = ["characters", "words"] * bool(self.title) + ["images"] * bool(self.images)
        return {f"{self.name}_{what}": Column("row", Field("dense", buckets=self.buckets)) for what in names}

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        assert rows.items is not None
        place = known.catalogue.items.rows(rows.items)  # -1, an item that is not known: the last, which is missing
        return {f"{self.name}_{what}": column[place] for what, column in self.measured(known.catalogue).items()}

    def _measured(self, catalogue: Catalogue) -> dict[str, NDArray[np.float64]]:
        """Of each item, and NaN behind the last."""
        items = catalogue.items
        absent = np.full(len(items), None, dtype=object)
        out: dict[str, NDArray[np.float64]] = {}
        if self.title:
            column = items.columns.get(self.title, absent).tolist()
            titles = pl.Series([v if isinstance(v, str) else None for v in column], dtype=pl.String)
            for what, count in (("characters", titles.str.len_chars()), ("words", titles.str.count_matches(r"\S+"))):
                out[what] = np.append(count.cast(float).fill_null(np.nan).to_numpy(), np.nan)
        if self.images:
            lengths, _ = lists(items.columns.get(self.images, absent))
            out["images"] = np.append(lengths.astype(np.float64), np.nan)
        return out
