"""Lists of recall channels in a store: a table a channel, versioned, switched in one step. M keys, K asked.

Namespace `lists.CHANNEL` holds under key 0 which versions there are and where; the rows of each lie in a namespace of
their own, `lists.CHANNEL/PLACE`, one blob a key: its items (int64), then their scores (float32), 12 bytes an item.
The version that is read and the one before it are kept, so that `rollback` restores earlier answers. A store of lists
is one of its own (`fingerprint`): its writer is who publishes, not who follows the log.

Lists whose keys are users stay with the release: an erased user is taken out of its files, and of no store.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Artifact, Release
from shortlist.errors import ArtifactError, DataError
from shortlist.forms import Lists
from shortlist.store.blobs import Blobs

__all__ = [
    "Kept", "Table", "fingerprint", "kept", "publish", "publish_release", "published", "rollback", "tables",
    "versions",
]  # fmt: skip

PREFIX = "lists."
PLACES = range(3)  # two versions are kept, and one place is there to write the next to
SOME = 20_000  # rows of one transaction
POINTER, NOTHING = np.array([0], dtype=np.int64), np.zeros(0, dtype=np.int64)
ITEM, SCORE = 8, 4  # bytes

Ints = NDArray[np.int64]


class Version(msgspec.Struct, frozen=True):
    """A published table. `labels` names lists by key; after `expires_ms` they are no longer told."""

    name: str
    place: int
    rows: int
    labels: dict[str, int] = {}
    expires_ms: int | None = None


class Pointer(msgspec.Struct, frozen=True):
    """Versions in the order published, and the one that is read."""

    current: str
    versions: tuple[Version, ...]

    def of(self, name: str) -> Version | None:
        return next((version for version in self.versions if version.name == name), None)


class Kept(NamedTuple):
    """A version of a channel's lists in a store: how many there are, the bytes of their rows, and whether it is read
    by who names no version."""

    channel: str
    version: str
    current: bool
    rows: int
    bytes: int
    expires_ms: int | None


def fingerprint(log: str) -> str:
    """What the lists of a project's store mean: keys of its log (`Log.identity`), which outlive a fresh import."""
    return hashlib.sha256(f"lists 1 {log.partition('.')[0]}".encode()).hexdigest()


def publish(
    blobs: Blobs,
    channel: str,
    lists: Lists,
    version: str,
    *,
    now: int,
    ttl_ms: int | None = None,
    keep: int = 200,
    stay: str | None = None,
) -> None:
    """Write the lists, cut at `keep` items each, and switch the channel to them in one step. Beside them the version
    `stay` is kept, where that is there, else the one that was current.

    Until then nobody sees any of it, and a publication that breaks off leaves the channel as it was. With `ttl_ms` the
    lists are told no longer than that. Raises DataError when the version is there already.
    """
    blobs.claim()
    before = _pointer(blobs, channel)
    if before and before.of(version):
        what = f"version {version!r} of {channel} is published already"
        raise DataError(what, where="lists", hint="name the new one otherwise, or roll back to it")
    held = (before.of(stay or "") or before.of(before.current)) if before else None
    stays = () if held is None else (held,)
    place = next(place for place in PLACES if place not in [v.place for v in (before.versions if before else ())])
    for start in range(0, max(1, len(lists)), SOME):
        rows = [_packed(lists, n, keep) for n in range(start, min(start + SOME, len(lists)))]
        changes = {_space(channel, place): (lists.keys[start : start + SOME], rows)}
        blobs.put(changes, blobs.offset, replace=not start)
    labels = dict(zip(lists.labels, lists.keys.tolist(), strict=True)) if lists.labels else {}
    made = Version(version, place, len(lists), labels, None if ttl_ms is None else now + ttl_ms)
    _point(blobs, channel, Pointer(version, (*stays, made)))
    for left in before.versions if before else ():
        if left not in stays:
            blobs.put({_space(channel, left.place): (NOTHING, [])}, blobs.offset, replace=True)


