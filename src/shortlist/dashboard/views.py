"""What pages show, as plain values: everything is counted on columns, and only what is printed becomes Python."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.candidates import Slates
from shortlist.errors import RequestError
from shortlist.funnel.pipeline import BELOW, NOT_SELECTED, OVER_BUDGET
from shortlist.schema import MISSING, Keys
from shortlist.serving.engine import Engine, Record
from shortlist.serving.live import Live
from shortlist.serving.refusals import NotFoundError

__all__ = ["overview", "form", "request", "releases", "when"]

LATEST = 12
PAST = 40
HITS = 20
CHIPS = 5
COLUMNS = 7
DAY = "%Y-%m-%d"
STAGES = ("state", "recall", "merge", "filter", "budget", "coarse", "rank", "boost", "select", "total")


def overview(engine: Engine) -> dict[str, Any]:
    """Counts, times and metrics of a running server."""
    live, meters, now = engine.live, engine.meters, engine.clock()
    document = live.release.document
    stages = sorted(meters.latencies(), key=lambda row: stage_order(row.stage))
    last, known = engine.log.last_offset, int(document.get("offset") or 0)
    fresh = max(0, last - known)
    figures, measured = metrics(document.get("metrics") or dict(live.release.manifest.metrics))
    columns = headline(figures)
    flat = [] if figures else flatten(live.release.manifest.metrics)
    return {
        "ready": True,
        "refused": engine.refused,
        "created_ms": live.release.manifest.created_ms,
        "snapshot": str(document.get("snapshot") or "unknown")[:12],
        "users": len(engine.log.keys("user")),
        "items": len(engine.log.keys("item")),
        "known_users": len(live.release.users),
        "catalogued": len(live.release.catalogue.items),
        "events": int(document.get("events") or known) + fresh,
        "fresh": fresh,
        "slates": meters.slates,
        "dropped": meters.dropped,
        "total": next((row for row in stages if row.stage == "total"), None),
        "stages": stages,
        "slowest": max((row.p50 for row in stages), default=0.0),
        "fates": meters.fates.most_common(),
        "most": max(meters.fates.values(), default=0),
        "degraded": meters.degraded.most_common(),
        "outcomes": {name: meters.events[name] for name in ("accepted", "duplicate", "refused")},
        "requests_a_minute": meters.per_minute("slates", now),
        "events_a_minute": meters.per_minute("events", now),
        "columns": columns,
        "lists": [(name, [row.get(column) for column in columns]) for name, row in figures.items()],
        "measured": measured,
        "flat": flat,
        "latest": engine.latest(LATEST),
    }


def stage_order(stage: str) -> tuple[int, str]:
    """Stages as they run."""
    head = stage.partition(":")[0]
    return STAGES.index(head) if head in STAGES else len(STAGES) - 1, stage


def metrics(found: Mapping[str, Any]) -> tuple[dict[str, dict[str, list[float]]], str]:
    """`{list: {metric: [value, low, high]}}` of an evaluation, and how it was measured; empty for other shapes."""
    figures, recipe = found.get("figures"), found.get("recipe")
    if not isinstance(figures, Mapping):
        return {}, ""
    said = [str(recipe[name]) for name in ("split", "relevant", "asked") if name in recipe] if recipe else []
    return {name: dict(row) for name, row in figures.items()}, "; ".join(said)


def headline(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The metrics a table shows: recall at each cut, NDCG and coverage at the first."""
    names = list(dict.fromkeys(name for row in figures.values() for name in row))
    found = {head: [name for name in names if name.startswith(f"{head}@")] for head in ("recall", "ndcg", "coverage")}
    return [*found["recall"][: COLUMNS - 2], *found["ndcg"][:1], *found["coverage"][:1]]


def flatten(table: Mapping[str, Any], head: str = "") -> list[tuple[str, str]]:
    """Nested metrics as rows."""
    rows = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{head}{name} · ")
        else:
            rows.append((f"{head}{name}", f"{value:.4f}" if isinstance(value, float) else str(value)))
    return rows


