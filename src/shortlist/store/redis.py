"""Blobs in Redis or Valkey: a hash a namespace, under a prefix that names the fingerprint.

What is read comes in one round trip, what is written in one MULTI/EXEC. A writer holds a lease, and every change is
guarded by a number that rises with each new writer: one that was thought dead cannot write between another's changes.
An entry takes its blob and some 130 bytes of Redis's memory (measured at blobs of 400, Redis 7.0). What survives a
restart is what Redis itself keeps (AOF or snapshots); a store that comes back older stands at an older offset, and the
log gives the rest.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.store.blobs import Change, check, lost, taken

__all__ = ["Redis"]

FORMAT = 1
CONNECT_S, ANSWER_S = 0.5, 2.0  # how long a connection, and an answer, may take
LEASE_MS = 10_000  # how long a writer that says nothing stays the writer
SOME = 10_000  # fields of one command


class Redis:
    """A store at `redis://HOST:PORT/DB`. With `ttl_ms` the whole store goes when nothing was written for that long."""

    def __init__(self, url: str, fingerprint: str, *, ttl_ms: int | None = None, lease_ms: int = LEASE_MS) -> None:
        try:
            import redis
        except ImportError:
            what = "redis is not installed"
            raise ConfigError(what, where="serve.store", hint="pip install 'shortlist[redis]'") from None
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        parts = urlsplit(url)
        self.where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without the password
        self.fingerprint = fingerprint
        self.ttl_ms = ttl_ms
        self.lease_ms = lease_ms
        self._me = secrets.token_hex(8).encode()
        self._token: bytes | None = None
        base = f"shortlist:{{{fingerprint[:12]}}}"  # the braces keep one store on one node of a cluster
        self._meta, self._writer, self._fence = f"{base}:meta", f"{base}:writer", f"{base}:fence"
        self._names = {side: f"{base}:names:{side}" for side in ("live", "aside")}
        self._places = {side: f"{base}:{side}:" for side in ("live", "aside")}
        # one more try on a new connection, at once: idle connections are cut by servers and what is between
        self._client: Any = redis.Redis.from_url(
            url, socket_connect_timeout=CONNECT_S, socket_timeout=ANSWER_S, retry=Retry(NoBackoff(), 1),
        )  # fmt: skip
        try:
            with self._errors():
                self._begin()
        except BaseException:
            self._client.close()
            raise

    def _begin(self) -> None:
        """Name a new store; refuse one that is not ours."""
        with self._client.pipeline(transaction=True) as pipe:
            self._name(pipe)
            pipe.hmget(self._meta, "fingerprint", "format")
            fingerprint, version = pipe.execute()[-1]
        if version != str(FORMAT).encode():
            hint = f"this version reads format {FORMAT}; use the version that wrote it, or another database"
            raise ArtifactError(f"unknown format {(version or b'').decode()}", where=self.where, hint=hint)
        if fingerprint != self.fingerprint.encode():
            what = f"a store of other features: {fingerprint[:12].decode()}, not {self.fingerprint[:12]}"
            raise ArtifactError(what, where=self.where, hint="use another database, then run `shortlist backfill`")

    def _name(self, pipe: Any) -> None:
        for field, value in (("fingerprint", self.fingerprint), ("format", FORMAT), ("offset", 0)):
            pipe.hsetnx(self._meta, field, value)
        if self.ttl_ms is not None:
            pipe.pexpire(self._meta, self.ttl_ms)

    # ------------------------------------------------------------------------------------------ reading

    @property
    def offset(self) -> int:
        return self.read({})[1]

    def get(self, namespace: str, keys: NDArray[np.int64]) -> list[bytes | None]:
        return self.read({namespace: keys})[0][namespace]

    def read(self, asked: Mapping[str, NDArray[np.int64]]) -> tuple[dict[str, list[bytes | None]], int]:
        some = {namespace: keys for namespace, keys in asked.items() if len(keys)}
        with self._errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.hget(self._meta, "offset")
            for namespace, keys in some.items():
                pipe.hmget(self._place(namespace), _packed(keys))
            offset, *blobs = pipe.execute()
        if offset is None:
            raise lost(self.where)
        found: dict[str, list[bytes | None]] = {namespace: [] for namespace in asked}
        found.update(zip(some, blobs, strict=True))
        return found, int(offset)

    def keys(self, namespace: str) -> NDArray[np.int64]:
        with self._errors():
            every = b"".join(self._client.hkeys(self._place(namespace)))
        return np.sort(np.frombuffer(every, dtype=">i8").astype(np.int64))

    def sizes(self) -> dict[str, tuple[int, int]]:
        with self._errors():
            names = sorted(name.decode() for name in self._client.smembers(self._names["live"]))
            return {name: size for name in names if (size := self._size(name))[0]}

    def _size(self, namespace: str) -> tuple[int, int]:
        fields, total = self._client.hkeys(self._place(namespace)), 0
        for start in range(0, len(fields), SOME):
            with self._client.pipeline(transaction=False) as pipe:
                for field in fields[start : start + SOME]:
                    pipe.hstrlen(self._place(namespace), field)
                total += sum(pipe.execute())
        return len(fields), total

    def _place(self, namespace: str, side: str = "live") -> str:
        return self._places[side] + namespace

    # ------------------------------------------------------------------------------------------ writing

    def claim(self) -> None:
        with self._errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.watch(self._writer)
            holder = pipe.get(self._writer)
            if holder is not None and holder != self._me:
                self._token = None
                raise taken(self.where)
            pipe.multi()
            if holder == self._me and self._token is not None:
                pipe.pexpire(self._writer, self.lease_ms)
                pipe.execute()
                return
            pipe.set(self._writer, self._me, px=self.lease_ms)
            self._name(pipe)
            pipe.incr(self._fence)
            self._token = str(pipe.execute()[-1]).encode()

    def put(self, changes: Mapping[str, Change], offset: int, *, replace: bool = False) -> None:
        check(changes)
        with self._change() as (pipe, live, _):
            for namespace, change in changes.items():
                self._write(pipe, "live", namespace, change, replace)
            self._stand(pipe, offset, live | set(changes))

    def stage(self, changes: Mapping[str, Change], *, first: bool = False) -> None:
        check(changes)
        with self._change() as (pipe, _, aside):
            if first:
                self._empty(pipe, "aside", aside)
            for namespace, change in changes.items():
                self._write(pipe, "aside", namespace, change, False)

    def adopt(self, offset: int) -> None:
        with self._change() as (pipe, live, aside):
            self._empty(pipe, "live", live)
            for namespace in aside:
                pipe.rename(self._place(namespace, "aside"), self._place(namespace))
                pipe.sadd(self._names["live"], namespace)
            pipe.unlink(self._names["aside"])
            self._stand(pipe, offset, aside)

    @contextmanager
    def _change(self) -> Iterator[tuple[Any, set[str], set[str]]]:
        """A transaction of ours, run at the end, and the namespaces that are read and laid aside. Two round trips."""
        from redis.exceptions import WatchError

        if self._token is None:
            self.claim()
        with self._errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.watch(self._fence)
            token = pipe.get(self._fence)
            if token != self._token:
                self._token = None
                raise lost(self.where) if token is None else taken(self.where)
            live, aside = ({name.decode() for name in pipe.smembers(self._names[side])} for side in ("live", "aside"))
            aside = {name for name in aside if pipe.exists(self._place(name, "aside"))}
            pipe.multi()
            yield pipe, live, aside
            pipe.set(self._writer, self._me, px=self.lease_ms)
            try:
                pipe.execute()
            except WatchError:
                self._token = None
                raise taken(self.where) from None

    def _write(self, pipe: Any, side: str, namespace: str, change: Change, replace: bool) -> None:
        place = self._place(namespace, side)
        if replace:
            pipe.unlink(place)
        fields, blobs = _packed(change[0]), change[1]
        gone = [field for field, blob in zip(fields, blobs, strict=True) if blob is None]
        kept = [part for pair in zip(fields, blobs, strict=True) if pair[1] is not None for part in pair]
        for start in range(0, len(gone), SOME):
            pipe.hdel(place, *gone[start : start + SOME])
        for start in range(0, len(kept), 2 * SOME):
            pipe.execute_command("HSET", place, *kept[start : start + 2 * SOME])
        if kept:
            pipe.sadd(self._names[side], namespace)

    def _empty(self, pipe: Any, side: str, names: set[str]) -> None:
        pipe.unlink(self._names[side], *(self._place(name, side) for name in names))

    def _stand(self, pipe: Any, offset: int, names: set[str]) -> None:
        pipe.hset(self._meta, "offset", offset)
        if self.ttl_ms is not None:
            for place in (self._meta, self._fence, self._names["live"], *map(self._place, names)):
                pipe.pexpire(place, self.ttl_ms)

    def leave(self) -> None:
        from redis import exceptions

        token, self._token = self._token, None
        if token is None:
            return
        try:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.watch(self._writer)
                if pipe.get(self._writer) == self._me:
                    pipe.multi()
                    pipe.delete(self._writer)
                    pipe.execute()
        except exceptions.RedisError:
            pass  # the lease ends by itself

    def close(self) -> None:
        self.leave()
        self._client.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Redis's errors as ours."""
        from redis import exceptions

        try:
            yield
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            hint = "start it, or correct serve.store; what was missed follows from the log"
            raise DataError(f"cannot reach {self.where}: {error}", where="store", hint=hint) from error
        except exceptions.OutOfMemoryError as error:
            what, hint = "Redis has no memory left; nothing was changed", "raise its maxmemory"
            raise DataError(what, where=self.where, hint=hint) from error
        except exceptions.RedisError as error:
            raise DataError(f"Redis refuses: {error}", where=self.where, hint="check its log and rights") from error


def _packed(keys: NDArray[np.int64]) -> list[bytes]:
    data = keys.astype(">i8").tobytes()
    return [data[at : at + 8] for at in range(0, len(data), 8)]