def published(artifact: Artifact) -> bool:
    """Whether a channel's form is lists that a store may hold."""
    form = artifact.manifest.form or {}
    return form.get("as") == "lists" and form.get("of") != "users"


def publish_release(
    release: Release, blobs: Blobs, *, now: int, ttl_ms: int | None = None, stay: str | None = None
) -> tuple[str, ...]:
    """Publish every channel of a release that is lists, whole, as the version of the release's id, and switch to it.

    A channel that has it already is switched alone. Beside it the version `stay` is kept: that of the release served
    until now. A channel that neither of the two has is dropped. Returns the channels that were written.
    """
    blobs.claim()
    written, mine = [], [e["name"] for e in release.document["channels"] if published(release.artifact(e["name"]))]
    for channel in mine:
        pointer = _pointer(blobs, channel)
        if pointer is None or pointer.of(release.id) is None:
            form = release.artifact(channel).form()
            assert isinstance(form, Lists)
            longest = int(np.diff(form.offsets).max(initial=0))
            publish(blobs, channel, form, release.id, now=now, ttl_ms=ttl_ms, keep=longest, stay=stay)
            written.append(channel)
        elif pointer.current != release.id:
            _point(blobs, channel, Pointer(release.id, pointer.versions))
    for channel in _channels(blobs):
        if channel not in mine and (stay is None or stay not in versions(blobs, channel)):
            names = (_space(channel), *(_space(channel, place) for place in PLACES))
            blobs.put({name: (NOTHING, []) for name in names}, blobs.offset, replace=True)
    return tuple(written)


def rollback(blobs: Blobs, channel: str) -> str:
    """Read the version before the current one again. Returns its name; raises ArtifactError when there is none."""
    blobs.claim()
    pointer = _pointer(blobs, channel)
    names = [version.name for version in pointer.versions] if pointer else []
    at = names.index(pointer.current) if pointer else 0
    if pointer is None or not at:
        raise ArtifactError("there is no earlier version", where=f"lists of {channel}", hint="publish another first")
    _point(blobs, channel, Pointer(names[at - 1], pointer.versions))
    return names[at - 1]


def versions(blobs: Blobs, channel: str) -> tuple[str, ...]:
    """Names of the versions there are, the current one first."""
    pointer = _pointer(blobs, channel)
    if pointer is None:
        return ()
    return (pointer.current, *(v.name for v in reversed(pointer.versions) if v.name != pointer.current))


def kept(blobs: Blobs) -> tuple[Kept, ...]:
    """Every version of every channel, the one that is current first."""
    sizes, out = blobs.sizes(), []
    for channel in _channels(blobs):
        pointer = _pointer(blobs, channel)
        for name in versions(blobs, channel):
            version = pointer.of(name) if pointer else None
            if pointer and version:
                held = sizes.get(_space(channel, version.place), (0, 0))[1]
                row = Kept(channel, name, name == pointer.current, version.rows, held, version.expires_ms)
                out.append(row)
    return tuple(out)


