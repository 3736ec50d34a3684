"""The durable event log: SQLite in WAL mode, synchronous=FULL. Authority of keys and of what happened, in order.

An event is acknowledged only when it is on disk, and its id is unique: sending it again changes nothing, also after
its day was sealed. Offsets rise in the order of commits; imported events take theirs from the same counter. Rows are in
SQLite until `compact` seals their day: `sealed` says up to where Parquet files have taken over, and readers decide by
it inside one transaction, so that they see an event once, whatever broke off in between.

A slate that was served is no event and has a table of its own: nothing has happened to its items yet, one row holds it
whole, and dropping old ones leaves no holes in the log.

On disk an event of short ids takes about 120 bytes; once sealed 35 (a hash of its id, its offset) beside Parquet.
"""

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.errors import DataError
from shortlist.events.database import Database, Work
from shortlist.events.event import (
    EARLIEST_S,
    FUTURE_MS,
    LATEST_S,
    Event,
    Outcome,
    Served,
    bad_id,
    digest,
    refusal,
)
from shortlist.events.filing import forget_ids, found, hidden, listed, publish
from shortlist.events.segments import COLUMNS, Segment, scan_all
from shortlist.events.upgrade import steps
from shortlist.schema import MAX_ID_BYTES, MISSING, Keys, canonical

__all__ = [
    "EventLog", "Event", "Outcome", "Served", "Erasure", "Segment", "erased_id",
    "COLUMNS", "FUTURE_MS", "EARLIEST_S", "LATEST_S",
]  # fmt: skip

VERSION = 3
KEEP_SERVED = 100_000
KEYS_KEPT = 65_536  # ids of the latest users and items whose keys a writer remembers, about 10 MB of each
BLOCK = 100_000  # rows of the table that become one frame
LAST = 2**63 - 1
TRIES = 5  # a file that a compaction has replaced is looked up again

TABLES = """
CREATE TABLE user_keys (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE item_keys (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE events (
    offset INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
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
CREATE TABLE event_ids (hash BLOB PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    kind TEXT NOT NULL,
    file TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    low_ms INTEGER NOT NULL,
    high_ms INTEGER NOT NULL,
    digest TEXT NOT NULL,
    shift INTEGER NOT NULL
);
CREATE TABLE erased (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    user INTEGER NOT NULL,
    hash BLOB NOT NULL,
    erased_ms INTEGER NOT NULL,
    id TEXT,
    events INTEGER NOT NULL,
    slates INTEGER NOT NULL,
    done_ms INTEGER
);
CREATE TABLE served (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL UNIQUE,
    user TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    release TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
INSERT INTO facts VALUES ('next', 1), ('sealed', 0), ('filed', 0), ('dropped', 0), ('salt', randomblob(16));
"""

TAIL = ("offset", "user", "item", "action", "value", "time_ms")


Entity = Literal["user", "item"]
KEYS: dict[Entity, str] = {"user": "user_keys", "item": "item_keys"}
T = TypeVar("T")


class Erasure(NamedTuple):
    """A user marked as erased: place among all erasures, and the key; 0 and MISSING for an id that has no key."""

    number: int
    user: int


def erased_id(key: int) -> str:
    """What stands in place of an erased user's id. It is longer than any id may be, so that no id equals it."""
    return f"erased user {key} ".ljust(MAX_ID_BYTES + 1, ".")


