"""Erased users are taken out of everything under `var/` that holds rows of them: files of events, tables of users,
logged rows, lists of users that were fitted, releases. What models have learned from them stays until a model is
trained and published anew; it is told.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from shortlist.artifact import MANIFEST, Artifact, Releases, load, rewrite
from shortlist.errors import ArtifactError
from shortlist.events import filing, slates
from shortlist.events.base import Log
from shortlist.events.filing import Waiting
from shortlist.events.log import erased_id
from shortlist.events.segments import sync, write

__all__ = ["erase", "learned", "stranger"]

KNOWN_USERS = "fitted.users"  # the array of an artifact that holds the keys of users whose weights it learned


def erase(home: Path, log: Log, users: Sequence[Waiting]) -> tuple[dict[str, int], dict[str, str]]:
    """Rows taken out by place, and what could not be done by place: a damaged release, say. Safe to repeat."""
    keys = [user.user for user in users]
    left: dict[str, str] = {}
    gone = {"log.db": sum(user.rows for user in users), **_events(log, keys)}
    for name in ("users.parquet", "published.parquet"):
        gone[name] = _table(home / name, "key" if name == "users.parquet" else "user", keys)
    gone["rows"] = slates.erase(home / slates.FOLDER, [user.id for user in users if user.id])
    for manifest in sorted((home / "models").glob(f"**/{MANIFEST}")):
        place = str(manifest.parent.relative_to(home))
        try:
            if load(manifest.parent, verify=False).names("arrow"):
                gone[place] = rewrite(manifest.parent, lambda name, table: _without(name, table, keys))
        except ArtifactError as error:
            left[place] = str(error)
    releases = Releases(home / "releases")
    releases.tidy()
    for release in releases.list():
        place = f"releases/{release.id}"
        try:
            gone[place] = releases.rewrite(release.id, lambda name, table: _without(name, table, keys))
        except ArtifactError as error:
            left[place] = str(error)
    return {place: rows for place, rows in gone.items() if rows}, left


def stranger(home: Path, log: Log, user: str, now: int) -> int:
    """Take out at once what was served to an id that has no key, of one who asked and did nothing yet: slates, and
    their rows. Returns how many of both there were."""
    count: int = log.database.select("SELECT count(*) FROM served WHERE user = ?", (user,))[0][0]
    if count:
        log.erase(user, now)
        log.database.vacuum()
    return count + slates.erase(home / slates.FOLDER, [user])


def learned(home: Path, keys: Sequence[int]) -> list[str]:
    """Artifacts whose weights were learned with a row for one of these users."""
    found = []
    releases = [folder for folder in home.glob("releases/*") if not folder.is_symlink()]
    held = [manifest for folder in releases for manifest in folder.glob(f"artifacts/*/{MANIFEST}")]
    for manifest in sorted([*held, *home.glob(f"models/**/{MANIFEST}")]):
        try:
            if _knows(load(manifest.parent, verify=False), keys):
                found.append(str(manifest.parent.relative_to(home)))
        except ArtifactError:
            found.append(str(manifest.parent.relative_to(home)))  # damaged: nobody can tell
    return found


def _knows(artifact: Artifact, keys: Sequence[int]) -> bool:
    return f"{KNOWN_USERS}.npy" in artifact.names("npy") and bool(np.isin(keys, artifact.array(KNOWN_USERS)).any())


def _events(log: Log, keys: Sequence[int]) -> dict[str, int]:
    """Sealed and imported files, one at a time: the new one is in place and listed before the old one goes."""
    gone = {}
    for segment in filing.segments(log.database):
        old = log.folder / segment.file
        frame = pl.scan_parquet(old)
        rows = int(frame.select(pl.col("user").is_in(keys).sum()).collect().item() or 0)
        if not rows:
            continue
        left = frame.filter(~pl.col("user").is_in(keys)).collect()
        new = replace(segment, file=segment.renamed(), rows=len(left))
        if len(left):
            write(left, log.folder / new.file)
        filing.rewrite(log.database, segment, new if len(left) else None)
        old.unlink()
        gone[f"events/{segment.file}"] = rows
    if gone:
        sync(log.folder)
    return gone


def _table(file: Path, column: str, keys: Sequence[int]) -> int:
    if not file.is_file():
        return 0
    table = pl.read_parquet(file)
    left = table.filter(~pl.col(column).is_in(keys))
    if len(left) < len(table):
        write(left, file)
    return len(table) - len(left)


def _without(name: str, table: pl.DataFrame, keys: Sequence[int]) -> pl.DataFrame:
    """A table of a release: of `users` the id, of others the rows."""
    if name == "users":
        places = [key for key in keys if key < len(table)]
        marks = pl.Series([erased_id(key) for key in places], dtype=pl.String)
        return pl.DataFrame({"id": table["id"].clone().scatter(places, marks)}) if places else table
    column = "key" if name == "user_profiles" else "user"
    if column not in table.columns or not table.schema[column].is_integer():
        return table
    named = [column, *(["other_user"] if "other_user" in table.columns else [])]
    return table.filter(~pl.any_horizontal(pl.col(named).is_in(keys)))
