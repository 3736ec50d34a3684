"""What a request is made with: brand, model and operating system, as given, or read out of a user agent. R requests.

Columns `NAME_brand`, `NAME_model`, `NAME_os`; what the rules below do not know is unknown.
"""

__all__ = ["Device"]

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.config import frozen
from shortlist.errors import ConfigError
from shortlist.features.base import Column, Counter, Known, Rows
from shortlist.features.kinds._words import Side, field_of, values_of
from shortlist.schema import Field, Schema

WHAT = ("brand", "model", "os")
# The first that matches says it: Android calls itself Linux, and phones of Apple say "like Mac OS X".
SYSTEMS = (
    (re.compile(r"iPhone|iPad|iPod"), "iOS"),
    (re.compile(r"HarmonyOS"), "HarmonyOS"),
    (re.compile(r"Android"), "Android"),
    (re.compile(r"Windows"), "Windows"),
    (re.compile(r"Mac OS X|Macintosh"), "macOS"),
    (re.compile(r"CrOS"), "ChromeOS"),
    (re.compile(r"Linux|X11"), "Linux"),
)
# `Android 14; SM-S918B Build/UP1A)` or `Android 14; Pixel 8)`; `K` is what browsers say that hide it.
MODEL = re.compile(r"Android[^;)]*;(?: [a-z]{2}[-_][a-zA-Z]{2};)? ?([^;)]+?)(?: Build/[^;)]*)?[;)]")
APPLE = re.compile(r"iPhone|iPad|iPod|Macintosh")
BRANDS = (
    (re.compile(r"(SAMSUNG )?(SM|GT|SC|SCH|SGH|SHV)-|SAMSUNG|Galaxy", re.I), "Samsung"),
    (re.compile(r"Pixel|Nexus", re.I), "Google"),
    (re.compile(r"Redmi|POCO|Xiaomi|Mi |M2[0-9]{3}|2[0-9]{3,}[A-Z]", re.I), "Xiaomi"),
    (re.compile(r"HUAWEI", re.I), "Huawei"),
    (re.compile(r"HONOR", re.I), "Honor"),
    (re.compile(r"ONEPLUS", re.I), "OnePlus"),
    (re.compile(r"OPPO|CPH[0-9]", re.I), "Oppo"),
    (re.compile(r"realme|RMX[0-9]", re.I), "Realme"),
    (re.compile(r"vivo", re.I), "Vivo"),
    (re.compile(r"moto|XT[0-9]{4}", re.I), "Motorola"),
    (re.compile(r"LM-|LG-", re.I), "LG"),
    (re.compile(r"Nokia", re.I), "Nokia"),
    (re.compile(r"Sony|Xperia|XQ-", re.I), "Sony"),
)
LONGEST = 1000  # letters of a user agent that are read


class Device:
    @frozen
    class Config:
        """Fields by name (`context.user_agent`, `user.brand`): `agent` is read by rules, `brand`, `model` and `os` are
        taken as they are, and where they are missing, what the agent says. At least one is named."""

        agent: str = ""
        brand: str = ""
        model: str = ""
        os: str = ""

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        """Raises ConfigError for a field that is not there, and where none is named."""
        self.name = name
        self.counters: tuple[Counter, ...] = ()
        words = {key: str(getattr(config, key)) for key in ("agent", *WHAT)}
        self.fields = {key: field_of(word, schema, f"feature.{name}.{key}") for key, word in words.items() if word}
        if not self.fields:
            hint = 'write agent = "context.user_agent", or name brand, model, os'
            raise ConfigError("no field says what the device is", where=f"feature.{name}", hint=hint)

    def columns(self) -> Mapping[str, Column]:
        wanted = WHAT if "agent" in self.fields else tuple(key for key in WHAT if key in self.fields)
        return {f"{self.name}_{key}": Column("request", Field("sparse")) for key in wanted}

    def read(self, side: Side, rows: Rows, known: Known) -> Mapping[str, NDArray[Any]]:
        told = {key: values_of(field, rows, known).astype(object) for key, field in self.fields.items()}
        out: dict[str, NDArray[Any]] = {}
        if "agent" in told:
            agents = told["agent"].tolist()
            read = {agent: parsed(agent) for agent in {a for a in agents if isinstance(a, str)}}
            rest = (None, None, None)
            rows_ = [read.get(agent, rest) if isinstance(agent, str) else rest for agent in agents]
            for n, key in enumerate(WHAT):
                out[key] = np.fromiter((row[n] for row in rows_), dtype=object, count=len(rows_))
        for key in WHAT:
            if key in told:
                given = np.array([v is not None and v == v and v != "" for v in told[key].tolist()], dtype=bool)
                other = out.get(key, np.full(len(given), None, dtype=object))
                out[key] = np.where(given, told[key], other)
        return {f"{self.name}_{key}": column for key, column in out.items()}


def parsed(agent: str) -> tuple[str | None, str | None, str | None]:
    """Brand, model and system of a user agent, None for what it does not say."""
    agent = agent[:LONGEST]
    system = next((name for rule, name in SYSTEMS if rule.search(agent)), None)
    apple = APPLE.search(agent)
    if apple and system in ("iOS", "macOS"):
        return "Apple", apple.group().replace("Macintosh", "Mac"), system
    found = MODEL.search(agent)
    model = found.group(1).strip() if found else None
    if model is None or model in ("K", "Mobile", "Tablet", "wv", "U"):
        return None, None, system
    return next((name for rule, name in BRANDS if rule.match(model)), None), model, system
