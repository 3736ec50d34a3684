"""The messages of a topic, and their fold: the local file that they make, in the order of the topic.

A message is applied by the very method that writes a log of its own, so that equal topics make equal files. Position
in the topic and what was applied move in one transaction; a message that stands in the topic twice changes nothing.
"""

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import polars as pl

from shortlist.errors import DataError
from shortlist.events.database import Database, Work
from shortlist.events.event import FUTURE_MS, Event, Outcome, Served
from shortlist.events.filing import forget_ids, publish
from shortlist.events.log import KEEP_SERVED, Entity, EventLog
from shortlist.events.segments import Segment

__all__ = ["Fold", "Told", "tell", "tell_events", "tell_hashes", "tell_ids", "tell_served", "outcomes"]

KEPT_ANSWERS = 4096  # messages that are known by their tokens: callers' whose message another process folded, doubles
MAX_BYTES = 400_000  # of a message, the share of one event or id aside; brokers take 1 MB
HASHES = 10_000  # of a message, 24 bytes each and their offsets

TABLES = """
CREATE TABLE IF NOT EXISTS topic (
    position INTEGER NOT NULL,
    digest TEXT NOT NULL,
    last_offset INTEGER NOT NULL,
    last_user INTEGER NOT NULL,
    last_item INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (position INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, answer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS staged (
    import TEXT NOT NULL,
    part INTEGER NOT NULL,
    hash BLOB NOT NULL,
    offset INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS staged_parts ON staged (part);
"""
MARKS = (
    "SELECT (SELECT value - 1 FROM facts WHERE name = 'next'),"
    " coalesce((SELECT max(key) FROM user_keys), -1), coalesce((SELECT max(key) FROM item_keys), -1)"
)
T = TypeVar("T")


