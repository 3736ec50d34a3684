"""An SQLite file in WAL mode, synchronous=FULL: one writer a process whose callers share commits, readers by thread."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shortlist.errors import DataError

__all__ = ["Database", "Work"]

BUSY_S = 10.0
PAGE_BYTES = 1024  # an event changes a page in each of several trees, wherever in them: small pages are little to write
CHECKPOINT_PAGES = 32_768  # in the WAL before they move into the file: a page that changes again until then moves once
WAL_INDEX_BYTES = 32_768
CACHE_KIB = 32_768  # of the writer; readers lean on the system's cache
T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


@dataclass
class _Batch:
    """Work of one caller, waiting for a commit that it may share with others."""

    work: Work[Any]
    done: bool = False
    result: Any = None
    error: Exception | None = None


class Database:
    """Threads may share it; several processes may open one file, each after its fork.

    Callers that arrive together share one commit, so that a sync is paid once for all of them. `settled` is told
    whether a commit was made, before its callers go on. What is deleted is overwritten with zeros. `steps` make a file
    of an earlier format one of the next, one after the other and in one transaction.
    """

    def __init__(
        self,
        path: Path,
        tables: str,
        version: int,
        settled: Callable[[bool], None],
        steps: Mapping[int, Callable[[sqlite3.Connection], None]] | None = None,
    ) -> None:
        self.path = path
        self.settled = settled
        self.waiting: list[_Batch] = []
        self.turn = threading.Lock()
        self._door = threading.Condition()
        self._inside, self._closed = 0, False  # readers at work
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"cannot make its folder: {error.strerror}"
            raise DataError(what, where=str(path), hint="check permissions and the path") from error
        try:
            with self._errors():
                self.writer = self._open()
                self._create(tables, version, steps or {})
        except DataError:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection, when readers have ended; it is of no use afterwards."""
        with self._door:
            self._closed = True
            idle = self._door.wait_for(lambda: not self._inside, BUSY_S)
        with self.turn, self._door:
            while self._connections:
                connection = self._connections.pop()
                if idle or connection is self.writer:  # closed under a query, it would take the process with it
                    connection.close()  # one that is still at work is closed when its thread lets go of it

    def commit(self, work: Work[T]) -> T:
        """Run the work inside a transaction, together with what else is waiting, and return when it is on disk."""
        batch = _Batch(work)
        with self._door:
            self.waiting.append(batch)
        with self.turn:
            if not batch.done:
                with self._door:
                    group, self.waiting = self.waiting, []
                self._write(group)
        if batch.error is not None:
            raise batch.error
        result: T = batch.result
        return result

    def _write(self, group: Sequence[_Batch]) -> None:
        connection, committed = self.writer, False
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
            self.settled(committed)
            for batch in group:
                batch.done = True
                if not committed and batch.error is None:
                    batch.error = DataError("the commit broke off", where=str(self.path), hint="send it again")

    def vacuum(self) -> bool:
        """Rewrite the file and empty the WAL, so that no freed page holds what was deleted. Writers wait meanwhile.

        False when a reader holds on to the WAL for long.
        """
        with self.turn, self._errors():
            self.writer.execute("VACUUM")
            until = time.monotonic() + BUSY_S
            while self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > until:
                    return False
                time.sleep(0.05)
        return True

    def select(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._errors(), self._reading() as connection:
            return connection.execute(sql, values).fetchall()

    @contextmanager
    def view(self) -> Iterator[sqlite3.Connection]:
        """This thread's reader inside a transaction: all tables as of one moment."""
        with self._errors(), self._reading() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """This thread's reader, which `close` waits for."""
        with self._door:
            if self._closed:
                raise DataError("the log is closed", where=str(self.path), hint="open it again")
            self._inside += 1
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._open()
                connection.execute("PRAGMA query_only = ON")
            yield connection
        finally:
            with self._door:
                self._inside -= 1
                self._door.notify_all()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        with self._door:
            self._connections.append(connection)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _create(self, tables: str, version: int, steps: Mapping[int, Callable[[sqlite3.Connection], None]]) -> None:
        self.writer.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a file that is made now
        self.writer.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self.writer.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self.writer.execute("PRAGMA secure_delete = ON")
        until = time.monotonic() + BUSY_S
        while True:  # the switch to WAL does not wait for a lock by itself
            try:
                self.writer.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > until:
                    raise
                time.sleep(0.01)
        self.writer.execute("BEGIN IMMEDIATE")
        try:
            found = self.writer.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in tables.split(";"):
                    self.writer.execute(statement)
                self.writer.execute(f"PRAGMA user_version = {version}")
            while found in steps and found < version:
                steps[found](self.writer)
                found += 1
                self.writer.execute(f"PRAGMA user_version = {found}")
            if found not in (0, version):
                hint = f"this version reads format {version}; use the version that wrote it"
                raise DataError(f"unknown format {found}", where=str(self.path), hint=hint)
            self.writer.execute("COMMIT")
        finally:
            if self.writer.in_transaction:
                self.writer.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as ours. Nothing is acknowledged when one is raised."""
        where = str(self.path)
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "") or ""
            if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _full(self.path.parent)):
                what, hint = "the disk is full; nothing of this batch was kept", "free some space, then send it again"
            elif name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                what, hint = "another process holds the log", "end it, or wait and try again"
            elif name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                what, hint = f"not a log, or a damaged one: {error}", "restore it from a copy; do not delete it"
            else:
                what, hint = f"the log cannot be used: {error}", "check the disk and permissions"
            raise DataError(what, where=where, hint=hint) from error


def _full(folder: Path) -> bool:
    """Whether not even the index of a WAL has room. SQLite says no more then than that it cannot write."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free < WAL_INDEX_BYTES
    return False
