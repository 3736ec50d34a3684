"""A request, checked and turned into keys: from here on nothing can be wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortlist.candidates import Ragged
from shortlist.config import ServeConfig, nearest
from shortlist.errors import ConfigError, RequestError
from shortlist.events.context import typed
from shortlist.events.log import FUTURE_MS
from shortlist.expressions import Expression
from shortlist.schema import MISSING
from shortlist.serving.live import Live
from shortlist.serving.wire import SessionEvent, identifier

__all__ = ["Ask", "check", "page_size", "positive", "ragged"]

HELD_OUT = "held_out"


@dataclass(frozen=True)
class Ask:
    """A checked request."""

    user: str
    key: int
    n: int
    scene: str
    now: int
    experiments: Mapping[str, str]
    session: Ragged
    exclude: Ragged
    context: Mapping[str, Any]
    where: Expression | None


def check(
    live: Live,
    config: ServeConfig,
    now: int,
    user: str | int,
    n: int | None = None,
    scene: str | None = None,
    *,
    request_id: str = "",
    context: Mapping[str, Any] | None = None,
    session: Sequence[SessionEvent] = (),
    exclude: Sequence[str | int] = (),
    filter: str | None = None,
) -> Ask:
    """Raises RequestError for the first thing wrong."""
    name = identifier(user, "user")
    arms: dict[str, str] = {}
    if scene is None:
        assigned, arms = assigned_scene(live, name, request_id)
        scene = assigned or live.scenes[0]
    elif scene not in live.funnels:
        raise RequestError(f"no scene is called {scene!r}", where="scene", hint=nearest(scene, live.scenes))
    for label, values in (("session", session), ("exclude", exclude)):
        if len(values) > config.max_batch:
            hint = f"send at most {config.max_batch}"
            raise RequestError(f"{len(values)} entries", where=label, hint=hint)
    banned = [live.release.items.key(identifier(i, f"exclude[{k}]")) for k, i in enumerate(exclude)]
    return Ask(
        user=name,
        key=live.release.users.key(name),
        n=page_size(live.page(scene) if n is None else n, config),
        scene=scene,
        now=now,
        experiments=arms,
        session=_session(live, session, now),
        exclude=ragged([(key, 0, 0) for key in banned if key != MISSING]),
        context=_context(live, context or {}),
        where=_where(live, filter),
    )


def page_size(n: int, config: ServeConfig) -> int:
    """n, when it may be asked."""
    if not 1 <= n <= config.max_n:
        raise RequestError(f"n is {n}", where="n", hint=f"ask for 1 to {config.max_n} items")
    return n


def assigned_scene(live: Live, user: str, request_id: str) -> tuple[str | None, dict[str, str]]:
    """The scene that experiments give this request (the first that has it in an arm), and its arm in each of them."""
    scene, arms = None, {}
    for layer in live.experiments:
        unit = user if layer.unit == "user" else request_id
        arms[layer.name] = layer.assign(unit) or HELD_OUT
        scene = scene or layer.scene(unit)
    return scene, arms


def ragged(rows: Sequence[tuple[int, int, int]]) -> Ragged:
    """Events of one request from (item, time, action), in this order."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    offsets = np.array([0, len(table)], dtype=np.int64)
    return Ragged(offsets, table[:, 0].copy(), table[:, 1].copy(), table[:, 2].astype(np.int16))


def positive(live: Live) -> int:
    """Code of the first action that counts as interest."""
    return int(np.argmax(live.schema.weights > 0))


def _session(live: Live, session: Sequence[SessionEvent], now: int) -> Ragged:
    """Session events as columns, by time; items that the release does not know say nothing to it."""
    rows = []
    names = live.schema.action_names
    for k, event in enumerate(session):
        where = f"session[{k}]"
        key = live.release.items.key(identifier(event.item, f"{where}.item"))
        if event.action is not None and event.action not in names:
            hint = nearest(event.action, names)
            raise RequestError(f"unknown action {event.action!r}", where=f"{where}.action", hint=hint)
        time_ms = now if event.time_ms is None else event.time_ms
        if not 0 <= time_ms <= now + FUTURE_MS:
            what = f"time_ms is {'negative' if time_ms < 0 else 'in the future'}: {time_ms}"
            raise RequestError(what, where=f"{where}.time_ms", hint="send UTC milliseconds, or leave it out")
        if key != MISSING:
            rows.append((key, time_ms, positive(live) if event.action is None else names.index(event.action)))
    return ragged(sorted(rows, key=lambda row: row[1]))


def _context(live: Live, context: Mapping[str, Any]) -> dict[str, Any]:
    """Declared fields as training has them: a number, a text, a list of texts; None for what is none of it."""
    known = [*live.schema.context, *([live.schema.region] if live.schema.region else [])]
    for name in context:
        if name not in known:
            raise RequestError(f"unknown context {name!r}", where="context", hint=nearest(name, known))
    fields = live.schema.context
    return {
        name: typed([value], fields[name]).to_list()[0] if name in fields else value for name, value in context.items()
    }


def _where(live: Live, text: str | None) -> Expression | None:
    """A filter, parsed and tried: a condition that cannot be evaluated is refused, not met inside the funnel."""
    if text is None or not text.strip():
        return None
    try:
        expression = Expression.parse(text, "filter")
        items = live.release.catalogue.items
        expression.mask(items.columns, len(items))
    except ConfigError as error:
        raise RequestError(error.what, where="filter", hint=error.hint) from None
    except (TypeError, ValueError, OverflowError, ArithmeticError) as error:
        raise RequestError(
            f"cannot be evaluated: {error}", where="filter", hint="use fields, values, < and in"
        ) from None
    return expression
