"""A trained thing on disk, and releases of them: manifest + arrays + tables, checksummed, no pickle, no code.

An artifact is a folder: `manifest.json`, arrays as `.npy`, frames as Arrow IPC, graphs as `.onnx`, texts as `.txt`. A
release is a folder `<releases>/<id>/` that is an artifact itself (keys, profiles, tables, the document) and holds one
artifact per part under `artifacts/`; `current` is a symlink to the one that is live. Everything is written beside
its place, synced, and renamed into it, so that a reader sees a whole one or none.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist import __version__
from shortlist.config import build, frozen, nearest, plain
from shortlist.errors import ArtifactError, ConfigError
from shortlist.forms import Built, Form, Lists, Metric, Vectors
from shortlist.schema import Catalogue, Keys, Profiles, Schema, Vocabulary

__all__ = [
    "FORMAT", "Manifest", "FileEntry", "Artifact", "save", "amend", "rewrite", "load", "check_fits",
    "Releases", "Release", "Summary", "Check",
]  # fmt: skip

LOG = logging.getLogger("shortlist.artifact")
FORMAT = 1
MANIFEST = "manifest.json"
MAPPED_ABOVE = 64 << 20  # bytes of an array above which it is mapped: shared by processes, read as needed
MAX_MANIFEST_BYTES = 64 << 20
FILE = re.compile(r"[A-Za-z0-9_~%-][A-Za-z0-9_.~%-]*")
REWRITING = ".rewriting-"
AT_FDCWD, EXCHANGE = -100, 2  # of renameat2(2)
AGAIN = "train and publish again"


# ---------------------------------------------------------------------------------------------- manifest


@frozen
class FileEntry:
    """What a file must be."""

    sha256: str
    bytes: int


@frozen
class Manifest:
    """What an artifact is, and what every file of it must be. Plain tables: JSON, sealed by its own checksum.

    `reads` and `fingerprint` say which parts of a schema it depends on; `snapshot` which data it was made
    from; `code` the version of this package; `form` what its form arrays become (`{"as": "lists"}`),
    `beside` the same of further forms by name; `{"of": "users"}` are lists whose keys are users.
    """

    format: int
    kind: str
    name: str
    config: dict[str, Any]
    reads: tuple[str, ...]
    fingerprint: str
    snapshot: str
    code: str
    metrics: dict[str, Any]
    created_ms: int
    form: dict[str, str] | None
    files: dict[str, FileEntry]
    beside: dict[str, dict[str, str]] = field(default_factory=dict)


def _refuse(what: str, where: str | Path, hint: str = AGAIN) -> ArtifactError:
    return ArtifactError(what, where=str(where), hint=hint)


def _seal(table: Mapping[str, Any]) -> str:
    # The order of keys is content: the codes of actions are their places in the schema.
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def _jsonable(value: Any, where: str) -> Any:
    """The value as JSON reads it back. Raises ArtifactError for NaN, arrays and objects."""

    def scalar(inner: Any) -> Any:
        if isinstance(inner, np.generic):
            return inner.item()
        raise TypeError(f"{type(inner).__name__} is not a plain value")

    try:
        return json.loads(json.dumps(plain(value), allow_nan=False, default=scalar))
    except (TypeError, ValueError) as error:
        raise _refuse(f"not plain JSON: {error}", where, "keep tables, lists, text and finite numbers") from None


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    try:
        if not stat.S_ISREG(file.lstat().st_mode) or file.lstat().st_size > MAX_MANIFEST_BYTES:
            raise _refuse("not a manifest: a link, a folder or too large", file)
        table = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise _refuse("no artifact here", folder, "name a folder that holds manifest.json") from None
    except OSError as error:
        raise _refuse(f"cannot be read: {error.strerror}", file, "check permissions and the disk") from None
    except (ValueError, RecursionError):
        raise _refuse("the manifest is damaged: not JSON", file) from None
    if not isinstance(table, dict):
        raise _refuse("the manifest is damaged: not a table", file)
    version = table.get("format")
    if version != FORMAT:
        hint = f"this version reads format {FORMAT}; use the version that wrote it, or {AGAIN}"
        raise _refuse(f"unknown format {version!r}", file, hint)
    seal = table.pop("seal", None)
    if seal != _seal(table):
        raise _refuse("the manifest is damaged: its checksum differs", file)
    try:
        return build(Manifest, table, MANIFEST)
    except ConfigError as error:
        raise _refuse(f"the manifest is damaged: {error.what}", f"{folder}/{error.where}", AGAIN) from None


def check_fits(manifest: Manifest, schema: Schema, vocabularies: Mapping[str, Vocabulary] | None = None) -> None:
    """Raises ArtifactError when the schema has changed in the parts this artifact reads."""
    names = ", ".join(manifest.reads) or "nothing"
    hint = f"restore these parts of [schema], or {AGAIN}"
    try:
        found = schema.fingerprint(manifest.reads, vocabularies)
    except ArtifactError as error:
        what = f"{manifest.name} was trained on another schema: {error.what}"
        raise _refuse(what, "schema", hint) from None
    if found != manifest.fingerprint:
        what = f"{manifest.name} was trained on another schema: one of {names} has changed"
        raise _refuse(what, "schema", hint)


# ---------------------------------------------------------------------------------------------- files


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256")
        return FileEntry(digest.hexdigest(), handle.tell())


def _file(name: str, suffix: str) -> str:
    """A safe file name for any name."""
    safe = quote(name, safe="")
    return f"{'%2E' + safe[1:] if safe.startswith('.') else safe}.{suffix}"


def _write_array(path: Path, array: NDArray[Any]) -> None:
    if array.dtype.hasobject:
        raise _refuse("an array holds Python objects", path.name, "save text and lists as a table")
    with path.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)
        handle.flush()
        os.fsync(handle.fileno())


def _write_table(path: Path, frame: pl.DataFrame) -> None:
    objects = [name for name, dtype in frame.schema.items() if dtype == pl.Object]
    if objects:
        what = f"columns hold Python objects: {', '.join(objects)}"
        raise _refuse(what, path.name, "give each column one plain type")
    frame.write_ipc(path, compression="uncompressed")
    _sync(path)


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    with path.open("w", encoding="ascii") as handle:
        json.dump({**table, "seal": _seal(table)}, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())


@contextlib.contextmanager
def _os_errors(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise _refuse(what, where, "check free space and permissions") from error


# ---------------------------------------------------------------------------------------------- artifact


class Artifact:
    """An artifact opened for reading. Large arrays are mapped, so that many processes share one copy of them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def names(self, suffix: str) -> list[str]:
        """File names with this suffix."""
        return sorted(name for name in self.manifest.files if name.endswith(f".{suffix}"))

    def _path(self, name: str, suffix: str) -> Path:
        file = _file(name, suffix)
        if file not in self.manifest.files:
            hint = nearest(file, self.names(suffix))
            raise _refuse(f"{self.manifest.name} has no {file}", self.folder, hint)
        return self.folder / file

    def array(self, name: str) -> NDArray[Any]:
        """One array, read-only: read where it is small, so that a file cut short later harms nobody; mapped above."""
        path = self._path(name, "npy")
        small = self.manifest.files[path.name].bytes <= MAPPED_ABOVE
        try:
            array = np.asarray(np.load(path, mmap_mode=None if small else "r", allow_pickle=False))
            array.flags.writeable = False
            return array
        except (OSError, ValueError, EOFError) as error:
            raise _refuse(f"not an array: {error}", path) from None

    def table(self, name: str) -> pl.DataFrame:
        """One frame."""
        path = self._path(name, "arrow")
        try:
            return pl.read_ipc(path.read_bytes())
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _refuse(f"not a table: {error}", path) from None

    def graph(self, name: str) -> bytes:
        """One ONNX graph as it was saved; whoever runs it parses it."""
        path = self._path(name, "onnx")
        try:
            return path.read_bytes()
        except OSError as error:
            raise _refuse(f"cannot be read: {error.strerror}", path, "check permissions and the disk") from None

    def text(self, name: str) -> str:
        """One text as it was saved."""
        path = self._path(name, "txt")
        try:
            return path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise _refuse(f"not a text: {error}", path) from None

    def form(self) -> Form:
        """The form it was saved with. Raises ArtifactError when it has none."""
        if self.manifest.form is None:
            raise _refuse(f"{self.manifest.name} has no form", self.folder, "read its arrays or tables")
        return self._form("form", self.manifest.form)

    def beside(self) -> dict[str, Form]:
        """The further forms it was saved with, by name."""
        return {name: self._form(f"beside.{name}", shape) for name, shape in self.manifest.beside.items()}

    def _form(self, name: str, shape: Mapping[str, str]) -> Form:
        if shape.get("of") == "users":
            frame = self.table(name)
            if shape.get("holds") == "vectors":
                width = frame.schema["vector"].shape[0]  # type: ignore[attr-defined]
                matrix = frame["vector"].explode().to_numpy().astype(np.float32).reshape(len(frame), width)
                return Vectors(frame["user"].to_numpy(), matrix, cast(Metric, shape.get("metric", "ip")))
            held = "other_user" if shape.get("holds") == "users" else "item"
            return Lists.ranked(frame["user"].to_numpy(), frame[held].to_numpy(), frame["score"].to_numpy())
        if shape.get("as") == "vectors":
            keys, matrix = self.array(f"{name}.keys"), self.array(f"{name}.matrix")
            return Vectors(keys, matrix, cast(Metric, shape.get("metric", "ip")))
        if shape.get("as") == "lists":
            columns = [self.array(f"{name}.{part}") for part in ("keys", "offsets", "items", "scores")]
            named = _file(f"{name}.labels", "arrow") in self.manifest.files
            labels = tuple(self.table(f"{name}.labels")["label"]) if named else ()
            return Lists(columns[0], columns[1], columns[2], columns[3], labels)
        raise _refuse(f"unknown form {shape.get('as')!r}", self.folder)


