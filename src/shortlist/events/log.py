"""The durable event log: SQLite in WAL mode, synchronous=FULL. Authority of keys and of what happened, in order.

An event is acknowledged only when it is on disk, and its id is unique: sending it again changes nothing.
Offsets rise in the order of commits. A slate that was served is no event and has a table of its own: nothing
has happened to its items yet, one row holds it whole, and dropping old ones leaves no holes in the log.
"""

import math
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.config import nearest
from shortlist.errors import DataError
from shortlist.schema import MAX_ID_BYTES, MISSING, Keys, canonical

__all__ = ["EventLog", "Event", "Outcome", "Served", "COLUMNS", "FUTURE_MS"]

VERSION = 1
FUTURE_MS = 300_000  # how far a client's clock may run ahead of ours
MAX_CONTEXT_BYTES = 16_384
KEEP_SERVED = 100_000
BUSY_S = 10.0
EARLIEST_S, LATEST_S = 631_152_000, 4_102_444_800  # 1990-01-01 and 2100-01-01, UTC
UNITS = {"seconds": 1, "microseconds": 10**6, "nanoseconds": 10**9}
MAX_FLOAT32 = 3.4028234663852886e38

TABLES = """
CREATE TABLE user_keys (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE item_keys (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE events (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    user INTEGER NOT NULL,
    item INTEGER NOT NULL,
    action TEXT NOT NULL,
    value REAL,
    time_ms INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    request_id TEXT,
    position INTEGER,
    context TEXT
);
CREATE INDEX events_of_user ON events (user, offset);
CREATE TABLE served (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    user TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    release TEXT NOT NULL,
    body TEXT NOT NULL
);
"""

COLUMNS: dict[str, pl.DataType] = {
    "offset": pl.Int64(),
    "event_id": pl.String(),
    "user": pl.Int64(),
    "item": pl.Int64(),
    "action": pl.String(),
    "value": pl.Float32(),
    "time_ms": pl.Int64(),
    "received_ms": pl.Int64(),
    "request_id": pl.String(),
    "position": pl.Int32(),
    "context": pl.String(),
}
TAIL = ("offset", "user", "item", "action", "value", "time_ms")

Entity = Literal["user", "item"]
KEYS: dict[Entity, str] = {"user": "user_keys", "item": "item_keys"}
T = TypeVar("T")


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


@dataclass
class _Batch:
    """Work of one caller, waiting for a commit that it may share with others."""

    work: Callable[[sqlite3.Connection], Any]
    done: bool = False
    result: Any = None
    error: Exception | None = None


