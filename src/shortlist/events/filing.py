"""What the log keeps about its files and about who was erased: every change of it is one transaction."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import polars as pl

from shortlist.events.database import Database
from shortlist.events.event import digest
from shortlist.events.segments import Segment

__all__ = [
    "Waiting", "found", "hidden", "listed", "known", "names_any", "publish", "seal", "shed", "rewrite", "drop",
    "forget_ids", "last_live", "barred", "waiting", "scrub",
]  # fmt: skip

ASKED = (1, 4, 16, 64, 256)  # how many ids one statement looks up: few sizes, so that each is parsed once
MARKS = {size: ", ".join("?" * size) for size in ASKED}
SEGMENT = ("first", "last", "rows", "kind", "file", "received_ms", "low_ms", "high_ms", "digest", "shift")
IDS = "SELECT hash, offset FROM event_ids WHERE hash"


class Waiting(NamedTuple):
    """An erasure whose traces are still on disk. `id` is kept until they are gone, to find them by; `rows` were in the
    database, and left it at once."""

    number: int
    user: int
    id: str
    erased_ms: int
    rows: int


def known(database: Database, hashes: Sequence[bytes]) -> dict[bytes, int]:
    """Offsets of events by the `digest` of their ids, of those that are known."""
    with database.view() as connection:
        return found(connection, IDS, hashes)


def names_any(database: Database) -> bool:
    """Whether any event's id is known at all."""
    return bool(database.select("SELECT 1 FROM event_ids LIMIT 1"))