class EventLog:
    """The log of one project. Threads may share it; several processes may open one file, each after its fork.

    Writers of one process that arrive together share one commit, so that a sync is paid once for all of them. Parquet
    files lie in `events/` beside the file.
    """

    def __init__(self, path: str | Path, *, future_ms: int = FUTURE_MS, keep_served: int = KEEP_SERVED) -> None:
        self.path = Path(path)
        self.folder = self.path.parent / "events"
        self.future_ms = future_ms
        self.keep_served = keep_served
        self._reading = threading.Lock()
        self._keys: dict[Entity, Keys] = {"user": Keys(), "item": Keys()}
        self._marked = 0  # erasures that `_keys` has
        self._recent: dict[Entity, dict[str, int]] = {"user": {}, "item": {}}  # of the writer
        self._fresh: dict[Entity, dict[str, int]] = {"user": {}, "item": {}}  # given in the commit under way
        self._refused: tuple[int, dict[bytes, int]] = (0, {})  # erasures so far: hash of the id -> moment
        self.database = Database(self.path, TABLES, VERSION, self._settle, steps(self.path.parent))

    def close(self) -> None:
        """Close every connection; the log is of no use afterwards."""
        self.database.close()

    # ------------------------------------------------------------------------------------------ writing

    def append(self, events: Sequence[Event], actions: Sequence[str], now: int) -> list[Outcome]:
        """Write events; what is accepted is on disk when this returns. One outcome an event, in the same order.

        `actions` are the names a schema knows, `now` this server's time in ms. Unknown users and items get a key here.
        Raises DataError when the disk is full or failing: then nothing of the batch was acknowledged; send it again.
        """
        refused = [refusal(event, actions, now + self.future_ms) for event in events]
        if None not in refused:
            return [outcome for outcome in refused if outcome]
        return self._commit(lambda connection: self._enter(connection, events, refused, now))

    def _enter(
        self, connection: sqlite3.Connection, events: Sequence[Event], refused: Sequence[Outcome | None], now: int
    ) -> list[Outcome]:
        """Insert what is neither refused nor known. Statements are few and take many rows each."""
        gone, salt = self._gone_by(connection)
        pairs = list(zip(events, refused, strict=True))
        ids = [event.event_id or secrets.token_hex(16) if outcome is None else "" for event, outcome in pairs]
        hashes = [digest(text) if text else b"" for text in ids]
        known = found(connection, "SELECT hash, offset FROM event_ids WHERE hash", [h for h in hashes if h])
        taken = [e for (e, outcome), h in zip(pairs, hashes, strict=True) if outcome is None and h not in known]
        users = self._keyed(connection, "user", [str(event.user) for event in taken])
        items = self._keyed(connection, "item", [str(event.item) for event in taken])
        offset: int = connection.execute("SELECT value FROM facts WHERE name = 'next'").fetchone()[0]
        outcomes, rows, marks = [], [], []
        for (event, outcome), event_id, mark in zip(pairs, ids, hashes, strict=True):
            if outcome is None and mark in known:
                outcome = Outcome("duplicate", event_id, known[mark])
            if outcome is None and gone and event.time_ms < gone.get(digest(str(event.user), salt), 0):
                outcome = Outcome("refused", event_id, None, "the user has been erased since")
            if outcome is not None:
                outcomes.append(outcome)
                continue
            rows.append(
                (
                    offset,
                    event_id,
                    users.key(str(event.user)),
                    items.key(str(event.item)),
                    event.action,
                    event.value,
                    min(event.time_ms, now),  # a clock that runs ahead a little puts no event behind the next request
                    now,
                    event.request_id,
                    event.position,
                    msgspec.json.encode(event.context).decode() if event.context else None,
                )
            )
            marks.append((mark, offset))
            known[mark] = offset
            outcomes.append(Outcome("accepted", event_id, offset))
            offset += 1
        if rows:
            users.give(connection)
            items.give(connection)
            connection.executemany("INSERT INTO event_ids VALUES (?, ?)", marks)
            connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            connection.execute("UPDATE facts SET value = ? WHERE name = 'next'", (offset,))
        return outcomes

    def _keyed(self, connection: sqlite3.Connection, entity: Entity, ids: Sequence[str]) -> "_Keyed":
        """Keys of these ids: remembered ones, those of the table, and the next for who has none."""
        recent, fresh = self._recent[entity], self._fresh[entity]
        keys = {text: key for text in set(ids) if (key := recent.get(text, fresh.get(text))) is not None}
        unknown = [text for text in dict.fromkeys(ids) if text not in keys]
        table = KEYS[entity]
        there = found(connection, f"SELECT id, key FROM {table} WHERE id", unknown)
        if len(recent) + len(there) > KEYS_KEPT:
            recent.clear()
        recent.update(there)
        last = connection.execute(f"SELECT max(key) FROM {table}").fetchone()[0] if len(there) < len(unknown) else -1
        return _Keyed(table, keys | there, fresh, -1 if last is None else last)

    def _gone_by(self, connection: sqlite3.Connection) -> tuple[dict[bytes, int], bytes]:
        """Hashes of erased ids with the moment of each, and their salt. Remembered keys are forgotten for new ones."""
        number = connection.execute("SELECT coalesce(max(number), 0) FROM erased").fetchone()[0]
        if number != self._refused[0]:
            rows = connection.execute("SELECT hash, max(erased_ms) FROM erased GROUP BY hash")
            self._refused = number, dict(rows)
            self._recent["user"].clear()
        if not self._refused[1]:
            return {}, b""
        return self._refused[1], connection.execute("SELECT value FROM facts WHERE name = 'salt'").fetchone()[0]

    def take(self, count: int) -> int:
        """The first of `count` offsets that nobody else gets: for events that are imported. Who publishes them late,
        when others have been given, has them moved."""

        def work(connection: sqlite3.Connection) -> int:
            first: int = connection.execute("SELECT value FROM facts WHERE name = 'next'").fetchone()[0]
            connection.execute("UPDATE facts SET value = ? WHERE name = 'next'", (first + count,))
            return first

        return self._commit(work)

    def publish(
        self,
        parts: Sequence[Segment],
        ids: Sequence[Iterable[tuple[bytes, int]]] = (),
        *,
        fresh: bool = False,
        end: int | None = None,
    ) -> set[int]:
        """List imported parts, with what stands for the ids of their events: `filing.publish`."""
        return publish(self.database, parts, ids, fresh=fresh, end=end)

    def forget_ids(self, segments: Sequence[Segment], part: int) -> None:
        """Forget ids of events of these offsets: `filing.forget_ids`."""
        forget_ids(self.database, segments, part)

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
        """Events from now on get offsets behind this one."""
        sql = "UPDATE facts SET value = max(value, ?) WHERE name = 'next'"
        self._commit(lambda connection: connection.execute(sql, (offset + 1,)))

    def append_served(self, slates: Sequence[Served]) -> int:
        """Write slates, each request id once; only the newest `keep_served` are kept. Returns how many were new.

        A slate of a user who has been erased since is left out.
        """

        def work(connection: sqlite3.Connection) -> int:
            gone, salt = self._gone_by(connection)
            before = connection.total_changes
            connection.executemany(
                "INSERT INTO served (request_id, user, time_ms, release, body) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (request_id) DO NOTHING",
                [
                    (s.request_id, s.user, s.time_ms, s.release, s.body)
                    for s in slates
                    if not gone or s.time_ms >= gone.get(digest(s.user, salt), 0)
                ],
            )
            new = connection.total_changes - before
            connection.execute(
                "DELETE FROM served WHERE number <= (SELECT max(number) FROM served) - ?", (self.keep_served,)
            )
            return new

        return self._commit(work) if slates else 0

    def _commit(self, work: Work[T]) -> T:
        """Run the work inside a transaction, together with what else is waiting, and return when it is on disk."""
        return self.database.commit(work)

    def _settle(self, committed: bool) -> None:
        """Keys given in a commit are remembered when it was made, and only then."""
        for entity, fresh in self._fresh.items():
            if committed:
                self._recent[entity].update(fresh)
            fresh.clear()

    # ------------------------------------------------------------------------------------------ erasing

    def erase(self, user: str | int, now: int) -> Erasure:
        """Erase a user: from here on no reader sees their events and slates, and the id has no key any more.

        The key is never given again. What was told of the time before `now` is refused, by whatever way it comes; what
        the id does later is another user's. Files follow with `compact`.
        """
        raw = str(user)
        if bad_id(raw, "user id"):
            return Erasure(0, MISSING)

        def work(connection: sqlite3.Connection) -> Erasure:
            slates = connection.execute("DELETE FROM served WHERE user = ?", (raw,)).rowcount
            row = connection.execute("SELECT key FROM user_keys WHERE id = ?", (raw,)).fetchone()
            if row is None:
                return Erasure(0, MISSING)
            key = int(row[0])
            salt: bytes = connection.execute("SELECT value FROM facts WHERE name = 'salt'").fetchone()[0]
            connection.execute("UPDATE user_keys SET id = ? WHERE key = ?", (erased_id(key), key))
            events = connection.execute("DELETE FROM events WHERE user = ?", (key,)).rowcount
            made = connection.execute(
                "INSERT INTO erased (user, hash, erased_ms, id, events, slates) VALUES (?, ?, ?, ?, ?, ?)",
                (key, digest(raw, salt), now, raw, events, slates),
            )
            assert made.lastrowid is not None
            self._fresh["user"].pop(raw, None)
            return Erasure(made.lastrowid, key)

        return self._commit(work)

    def erased(self, after: int = 0) -> tuple[int, NDArray[np.int64]]:
        """Number of the last erasure, and the keys of those behind `after`: what follows the log erases them too."""
        rows = self._select("SELECT number, user FROM erased WHERE number > ? ORDER BY number", (after,))
        return (rows[-1][0] if rows else after), np.array([row[1] for row in rows], dtype=np.int64)

    def gone(self, key: int) -> bool:
        """Whether the user of this key was erased, though a release may still know the id."""
        return bool(self._select("SELECT 1 FROM user_keys WHERE key = ? AND id = ?", (key, erased_id(key))))

    # ------------------------------------------------------------------------------------------ reading

    def read(self, after: int, limit: int) -> pl.DataFrame:
        """At most `limit` events behind the offset `after`, in order, as `COLUMNS`; imported and sealed ones too."""

        def work() -> pl.DataFrame:
            frames = [_frame([], tuple(COLUMNS))]
            with self.database.view() as connection:
                for piece in self._pieces(connection, after, tuple(COLUMNS), min(limit, BLOCK)):
                    left = limit - sum(len(frame) for frame in frames)
                    frames.append(piece.head(left).collect() if isinstance(piece, pl.LazyFrame) else piece.head(left))
                    if len(frames[-1]) == left:
                        break
            return pl.concat(frames)

        return self._filed(work)

    def tail(self, users: int | Sequence[int] | NDArray[np.int64], after: int) -> pl.DataFrame:
        """Events of some users (keys) behind an offset, in order: offset, user, item, action, value, time_ms.

        One look-up by user, as long as the offset is not older than the last sealed day and the last import.
        """
        keys = [int(users)] if isinstance(users, (int, np.integer)) else [int(user) for user in users]
        asked = msgspec.json.encode(keys).decode()
        sql = (
            f"SELECT {', '.join(TAIL)} FROM events WHERE user IN (SELECT value FROM json_each(?))"
            " AND offset > max(?, (SELECT value FROM facts WHERE name = 'sealed')) ORDER BY offset"
        )

        def work() -> pl.DataFrame:
            with self.database.view() as connection:
                live = _frame(connection.execute(sql, (asked, after)).fetchall(), TAIL)
                if connection.execute("SELECT value FROM facts WHERE name = 'filed'").fetchone()[0] <= after:
                    return live
                files = listed(connection, "WHERE last > ?", (after,))
                frames = scan_all(self.folder, files, TAIL, hidden(connection), after)
                mine = pl.col("user").is_in(keys)
                return pl.concat([*(frame.filter(mine).collect() for frame in frames), live]).sort("offset")

        return self._filed(work)

    def frames(self, columns: Sequence[str], context: Sequence[str] = ()) -> list[pl.LazyFrame]:
        """All events in order of offset, some of `COLUMNS`: files are scanned when the frames are collected.

        Imported events have the columns of their `context` that are there; of live ones it is JSON (`context`).
        """

        def work() -> list[pl.LazyFrame]:
            with self.database.view() as connection:
                return [piece.lazy() for piece in self._pieces(connection, 0, columns, BLOCK, context)]

        return self._filed(work)

    def _pieces(
        self, connection: sqlite3.Connection, after: int, names: Sequence[str], limit: int, own: Sequence[str] = ()
    ) -> Iterator[pl.LazyFrame | pl.DataFrame]:
        """What lies behind an offset, in order: scans of files, and rows of the table, `limit` at a time."""
        sealed: int = connection.execute("SELECT value FROM facts WHERE name = 'sealed'").fetchone()[0]
        files, gone = listed(connection, "WHERE last > ?", (after,)), hidden(connection)
        at = max(after, sealed)
        first = connection.execute("SELECT min(offset) FROM events WHERE offset > ?", (at,)).fetchone()[0]
        before = [segment for segment in files if first is None or segment.first < first]
        yield from scan_all(self.folder, before, names, gone, after, own)
        sql = f"SELECT offset, {', '.join(names)} FROM events WHERE offset > ? AND offset < ? ORDER BY offset LIMIT ?"
        for amid in (*files[len(before) :], None):  # parts imported between live events
            stop = amid.first if amid is not None else LAST
            while rows := connection.execute(sql, (at, stop, limit)).fetchall():
                at = rows[-1][0]
                yield _frame([row[1:] for row in rows], names)
            if amid is not None:
                yield from scan_all(self.folder, [amid], names, gone, 0, own)
                at = amid.last

    @property
    def last_offset(self) -> int:
        """The highest offset given or taken, 0 before the first."""
        return int(self._select("SELECT value FROM facts WHERE name = 'next'", ())[0][0]) - 1

    @property
    def identity(self) -> str:
        """Which log this is: made anew, or imported afresh, it is another one, and what was kept of it is void."""
        told = dict(self._select("SELECT name, value FROM facts WHERE name IN ('salt', 'origin', 'fresh')", ()))
        return self._named(told.get("origin"), told["salt"], told.get("fresh", 0))

    def _named(self, origin: bytes | None, salt: bytes, fresh: int) -> str:
        return f"{(origin or digest('log', salt)).hex()}.{fresh}"

    @property
    def changes(self) -> str:
        """What else than new offsets changes what `read` gives: erasures, and events dropped for their age."""
        erased, _ = self.erased()
        dropped = self._select("SELECT value FROM facts WHERE name = 'dropped'", ())[0][0]
        return f"{erased} {dropped}"

    def keys(self, entity: Entity) -> Keys:
        """All keys given so far; an erased user's has `erased_id` for its id. Cached: a call reads only what is new."""
        with self._reading:
            known = self._keys[entity]
            if entity == "user":
                self._marked, late = self.erased(self._marked)
                late = late[late < len(known)]
                if len(late):
                    marks = pl.Series([erased_id(key) for key in late.tolist()], dtype=pl.String)
                    known = self._keys[entity] = Keys(known.ids.clone().scatter(late, marks))
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
        return self.database.select(sql, values)

    def _filed(self, work: Callable[[], T]) -> T:
        """Work that reads files, again where one was replaced meanwhile. Raises DataError for one that is not whole."""
        hint = "restore it from a copy; `shortlist import --fresh` makes imported parts anew"
        for left in reversed(range(TRIES)):
            try:
                return work()
            except FileNotFoundError as error:
                if not left:
                    raise DataError(f"a file is missing: {error}", where=str(self.folder), hint=hint) from error
            except pl.exceptions.PolarsError as error:
                raise DataError(f"a file is damaged: {error}", where=str(self.folder), hint=hint) from error
        raise AssertionError("the last try returns or raises")


class _Keyed:
    """Keys of some ids inside one transaction: those there, and the next ones for ids that have none."""

    def __init__(self, table: str, known: dict[str, int], fresh: dict[str, int], last: int) -> None:
        self.table, self.known, self.fresh, self.last = table, known, fresh, last
        self.given: list[tuple[int, str]] = []

    def key(self, raw: str) -> int:
        key = self.known.get(raw)
        if key is None:
            key = self.known[raw] = self.last = self.last + 1
            self.given.append((key, raw))
        return key

    def give(self, connection: sqlite3.Connection) -> None:
        """Write the keys that were given."""
        if self.given:
            connection.executemany(f"INSERT INTO {self.table} (key, id) VALUES (?, ?)", self.given)
            self.fresh.update((raw, key) for key, raw in self.given)


def _frame(rows: list[tuple[Any, ...]], names: Sequence[str]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pl.DataFrame([pl.Series(n, c, dtype=COLUMNS[n]) for n, c in zip(names, columns, strict=True)])
