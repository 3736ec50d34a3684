"""What may be tried of an option: a range of numbers or a few values, as a project declares it or its type says.

An option is named as a project writes it: `dim`, or `train.lr` for a key of the table `train`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from shortlist.config import build, frozen, nearest
from shortlist.errors import ConfigError

__all__ = ["Choices", "Part", "Range", "declared", "derived", "spread"]

WIDER = 4  # a whole number is tried from its quarter to four times it
FARTHER = 10.0  # a number from its tenth to ten times it
HALF = 0.5  # a share from 0 to a half, where it is less itself


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log`: as often between 1 and 10 as between 10 and 100."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def words(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (", log" if self.log else "") + (", whole" if self.whole else "")

    @property
    def ends(self) -> tuple[Any, ...]:
        """The outermost values."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


@dataclass(frozen=True)
class Choices:
    """Some values."""

    values: tuple[Any, ...]

    def words(self) -> str:
        return " or ".join(json.dumps(value) for value in self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values


Part = Range | Choices


@frozen
class Told:
    """A range as a project writes it."""

    low: float
    high: float
    log: bool = False


def derived(kind: Any, value: Any) -> Part | None:
    """What its type and its present value say of an option; None where they do not say how far it may go: text, tables,
    what is off (0 or None)."""
    bounds: tuple[Any, ...] = ()
    if hasattr(kind, "__metadata__"):
        bounds, kind = kind.__metadata__, get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        known = [part for part in get_args(kind) if part is not type(None)]
        return derived(known[0], value) if value is not None and len(known) == 1 else None
    if kind is bool:
        return Choices((False, True))
    if get_origin(kind) is Literal and value not in ("", None):
        return Choices(get_args(kind))
    lows: list[Any] = [b.ge if isinstance(b, Ge) else b.gt for b in bounds if isinstance(b, Ge | Gt)]
    highs: list[Any] = [b.le if isinstance(b, Le) else b.lt for b in bounds if isinstance(b, Le | Lt)]
    low, high = max(lows, default=None), min(highs, default=None)
    if kind is int and value > 0:
        least = max(1, value // WIDER, -math.inf if low is None else low)
        return Range(least, min(value * WIDER, math.inf if high is None else high), log=True, whole=True)
    if kind is float and low == 0 and high is not None:
        open_ = any(isinstance(b, Gt) for b in bounds)
        return Range(min(value, HALF) / FARTHER if open_ else 0.0, max(HALF, float(value)))
    if kind is float and value > 0 and math.isfinite(value):
        return Range(value / FARTHER, value * FARTHER, log=True)
    if get_origin(kind) is tuple and value and all(isinstance(part, int) for part in value):
        return layers(tuple(value))
    return None


def layers(widths: tuple[int, ...]) -> Choices:
    """Widths of layers: as they are, half, double, and without the first."""
    half, double = tuple(max(1, w // 2) for w in widths), tuple(2 * w for w in widths)
    ways = [widths, half, double, *([widths[1:]] if len(widths) > 1 else [])]
    return Choices(tuple(list(way) for way in dict.fromkeys(ways)))


def spread(config: Any) -> dict[str, Part]:
    """Every option of a typed config that says how far it may go, by name."""
    hints = get_type_hints(type(config), include_extras=True)
    found = {f.name: derived(hints[f.name], getattr(config, f.name)) for f in fields(config)}
    return {name: part for name, part in found.items() if part is not None}


def declared(table: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> dict[str, Part]:
    """A space as a project writes it; `kinds` are the types of the options there are. Raises ConfigError."""
    out: dict[str, Part] = {}
    for name, words in table.items():
        at = f"{where}.{name}"
        if name not in kinds:
            raise ConfigError(f"unknown key {name!r}", where=where, hint=nearest(name, list(kinds)))
        if isinstance(words, Mapping):
            told = build(Told, words, at)
            if told.low >= told.high:
                what = f"it goes from {told.low:g} to {told.high:g}"
                raise ConfigError(what, where=at, hint="low is below high")
            if told.log and told.low <= 0:
                raise ConfigError(f"a logarithm of {told.low:g}", where=at, hint="begin above 0, or take log away")
            whole = _whole(kinds[name])
            if whole and not (told.low == int(told.low) and told.high == int(told.high)):
                raise ConfigError("should be whole numbers", where=at, hint="correct low and high")
            out[name] = Range(told.low, told.high, told.log, whole)
        elif isinstance(words, Sequence) and not isinstance(words, str) and len(words) > 1:
            out[name] = Choices(tuple(words))
        else:
            what = f"should be a list of values or a range, got {words!r}"
            raise ConfigError(what, where=at, hint="write [8, 16] or { low = 8, high = 16 }")
    return out


def _whole(kind: Any) -> bool:
    parts = [get_args(kind)[0]] if hasattr(kind, "__metadata__") else [kind]
    return any(part is int or int in get_args(part) for part in parts)