def _form_parts(
    name: str, form: Form, holds: str | None
) -> tuple[dict[str, str], dict[str, NDArray[Any]], dict[str, pl.DataFrame]]:
    if holds is not None and isinstance(form, Lists):
        columns: dict[str, NDArray[Any]] = {"user": np.repeat(form.keys, np.diff(form.offsets))}
        columns |= {"other_user" if holds == "users" else "item": form.items, "score": form.scores}
        return {"as": "lists", "of": "users", "holds": holds}, {}, {name: pl.DataFrame(columns)}
    if holds is not None and isinstance(form, Vectors):
        each = pl.Array(pl.Float32, form.matrix.shape[1])
        frame = pl.DataFrame({"user": form.keys, "vector": pl.Series(form.matrix, dtype=each)})
        return {"as": "vectors", "of": "users", "holds": holds, "metric": form.metric}, {}, {name: frame}
    if isinstance(form, Vectors):
        shape: dict[str, str] = {"as": "vectors", "metric": form.metric}
        return shape, {f"{name}.keys": form.keys, f"{name}.matrix": form.matrix}, {}
    arrays: dict[str, NDArray[Any]] = {
        f"{name}.keys": form.keys,
        f"{name}.offsets": form.offsets,
        f"{name}.items": form.items,
        f"{name}.scores": form.scores,
    }
    labels = pl.DataFrame({"label": pl.Series(form.labels, dtype=pl.String)})
    return {"as": "lists"}, arrays, {f"{name}.labels": labels} if form.labels else {}


