"""What crosses the wire: one struct a body, checked strictly; an unknown key names its nearest neighbour."""

import re
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Raw, Struct, field

from shortlist.config import nearest
from shortlist.errors import RequestError
from shortlist.schema import MAX_ID_BYTES
from shortlist.serving.refusals import BadJsonError

__all__ = [
    "Id", "Value", "SessionEvent", "Recommend", "Similar", "RunChannel", "Event", "Events", "Explain",
    "Brought", "Shown", "Answer", "Neighbour", "SimilarAnswer", "ChannelInfo", "Channels", "Row", "ChannelAnswer",
    "Refused", "Receipt", "Trace", "Explanation", "ReleaseInfo", "ReleaseList", "Health", "Problem", "Trouble",
    "Failure", "Fault", "decode", "decode_events", "convert", "identifier",
]  # fmt: skip

Id = Annotated[str, Meta(description=f'text of 1 to {MAX_ID_BYTES} bytes; 5 and "5" are the same id')] | int
Value = str | int | float | bool | None
T = TypeVar("T")


class SessionEvent(Struct, forbid_unknown_fields=True):
    """Something of this session that the log does not hold yet. It counts in this request and is not kept."""

    item: Id
    action: str | None = None
    time_ms: int | None = None


class Recommend(Struct, forbid_unknown_fields=True):
    """`n` and `scene` default to the scene's page and to what experiments assign. `filter` is an expression
    over item fields, as `category in ["war"] and year > 1990`. `debug` adds the trace."""

    user: Id
    n: int | None = None
    scene: str | None = None
    context: dict[str, Value] = field(default_factory=dict)
    session: list[SessionEvent] = field(default_factory=list)
    exclude: list[Id] = field(default_factory=list)
    filter: str | None = None
    debug: bool = False


class Similar(Struct, forbid_unknown_fields=True):
    """`channel` is any item-to-item channel, the first of the release by default."""

    items: list[Id]
    n: int = 10
    channel: str | None = None


class RunChannel(Struct, forbid_unknown_fields=True):
    """One recall channel alone, filters marked and not applied."""

    user: Id
    n: int = 20
    scene: str | None = None
    context: dict[str, Value] = field(default_factory=dict)


class Event(Struct, forbid_unknown_fields=True):
    """`time_ms` is UTC, the server's time by default. An `event_id` sent again changes nothing."""

    user: Id
    item: Id
    action: str
    time_ms: int | None = None
    value: float | None = None
    event_id: str | None = None
    request_id: str | None = None
    position: int | None = None
    context: dict[str, Value] = field(default_factory=dict)


class Events(Struct, forbid_unknown_fields=True):
    events: list[Event]


class _RawEvents(Struct, forbid_unknown_fields=True):
    events: list[Raw]


class Explain(Struct, forbid_unknown_fields=True):
    """With a `request_id` of late the very request is explained, else one made now."""

    user: Id
    item: Id
    scene: str | None = None
    n: int | None = None
    request_id: str | None = None


class Brought(Struct):
    """A channel that brought an item: `rank` 1 is first, `score` on the channel's own scale."""

    channel: str
    rank: int
    score: float | None


class Shown(Struct):
    """One place of a slate. `reasons` are words, `channels` what they rest on, `tasks` scores by task."""

    item: str
    score: float | None
    tasks: dict[str, float]
    channels: list[Brought]
    reasons: list[str]
    title: str | None = None
    image: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


class Answer(Struct):
    """`degraded` names what was skipped or replaced, `experiments` the arm of each experiment."""

    request_id: str
    user: str
    scene: str
    items: list[Shown]
    release: str
    experiments: dict[str, str]
    degraded: list[str]
    took_ms: float
    trace: dict[str, Any] | None = None


class Neighbour(Struct):
    item: str
    score: float | None
    title: str | None = None


class SimilarAnswer(Struct):
    """`unknown` are items of the request that the release does not know."""

    channel: str
    items: list[Neighbour]
    unknown: list[str]
    release: str


class ChannelInfo(Struct):
    name: str
    model: str
    source: str
    quota: int
    scenes: list[str]
    item_to_item: bool
    options: dict[str, Any]


class Channels(Struct):
    channels: list[ChannelInfo]
    release: str


class Row(Struct):
    """`rank` counts eligible items only; `filtered` names the filter that would drop the item."""

    item: str
    rank: int
    score: float | None
    filtered: str | None
    title: str | None = None


class ChannelAnswer(Struct):
    channel: str
    scene: str
    items: list[Row]
    release: str
    took_ms: float


class Refused(Struct):
    index: int
    reason: str


class Receipt(Struct):
    """What became of a batch: everything accepted is on disk. `refused` by place in the batch."""

    accepted: int
    duplicates: int
    refused: list[Refused]


