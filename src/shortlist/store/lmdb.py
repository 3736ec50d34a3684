"""Blobs in LMDB: one file in a folder, read by many processes, written by one (Chu, 2011).

A namespace is a named database, keys are 8 bytes, big-endian. Readers take no lock and see one moment. An entry takes
its blob, 18 bytes and its share of what is free in a page of 4 KiB (some 120 bytes in all at blobs of 400, measured); a
blob above 2 KiB takes pages of its own. A page that was overwritten is used again once nobody reads it.

A commit waits for one sync of the data, not for that of the root (`metasync=False`): after a killed process the last
commit is whole; after a power cut the store may stand one commit earlier, whole as well, and the log gives that again.
"""

import errno
import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.store.blobs import Change, check, taken

__all__ = ["DamagedError", "Lmdb", "mended", "remove"]

LOG = logging.getLogger(__name__)
FORMAT = 1
META = b"meta"
WRITER = "writer"  # a file that the one writer holds locked
MAP_BYTES = 2**30  # room in the address space, not on disk; doubled when it is full
DATABASES = 512
READERS = 1024
CHECK = 64  # changes between two looks for readers that were killed
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
T = TypeVar("T")


class _Meta(msgspec.Struct):
    """What a store says of itself. `live` is the side that is read, `names` the namespaces of each."""

    format: int
    fingerprint: str
    offset: int = 0
    live: str = "a"
    names: dict[str, list[str]] = msgspec.field(default_factory=lambda: {"a": [], "b": []})

    @property
    def aside(self) -> str:
        return "b" if self.live == "a" else "a"


class DamagedError(DataError):
    """A file that is no store, or one no more."""


