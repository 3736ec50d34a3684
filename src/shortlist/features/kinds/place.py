"""Where a request comes from: the GeoHash of its place (Niemeyer, 2008) and the nearest of declared cities. R requests.

Columns `NAME_geohash` and, where cities are declared, `NAME_city`. A place that is missing or off the globe is none.
"""

__all__ = ["Place"]

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from shortlist.config import Count, Positive, frozen
from shortlist.errors import ConfigError
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.encoders import numbers
from shortlist.features.kinds._words import Side, field_of, values_of
from shortlist.schema import Field, Schema

ALPHABET = np.array(list("0123456789bcdefghjkmnpqrstuvwxyz"))
EARTH_KM = 6371.0088  # mean radius


class Place:
    @frozen
    class Config:
        """`latitude` and `longitude` name fields (`context.lat`, `user.lat`), in degrees. A hash of `precision` letters
        is a cell: 5 about 5 km, 6 about 1 km. `cities` are name -> [latitude, longitude]; beyond `within_km` of all of
        them a place is in none. Hashes met less than `min_count` times in training are unknown."""

        latitude: str
        longitude: str
        precision: Annotated[int, Ge(1), Le(12)] = 5
        cities: dict[str, tuple[float, float]] | None = None
        within_km: Positive = 50.0
        min_count: Count = 1

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for a field that is not there and for a city off the globe."""
        where = f"feature.{name}"
        self.config, self.name = config, name
        self.counters: tuple[Counter, ...] = ()
        self.latitude = field_of(config.latitude, schema, f"{where}.latitude")
        self.longitude = field_of(config.longitude, schema, f"{where}.longitude")
        cities = config.cities or {}
        self.cities = np.array(list(cities), dtype=object)
        self.places = np.array(list(cities.values()), dtype=np.float64).reshape(-1, 2)
        for city, (lat, lon) in cities.items():
            if not (-90 <= lat <= 90 and -180 <= lon <= 180):
                what = f"{lat:g}, {lon:g} is off the globe"
                raise ConfigError(what, where=f"{where}.cities.{city}", hint="write [latitude, longitude] in degrees")

    def columns(self) -> Mapping[str, Column]:
        out = {f"{self.name}_geohash": Column("request", Field("sparse", min_count=self.config.min_count))}
        return out | ({f"{self.name}_city": Column("request", Field("sparse"))} if len(self.cities) else {})

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        lat, lon = (numbers(values_of(field, rows, known)) for field in (self.latitude, self.longitude))
        there = (np.abs(lat) <= 90) & (np.abs(lon) <= 180)
        cells = np.full(len(lat), None, dtype=object)
        cells[there] = geohash(lat[there], lon[there], self.config.precision)
        out: dict[str, NDArray[Any]] = {f"{self.name}_geohash": cells}
        if len(self.cities):
            towns = np.full(len(lat), None, dtype=object)
            far = kilometres(lat[there], lon[there], self.places)
            nearest = far.argmin(axis=1)
            near = far[np.arange(len(far)), nearest] <= self.config.within_km
            towns[np.flatnonzero(there)[near]] = self.cities[nearest[near]]
            out[f"{self.name}_city"] = towns
        return out


def geohash(lat: NDArray[np.float64], lon: NDArray[np.float64], precision: int) -> NDArray[Any]:
    """Cells [N] of degrees: bits of longitude and latitude in turn, longitude first, five to a letter."""
    bits = 5 * precision
    wide, high = (bits + 1) // 2, bits // 2
    x = np.clip(((lon + 180) / 360 * 2.0**wide).astype(np.int64), 0, 2**wide - 1)
    y = np.clip(((lat + 90) / 180 * 2.0**high).astype(np.int64), 0, 2**high - 1)
    letters = np.zeros((len(lat), precision), dtype=np.int64)
    for bit in range(bits):
        half, left = (x, wide) if bit % 2 == 0 else (y, high)
        letters[:, bit // 5] |= (half >> (left - 1 - bit // 2) & 1) << (4 - bit % 5)
    return ALPHABET[letters].view(f"<U{precision}").reshape(-1).astype(object)


def kilometres(lat: NDArray[np.float64], lon: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Great circle distances [N, C] to places [C, 2], all in degrees."""
    a, b = np.radians(lat)[:, None], np.radians(places[:, 0])
    across = np.radians(places[:, 1]) - np.radians(lon)[:, None]
    half = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(across / 2) ** 2
    out: NDArray[np.float64] = 2 * EARTH_KM * np.arcsin(np.sqrt(np.minimum(half, 1.0)))
    return out