def save(
    folder: str | Path,
    *,
    kind: str,
    name: str,
    form: Form | Built | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
    texts: Mapping[str, str] | None = None,
    config: Any = None,
    reads: Sequence[str] = (),
    fingerprint: str = "",
    snapshot: str = "",
    metrics: Mapping[str, Any] | None = None,
    created_ms: int,
    files: Callable[[Path], None] | None = None,
) -> Manifest:
    """Write an artifact beside its place, sync it, rename it; an artifact already there is replaced.

    `config` is a frozen config or plain tables; `metrics` must be finite; `files` writes further files into the folder
    it is given, of formats that others read (an index). Raises ArtifactError.
    """
    parts: dict[str, Any] = {"kind": kind, "name": name, "form": form, "arrays": arrays, "tables": tables}
    parts |= {"files": files, "texts": texts}
    parts |= {"config": config, "reads": reads, "fingerprint": fingerprint, "snapshot": snapshot, "metrics": metrics}
    return _replace(Path(folder), lambda scratch: _write(scratch, created_ms=created_ms, **parts))


def amend(folder: str | Path, *, config: Mapping[str, Any], graphs: Mapping[str, bytes]) -> Manifest:
    """Give an artifact these further keys of its config, and these ONNX graphs in place of those it has.

    All else stays as it is, byte for byte. Raises ArtifactError.
    """
    folder = Path(folder)
    old = load(folder)

    def write(scratch: Path) -> Manifest:
        for file in set(old.manifest.files) - set(old.names("onnx")):
            shutil.copyfile(folder / file, scratch / file, follow_symlinks=False)
            _sync(scratch / file)
        for name, graph in graphs.items():
            (scratch / _file(name, "onnx")).write_bytes(graph)
            _sync(scratch / _file(name, "onnx"))
        table = plain(old.manifest)
        table["config"] = old.manifest.config | _jsonable(config, f"{old.manifest.name}.config")
        return _seal_files(scratch, table)

    return _replace(folder, write)


