"""Events as clients tell them, what becomes of each, and why one is refused."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from shortlist.config import nearest
from shortlist.schema import MAX_ID_BYTES

__all__ = ["Event", "Outcome", "Served", "refusal", "digest", "FUTURE_MS", "EARLIEST_S", "LATEST_S"]

FUTURE_MS = 300_000  # how far a client's clock may run ahead of ours
MAX_CONTEXT_BYTES = 16_384
EARLIEST_S, LATEST_S = 631_152_000, 4_102_444_800  # 1990-01-01 and 2100-01-01, UTC
UNITS = {"seconds": 1, "microseconds": 10**6, "nanoseconds": 10**9}
MAX_FLOAT32 = 3.4028234663852886e38


@dataclass(frozen=True)
class Event:
    """One thing that happened, as a client tells it: raw ids, UTC milliseconds."""

    user: str | int
    item: str | int
    action: str
    time_ms: int
    value: float | None = None
    event_id: str | None = None
    request_id: str | None = None
    position: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of an event. `offset` is its place in the log, for a duplicate that of the first."""

    status: Literal["accepted", "duplicate", "refused"]
    event_id: str | None = None
    offset: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Served:
    """A slate as it left: raw user id, the release that made it, and the rest as JSON text."""

    request_id: str
    user: str
    time_ms: int
    release: str
    body: str


def digest(text: str, key: bytes = b"") -> bytes:
    """16 bytes that stand for a text: that any two of 10^15 texts share them has a probability of about 10^-9."""
    return hashlib.blake2b(text.encode(), digest_size=16, key=key).digest()


def refusal(event: Event, actions: Sequence[str], latest: int) -> Outcome | None:
    """The outcome of an event that cannot be taken. `latest` (ms) is what its time may not exceed."""
    reason = _reason(event, actions, latest)
    if not reason:
        return None
    told = event.event_id if event.event_id and not bad_id(event.event_id, "event_id") else None
    return Outcome("refused", told, None, reason)


def _reason(event: Event, actions: Sequence[str], latest: int) -> str:
    """Why an event cannot be taken, empty if it can."""
    if reason := bad_id(str(event.user), "user id") or bad_id(str(event.item), "item id"):
        return reason
    if event.event_id is not None and (reason := bad_id(event.event_id, "event_id")):
        return reason
    if event.request_id is not None and (reason := bad_id(event.request_id, "request_id")):
        return reason
    if event.action not in actions:
        action = event.action[:64]
        return f"unknown action {action!r}: {nearest(action, list(actions))}"
    if event.value is not None and not (math.isfinite(event.value) and abs(event.value) <= MAX_FLOAT32):
        return f"value is not a finite number: {event.value!r}"
    if event.position is not None and not 1 <= event.position < 2**31:
        return f"position is out of range: {event.position}, the first is 1"
    if reason := _bad_time(event.time_ms, latest):
        return reason
    try:
        size = len(msgspec.json.encode(event.context)) if event.context else 0
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return f"context is not plain JSON: {error}"
    return f"context is longer than {MAX_CONTEXT_BYTES} bytes" if size > MAX_CONTEXT_BYTES else ""


def bad_id(text: str, name: str) -> str:
    """What is wrong with an id, empty if nothing is."""
    if 0 < len(text) <= MAX_ID_BYTES and text.isascii():
        return ""
    if not text:
        return f"{name} is empty"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"{name} is not valid Unicode"
    return f"{name} is longer than {MAX_ID_BYTES} bytes" if size > MAX_ID_BYTES else ""


def _bad_time(time_ms: int, latest: int) -> str:
    if EARLIEST_S * 1000 <= time_ms <= LATEST_S * 1000:
        return "" if time_ms <= latest else f"time_ms is in the future: {time_ms}, at most {latest} is taken"
    for unit, per_second in UNITS.items():
        if EARLIEST_S * per_second <= time_ms <= LATEST_S * per_second:
            return f"time_ms looks like {unit}: {time_ms}; milliseconds are expected"
    return f"time_ms is before 1990 or after 2100: {time_ms}"