def form(engine: Engine, query: Mapping[str, str]) -> dict[str, Any]:
    """What the request form holds, and an empty page."""
    live = engine.live if engine.ready else None
    names = [n for n in live.shown_fields if live.schema.items[n].kind in ("sparse", "varlen")] if live else []
    return {
        "user": query.get("user"),
        "scene": query.get("scene"),
        "n": query.get("n"),
        "filter": query.get("filter"),
        "item": query.get("item"),
        "scenes": live.scenes if live else (),
        "some": live.release.users.ids[:24].to_list() if live else [],
        "example": f'{names[0]} == "..."' if names else "field > 1",
        "answer": None,
        "problem": None,
        "hits": None,
        "told": None,
    }


def request(engine: Engine, query: Mapping[str, str]) -> dict[str, Any]:
    """One request, asked now or looked up, with its funnel. Raises RequestError, NotFoundError."""
    record = _record(engine, query)
    if record is None:
        return {}
    answer, live, slates = record.answer, record.live, record.slates
    values = (
        _funnel(slates)
        | _user(live, slates)
        | {
            "user": answer.user,
            "scene": query.get("scene") or answer.scene,
            "answer": answer,
            "now": record.now,
            "chips": [chips(live, shown.fields) for shown in answer.items],
        }
    )
    words = typed(query.get("item") or "", live.release.items)
    if words:
        values |= _why(engine, record, words)
    return values


def typed(text: str, known: Keys) -> str:
    """An id as it was meant: browsers send every line break of a form as CR LF."""
    return text if "\r\n" not in text or known.key(text) != MISSING else text.replace("\r\n", "\n")


def _record(engine: Engine, query: Mapping[str, str]) -> Record | None:
    if request_id := query.get("request_id"):
        record = engine.record(request_id)
        if record is None:
            raise NotFoundError("this request is no longer kept", where="request_id", hint="ask for the page again")
        return record
    if not (user := query.get("user")):
        return None
    user = typed(user, engine.live.release.users)
    text = query.get("n") or ""
    if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise RequestError(f"{text!r} is not a number of items", where="n", hint="leave it empty for the scene's page")
    answer = engine.recommend(
        user, int(text) if text else None, query.get("scene") or None, filter=query.get("filter") or None, preview=True
    )
    return engine.record(answer.request_id)


def _why(engine: Engine, record: Record, words: str) -> dict[str, Any]:
    """The explanation of an item named by its id or by its only title that fits; else what fits."""
    live = record.live
    key = live.release.items.key(words)
    hits = live.search(words, HITS) if key == MISSING else np.array([key], dtype=np.int64)
    if len(hits) != 1:
        return {"item": words, "hits": list(zip(map(live.name, hits.tolist()), live.titles(hits), strict=True))}
    item = live.name(int(hits[0]))
    told = engine.explain(record.answer.user, item, request_id=record.answer.request_id)
    return {"item": words, "told": told}


def _funnel(slates: Slates) -> dict[str, Any]:
    """Counts of one request's candidates by channel and by where they ended, and times."""
    candidates = slates.candidates
    brought = candidates.rank > 0
    shown = np.zeros(len(candidates), dtype=bool)
    shown[slates.picks] = True
    alone = brought.sum(axis=1) == 1
    rows = [
        {
            "name": name,
            "brought": int(brought[:, c].sum()),
            "alone": int((brought[:, c] & alone).sum()),
            "shown": int((brought[:, c] & shown).sum()),
        }
        for c, name in enumerate(candidates.channels)
        if c < len(candidates.channels) - 1 or bool(brought[:, c].any())
    ]
    counts = np.bincount(candidates.fate, minlength=len(candidates.reasons) + 1).tolist()
    stage = {OVER_BUDGET: "budget", NOT_SELECTED: "selection"}
    stage |= {reason: "ranking" for reason in candidates.reasons if reason.startswith(BELOW)}
    ends = [
        {"name": name, "number": number, "stage": "" if k == 0 else stage.get(name, "filter")}
        for k, (name, number) in enumerate(zip(("selected", *candidates.reasons), counts, strict=True))
    ]
    order = {"filter": 0, "budget": 1, "ranking": 2, "selection": 3, "": 4}
    times = sorted(slates.took_ms.items(), key=lambda pair: stage_order(pair[0]))
    return {
        "channels": rows,
        "counts": {"recalled": len(candidates)},
        "ends": sorted(ends, key=lambda row: order[str(row["stage"])]),
        "times": times,
        "slowest": max((took for _, took in times), default=0.0),
    }