def _retabled(scratch: Path, folder: Path, change: Callable[[str, pl.DataFrame], pl.DataFrame]) -> tuple[Manifest, int]:
    """Copy an artifact's files with its tables changed; also how many rows fewer there are. Files that stay as they are
    are links to those of the old one."""
    old = load(folder)
    lost = 0
    for file in old.manifest.files:
        name = unquote(file.removesuffix(".arrow"))
        if file.endswith(".arrow"):
            table = old.table(name)
            changed = change(name, table)
            if not changed.equals(table):
                lost += max(1, len(table) - len(changed))
                _write_table(scratch / file, changed)
                continue
        _link(folder / file, scratch / file)
    return _seal_files(scratch, plain(old.manifest)), lost


def rewrite(folder: str | Path, change: Callable[[str, pl.DataFrame], pl.DataFrame]) -> int:
    """`Releases.rewrite` for one artifact that belongs to no release."""
    folder = Path(folder)
    with _os_errors(folder):
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}-", dir=folder.parent))
        scratch.chmod(0o755)
        try:
            _, lost = _retabled(scratch, folder, change)
            if lost:
                _exchange(folder, scratch)
                _sync(folder.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return lost


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)
        _sync(target)


def _exchange(one: Path, other: Path) -> None:
    """Two folders of a place change names: in one step where the system can (Linux), else in three."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        names = [ctypes.c_char_p(os.fsencode(path)) for path in (one, other)]
        if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    aside = other.with_name(f"{other.name}-aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _replace(folder: Path, write: Callable[[Path], Manifest]) -> Manifest:
    """What `write` leaves in an empty folder beside this one takes its place."""
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise _refuse("this folder is not an artifact; it stays as it is", folder, "choose another folder")
    with _os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}-", dir=folder.parent))
        scratch.chmod(0o755)
        try:
            manifest = write(scratch)
            if folder.exists():
                # The old one steps aside for a moment: releases, not artifacts, are what servers read.
                aside = scratch.with_name(f"{scratch.name}-old")
                folder.rename(aside)
                scratch.rename(folder)
                shutil.rmtree(aside)
            else:
                scratch.rename(folder)
            _sync(folder.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _write(
    folder: Path,
    *,
    kind: str,
    name: str,
    form: Form | Built | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
    texts: Mapping[str, str] | None = None,
    config: Any = None,
    reads: Sequence[str] = (),
    fingerprint: str = "",
    snapshot: str = "",
    metrics: Mapping[str, Any] | None = None,
    created_ms: int,
    files: Callable[[Path], None] | None = None,
) -> Manifest:
    """Files of an artifact into an existing folder, the manifest last, all synced."""
    shape: dict[str, str] | None = None
    beside: dict[str, dict[str, str]] = {}
    form_arrays: dict[str, NDArray[Any]] = {}
    form_tables: dict[str, pl.DataFrame] = {}
    if form is not None:
        built = form if isinstance(form, Built) else Built(form)
        shape, form_arrays, form_tables = _form_parts("form", built.form, built.users.get("form"))
        for label, other in built.beside.items():
            beside[label], more_arrays, more_tables = _form_parts(f"beside.{label}", other, built.users.get(label))
            form_arrays, form_tables = form_arrays | more_arrays, form_tables | more_tables
    table = {
        "format": FORMAT,
        "kind": kind,
        "name": name,
        "config": _jsonable(config if config is not None else {}, f"{name}.config"),
        "reads": sorted(set(reads)),
        "fingerprint": fingerprint,
        "snapshot": snapshot,
        "code": __version__,
        "metrics": _jsonable(metrics or {}, f"{name}.metrics"),
        "created_ms": created_ms,
        "form": shape,
        "beside": beside,
    }
    for label, array in {**(arrays or {}), **form_arrays}.items():
        _write_array(folder / _file(label, "npy"), np.asarray(array))
    for label, frame in {**(tables or {}), **form_tables}.items():
        _write_table(folder / _file(label, "arrow"), frame)
    for label, text in (texts or {}).items():
        (folder / _file(label, "txt")).write_bytes(text.encode())
        _sync(folder / _file(label, "txt"))
    if files is not None:
        _further(folder, files)
    return _seal_files(folder, table)


def _further(folder: Path, files: Callable[[Path], None]) -> None:
    """What `files` writes, made in a folder of its own, so that it replaces nothing."""
    place = Path(tempfile.mkdtemp(dir=folder))
    files(place)
    for path in sorted(place.iterdir()):
        if (folder / path.name).exists() or not FILE.fullmatch(path.name) or path.name == MANIFEST:
            raise _refuse(f"two files are called {path.name!r}", folder, "rename one of its arrays or tables")
        _sync(path)
        path.rename(folder / path.name)
    place.rmdir()


def _seal_files(folder: Path, table: dict[str, Any]) -> Manifest:
    """The manifest of all files that lie in the folder."""
    files = {path.name: _entry(path) for path in sorted(folder.iterdir()) if path.is_file()}
    table["files"] = plain(files)
    _write_json(folder / MANIFEST, table)
    _sync(folder)
    return build(Manifest, table, MANIFEST)


def load(folder: str | Path, *, verify: bool = True) -> Artifact:
    """Open an artifact. `verify` compares every checksum; names, kinds and sizes are always checked.

    Raises ArtifactError naming the file that is missing, cut, changed, a link, or outside the folder.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    for name, entry in manifest.files.items():
        if not FILE.fullmatch(name) or name == MANIFEST:
            raise _refuse(f"unsafe file name {name!r}", folder / MANIFEST)
        path = folder / name
        try:
            found = path.lstat()
        except OSError:
            raise _refuse("a file is missing", path) from None
        if not stat.S_ISREG(found.st_mode):
            raise _refuse("not a plain file", path)
        if found.st_size != entry.bytes:
            raise _refuse(f"has {found.st_size} bytes, the manifest says {entry.bytes}", path, AGAIN)
        try:
            if verify and _entry(path).sha256 != entry.sha256:
                raise _refuse("the content has changed since it was written", path, AGAIN)
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            raise _refuse(what, path, "check permissions and the disk") from None
    return Artifact(folder, manifest)