class EventLog:
    """The log of one project. Threads may share it; several processes may open one file, each after its fork.

    Writers of one process that arrive together share one commit, so that a sync is paid once for all of them.
    """

    def __init__(self, path: str | Path, *, future_ms: int = FUTURE_MS, keep_served: int = KEEP_SERVED) -> None:
        self.path = Path(path)
        self.future_ms = future_ms
        self.keep_served = keep_served
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._door, self._turn, self._reading = threading.Lock(), threading.Lock(), threading.Lock()
        self._waiting: list[_Batch] = []
        self._keys: dict[Entity, Keys] = {"user": Keys(), "item": Keys()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"cannot make its folder: {error.strerror}"
            raise DataError(what, where=str(self.path), hint="check permissions and the path") from error
        try:
            with self._errors():
                self._writer = self._open()
                self._create()
        except DataError:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection; the log is of no use afterwards."""
        with self._turn, self._door:
            while self._connections:
                self._connections.pop().close()

    # ------------------------------------------------------------------------------------------ writing

    def append(self, events: Sequence[Event], actions: Sequence[str], now: int) -> list[Outcome]:
        """Write events; what is accepted is on disk when this returns. One outcome an event, in the same order.

        `actions` are the names a schema knows, `now` this server's time in ms. Unknown users and items get a key here.
        Raises DataError when the disk is full or failing: then nothing of the batch was acknowledged; send it again.
        """
        refused = [_refusal(event, actions, now + self.future_ms) for event in events]
        if None not in refused:
            return [outcome for outcome in refused if outcome]

        def work(connection: sqlite3.Connection) -> list[Outcome]:
            keys = (_Giver(connection, "user_keys"), _Giver(connection, "item_keys"))
            pairs = zip(events, refused, strict=True)
            return [outcome or _insert(connection, event, now, *keys) for event, outcome in pairs]

        return self._commit(work)

    def register(self, entity: Entity, ids: pl.Series) -> Keys:
        """Give keys to the ids of a column that have none, in order of first appearance. Returns all keys."""
        fresh = canonical(ids, f"{entity} ids").unique(maintain_order=True)

        def work(connection: sqlite3.Connection) -> None:
            sql = f"SELECT id FROM {KEYS[entity]} WHERE key >= ? ORDER BY key"
            late = [row[0] for row in connection.execute(sql, (len(known),))]
            ids = pl.concat([known.ids, pl.Series("id", late, dtype=pl.String)])
            new = fresh.filter(~fresh.is_in(ids.implode())) if len(ids) else fresh
            pairs = enumerate(new, start=len(ids))
            connection.executemany(f"INSERT INTO {KEYS[entity]} (key, id) VALUES (?, ?)", pairs)

        known = self.keys(entity)
        if len(fresh):
            self._commit(work)
        return self.keys(entity)

    def reserve(self, offset: int) -> None:
        """Offsets up to this one belong to imported events. Raises DataError when live ones lie there already."""

        def work(connection: sqlite3.Connection) -> int | None:
            first: int | None = connection.execute("SELECT min(offset) FROM events").fetchone()[0]
            if first is not None and first <= offset:
                return first
            changed = connection.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'events'", (offset,)
            )
            if not changed.rowcount:
                connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (offset,))
            return None

        first = self._commit(work)
        if first is not None:
            what = f"live events begin at offset {first}, imported ones would reach {offset}"
            raise DataError(
                what, where=str(self.path), hint="send later events to the server, or import into a new folder"
            )

    def append_served(self, slates: Sequence[Served]) -> int:
        """Write slates, each request id once; only the newest `keep_served` are kept. Returns how many were new."""

        def work(connection: sqlite3.Connection) -> int:
            before = connection.total_changes
            connection.executemany(
                "INSERT INTO served (request_id, user, time_ms, release, body) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (request_id) DO NOTHING",
                [(s.request_id, s.user, s.time_ms, s.release, s.body) for s in slates],
            )
            new = connection.total_changes - before
            connection.execute(
                "DELETE FROM served WHERE number <= (SELECT max(number) FROM served) - ?", (self.keep_served,)
            )
            return new

        return self._commit(work) if slates else 0

    def _commit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run the work inside a transaction, together with what else is waiting, and return when it is on disk."""
        batch = _Batch(work)
        with self._door:
            self._waiting.append(batch)
        with self._turn:
            if not batch.done:
                with self._door:
                    group, self._waiting = self._waiting, []
                self._write(group)
        if batch.error is not None:
            raise batch.error
        result: T = batch.result
        return result

    def _write(self, group: Sequence[_Batch]) -> None:
        connection, committed = self._writer, False
        try:
            with self._errors():
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    for batch in group:
                        batch.result = batch.work(connection)
                    connection.execute("COMMIT")
                    committed = True
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
        except DataError as error:
            for batch in group:  # each caller raises an error of its own
                batch.error = DataError(error.what, where=error.where, hint=error.hint)
                batch.error.__cause__ = error.__cause__
        finally:
            for batch in group:
                batch.done = True
                if not committed and batch.error is None:
                    batch.error = DataError("the commit broke off", where=str(self.path), hint="send it again")

    # ------------------------------------------------------------------------------------------ reading

    def read(self, after: int, limit: int) -> pl.DataFrame:
        """At most `limit` events behind the offset `after`, in order, as `COLUMNS`."""
        sql = f"SELECT {', '.join(COLUMNS)} FROM events WHERE offset > ? ORDER BY offset LIMIT ?"
        return _frame(self._select(sql, (after, limit)), tuple(COLUMNS))

    def tail(self, users: int | Sequence[int] | NDArray[np.int64], after: int) -> pl.DataFrame:
        """Events of some users (keys) behind an offset, in order: offset, user, item, action, value, time_ms."""
        keys = [int(users)] if isinstance(users, (int, np.integer)) else [int(user) for user in users]
        asked = msgspec.json.encode(keys).decode()
        sql = (
            f"SELECT {', '.join(TAIL)} FROM events"
            " WHERE user IN (SELECT value FROM json_each(?)) AND offset > ? ORDER BY offset"
        )
        return _frame(self._select(sql, (asked, after)), TAIL)

    @property
    def last_offset(self) -> int:
        """The highest offset given or reserved, 0 before the first."""
        rows = self._select("SELECT seq FROM sqlite_sequence WHERE name = 'events'", ())
        return int(rows[0][0]) if rows else 0

    def keys(self, entity: Entity) -> Keys:
        """All keys given so far. Cached: a call reads only what is new."""
        with self._reading:
            known = self._keys[entity]
            rows = self._select(f"SELECT id FROM {KEYS[entity]} WHERE key >= ? ORDER BY key", (len(known),))
            if rows:
                ids = pl.concat([known.ids, pl.Series("id", [row[0] for row in rows], dtype=pl.String)])
                known = self._keys[entity] = Keys(ids.rechunk() if ids.n_chunks() > 64 else ids)
            return known

    def key(self, entity: Entity, raw: str | int) -> int:
        """Key of one id, MISSING if it has none: one look-up, whatever the number of keys."""
        try:
            rows = self._select(f"SELECT key FROM {KEYS[entity]} WHERE id = ?", (str(raw),))
        except UnicodeEncodeError:
            return MISSING
        return int(rows[0][0]) if rows else MISSING

    def served(self, request_id: str) -> Served | None:
        """The slate of a request, None when it is unknown or has been dropped."""
        sql = "SELECT request_id, user, time_ms, release, body FROM served WHERE request_id = ?"
        rows = self._select(sql, (request_id,))
        return Served(*rows[0]) if rows else None

    def read_served(self, after: int, limit: int) -> pl.DataFrame:
        """Slates behind a number, in the order written: number, request_id, user, time_ms, release, body."""
        names = ("number", "request_id", "user", "time_ms", "release", "body")
        sql = f"SELECT {', '.join(names)} FROM served WHERE number > ? ORDER BY number LIMIT ?"
        types = (pl.Int64, pl.String, pl.String, pl.Int64, pl.String, pl.String)
        return pl.DataFrame(
            self._select(sql, (after, limit)), schema=dict(zip(names, types, strict=True)), orient="row"
        )

    def _select(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        with self._errors():
            if connection is None:
                connection = self._local.connection = self._open()
                connection.execute("PRAGMA query_only = ON")
            return connection.execute(sql, values).fetchall()

    # ------------------------------------------------------------------------------------------ the file

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        with self._door:
            self._connections.append(connection)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _create(self) -> None:
        until = time.monotonic() + BUSY_S
        while True:  # the switch to WAL does not wait for a lock by itself
            try:
                self._writer.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > until:
                    raise
                time.sleep(0.01)
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in TABLES.split(";"):
                    self._writer.execute(statement)
                self._writer.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                hint = f"this version reads format {VERSION}; use the version that wrote it"
                raise DataError(f"unknown format {version}", where=str(self.path), hint=hint)
            self._writer.execute("COMMIT")
        finally:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as ours. Nothing is acknowledged when one is raised."""
        where = str(self.path)
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "") or ""
            if name == "SQLITE_FULL":
                what, hint = "the disk is full; nothing of this batch was kept", "free some space, then send it again"
            elif name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                what, hint = "another process holds the log", "end it, or wait and try again"
            elif name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                what, hint = f"not a log, or a damaged one: {error}", "restore it from a copy; do not delete it"
            else:
                what, hint = f"the log cannot be used: {error}", "check the disk and permissions"
            raise DataError(what, where=where, hint=hint) from error


class _Giver:
    """Keys of one table inside one transaction: those there, and the next for an id that has none."""

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self.connection = connection
        self.find = f"SELECT key FROM {table} WHERE id = ?"
        self.give = f"INSERT INTO {table} (key, id) VALUES ((SELECT coalesce(max(key), -1) + 1 FROM {table}), ?)"

    def key(self, raw: str) -> int:
        row = self.connection.execute(self.find, (raw,)).fetchone()
        if row:
            return int(row[0])
        given = self.connection.execute(self.give, (raw,)).lastrowid
        assert given is not None
        return given


def _insert(connection: sqlite3.Connection, event: Event, now: int, users: _Giver, items: _Giver) -> Outcome:
    event_id = event.event_id or secrets.token_hex(16)
    seen = connection.execute("SELECT offset FROM events WHERE event_id = ?", (event_id,)).fetchone()
    if seen:
        return Outcome("duplicate", event_id, int(seen[0]))
    row = (
        event_id,
        users.key(str(event.user)),
        items.key(str(event.item)),
        event.action,
        event.value,
        min(event.time_ms, now),  # a clock that runs ahead a little does not put events behind the next request
        now,
        event.request_id,
        event.position,
        msgspec.json.encode(event.context).decode() if event.context else None,
    )
    offset = connection.execute(
        "INSERT INTO events (event_id, user, item, action, value, time_ms, received_ms, request_id, position, context)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    ).lastrowid
    return Outcome("accepted", event_id, offset)


def _refusal(event: Event, actions: Sequence[str], latest: int) -> Outcome | None:
    """The outcome of an event that cannot be taken."""
    reason = _reason(event, actions, latest)
    if not reason:
        return None
    told = event.event_id if event.event_id and not _bad_id(event.event_id, "event_id") else None
    return Outcome("refused", told, None, reason)


def _reason(event: Event, actions: Sequence[str], latest: int) -> str:
    """Why an event cannot be taken, empty if it can."""
    for name, raw in (("user", event.user), ("item", event.item)):
        if reason := _bad_id(str(raw), f"{name} id"):
            return reason
    for name, text in (("event_id", event.event_id), ("request_id", event.request_id)):
        if text is not None and (reason := _bad_id(text, name)):
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


def _bad_id(text: str, name: str) -> str:
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


def _frame(rows: list[tuple[Any, ...]], names: Sequence[str]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pl.DataFrame([pl.Series(n, c, dtype=COLUMNS[n]) for n, c in zip(names, columns, strict=True)])