class Trace(Struct):
    """The funnel of one request. `funnel` is None when only what was served is still known."""

    request_id: str
    user: str
    release: str
    time_ms: int
    scene: str
    experiments: dict[str, str]
    degraded: list[str]
    served: list[str]
    funnel: dict[str, Any] | None


class Explanation(Struct):
    """What became of one item for one user. `fate` is `selected`, a filter's name, `over_budget`, `not_selected` or
    `not_recalled`; `would_move` what would change it; `words` the same in sentences. `features` says what the ranker's
    score of it would be without each feature (`score`), and what that feature adds (`change`)."""

    user: str
    item: str
    title: str | None
    scene: str
    release: str
    request_id: str | None
    fate: str
    stage: str
    position: int | None
    filters: dict[str, bool]
    channels: list[dict[str, Any]]
    brought_by: list[dict[str, Any]]
    scores: dict[str, float]
    features: list[dict[str, Any]]
    would_move: list[str]
    words: list[str]


class ReleaseInfo(Struct):
    id: str
    created_ms: int
    current: bool
    serving: bool
    metrics: dict[str, Any]
    problem: str | None = None


class ReleaseList(Struct):
    releases: list[ReleaseInfo]
    problem: str | None = None


class Problem(Struct):
    """A release that was refused: the one before it goes on serving."""

    release: str
    what: str
    time_ms: int


class Trouble(Struct):
    """What keeps the log from being compacted; it is tried again, and requests are answered all the same."""

    what: str
    time_ms: int


class Health(Struct):
    status: str
    release: str | None = None
    refused: Problem | None = None
    trouble: Trouble | None = None


class Fault(Struct):
    code: str
    message: str
    where: str
    hint: str


class Failure(Struct, omit_defaults=True):
    """Every error. `refused` only where a whole batch was refused, by place."""

    error: Fault
    refused: list[Refused] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------- decoding


def decode(body: bytes, kind: type[T]) -> T:
    """A body as its struct. Raises BadJsonError (not JSON) or RequestError (JSON that does not fit)."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _misfit(str(error), kind, "body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadJsonError(f"not JSON: {error}", where="body", hint="send one JSON object in UTF-8") from None


def decode_events(body: bytes) -> list[Event | str]:
    """The events of a batch, each one on its own: an event, or why it cannot be read."""
    out: list[Event | str] = []
    for raw in decode(body, _RawEvents).events:
        try:
            out.append(decode(bytes(raw), Event))
        except RequestError as error:
            out.append(str(error).removeprefix("body.").removeprefix("body: "))
    return out


def convert(table: dict[str, Any], kind: type[T], where: str) -> T:
    """Query parameters, all text, as a struct. Raises RequestError."""
    try:
        return msgspec.convert(table, kind, strict=False)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise _misfit(str(error), kind, where) from None


_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*?)`(?: - at `(.*)`)?$", re.DOTALL)
_AT = re.compile(r"(.*) - at `(.*)`$", re.DOTALL)


def _misfit(text: str, kind: Any, root: str) -> RequestError:
    """msgspec's message in our words: what, where, hint."""
    if found := _UNKNOWN.fullmatch(text):
        name, path = found[1], _path(found[2])
        owner = _owner(kind, path)
        names = list(owner.__struct_fields__) if owner is not None else []
        return RequestError(f"unknown key {name!r}", where=root + path, hint=nearest(name, names))
    if found := _MISSING.fullmatch(text):
        return RequestError(f"{found[1]!r} is missing", where=root + _path(found[2]), hint=f"add {found[1]!r}")
    path = ""
    if found := _AT.fullmatch(text):
        text, path = found[1], _path(found[2])
    return RequestError(text[:1].lower() + text[1:], where=root + path, hint="see /docs for what this call takes")


def _path(path: str | None) -> str:
    return (path or "").removeprefix("$")


def _owner(kind: Any, path: str) -> Any:
    """The struct that a path like `.session[0]` leads to, None where it leads to none."""
    for step in re.findall(r"\.(\w+)|(\[[^\]]*\])", path):
        if step[0]:
            fields = {f.encode_name: f.type for f in msgspec.structs.fields(kind)} if _is_struct(kind) else {}
            kind = fields.get(step[0])
        else:
            kind = (get_args(kind) or (None,))[-1]
        if get_origin(kind) is Union:
            kind = next((a for a in get_args(kind) if a is not type(None)), None)
    return kind if _is_struct(kind) else None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def identifier(raw: str | int, where: str) -> str:
    """The one text form of an id. Raises RequestError for empty or over-long ones."""
    text = str(raw)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RequestError("not valid Unicode", where=where, hint="send ids as UTF-8") from None
    if not 0 < size <= MAX_ID_BYTES:
        what = f"an id has 1 to {MAX_ID_BYTES} bytes, this one {size}"
        raise RequestError(what, where=where, hint="shorten or hash it" if size else "send one")
    return text