class Table:
    """The lists of a channel, read by key: those of one version, or of whichever is current. No list: an empty one.

    Every call reads the pointer and the rows in one moment: lists of two versions are never mixed. Threads may share
    it. `clock()` is the time in ms. Raises ArtifactError when the version asked for is not kept any more.
    """

    def __init__(self, blobs: Blobs, channel: str, clock: Callable[[], int], version: str | None = None) -> None:
        self.blobs = blobs
        self.channel = channel
        self.clock = clock
        self.version = version
        self._known: tuple[bytes | None, Pointer | None] = (None, None)

    def take(self, keys: Ints) -> Lists:
        """The lists of these keys [K], those there are."""
        return self._read(lambda version: (np.unique(keys[keys >= 0]), ()))

    def named(self, labels: Iterable[str]) -> Lists:
        """The lists of these labels, those there are."""
        asked = set(labels)

        def pick(version: Version) -> tuple[Ints, Sequence[str]]:
            found = sorted((version.labels[label], label) for label in asked & set(version.labels))
            return np.array([key for key, _ in found], dtype=np.int64), tuple(label for _, label in found)

        return self._read(pick)

    def _read(self, pick: Callable[[Version], tuple[Ints, Sequence[str]]]) -> Lists:
        while True:
            held, pointer = self._known
            version = None if pointer is None else pointer.of(self.version or pointer.current)
            keys, labels = (NOTHING, ()) if version is None else pick(version)
            asked = {_space(self.channel): POINTER}
            if version is not None:
                asked[_space(self.channel, version.place)] = keys
            found, _ = self.blobs.read(asked)
            blob = found[_space(self.channel)][0]
            if blob != held:  # switched since we last looked: ask again, by what it says now
                self._known = blob, _decoded(blob, self.channel)
            elif version is not None and not (version.expires_ms and self.clock() >= version.expires_ms):
                return _unpacked(keys, found[_space(self.channel, version.place)], labels, self.channel)
            elif version is None and self.version is not None:
                what = f"version {self.version!r} is not there"
                raise ArtifactError(what, where=f"lists of {self.channel}", hint="run `shortlist backfill`")
            else:
                return _unpacked(NOTHING, [], (), self.channel)


def tables(release: Release, blobs: Blobs, clock: Callable[[], int]) -> Callable[[str], Table | None]:
    """A release's lists in a store by channel, None for a channel whose form stays with the release."""

    def of(channel: str) -> Table | None:
        return Table(blobs, channel, clock, release.id) if published(release.artifact(channel)) else None

    return of


def _space(channel: str, place: int | None = None) -> str:
    return PREFIX + channel if place is None else f"{PREFIX}{channel}/{place}"


def _channels(blobs: Blobs) -> list[str]:
    """Channels that have something. No name of a channel has a slash."""
    return sorted({name.removeprefix(PREFIX).partition("/")[0] for name in blobs.sizes() if name.startswith(PREFIX)})


def _pointer(blobs: Blobs, channel: str) -> Pointer | None:
    return _decoded(blobs.get(_space(channel), POINTER)[0], channel)


def _decoded(blob: bytes | None, channel: str) -> Pointer | None:
    try:
        return None if blob is None else msgspec.json.decode(blob, type=Pointer)
    except msgspec.MsgspecError as error:
        raise _damaged(channel, str(error)) from None


def _point(blobs: Blobs, channel: str, pointer: Pointer) -> None:
    blobs.put({_space(channel): (POINTER, [msgspec.json.encode(pointer)])}, blobs.offset)


def _packed(lists: Lists, n: int, keep: int) -> bytes:
    low = int(lists.offsets[n])
    high = min(int(lists.offsets[n + 1]), low + keep)
    return lists.items[low:high].astype("<i8").tobytes() + lists.scores[low:high].astype("<f4").tobytes()


def _unpacked(keys: Ints, rows: Sequence[bytes | None], labels: Sequence[str], channel: str) -> Lists:
    there = [n for n, row in enumerate(rows) if row is not None]
    held = [row for row in rows if row is not None]
    sizes = np.fromiter(map(len, held), dtype=np.int64, count=len(held))
    if bool((sizes % (ITEM + SCORE)).any()):
        raise _damaged(channel, "a row is cut off")
    counts = sizes // (ITEM + SCORE)
    cuts = (counts * ITEM).tolist()
    items = b"".join([row[:cut] for row, cut in zip(held, cuts, strict=True)])
    scores = b"".join([row[cut:] for row, cut in zip(held, cuts, strict=True)])
    return Lists(
        keys[there],
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.frombuffer(items, dtype="<i8").astype(np.int64),
        np.frombuffer(scores, dtype="<f4").astype(np.float32),
        tuple(labels[n] for n in there) if labels else (),
    )


def _damaged(channel: str, why: str) -> ArtifactError:
    return ArtifactError(f"damaged: {why}", where=f"lists of {channel}", hint="publish them again")