# ---------------------------------------------------------------------------------------------- profiles


def _profiles_frame(profiles: Profiles, where: str) -> pl.DataFrame:
    columns = [pl.Series("key", profiles.keys, dtype=pl.Int64)]
    for name, values in profiles.columns.items():
        try:
            columns.append(pl.Series(f".{name}", values.tolist() if values.dtype == object else values, strict=True))
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
            hint = "give each field one type: text, numbers, or lists of one of them"
            raise _refuse(f"the values have several types: {error}", f"{where}.{name}", hint) from None
        if columns[-1].dtype == pl.Object:
            hint = "give each field one type: text, numbers, or lists of one of them"
            raise _refuse("the values are Python objects", f"{where}.{name}", hint)
    return pl.DataFrame(columns)


def _profiles(frame: pl.DataFrame, objects: Sequence[str]) -> Profiles:
    columns: dict[str, NDArray[Any]] = {}
    for series in frame.drop("key"):
        name = series.name[1:]
        if name in objects:
            values = np.empty(len(series), dtype=object)
            values[:] = series.to_list()
            columns[name] = values
        else:
            columns[name] = series.to_numpy()
    return Profiles(frame["key"].to_numpy(), columns)


def _objects(profiles: Profiles) -> list[str]:
    return [name for name, values in profiles.columns.items() if values.dtype.kind in "OUS"]