class Lmdb:
    """A store in `folder`. Threads may share it, and a process may open it more than once; never across a fork."""

    def __init__(self, folder: str | Path, fingerprint: str, *, map_bytes: int = MAP_BYTES, sync: bool = True) -> None:
        self.folder = Path(folder).resolve()
        self.fingerprint = fingerprint
        self._lock: int | None = None
        self._closed = False
        self._home = _open(self.folder, map_bytes, sync)
        try:
            self._begin()
        except BaseException:
            _let_go(self._home)
            raise

    def _begin(self) -> None:
        """Name a new store; refuse one that is not ours."""

        def look(txn: Any) -> _Meta | None:
            return _decoded(txn.get(META), str(self.folder))

        def name(txn: Any) -> _Meta:
            fresh = _Meta(FORMAT, self.fingerprint)
            txn.put(META, msgspec.json.encode(fresh), overwrite=False)
            return look(txn) or fresh

        with self._errors():
            meta = self._home.look(look) or self._home.change(name)
        if meta.format != FORMAT:
            hint = f"this version reads format {FORMAT}; use the version that wrote it, or delete the folder"
            raise ArtifactError(f"unknown format {meta.format}", where=str(self.folder), hint=hint)
        if meta.fingerprint != self.fingerprint:
            what = f"a store of other features: {meta.fingerprint[:12]}, not {self.fingerprint[:12]}"
            raise ArtifactError(what, where=str(self.folder), hint="delete the folder, then run `shortlist backfill`")

    # ------------------------------------------------------------------------------------------ reading

    @property
    def offset(self) -> int:
        with self._errors():
            return self._home.look(lambda txn: self._meta(txn).offset)

    def get(self, namespace: str, keys: NDArray[np.int64]) -> list[bytes | None]:
        return self.read({namespace: keys})[0][namespace]

    def read(self, asked: Mapping[str, NDArray[np.int64]]) -> tuple[dict[str, list[bytes | None]], int]:
        def work(txn: Any, databases: Mapping[str, Any], meta: _Meta) -> tuple[dict[str, list[bytes | None]], int]:
            found: dict[str, list[bytes | None]] = {}
            for namespace, keys in asked.items():
                database = databases.get(namespace)
                if database is None:
                    found[namespace] = [None] * len(keys)
                else:
                    get = txn.get
                    found[namespace] = [get(key, None, database) for key in _packed(keys)]
            return found, meta.offset

        return self._look(asked, work)

    def keys(self, namespace: str) -> NDArray[np.int64]:
        def work(txn: Any, databases: Mapping[str, Any], meta: _Meta) -> NDArray[np.int64]:
            if namespace not in databases:
                return np.zeros(0, dtype=np.int64)
            every = b"".join(txn.cursor(databases[namespace]).iternext(keys=True, values=False))
            return np.frombuffer(every, dtype=">i8").astype(np.int64)

        return self._look([namespace], work)

    def sizes(self) -> dict[str, tuple[int, int]]:
        def work(txn: Any, databases: Mapping[str, Any], meta: _Meta) -> dict[str, tuple[int, int]]:
            out = {}
            for namespace, database in sorted(databases.items()):
                held = txn.stat(database)["entries"]
                if held:
                    blobs = txn.cursor(database).iternext(keys=False, values=True)
                    out[namespace] = (int(held), sum(map(len, blobs)))
            return out

        return self._look(None, work, buffers=True)

    def _look(
        self,
        namespaces: Iterable[str] | None,
        work: Callable[[Any, Mapping[str, Any], _Meta], T],
        *,
        buffers: bool = False,
    ) -> T:
        """Run the work in one snapshot, with the databases of these namespaces, or of all, that exist in it."""

        def inside(txn: Any) -> T | list[str]:
            meta = self._meta(txn)
            there = meta.names[meta.live]
            wanted = there if namespaces is None else [name for name in namespaces if name in there]
            full = {name: f"{meta.live}/{name}" for name in wanted}
            closed = [name for name in full.values() if name not in home.databases]
            if closed:  # made by another process since we last looked: open them, then look again
                return closed
            return work(txn, {name: home.databases[place] for name, place in full.items()}, meta)

        home = self._home
        with self._errors():
            while True:
                found = home.look(inside, buffers)
                if not isinstance(found, list):
                    return found
                home.open(found)

    def _meta(self, txn: Any) -> _Meta:
        meta = _decoded(txn.get(META), str(self.folder))
        if meta is None or meta.fingerprint != self.fingerprint:
            raise _damaged(str(self.folder), "its description is gone")
        return meta

    # ------------------------------------------------------------------------------------------ writing

    def claim(self) -> None:
        if self._lock is not None:
            return
        file = self.folder / WRITER
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(lock, 32, 0).decode(errors="replace").strip()
            os.close(lock)
            raise taken(str(self.folder), who) from None
        with suppress(OSError):  # only said to help: a full disk need not stop it
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()}".encode(), 0)
        self._lock = lock

    def leave(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def put(self, changes: Mapping[str, Change], offset: int, *, replace: bool = False) -> None:
        def work(txn: Any, meta: _Meta) -> None:
            self._write(txn, meta, meta.live, changes, replace)
            meta.offset = offset

        check(changes)
        self._change(changes, work)

    def stage(self, changes: Mapping[str, Change], *, first: bool = False) -> None:
        def work(txn: Any, meta: _Meta) -> None:
            if first:
                self._empty(txn, meta, meta.aside)
            self._write(txn, meta, meta.aside, changes, False)

        check(changes)
        self._change(changes, work)

    def adopt(self, offset: int) -> None:
        def work(txn: Any, meta: _Meta) -> None:
            self._empty(txn, meta, meta.live)
            meta.live, meta.offset = meta.aside, offset

        self._change({}, work)

    def _change(self, changes: Mapping[str, Change], work: Callable[[Any, _Meta], None]) -> None:
        """Run the work in the one write transaction, with the databases it needs made before."""

        def inside(txn: Any) -> list[str]:
            meta = self._meta(txn)
            needed = {f"{side}/{name}" for side, names in meta.names.items() for name in (*changes, *names)}
            closed = sorted(needed - set(home.databases))
            if not closed:
                work(txn, meta)
                txn.put(META, msgspec.json.encode(meta))
            return closed

        self.claim()
        home = self._home
        with self._errors():
            home.check_readers()
            while closed := home.change(inside):
                home.open(closed)

    def _write(self, txn: Any, meta: _Meta, side: str, changes: Mapping[str, Change], replace: bool) -> None:
        for namespace, (keys, blobs) in changes.items():
            database = self._home.databases[f"{side}/{namespace}"]
            if replace:
                txn.drop(database, delete=False)
            cursor = txn.cursor(database)
            cursor.putmulti([pair for pair in zip(_packed(keys), blobs, strict=True) if pair[1] is not None])
            for key in _packed(keys[np.fromiter((blob is None for blob in blobs), dtype=bool, count=len(blobs))]):
                if cursor.set_key(key):
                    cursor.delete()
            if namespace not in meta.names[side]:
                meta.names[side].append(namespace)

    def _empty(self, txn: Any, meta: _Meta, side: str) -> None:
        """Empty a side. Its databases stay: a handle that another process holds must not outlive its database."""
        for name in meta.names[side]:
            txn.drop(self._home.databases[f"{side}/{name}"], delete=False)
        meta.names[side] = []

    def close(self) -> None:
        self.leave()
        if not self._closed:
            self._closed = True
            _let_go(self._home)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """LMDB's errors as ours."""
        import lmdb

        if self._closed:
            raise DataError("the store is closed", where=str(self.folder), hint="open it again")
        try:
            yield
        except (lmdb.Error, OSError) as error:
            raise _explained(error, str(self.folder)) from error


class _Home:
    """One LMDB environment of this process. Transactions run side by side; resizing and closing wait for all."""

    def __init__(self, folder: Path, map_bytes: int, sync: bool) -> None:
        import lmdb

        self.folder = folder
        self.users = 0
        self._changes = 0
        self.databases: dict[str, Any] = {}  # handles by name, opened once
        self._opening = threading.Lock()
        self._door = threading.Condition()
        self._inside, self._waiting, self._closed = 0, 0, False
        self._resized, self._full = lmdb.MapResizedError, lmdb.MapFullError
        folder.mkdir(parents=True, exist_ok=True)
        self.environment: Any = lmdb.open(
            str(folder), map_size=map_bytes, max_dbs=DATABASES, max_readers=READERS, metasync=False, sync=sync,
        )  # fmt: skip

    @contextmanager
    def _shared(self) -> Iterator[None]:
        with self._door:
            while self._inside < 0 or self._waiting:
                self._door.wait()
            if self._closed:
                raise DataError("the store is closed", where=str(self.folder), hint="open it again")
            self._inside += 1
        try:
            yield
        finally:
            with self._door:
                self._inside -= 1
                self._door.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._door:
            self._waiting += 1  # nobody else comes in
            while self._inside:
                self._door.wait()
            self._waiting -= 1
            self._inside = -1
        try:
            yield
        finally:
            with self._door:
                self._inside = 0
                self._door.notify_all()

    def look(self, work: Callable[[Any], T], buffers: bool = False) -> T:
        """Run the work in a snapshot."""
        while True:
            try:
                with self._shared(), self.environment.begin(buffers=buffers) as txn:
                    return work(txn)
            except self._resized:  # the writer is another process and has grown the map
                with self._alone():
                    self.environment.set_mapsize(0)

    def change(self, work: Callable[[Any], T]) -> T:
        """Run the work in a write transaction: all of it, or nothing."""
        while True:
            try:
                with self._shared(), self.environment.begin(write=True) as txn:
                    return work(txn)
            except self._resized:
                with self._alone():
                    self.environment.set_mapsize(0)
            except self._full:
                with self._alone():
                    self.environment.set_mapsize(2 * self.environment.info()["map_size"])

    def open(self, names: Iterable[str]) -> None:
        """Open databases by name, or make them. Handles opened while only reading would not last."""

        def work(txn: Any) -> dict[str, Any]:
            missing = [name for name in names if name not in self.databases]
            return {name: self.environment.open_db(name.encode(), txn=txn) for name in missing}

        with self._opening:
            self.databases.update(self.change(work))

    def check_readers(self) -> None:
        """Now and then, free the places of readers that were killed: what they read could not be used again."""
        self._changes += 1
        if self._changes % CHECK == 1:
            with self._shared():
                self.environment.reader_check()

    def close(self) -> None:
        with self._alone():
            self._closed = True
            self.environment.close()


_HOMES: dict[Path, _Home] = {}  # LMDB allows a process one environment a file
_ENTRY = threading.Lock()


def _open(folder: Path, map_bytes: int, sync: bool) -> _Home:
    try:
        import lmdb
    except ImportError:
        what = "lmdb is not installed"
        raise ConfigError(what, where="serve.store", hint="pip install 'shortlist[serve]'") from None
    with _ENTRY:
        home = _HOMES.get(folder)
        if home is None:
            try:
                home = _HOMES[folder] = _Home(folder, map_bytes, sync)
            except (lmdb.Error, OSError) as error:
                raise _explained(error, str(folder)) from error
        home.users += 1
        return home


def _let_go(home: _Home) -> None:
    with _ENTRY:
        home.users -= 1
        if not home.users:
            del _HOMES[home.folder]
            home.close()


def mended(folder: Path, fingerprint: str, why: DamagedError) -> Lmdb:
    """A store in place of one that is damaged, which is set aside as `data.mdb.damaged`. Raises `why` while somebody
    writes it."""
    with (folder / WRITER).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise why from None
        try:
            return Lmdb(folder, fingerprint)  # another process was faster
        except DamagedError as error:
            # who has the old file open stays with it, and with its table of readers
            for name in ("data.mdb", "lock.mdb"):
                with suppress(FileNotFoundError):
                    os.replace(folder / name, folder / f"{name}.damaged")
            LOG.warning("%s: %s; set aside as data.mdb.damaged, and filled anew", folder, error.what)
        return Lmdb(folder, fingerprint)


def remove(folder: Path) -> bool:
    """Delete a store, unless somebody writes it: then False. Readers go on with what they have open."""
    with (folder / WRITER).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(folder)
    return True


def _packed(keys: NDArray[np.int64]) -> list[bytes]:
    """Keys [K] as 8 bytes each, big-endian: their order is that of the keys."""
    data = keys.astype(">i8").tobytes()
    return [data[at : at + 8] for at in range(0, len(data), 8)]


def _decoded(data: bytes | memoryview | None, where: str) -> _Meta | None:
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=_Meta)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(where, str(error)) from None


def _damaged(where: str, why: str) -> DamagedError:
    hint = "delete the folder, then run `shortlist backfill`"
    return DamagedError(f"not a store, or a damaged one: {why}", where=where, hint=hint)


def _explained(error: Exception, where: str) -> DataError:
    import lmdb

    number = error.errno if isinstance(error, OSError) else (error.args[1] if len(error.args) > 1 else None)
    told = str(error)
    if number in FULL or any(os.strerror(code) in told for code in FULL):
        what = "the disk is full; nothing was changed"
        return DataError(what, where=where, hint="free some space: what was missed follows from the log")
    if isinstance(error, (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)):
        return _damaged(where, told)
    return DataError(f"the store cannot be used: {told}", where=where, hint="check the disk and permissions")
