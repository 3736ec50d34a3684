"""Forms of recall channels in a store: a table a form, versioned, switched in one step. M keys, K asked, D width.

A table is called as its channel, that of a form beside the channel's own `CHANNEL/NAME`. Namespace `lists.TABLE` holds
under key 0 which versions there are and where; the rows of each lie in a namespace of their own, `lists.TABLE/PLACE`,
one blob a key: of a list its items (int64), then their scores (float32), 12 bytes an item; of a vector 4 D bytes. The
version that is read and the one before it are kept, so that `rollback` restores earlier answers. A store of lists is
one of its own (`fingerprint`): its writer is who publishes, not who follows the log.

A channel's lists are read by key, when they are asked for (`Table`); vectors, and forms beside, are read whole when a
release is opened (`whole`).

Tables whose keys are users say so in the pointer, and what they hold: `erase` takes users who were erased out of them.
Namespace `about` holds the number of the last erasure that was followed; a new version of such lists begins anew.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from shortlist.artifact import Artifact, Release
from shortlist.errors import ArtifactError, DataError
from shortlist.forms import Form, Lists, Metric, Vectors
from shortlist.index.lists import Elsewhere
from shortlist.store.blobs import Blobs

__all__ = [
    "Kept", "Table", "erase", "erased", "fingerprint", "kept", "publish", "publish_release", "published", "rollback",
    "tables", "versions", "whole",
]  # fmt: skip

PREFIX = "lists."
PLACES = range(3)  # two versions are kept, and one place is there to write the next to
SOME = 20_000  # rows of one transaction
POINTER, NOTHING = np.array([0], dtype=np.int64), np.zeros(0, dtype=np.int64)
ABOUT = "about"
ITEM, SCORE = 8, 4  # bytes

Ints = NDArray[np.int64]


class Version(msgspec.Struct, frozen=True):
    """A published table. `labels` names lists by key; after `expires_ms` they are no longer told. Where the keys are
    users, `users` says what their rows hold: items, users or vectors. Vectors have a `metric` and a `width`."""

    name: str
    place: int
    rows: int
    labels: dict[str, int] = {}
    expires_ms: int | None = None
    users: str = ""
    metric: Metric | None = None
    width: int = 0


class Pointer(msgspec.Struct, frozen=True):
    """Versions in the order published, and the one that is read."""

    current: str
    versions: tuple[Version, ...]

    def of(self, name: str) -> Version | None:
        return next((version for version in self.versions if version.name == name), None)


class Kept(NamedTuple):
    """A version of a table in a store: how many rows there are, their bytes, and whether it is read by who names no
    version."""

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
    form: Form,
    version: str,
    *,
    now: int,
    ttl_ms: int | None = None,
    keep: int = 200,
    stay: str | None = None,
    users: str = "",
) -> None:
    """Write the lists, cut at `keep` items each, or the vectors, and switch the table to them in one step. Beside them
    the version `stay` is kept, where that is there, else the one that was current.

    Until then nobody sees any of it, and a publication that breaks off leaves the table as it was. With `ttl_ms` they
    are told no longer than that. `users` says what rows hold whose keys are users: `items`, `users` or `vectors`.
    Raises DataError when the version is there already.
    """
    blobs.claim()
    before = _pointer(blobs, channel)
    if before and before.of(version):
        what = f"version {version!r} of {channel} is published already"
        raise DataError(what, where="lists", hint="name the new one otherwise, or roll back to it")
    held = (before.of(stay or "") or before.of(before.current)) if before else None
    stays = () if held is None else (held,)
    place = next(place for place in PLACES if place not in [v.place for v in (before.versions if before else ())])
    count, expires = len(form.keys), None if ttl_ms is None else now + ttl_ms
    for start in range(0, max(1, count), SOME):
        rows = [_packed(form, n, keep) for n in range(start, min(start + SOME, count))]
        changes = {_space(channel, place): (form.keys[start : start + SOME], rows)}
        blobs.put(changes, blobs.offset, replace=not start)
    if isinstance(form, Vectors):
        made = Version(version, place, count, {}, expires, users, form.metric, form.matrix.shape[1])
    else:
        labels = dict(zip(form.labels, form.keys.tolist(), strict=True)) if form.labels else {}
        made = Version(version, place, count, labels, expires, users)
    if users:  # made from files that may not have followed every erasure yet
        blobs.put({ABOUT: (POINTER, [None])}, blobs.offset)
    _point(blobs, channel, Pointer(version, (*stays, made)))
    for left in before.versions if before else ():
        if left not in stays:
            blobs.put({_space(channel, left.place): (NOTHING, [])}, blobs.offset, replace=True)


def published(artifact: Artifact) -> bool:
    """Whether a channel's form is lists, which are read by key."""
    return (artifact.manifest.form or {}).get("as") == "lists"