# ---------------------------------------------------------------------------------------------- releases


@dataclass(frozen=True)
class Summary:
    """One line of the list of releases. `problem` says what is wrong with a manifest that cannot be read."""

    id: str
    created_ms: int
    metrics: Mapping[str, Any]
    current: bool
    problem: str = ""


class Release:
    """A release opened for reading: all a server needs, of one version. Needs no training data."""

    def __init__(self, release_id: str, artifact: Artifact, artifacts: Mapping[str, Artifact]) -> None:
        self.id = release_id
        self.folder = artifact.folder
        self.manifest = artifact.manifest
        self.document: dict[str, Any] = artifact.manifest.config["document"]
        self._own = artifact
        self._artifacts = dict(artifacts)
        self.users = Keys(artifact.table("users")["id"])
        self.items = Keys(artifact.table("items")["id"])
        objects = artifact.manifest.config["objects"]
        self.catalogue = Catalogue(
            _profiles(artifact.table("user_profiles"), objects["users"]),
            _profiles(artifact.table("item_profiles"), objects["items"]),
        )

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Names of its artifacts."""
        return tuple(self._artifacts)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of its extra tables."""
        return tuple(self.manifest.config["tables"])

    def artifact(self, name: str) -> Artifact:
        """One artifact by name."""
        if name not in self._artifacts:
            hint = nearest(name, list(self._artifacts))
            raise _refuse(f"no artifact is called {name!r}", f"release {self.id}", hint)
        return self._artifacts[name]

    def table(self, name: str) -> pl.DataFrame:
        """One of the extra tables it was published with."""
        if name not in self.tables:
            raise _refuse(f"no table is called {name!r}", f"release {self.id}", nearest(name, list(self.tables)))
        return self._own.table(f"table.{name}")


Check = Callable[[Release], None]


