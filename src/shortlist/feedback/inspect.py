"""What a store says of one user, item or value, in words: for people who look."""

from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.candidates import Ragged
from shortlist.errors import RequestError
from shortlist.events.base import Log
from shortlist.events.event import bad_id
from shortlist.features.base import Counter
from shortlist.features.counters import valued
from shortlist.features.hashing import fnv1a, mix
from shortlist.features.state import namespace
from shortlist.schema import MISSING, Keys
from shortlist.store.states import States

__all__ = ["told"]

Entity = Literal["user", "item", "value"]


def told(store: States, log: Log, entity: Entity, id: str, now: int) -> dict[str, Any]:
    """Key, bytes, history and counters of an entity at `now`, as plain JSON. A value is written `item.genre=Drama`.

    Of a counter with two parts, `counts` is by the second. Raises RequestError for an id that has no key, and for a
    field that nothing is counted by.
    """
    own = [counter for counter in store.service.counters if namespace(counter) == entity]
    fields = sorted({counter.by[0] for counter in own})
    if entity == "value" and ("=" not in id or id.partition("=")[0] not in fields):
        what = f"nothing is counted by {id.partition('=')[0]!r}" if "=" in id else f"{id!r} is no value of a field"
        hint = f"write {fields[0]}=VALUE" if fields else "no feature counts by the values of a field"
        raise RequestError(what, where="value", hint=hint)
    if reason := bad_id(id, "it"):
        raise RequestError(f"no {entity} has the id {id!r}", where=f"{entity} id", hint=reason)
    key = int(_hashes(pl.Series([id]))[0]) if entity == "value" else log.key(entity, id)
    if key == MISSING:
        raise RequestError(f"no {entity} has the id {id!r}", where=f"{entity} id", hint="ids are as the log has them")
    keys, items = np.array([key], dtype=np.int64), log.keys("item")
    found, offset = store.blobs.read({entity: keys})
    blob = found[entity][0]
    out: dict[str, Any] = {"entity": entity, "id": id, "key": key, "offset": offset, "bytes": len(blob or b"")}
    if entity == "user":
        state = store.read(keys, now)
        out |= {"history": _events(store, state.history, items), "shown": _events(store, state.shown, items)}
    return {**out, "counters": [_counted(store, counter, blob, now, items) for counter in own]}


def _events(store: States, events: Ragged, items: Keys) -> list[dict[str, Any]]:
    names = store.service.schema.action_names
    return [
        {"item": item, "action": names[action], "time_ms": time}
        for item, action, time in zip(
            items.decode(events.items), events.actions.tolist(), events.times.tolist(), strict=True
        )
    ]


def _counted(store: States, counter: Counter, blob: bytes | None, now: int, items: Keys) -> dict[str, Any]:
    columns = ["sum"] if counter.half_life_ms is not None else list(counter.windows)
    head: dict[str, Any] = {"by": list(counter.by), "actions": list(counter.actions)}
    if counter.half_life_ms is not None:
        head["half_life_ms"] = counter.half_life_ms
    table = store.service.tables([counter], np.zeros(1, dtype=np.int64), [blob])[0]
    subs = table.runs[2] if len(counter.by) == 2 else np.zeros(1, dtype=np.int64)
    answers = store.service.read(counter, table, np.zeros(len(subs), np.int64), subs, np.full(len(subs), now))
    rows = [dict(zip(columns, row, strict=True)) for row in answers.tolist()]
    if len(counter.by) == 1:
        return {**head, "counts": rows[0]}
    return {**head, "counts": dict(zip(_names(store, counter.by[1], subs, items), rows, strict=True))}


def _names(store: States, part: str, subs: NDArray[np.int64], items: Keys) -> list[str]:
    """What the second part of a counter's key stands for: ids of items, values of a field."""
    entity, _, field = part.partition(".")
    if not field:
        known = len(items)
        return [items.ids[k] if entity == "item" and k < known else str(k) for k in subs.tolist()]
    profiles = store.catalogue.users if entity == "user" else store.catalogue.items
    words = valued(profiles, part)[1].drop_nulls().unique().cast(pl.String)
    named = dict(zip(_hashes(part + "=" + words).tolist(), words.to_list(), strict=True))
    return [named.get(k, f"hash {k}") for k in subs.tolist()]


def _hashes(words: pl.Series) -> NDArray[np.int64]:
    """Keys of values, as counters have them."""
    return (mix(fnv1a(words)) & np.uint64((1 << 63) - 1)).astype(np.int64)