def _shapes(artifact: Artifact, channel: str) -> dict[str, Mapping[str, str]]:
    """What the forms of a channel are, by table."""
    own: dict[str, Mapping[str, str]] = {} if artifact.manifest.form is None else {channel: artifact.manifest.form}
    return own | {f"{channel}/{name}": shape for name, shape in artifact.manifest.beside.items()}


def publish_release(
    release: Release, blobs: Blobs, *, now: int, ttl_ms: int | None = None, stay: str | None = None
) -> tuple[str, ...]:
    """Publish every form of every channel of a release, whole, as the version of the release's id, and switch to it.

    A table that has it already is switched alone, and told as long as a new one. Beside it the version `stay` is kept:
    that of the release served until now. A table that neither of the two has is dropped. Returns the channels that were
    written.
    """
    blobs.claim()
    written: dict[str, None] = {}
    mine: set[str] = set()
    for channel in [entry["name"] for entry in release.document["channels"]]:
        artifact = release.artifact(channel)
        forms: dict[str, Form] = {}
        for name, shape in _shapes(artifact, channel).items():
            mine.add(name)
            pointer = _pointer(blobs, name)
            held = None if pointer is None else pointer.of(release.id)
            if pointer is None or held is None:
                if name != channel and name not in forms:
                    forms = {f"{channel}/{word}": form for word, form in artifact.beside().items()}
                form = artifact.form() if name == channel else forms[name]
                longest = int(np.diff(form.offsets).max(initial=0)) if isinstance(form, Lists) else 0
                holds = shape["holds"] if shape.get("of") == "users" else ""
                publish(blobs, name, form, release.id, now=now, ttl_ms=ttl_ms, keep=longest, stay=stay, users=holds)
                written[channel] = None
                continue
            told = msgspec.structs.replace(held, expires_ms=None if ttl_ms is None else now + ttl_ms)
            if pointer.current != release.id or told != held:
                others = tuple(told if version is held else version for version in pointer.versions)
                _point(blobs, name, Pointer(release.id, others))
    for name in _tables(blobs):
        if name not in mine and (stay is None or stay not in versions(blobs, name)):
            spaces = (_space(name), *(_space(name, place) for place in PLACES))
            blobs.put({space: (NOTHING, []) for space in spaces}, blobs.offset, replace=True)
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


def erased(blobs: Blobs) -> int:
    """The number of the last erasure that was followed, 0 before the first."""
    number = blobs.get(ABOUT, POINTER)[0]
    return 0 if number is None else int(number)


def erase(blobs: Blobs, users: Ints, number: int) -> int:
    """Take users [N] out of every version of lists whose keys are users: their own, and out of those of others. Returns
    how many rows went or changed; `number` is that of the last erasure. Safe to be broken off and to be repeated.
    """
    blobs.claim()
    gone, changed = np.unique(users), 0
    for channel in _tables(blobs):
        pointer = _pointer(blobs, channel)
        used = {version.place for version in (() if pointer is None else pointer.versions)}
        for place in set(PLACES) - used:  # a publication that broke off may have left something
            blobs.put({_space(channel, place): (NOTHING, [])}, blobs.offset, replace=True)
        if pointer is None or not any(version.users for version in pointer.versions):
            continue
        left = []
        for version in pointer.versions:
            rows = _erase(blobs, _space(channel, version.place), gone, version.users == "users") if version.users else 0
            changed += rows
            count = len(blobs.keys(_space(channel, version.place))) if rows else version.rows
            left.append(msgspec.structs.replace(version, rows=count))
        _point(blobs, channel, Pointer(pointer.current, tuple(left)))
    blobs.put({ABOUT: (POINTER, [b"%d" % number])}, blobs.offset)
    return changed


def _erase(blobs: Blobs, space: str, gone: Ints, held: bool) -> int:
    """Rows of a namespace that went, or that were written again as they held one of those who are gone."""
    every, changed = blobs.keys(space), 0
    own = every[np.isin(every, gone)]
    others = every[~np.isin(every, gone)] if held else NOTHING
    if len(own):
        blobs.put({space: (own, [None] * len(own))}, blobs.offset)
    for start in range(0, len(others), SOME):
        keys = others[start : start + SOME]
        lists = _unpacked(keys, blobs.get(space, keys), (), space)
        owners = np.repeat(np.arange(len(lists)), np.diff(lists.offsets))
        out = np.isin(lists.items, gone)
        some = np.unique(owners[out])
        if len(some):
            sizes = np.bincount(owners[~out], minlength=len(lists))
            rest = Lists(
                lists.keys, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
                lists.items[~out], lists.scores[~out],
            )  # fmt: skip
            rows = [_packed(rest, n, int(sizes[n])) if sizes[n] else None for n in some.tolist()]
            blobs.put({space: (lists.keys[some], rows)}, blobs.offset)
        changed += len(some)
    return changed + len(own)