class Releases:
    """The releases under a folder, and which one is current.

    Readers need no lock: a release never changes, and `current` moves by one rename.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def publish(
        self,
        name: str | None,
        artifacts: Mapping[str, str | Path],
        document: Mapping[str, Any],
        users: Keys,
        items: Keys,
        catalogue: Catalogue,
        tables: Mapping[str, pl.DataFrame] | None = None,
        *,
        created_ms: int,
        metrics: Mapping[str, Any] | None = None,
        checks: Sequence[Check] = (),
    ) -> str:
        """Build a release from artifacts on disk, open it, check it, make it current. Returns its id.

        `document` is plain JSON (schema, scenes, experiments); `metrics` default to those of the artifacts by
        name. A check raises to refuse; then, as after any failure, the current release stays as it was.
        """
        with _os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch, claim = self._claim(created_ms)
        release_id = f"{claim}-{_slug(name)}" if name else claim
        try:
            with _os_errors(scratch):
                parts, own = self._copy(scratch, artifacts)
                _write(
                    scratch,
                    kind="release",
                    name=release_id,
                    tables={
                        "users": users.ids.rename("id").to_frame(),
                        "items": items.ids.rename("id").to_frame(),
                        "user_profiles": _profiles_frame(catalogue.users, "users"),
                        "item_profiles": _profiles_frame(catalogue.items, "items"),
                        **{f"table.{label}": frame for label, frame in (tables or {}).items()},
                    },
                    config={
                        "document": document,
                        "artifacts": parts,
                        "tables": list(tables or {}),
                        "objects": {"users": _objects(catalogue.users), "items": _objects(catalogue.items)},
                    },
                    metrics=own if metrics is None else metrics,
                    created_ms=created_ms,
                )
            release = _open(scratch, release_id, verify=True)
            for check in checks:
                check(release)
            with _os_errors(self.folder):
                scratch.rename(self.folder / release_id)
                _sync(self.folder)
                self._point(release_id)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return release_id

    def _claim(self, created_ms: int) -> tuple[Path, str]:
        """A building folder and an id prefix nobody else has: making the folder is the claim."""
        moment = datetime.fromtimestamp(created_ms / 1000, UTC)
        stamp = f"{moment:%Y%m%dT%H%M%S}{created_ms % 1000:03d}"
        for n in range(1000):
            claim = f"{stamp}-{n:03d}"
            scratch = self.folder / f".building-{claim}"
            try:
                scratch.mkdir()
            except FileExistsError:
                continue
            if not any(f"{path.name}-".startswith(f"{claim}-") for path in self.folder.iterdir()):
                return scratch, claim
            scratch.rmdir()
        raise _refuse("a thousand releases of one millisecond", self.folder, "publish at another time")

    @staticmethod
    def _copy(folder: Path, artifacts: Mapping[str, str | Path]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Copies of the artifacts under `folder`: where each lies, its checksum, and the metrics of each."""
        parts: dict[str, Any] = {}
        metrics: dict[str, Any] = {}
        (folder / "artifacts").mkdir()
        for n, (name, place) in enumerate(artifacts.items()):
            source = load(place, verify=False)  # the copy is verified when the release is opened
            target = folder / "artifacts" / f"{n:03d}"
            target.mkdir()
            for file in (*source.manifest.files, MANIFEST):
                shutil.copyfile(source.folder / file, target / file, follow_symlinks=False)
                _sync(target / file)
            _sync(target)
            parts[name] = {"folder": target.name, "sha256": _entry(target / MANIFEST).sha256}
            metrics[name] = source.manifest.metrics
        _sync(folder / "artifacts")
        return parts, metrics

    def _point(self, release_id: str) -> None:
        link = self.folder / f".current-{os.getpid()}-{release_id}"
        link.unlink(missing_ok=True)
        link.symlink_to(release_id)
        link.replace(self.folder / "current")
        _sync(self.folder)

    def _ids(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        found = (p.name for p in self.folder.iterdir() if FILE.fullmatch(p.name) and p.name != "current")
        return sorted(name for name in found if (self.folder / name / MANIFEST).is_file())

    def current(self) -> str | None:
        """Id of the live release, None before the first."""
        link = self.folder / "current"
        try:
            target = os.readlink(link)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            raise _refuse("`current` is not a link", link, "remove it, then roll back to a release") from None
        if not FILE.fullmatch(target):
            raise _refuse(f"`current` leaves its folder: {target!r}", link, "remove it, then roll back to a release")
        return target

    def mark(self, id: str) -> str:
        """What changes with the content of a release: a `rewrite` leaves its id as it was. Reads no file."""
        try:
            found = (self.folder / id / MANIFEST).stat()
        except OSError:
            return ""
        return f"{found.st_ino} {found.st_mtime_ns} {found.st_size}"

    def list(self) -> tuple[Summary, ...]:
        """All releases, oldest first; one whose manifest cannot be read is listed with its problem."""
        current = self.current()
        return tuple(self._summary(name, name == current) for name in self._ids())

    def _summary(self, name: str, current: bool) -> Summary:
        try:
            manifest = _read_manifest(self.folder / name)
        except ArtifactError as error:
            return Summary(name, _stamp_ms(name), {}, current, error.what)
        return Summary(name, manifest.created_ms, manifest.metrics, current)

    def tidy(self) -> None:
        """Take away what a `rewrite` that was killed has left; where it had got as far as to set the old one aside, the
        new one takes its place. Nobody may be rewriting."""
        for left in sorted(self.folder.glob(f"{REWRITING}*")):
            id = left.name.removeprefix(REWRITING)[: -len("-12345678")]
            if not left.name.endswith("-aside") and FILE.fullmatch(id) and not (self.folder / id).exists():
                left.rename(self.folder / id)
            else:
                shutil.rmtree(left)

    def rewrite(self, id: str, change: Callable[[str, pl.DataFrame], pl.DataFrame]) -> int:
        """Put `change(name, table)` in the place of every table of a release and of its artifacts. Returns how many
        rows fewer there are, at least one for a table that changed; 0 when none did, then nothing was written.

        Everything else stays byte for byte, its id too. Readers see the one or the other. Raises ArtifactError, also
        for a release that is damaged already.
        """
        folder, lost = self.folder / id, 0
        old = self.load(id)
        with _os_errors(folder):
            scratch = Path(tempfile.mkdtemp(prefix=f"{REWRITING}{id}-", dir=self.folder))
            scratch.chmod(0o755)
            try:
                (scratch / "artifacts").mkdir()
                parts = {name: dict(part) for name, part in old.manifest.config["artifacts"].items()}
                for part in parts.values():
                    place = scratch / "artifacts" / part["folder"]
                    place.mkdir()
                    _, fewer = _retabled(place, folder / "artifacts" / part["folder"], change)
                    part["sha256"] = _entry(place / MANIFEST).sha256
                    lost += fewer
                _sync(scratch / "artifacts")
                _, fewer = _retabled(scratch, folder, change)
                lost += fewer
                if lost:
                    table = plain(_read_manifest(scratch))
                    _write_json(scratch / MANIFEST, table | {"config": table["config"] | {"artifacts": parts}})
                    _sync(scratch)
                    _open(scratch, id, verify=True)
                    _exchange(folder, scratch)
                    _sync(self.folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return lost

    def rollback(self, to: str | None = None, *, checks: Sequence[Check] = ()) -> str:
        """Make an earlier release current: the one named, else the latest before it that is whole. Returns its id.

        Raises ArtifactError when the one named is damaged, or none before the current one is whole; a check raises to
        refuse.
        """
        id = self._whole_before(self.current()) if to is None else self.load(to).id
        for check in checks:
            check(self.load(id, verify=False))
        with _os_errors(self.folder):
            self._point(id)
        return id

    def _whole_before(self, current: str | None) -> str:
        earlier = [name for name in self._ids() if current is not None and name < current]
        for name in reversed(earlier):
            try:
                return self.load(name).id
            except ArtifactError as error:
                LOG.warning("release %s is passed over: %s", name, error)
        what = f"all {len(earlier)} earlier releases are damaged" if earlier else "there is no earlier release"
        raise _refuse(what, self.folder, "publish another first")

    def load(self, id: str | None = None, *, verify: bool = True) -> Release:
        """Open a release, the current one by default."""
        if id is None:
            id = self.current()
            if id is None:
                raise _refuse("no release is published yet", self.folder, "run `shortlist publish`")
        if id not in (ids := self._ids()):
            raise _refuse(f"no release is called {id!r}", self.folder, nearest(id, ids))
        return _open(self.folder / id, id, verify=verify)


def _stamp_ms(release_id: str) -> int:
    """The moment an id was claimed at, 0 where it does not begin with one."""
    try:
        moment = datetime.strptime(release_id[:18], "%Y%m%dT%H%M%S%f")
    except ValueError:
        return 0
    return round(moment.replace(tzinfo=UTC).timestamp() * 1000)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "release"


def _open(folder: Path, release_id: str, *, verify: bool) -> Release:
    own = load(folder, verify=verify)
    if own.manifest.kind != "release":
        raise _refuse(f"a {own.manifest.kind}, not a release", folder, "name a release")
    if own.manifest.name != release_id:
        raise _refuse(f"this is release {own.manifest.name}", folder, "the folder was renamed; name it so again")
    artifacts: dict[str, Artifact] = {}
    for name, part in own.manifest.config["artifacts"].items():
        if not FILE.fullmatch(part["folder"]):
            raise _refuse(f"unsafe folder name {part['folder']!r}", folder / MANIFEST, AGAIN)
        place = folder / "artifacts" / part["folder"]
        if place.is_symlink() or place.parent.is_symlink():
            raise _refuse("a link, not a folder", place)
        artifacts[name] = load(place, verify=verify)
        if _entry(place / MANIFEST).sha256 != part["sha256"]:
            raise _refuse("belongs to another release", place / MANIFEST)
    return Release(release_id, own, artifacts)
