"""From the words of `[serve] store` to a store: `memory:`, `lmdb:`, `lmdb:PATH`, `redis://HOST:PORT/DB`."""

from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

from shortlist.artifact import Release
from shortlist.config import ServeConfig
from shortlist.errors import ConfigError
from shortlist.store.blobs import Blobs
from shortlist.store.lists import fingerprint, publish_release

__all__ = ["folders", "open_lists", "open_store", "own", "publish_lists", "shared"]

FORMS = "write memory:, lmdb:, lmdb:PATH or redis://HOST:PORT/DB"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NAME = 12  # characters of a fingerprint that name a folder


def open_store(words: str, home: Path, fingerprint: str, *, write: bool) -> Blobs:
    """The store of a fingerprint. `home` is the project's `var/`; a PATH counts from the folder of the project.

    With `write` it is claimed at once: raises DataError while another process writes it. Raises ConfigError for words
    that mean no store, ArtifactError where a store of another fingerprint lies. One in the project's own folder that is
    damaged is set aside, and an empty one is there instead; elsewhere it is refused with a DataError.
    `redis://...?ttl_days=N` lets the whole store go when nothing was written for so long.
    """
    kind, colon, rest = words.partition(":")
    store: Blobs
    if "\0" in words:
        raise ConfigError(f"no store is called {words!r}", where="serve.store", hint=FORMS)
    if words == "memory:":
        from shortlist.store.memory import Memory

        store = Memory(fingerprint)
    elif kind + colon == "lmdb:" and not rest.startswith("//"):
        from shortlist.store.lmdb import DamagedError, Lmdb, mended

        folder = (home.parent / rest if rest else home / "store") / fingerprint[:NAME]
        try:
            store = Lmdb(folder, fingerprint)
        except DamagedError as error:
            if not own(words):
                raise
            store = mended(folder, fingerprint, error)
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


def open_lists(config: ServeConfig, home: Path, log: str, *, write: bool) -> Blobs | None:
    """The store of channels' lists of a log (`Log.identity`), None where `[serve] lists` leaves them in the release.

    It is beside the one of states, and is never let go for its age. Raises ConfigError for a store in memory.
    """
    if config.lists == "release":
        return None
    if not shared(config.store):
        what, hint = f"lists cannot be published to {config.store}", 'write store = "lmdb:", or lists = "release"'
        raise ConfigError(what, where="serve.lists", hint=hint)
    words = urlunsplit(urlsplit(config.store)._replace(query="")) if "?" in config.store else config.store
    return open_store(words, home, fingerprint(log), write=write)


def publish_lists(
    config: ServeConfig, home: Path, log: str, release: Release, *, now: int, stay: str | None
) -> tuple[str, ...]:
    """Bring a release's lists to the store, if they are served from there: before it becomes current. Those of the
    release `stay` are kept beside them. Returns the channels that were written.

    Raises DataError while the store cannot be had, or another process publishes.
    """
    blobs = open_lists(config, home, log, write=True)
    if blobs is None:
        return ()
    hours = config.lists_ttl_hours
    with closing(blobs):
        ttl_ms = None if hours is None else round(hours * HOUR_MS)
        return publish_release(release, blobs, now=now, ttl_ms=ttl_ms, stay=stay)


def folders(words: str, home: Path) -> dict[str, Path]:
    """Stores that lie in the project's own folder, by what their fingerprints begin with; none for other words."""
    if words != "lmdb:":
        return {}
    return {file.parent.name: file.parent for file in sorted((home / "store").glob("*/data.mdb"))}


def own(words: str) -> bool:
    """Whether nobody but this project can have the store."""
    return words in ("memory:", "lmdb:")


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