def publish(
    database: Database,
    parts: Sequence[Segment],
    ids: Sequence[Iterable[tuple[bytes, int]]] = (),
    *,
    fresh: bool = False,
    end: int | None = None,
) -> set[int]:
    """List imported parts whose files are in place, with (`digest` of an id, offset) of their events, at once.

    Events that came meanwhile win: offsets whose id is taken are returned, and then nothing was done. `fresh`
    drops the parts that were imported before. `end` is the first offset behind those that were taken for the import:
    where others have been given since, somebody may have read beyond, so the parts are moved behind all of them.
    """

    def work(connection: sqlite3.Connection) -> set[int]:
        connection.execute("SAVEPOINT publish")
        if fresh:
            old = listed(connection, "WHERE kind = 'imported'")
            _forget_ids(connection, old)
            connection.execute("DELETE FROM segments WHERE kind = 'imported'")
            connection.execute(
                "INSERT INTO facts VALUES ('fresh', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )
        after: int = connection.execute("SELECT value FROM facts WHERE name = 'next'").fetchone()[0]
        shift = after - parts[0].first if parts and end not in (None, after) else 0
        for some in ids:
            rows = sorted((mark, offset + shift) for mark, offset in some)
            before = connection.total_changes
            connection.executemany("INSERT OR IGNORE INTO event_ids VALUES (?, ?)", rows)
            if connection.total_changes - before < len(rows):
                connection.execute("ROLLBACK TO publish")
                taken = found(connection, IDS, [h for h, _ in rows])
                return {offset - shift for h, offset in rows if h in taken}
        moved = [replace(p, first=p.first + shift, last=p.last + shift, shift=shift) for p in parts]
        if shift:
            connection.execute("UPDATE facts SET value = ? WHERE name = 'next'", (moved[-1].last + 1,))
        _list(connection, moved)
        return set()

    return database.commit(work)


def seal(database: Database, segment: Segment) -> None:
    """From here on the file speaks for its offsets, not the table; rows are deleted by `shed`."""

    def work(connection: sqlite3.Connection) -> None:
        _list(connection, [segment])
        connection.execute("UPDATE facts SET value = ? WHERE name = 'sealed'", (segment.last,))

    database.commit(work)


def shed(database: Database, limit: int = 10_000) -> int:
    """Delete at most so many rows that files speak for. Returns how many."""

    def work(connection: sqlite3.Connection) -> int:
        sealed = "(SELECT value FROM facts WHERE name = 'sealed')"
        rows = f"SELECT offset FROM events WHERE offset <= {sealed} ORDER BY offset LIMIT {limit}"
        return connection.execute(f"DELETE FROM events WHERE offset IN ({rows})").rowcount

    return database.commit(work)


def rewrite(database: Database, old: Segment, new: Segment | None) -> None:
    """List a file in place of another of the same offsets; None lists none."""

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM segments WHERE first = ?", (old.first,))
        _list(connection, [new] if new is not None else [])

    database.commit(work)


def drop(database: Database, segments: Sequence[Segment], served_before: int) -> None:
    """Forget whole files, and slates from before a moment. Ids of their events are forgotten by `forget_ids`."""

    def work(connection: sqlite3.Connection) -> None:
        connection.executemany("DELETE FROM segments WHERE first = ?", [(s.first,) for s in segments])
        connection.execute("DELETE FROM served WHERE time_ms < ?", (served_before,))
        rows = sum(segment.rows for segment in segments)
        connection.execute("UPDATE facts SET value = value + ? WHERE name = 'dropped'", (rows,))

    database.commit(work)


def forget_ids(database: Database, segments: Sequence[Segment], part: int) -> None:
    """Forget ids of events of these offsets: part `part` of 256, so that no writer waits long."""
    database.commit(lambda connection: _forget_ids(connection, segments, part))


def segments(database: Database) -> list[Segment]:
    """Files that hold events, in order of offset."""
    with database.view() as connection:
        return listed(connection)


def last_live(database: Database) -> int:
    """The highest offset of an event that was no import, 0 where there is none."""
    sql = "SELECT coalesce((SELECT max(offset) FROM events), (SELECT value FROM facts WHERE name = 'sealed'))"
    return int(database.select(sql)[0][0])


def barred(database: Database, ids: Callable[[], pl.Series]) -> dict[str, int]:
    """Of these raw user ids those that were erased, with the moment: what is older stays out of an import.

    Nobody asks for the ids where nobody was erased.
    """
    with database.view() as connection:
        gone = dict(connection.execute("SELECT hash, max(erased_ms) FROM erased GROUP BY hash"))
        salt: bytes = connection.execute("SELECT value FROM facts WHERE name = 'salt'").fetchone()[0]
    if not gone:
        return {}
    return {text: gone[mark] for text in ids() if (mark := digest(text, salt)) in gone}


def waiting(database: Database) -> list[Waiting]:
    """Erasures whose traces are still on disk."""
    names = "number, user, coalesce(id, ''), erased_ms, events + slates"
    rows = database.select(f"SELECT {names} FROM erased WHERE done_ms IS NULL ORDER BY number")
    return [Waiting(*row) for row in rows]


def scrub(database: Database, done: Sequence[Waiting], now: int) -> bool:
    """Forget the ids of these erasures and rewrite the file, so that no freed page holds what was deleted.

    Writers wait meanwhile. False when a reader holds on to the WAL for long: then the erasures stay `waiting`.
    """
    numbers = [(one.number,) for one in done]
    database.commit(lambda connection: connection.executemany("UPDATE erased SET id = NULL WHERE number = ?", numbers))
    if not database.vacuum():
        return False
    marks = [(now, one.number) for one in done]
    sql = "UPDATE erased SET done_ms = ? WHERE number = ?"
    database.commit(lambda connection: connection.executemany(sql, marks))
    return True


def found(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> dict[Any, int]:
    """Rows (value, number) of a query for those of the values that are there."""
    found: dict[Any, int] = {}
    for at in range(0, len(values), ASKED[-1]):
        some = list(values[at : at + ASKED[-1]])
        width = next(size for size in ASKED if size >= len(some))
        some += some[:1] * (width - len(some))
        found.update(connection.execute(f"{sql} IN ({MARKS[width]})", some).fetchall())
    return found


def listed(connection: sqlite3.Connection, where: str = "", values: tuple[Any, ...] = ()) -> list[Segment]:
    sql = f"SELECT {', '.join(SEGMENT)} FROM segments {where} ORDER BY first"
    return [Segment(*row) for row in connection.execute(sql, values)]


def _list(connection: sqlite3.Connection, segments: Sequence[Segment]) -> None:
    rows = [tuple(getattr(segment, name) for name in SEGMENT) for segment in segments]
    connection.executemany(f"INSERT INTO segments VALUES ({', '.join('?' * len(SEGMENT))})", rows)
    last = max((segment.last for segment in segments), default=0)
    connection.execute("UPDATE facts SET value = max(value, ?) WHERE name = 'filed'", (last,))


def hidden(connection: sqlite3.Connection) -> list[int]:
    """Erased users (keys) that files still hold."""
    return [row[0] for row in connection.execute("SELECT user FROM erased WHERE done_ms IS NULL")]


def _forget_ids(connection: sqlite3.Connection, segments: Sequence[Segment], part: int | None = None) -> None:
    """Forget ids of events of these offsets, of all hashes or of those that begin with a byte."""
    low = bytes([part]) if part is not None else b""
    high = bytes([part + 1]) if part is not None and part < 255 else None
    some = "hash >= ?" if high is None else "hash >= ? AND hash < ?"
    for first, last in _ranges(segments):
        values = (low, first, last) if high is None else (low, high, first, last)
        connection.execute(f"DELETE FROM event_ids WHERE {some} AND offset BETWEEN ? AND ?", values)


def _ranges(segments: Sequence[Segment]) -> Iterator[tuple[int, int]]:
    """Ranges of offsets, neighbouring ones as one."""
    low = high = 0
    for segment in sorted(segments, key=lambda each: each.first):
        if low and segment.first == high + 1:
            high = segment.last
            continue
        if low:
            yield low, high
        low, high = segment.first, segment.last
    if low:
        yield low, high