class _Event(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """An event as it stands in a message. Context is JSON inside a text: however deep, nobody has to parse it."""

    user: str
    item: str
    action: str
    time_ms: int
    event_id: str
    value: float | None = None
    request_id: str | None = None
    position: int | None = None
    context: str = ""

    def event(self) -> Event:
        context = cast(Mapping[str, Any], msgspec.Raw(self.context.encode()))  # encoded again it is itself
        return Event(
            self.user, self.item, self.action, self.time_ms, self.value, self.event_id, self.request_id, self.position,
            context if self.context else {},
        )  # fmt: skip


class _Slate(msgspec.Struct, forbid_unknown_fields=True):
    request_id: str
    user: str
    time_ms: int
    release: str
    body: str


class _Events(msgspec.Struct, tag="events", tag_field="kind", forbid_unknown_fields=True):
    now: int
    events: list[_Event]


class _Ids(msgspec.Struct, tag="ids", tag_field="kind", forbid_unknown_fields=True):
    entity: Entity
    ids: list[str]


class _Slates(msgspec.Struct, tag="served", tag_field="kind", forbid_unknown_fields=True):
    slates: list[_Slate]


class _Reserved(msgspec.Struct, tag="reserved", tag_field="kind", forbid_unknown_fields=True):
    offset: int


class _Taken(msgspec.Struct, tag="taken", tag_field="kind", forbid_unknown_fields=True):
    count: int


class _Erased(msgspec.Struct, tag="erased", tag_field="kind", forbid_unknown_fields=True):
    user: str
    now: int


class _Hashes(msgspec.Struct, tag="hashes", tag_field="kind", forbid_unknown_fields=True):
    """Of the ids of events that are being imported. They count with the `_Published` of the same import."""

    of: str
    part: int
    hashes: list[bytes]
    offsets: list[int]


class _Published(msgspec.Struct, tag="published", tag_field="kind", forbid_unknown_fields=True):
    of: str
    hashes: int
    parts: list[Segment]
    fresh: bool
    end: int | None = None


class _Forgotten(msgspec.Struct, tag="forgotten", tag_field="kind", forbid_unknown_fields=True):
    part: int
    ranges: list[tuple[int, int]]


DECODER = msgspec.json.Decoder(
    _Events | _Ids | _Slates | _Reserved | _Taken | _Erased | _Hashes | _Published | _Forgotten
)


class Told(NamedTuple):
    """A message of the topic. `token` names it to the one who sent it, and is the same when it stands there twice."""

    position: int
    token: str
    value: bytes


def tell_events(events: Sequence[Event], ids: Sequence[str], now: int) -> list[tuple[bytes, int]]:
    """Messages (and how many events each holds) of events that were found right, under these event ids."""
    parts = [
        msgspec.json.encode(
            _Event(
                str(event.user),
                str(event.item),
                event.action,
                int(min(event.time_ms, now)),
                event_id,
                None if event.value is None else float(event.value),
                event.request_id,
                None if event.position is None else int(event.position),
                msgspec.json.encode(event.context).decode() if event.context else "",
            )
        )
        for event, event_id in zip(events, ids, strict=True)
    ]
    return [
        (msgspec.json.encode({"kind": "events", "now": int(now), "events": some}), len(some)) for some in _packed(parts)
    ]


def tell_ids(entity: Entity, ids: pl.Series) -> Iterator[bytes]:
    """Messages that ask for keys for ids, in this order."""
    for some in _packed([msgspec.json.encode(one) for one in ids]):
        yield msgspec.json.encode({"kind": "ids", "entity": entity, "ids": some})


def tell_served(slates: Sequence[Served]) -> list[bytes]:
    """Messages of slates that were served."""
    parts = [msgspec.json.encode(slate) for slate in slates]
    return [msgspec.json.encode({"kind": "served", "slates": some}) for some in _packed(parts)]


def tell_hashes(of: str, ids: Sequence[Iterable[tuple[bytes, int]]]) -> Iterator[tuple[bytes, int]]:
    """Messages (and how many hashes each holds) of the ids of events that are being imported."""
    part = 0
    for some in ids:
        rows = list(some)
        for at in range(0, len(rows), HASHES):
            hashes, offsets = zip(*rows[at : at + HASHES], strict=True)
            yield msgspec.json.encode(_Hashes(of, part, list(hashes), list(map(int, offsets)))), len(hashes)
            part += 1


def tell(kind: str, **fields: Any) -> bytes:
    """A message of one of the other kinds."""
    message = msgspec.json.encode({"kind": kind, **fields})
    DECODER.decode(message)  # what cannot be read may not enter a topic
    return message


def outcomes(answer: str, ids: Sequence[str]) -> list[Outcome]:
    """What became of the events of one message: offset, minus the first one's for a duplicate, or the reason."""
    made = []
    for event_id, one in zip(ids, msgspec.json.decode(answer, type=list[int | str]), strict=True):
        if isinstance(one, str):
            made.append(Outcome("refused", event_id, None, one))
        else:
            made.append(Outcome("accepted" if one > 0 else "duplicate", event_id, abs(one)))
    return made


def _packed(parts: Sequence[bytes]) -> Iterator[list[msgspec.Raw]]:
    some: list[msgspec.Raw] = []
    size = 0
    for part in parts:
        if some and size + len(part) > MAX_BYTES:
            yield some
            some, size = [], 0
        some.append(msgspec.Raw(part))
        size += len(part)
    if some:
        yield some


class Fold(EventLog):
    """The file of one topic. Several processes may fold into one file: a message counts once, whoever is first."""

    def __init__(
        self, path: str | Path, topic: str, *, future_ms: int = FUTURE_MS, keep_served: int = KEEP_SERVED
    ) -> None:
        self.topic = topic
        self._inside = threading.local()
        super().__init__(path, future_ms=future_ms, keep_served=keep_served)
        try:
            super()._commit(self._prepare)
        except DataError:
            self.close()
            raise

    @property
    def position(self) -> int:
        """Where the topic is to be read next."""
        return int(self._select("SELECT position FROM topic", ())[0][0])

    def apply(self, messages: Sequence[Told]) -> dict[str, str]:
        """Fold messages that follow each other in the topic. Returns token -> answer (JSON) of those that were new.

        Raises DataError, and folds nothing, when the file was not made from this topic, or a message is none of ours.
        """
        position, digest = self._select("SELECT position, digest FROM topic", ())[0]
        self._same(messages, position, digest)
        if messages[-1].position < position:
            return {}

        def work(connection: sqlite3.Connection) -> dict[str, str]:
            position, digest, *marks = connection.execute("SELECT * FROM topic").fetchone()
            if connection.execute(MARKS).fetchone() != tuple(marks):
                what = f"somebody else has written to the file of {self.topic}"
                hint = "take it away, and it is made again from the topic"
                raise DataError(what, where=str(self.path), hint=hint)
            self._same(messages, position, digest)
            answers: dict[str, str] = {}
            origin = hashlib.blake2b(_digest(messages[0]).encode(), digest_size=16).digest()
            connection.execute("INSERT OR IGNORE INTO facts VALUES ('origin', ?)", (origin,))
            for message in messages:
                if message.position < position:
                    continue
                if connection.execute("SELECT 1 FROM answers WHERE token = ?", (message.token,)).fetchone() is None:
                    answer = answers[message.token] = self._one(message)
                    row = (message.position, message.token, answer)
                    connection.execute("INSERT INTO answers (position, token, answer) VALUES (?, ?, ?)", row)
                position, digest = message.position + 1, _digest(message)
            connection.execute("DELETE FROM answers WHERE position < ?", (position - KEPT_ANSWERS,))
            now = connection.execute(MARKS).fetchone()
            sql = "UPDATE topic SET position = ?, digest = ?, last_offset = ?, last_user = ?, last_item = ?"
            connection.execute(sql, (position, digest, *now))
            return answers

        return self._together(work)

    def _named(self, origin: bytes | None, salt: bytes, fresh: int) -> str:
        return f"{origin.hex()}.{fresh}" if origin is not None else ""

    def answers(self, tokens: Sequence[str]) -> dict[str, str]:
        """Answers to messages that were folded lately, by whomever: token -> JSON."""
        asked = msgspec.json.encode(list(tokens)).decode()
        sql = "SELECT token, answer FROM answers WHERE token IN (SELECT value FROM json_each(?))"
        return dict(cast(list[tuple[str, str]], self._select(sql, (asked,))))

    def _same(self, messages: Sequence[Told], position: int, digest: str) -> None:
        """Raises DataError when the message that was folded last is another one now."""
        last = position - 1 - messages[0].position
        if 0 <= last < len(messages) and messages[last].position == position - 1 and _digest(messages[last]) != digest:
            what = f"the file was not made from this topic: message {position - 1} is another one"
            hint = f"name the topic it was made from, or take away {self.path}"
            raise DataError(what, where=self.topic, hint=hint)

    def _one(self, message: Told) -> str:
        """Apply a message, inside a transaction. What a method answers is part of the fold: the same everywhere."""
        try:
            told = DECODER.decode(message.value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            what = f"message {message.position} is none of ours: {error}"
            hint = "the topic is the log's alone; or a newer version wrote this, then use that version"
            raise DataError(what, where=self.topic, hint=hint) from error
        answer: Any = None
        if isinstance(told, _Taken):
            answer = self.take(told.count)
        elif isinstance(told, _Erased):
            answer = self.erase(told.user, told.now)
        elif isinstance(told, _Forgotten):
            ranges = [Segment(first, last, 0, "sealed", "", 0, 0, 0) for first, last in told.ranges]
            self._together(lambda connection: forget_ids(_within(connection), ranges, told.part))
        elif isinstance(told, _Hashes):
            self._together(lambda connection: _stage(connection, told))
        elif isinstance(told, _Published):
            answer = self._together(lambda connection: self._publish(connection, told))
        elif isinstance(told, _Events):
            events = [one.event() for one in told.events]
            made = self.append(events, [event.action for event in events], told.now)
            signs = {"accepted": 1, "duplicate": -1}
            answer = [one.reason if one.offset is None else signs[one.status] * one.offset for one in made]
        elif isinstance(told, _Ids):
            self.register(told.entity, pl.Series("id", told.ids, dtype=pl.String))
        elif isinstance(told, _Slates):
            slates = [Served(s.request_id, s.user, s.time_ms, s.release, s.body) for s in told.slates]
            answer = self.append_served(slates)
        else:
            self.reserve(told.offset)
        return msgspec.json.encode(answer).decode()

    def _publish(self, connection: sqlite3.Connection, told: _Published) -> list[int] | None:
        """Offsets whose id is taken; None when another import began meanwhile and this one's hashes are gone."""
        count = connection.execute("SELECT count(*) FROM staged WHERE import = ?", (told.of,)).fetchone()[0]
        if count != told.hashes:
            return None
        parts = connection.execute("SELECT max(part) FROM staged").fetchone()[0] if count else None
        sql = "SELECT hash, offset FROM staged WHERE part = ?"
        ids = [connection.execute(sql, (part,)) for part in range(parts + 1)] if parts is not None else []
        taken = publish(_within(connection), told.parts, ids, fresh=told.fresh, end=told.end)
        connection.execute("DELETE FROM staged")
        return sorted(taken)

    def _together(self, work: Work[T]) -> T:
        """One transaction for all that the work calls of this log's own writing methods."""
        if getattr(self._inside, "connection", None) is not None:
            return self._commit(work)

        def inside(connection: sqlite3.Connection) -> T:
            self._inside.connection = connection
            try:
                return work(connection)
            finally:
                self._inside.connection = None

        return super()._commit(inside)

    def _commit(self, work: Work[T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._inside, "connection", None)
        return work(connection) if connection is not None else super()._commit(work)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        for statement in TABLES.split(";"):
            connection.execute(statement)
        if connection.execute("SELECT count(*) FROM topic").fetchone()[0]:
            return
        marks = connection.execute(MARKS).fetchone()
        if marks != (0, -1, -1) or connection.execute("SELECT count(*) FROM served").fetchone()[0]:
            what = "the file holds what no topic has told"
            raise DataError(what, where=str(self.path), hint='begin in a new folder, or leave `[log] use` at "sqlite:"')
        connection.execute("INSERT INTO topic VALUES (0, '', ?, ?, ?)", marks)


def _digest(message: Told) -> str:
    return hashlib.sha256(message.value + message.token.encode()).hexdigest()


def _stage(connection: sqlite3.Connection, told: _Hashes) -> None:
    """Lay hashes of an import aside. One import at a time: what another one has laid there is dropped."""
    row = connection.execute("SELECT import FROM staged LIMIT 1").fetchone()
    if row is not None and row[0] != told.of:
        connection.execute("DELETE FROM staged")
    if connection.execute("SELECT 1 FROM staged WHERE part = ? LIMIT 1", (told.part,)).fetchone() is None:
        pairs = zip(told.hashes, told.offsets, strict=True)
        rows = [(told.of, told.part, *pair) for pair in pairs]
        connection.executemany("INSERT INTO staged VALUES (?, ?, ?, ?)", rows)


class _Within:
    """A transaction under way, for what would begin one of its own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def commit(self, work: Work[T]) -> T:
        return work(self.connection)


def _within(connection: sqlite3.Connection) -> Database:
    return cast(Database, _Within(connection))