def _user(live: Live, slates: Slates) -> dict[str, Any]:
    """Profile and latest interactions of the request's user, newest first."""
    asked = slates.requests
    keys = asked.history.items[::-1][:PAST]
    fields = {name: live.column(name, keys) for name in live.shown_fields}
    names = live.schema.action_names
    rows = []
    for k, (key, time_ms, action, title) in enumerate(
        zip(
            keys.tolist(),
            asked.history.times[::-1][:PAST].tolist(),
            asked.history.actions[::-1][:PAST].tolist(),
            live.titles(keys),
            strict=True,
        )
    ):
        mine = {name: values[k] for name, values in fields.items()}
        rows.append(
            {
                "item": live.name(key),
                "title": title,
                "action": names[action],
                "time_ms": time_ms,
                "fields": chips(live, mine),
            }
        )
    return {
        "history": rows,
        "interactions": len(asked.history.items),
        "exposures": len(asked.shown.items),
        "profile": _profile(live, asked.users),
    }


def _profile(live: Live, user: NDArray[np.int64]) -> list[tuple[str, Any]]:
    users = live.release.catalogue.users
    if int(user[0]) == MISSING or int(users.rows(user)[0]) < 0:
        return []
    found = [(name, users.take(name, user).tolist()[0]) for name in live.schema.users if name in users.columns]
    known = [(name, value) for name, value in found if value is not None and value == value and value != ""]
    return [(name, when(value, DAY) if live.schema.users[name].kind == "time" else value) for name, value in known]


def chips(live: Live, fields: Mapping[str, Any]) -> list[str]:
    """Item fields as short texts: values of lists one by one, numbers and days with their names, the category first."""
    out: list[str] = []
    names = sorted(fields, key=lambda name: name != live.schema.category)
    for name in names:
        value, kind = fields[name], live.schema.items[name].kind
        if value is None:
            continue
        if kind == "time":
            out.append(f"{name} {when(value, DAY)}")
        elif isinstance(value, (list, tuple)):
            out += [str(part) for part in value]
        elif kind == "dense":
            out.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
        else:
            out.append(str(value))
    return [text for text in out if text][:CHIPS]


def releases(engine: Engine) -> dict[str, Any]:
    """Releases on disk with the metrics of their pages."""
    listed = engine.list_releases()
    figures = [metrics(row.metrics)[0] for row in listed.releases]
    pages = [found.get("page") or next(iter(found.values()), {}) for found in figures]
    columns = headline({str(k): page for k, page in enumerate(pages)})
    rows = [
        {
            "id": row.id, "created_ms": row.created_ms, "serving": row.serving, "current": row.current,
            "problem": row.problem, "cells": [_value(page.get(name)) for name in columns],
        }
        for row, page in zip(listed.releases, pages, strict=True)
    ]  # fmt: skip
    return {"rows": rows, "columns": columns, "problem": listed.problem}


def when(time_ms: float, form: str = "%Y-%m-%d %H:%M") -> str:
    """A moment for reading, UTC."""
    try:
        return datetime.fromtimestamp(time_ms / 1000.0, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return str(time_ms)


def _value(estimate: Sequence[float] | None) -> float | None:
    return None if estimate is None else estimate[0]