def versions(blobs: Blobs, channel: str) -> tuple[str, ...]:
    """Names of the versions there are, the current one first."""
    pointer = _pointer(blobs, channel)
    if pointer is None:
        return ()
    return (pointer.current, *(v.name for v in reversed(pointer.versions) if v.name != pointer.current))


def kept(blobs: Blobs) -> tuple[Kept, ...]:
    """Every version of every table, the one that is current first."""
    sizes, out = blobs.sizes(), []
    for channel in _tables(blobs):
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
                raise _absent(self.version, self.channel)
            else:
                return _unpacked(NOTHING, [], (), self.channel)


def whole(blobs: Blobs, name: str, version: str, now: int) -> Form:
    """All of a table's version, as it was published; nothing of one that has expired. All of one version, though it is
    read in parts: where the table changes meanwhile, it is read again.

    Raises ArtifactError when the version is not kept any more, or rows of it are missing.
    """
    while True:
        told = blobs.get(_space(name), POINTER)[0]
        pointer = _decoded(told, name)
        held = None if pointer is None else pointer.of(version)
        if held is None:
            raise _absent(version, name)
        space = _space(name, held.place)
        over = held.expires_ms is not None and now >= held.expires_ms
        keys = NOTHING if over else blobs.keys(space)
        rows: list[bytes | None] = []
        for start in range(0, max(1, len(keys)), SOME):
            found, _ = blobs.read({_space(name): POINTER, space: keys[start : start + SOME]})
            if found[_space(name)][0] != told:
                break
            rows += found[space]
        else:
            there = np.fromiter((row is not None for row in rows), dtype=bool, count=len(rows))
            if not over and not held.users and int(there.sum()) != held.rows:
                raise _damaged(name, f"{int(there.sum())} of {held.rows} rows are there")
            if held.metric is not None:
                return _vectors(keys[there], rows, held.metric, held.width, name)
            labels = {key: label for label, key in held.labels.items()}
            return _unpacked(keys, rows, [labels[key] for key in keys.tolist()] if labels else (), name)


def tables(release: Release, blobs: Blobs, clock: Callable[[], int]) -> Callable[[str], Elsewhere]:
    """A release's forms in a store, by channel: its lists to be read by key, all else read now."""

    def of(channel: str) -> Elsewhere:
        artifact, now = release.artifact(channel), clock()
        by_key = Table(blobs, channel, clock, release.id) if published(artifact) else None
        form = whole(blobs, channel, release.id, now) if by_key is None else by_key
        return Elsewhere(form, {n: whole(blobs, f"{channel}/{n}", release.id, now) for n in artifact.manifest.beside})

    return of


def _space(channel: str, place: int | None = None) -> str:
    return PREFIX + channel if place is None else f"{PREFIX}{channel}/{place}"


def _tables(blobs: Blobs) -> list[str]:
    """Tables that have something. No channel has a slash in its name, no form beside it a number for one."""
    held = [name.removeprefix(PREFIX).split("/") for name in blobs.sizes() if name.startswith(PREFIX)]
    return sorted({"/".join(parts[:-1] if parts[-1].isdecimal() and parts[1:] else parts) for parts in held})


def _pointer(blobs: Blobs, channel: str) -> Pointer | None:
    return _decoded(blobs.get(_space(channel), POINTER)[0], channel)


def _decoded(blob: bytes | None, channel: str) -> Pointer | None:
    try:
        return None if blob is None else msgspec.json.decode(blob, type=Pointer)
    except msgspec.MsgspecError as error:
        raise _damaged(channel, str(error)) from None


def _point(blobs: Blobs, channel: str, pointer: Pointer) -> None:
    blobs.put({_space(channel): (POINTER, [msgspec.json.encode(pointer)])}, blobs.offset)


def _packed(form: Form, n: int, keep: int) -> bytes:
    if isinstance(form, Vectors):
        vector: bytes = form.matrix[n].astype("<f4").tobytes()
        return vector
    low = int(form.offsets[n])
    high = min(int(form.offsets[n + 1]), low + keep)
    return form.items[low:high].astype("<i8").tobytes() + form.scores[low:high].astype("<f4").tobytes()


def _vectors(keys: Ints, rows: Sequence[bytes | None], metric: Metric, width: int, name: str) -> Vectors:
    held = [row for row in rows if row is not None]
    if any(len(row) != SCORE * width for row in held):
        raise _damaged(name, "a row is cut off")
    matrix = np.frombuffer(b"".join(held), dtype="<f4").astype(np.float32).reshape(len(held), width)
    return Vectors(keys, matrix, metric)


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


def _absent(version: str, channel: str) -> ArtifactError:
    what = f"version {version!r} is not there"
    return ArtifactError(what, where=f"lists of {channel}", hint="run `shortlist backfill`")
