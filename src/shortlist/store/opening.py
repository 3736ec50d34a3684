"""From the words of `[serve] store` to a store: `memory:`, `lmdb:`, `lmdb:PATH`, `redis://HOST:PORT/DB`."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

from shortlist.errors import ConfigError
from shortlist.store.blobs import Blobs

__all__ = ["open_store", "shared"]

FORMS = "write memory:, lmdb:, lmdb:PATH or redis://HOST:PORT/DB"
DAY_MS = 86_400_000


def open_store(words: str, home: Path, fingerprint: str, *, write: bool) -> Blobs:
    """The store of a fingerprint. `home` is the project's `var/`; a PATH counts from the folder of the project.

    With `write` it is claimed at once: raises DataError while another process writes it. Raises ConfigError for words
    that mean no store, ArtifactError where a store of another fingerprint lies. `redis://...?ttl_days=N` lets the whole
    store go when nothing was written for so long.
    """
    kind, colon, rest = words.partition(":")
    store: Blobs
    if words == "memory:":
        from shortlist.store.memory import Memory

        store = Memory(fingerprint)
    elif kind + colon == "lmdb:" and not rest.startswith("//"):
        from shortlist.store.lmdb import Lmdb

        store = Lmdb((home.parent / rest if rest else home / "store") / fingerprint[:12], fingerprint)
    elif kind in ("redis", "rediss"):
        from shortlist.store.redis import Redis

        url, ttl_ms = _redis(words)
        store = Redis(url, fingerprint, ttl_ms=ttl_ms)
    else:
        raise ConfigError(f"no store is called {words!r}", where="serve.store", hint=FORMS)
    if write:
        try:
            store.claim()
        except BaseException:
            store.close()
            raise
    return store


def shared(words: str) -> bool:
    """Whether other processes can have the store too."""
    return words != "memory:"


def _redis(words: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(words)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"not an address: {error}", where="serve.store", hint=FORMS) from None
    asked = parse_qs(parts.query, keep_blank_values=True)
    days = asked.pop("ttl_days", [""])[0]
    whole = parts.path in ("", "/") or parts.path[1:].isdecimal()
    if not host or asked or not whole or not (days.isdecimal() or "ttl_days" not in parts.query):
        told = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        hint = "write redis://HOST:PORT/DB, or redis://HOST:PORT/DB?ttl_days=30"
        raise ConfigError(f"not the address of a Redis: {told!r}", where="serve.store", hint=hint)
    return urlunsplit(parts._replace(query="")), int(days) * DAY_MS if days else None
