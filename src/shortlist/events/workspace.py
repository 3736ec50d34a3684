"""A project's own copy of its log and catalogue, under `var/`: imported once, added to by importing again.

`var/events/part-*.parquet` in order of time, with log offsets; `var/items.parquet`, `var/users.parquet` by key;
`var/published.parquet` where a public log fixes its own split; `var/import.json` what was imported, and its snapshot.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import polars as pl

from shortlist.config import Project, plain
from shortlist.errors import DataError
from shortlist.events import rows
from shortlist.events.log import EventLog
from shortlist.events.raw import Raw, Say, load, schema_of
from shortlist.events.repeats import repeats
from shortlist.schema import Catalogue, Keys, Profiles, Schema
from shortlist.tables.engine import Frame, gather, open_frame
from shortlist.tables.log import first_seen, running, span

__all__ = [
    "Report", "import_log", "events", "catalogue", "keys", "schema", "snapshot", "last_offset", "published",
]  # fmt: skip

ROWS_PER_PART = 2_000_000
HOUR_MS = 3_600_000
COLUMNS = ("offset", "user", "item", "action", "value", "time_ms")


@dataclass(frozen=True)
class Report:
    """What an import did: `rows` read, `duplicates` dropped, `known` already there, `added` new, `events` there now.

    `low_ms`, `high_ms` bound the times of all events (0 for a log without times); `snapshot` is the sha256 of the
    content.
    """

    rows: int
    duplicates: int
    known: int
    added: int
    events: int
    users: int
    items: int
    low_ms: int
    high_ms: int
    snapshot: str
    imported_at: int


def import_log(project: Project, say: Say, now: int, fresh: bool = False) -> Report:
    """Bring the project's data into `var/`. Importing again adds what is new and changes nothing else.

    `fresh` drops what was imported before. Memory is bounded by the distinct ids and `ROWS_PER_PART`, not by the log.
    Raises DataError for the first thing wrong with the data, before anything is written but new keys.
    """
    schema = schema_of(project)
    raw = load(project, schema, say)
    home, mapping = project.home, _mapping(schema)
    before = {} if fresh else _read_json(home / "import.json")
    if before and before["mapping"] != mapping:
        hint = "undo the change, or `shortlist import --fresh`"
        raise DataError("the log was imported under another [schema]", where=str(home / "import.json"), hint=hint)
    say("checking the log")
    for table in ("events", "items", "users"):
        for problem in rows.problems(raw, table):
            raise problem.error
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as closing:
        closing.enter_context(_alone(home))
        work = Path(closing.enter_context(tempfile.TemporaryDirectory(dir=home, prefix=".import-")))
        rows.stage(raw, work / "rows.parquet")
        log = closing.enter_context(contextlib.closing(EventLog(home / "log.db")))
        staged = open_frame(project.config.data.engine, [work / "rows.parquet"])
        known = {
            "user": _register(log, "user", raw, staged, say),
            "item": _register(log, "item", raw, staged, say),
        }
        sides = {entity: _entities(raw, entity, known[entity]) for entity in ("user", "item")}
        _encode(work, known, schema)
        there = [] if fresh else _files(project)
        start = max((_end(file) for file in there), default=0)
        say("writing events")
        (work / "events").mkdir()
        done = _parts(project, schema, work, there, start)
        added = sum(p["rows"] for p in done.parts)
        if added:
            log.reserve(start + added - 1)
        _publish(home / "events", work / "events", fresh)
        for entity, frame in sides.items():
            _put(frame, home / f"{entity}s.parquet")
        if raw.published is not None:
            _put(_published(raw.published, known), home / "published.parquet")
    parts = _recorded(project, before, done.parts)
    digests = [*(p["digest"] for p in parts), *(_digest(f) if f is not None else "" for f in sides.values())]
    report = Report(
        rows=done.rows, duplicates=done.duplicates, known=done.known, added=added,
        events=sum(p["rows"] for p in parts), users=len(known["user"]), items=len(known["item"]),
        low_ms=min((p["low_ms"] for p in parts), default=0), high_ms=max((p["high_ms"] for p in parts), default=0),
        snapshot=hashlib.sha256("\n".join(digests).encode()).hexdigest(), imported_at=now,
    )  # fmt: skip
    _write_json(home / "import.json", {**asdict(report), "mapping": mapping, "schema": plain(schema), "parts": parts})
    return report


def events(project: Project) -> pl.LazyFrame:
    """Imported and live events in order of offset: columns `COLUMNS`. Raises DataError when nothing was imported."""
    files = _files(project)
    if not files:
        raise DataError("nothing has been imported", where=str(project.home), hint="run `shortlist import`")
    with contextlib.closing(EventLog(project.home / "log.db")) as log:
        live = [frame.select(COLUMNS).lazy() for frame in _live(log)]
    return pl.concat([pl.scan_parquet(files).select(COLUMNS), *live])


def catalogue(project: Project) -> Catalogue:
    """What is known of users and items; of those without a table, every one of the log, without fields."""
    tables = {}
    for entity, file in (("user", "users.parquet"), ("item", "items.parquet")):
        path = project.home / file
        known = _profiles(path) if path.is_file() else None
        tables[entity] = known or Profiles(np.arange(len(keys(project, cast(Literal["user", "item"], entity)))), {})
    return Catalogue(tables["user"], tables["item"])


def keys(project: Project, entity: Literal["user", "item"]) -> Keys:
    """Keys given so far."""
    with contextlib.closing(EventLog(project.home / "log.db")) as log:
        return log.keys(entity)


def schema(project: Project) -> Schema:
    """The project's schema, an adapter's included."""
    return schema_of(project)


def last_offset(project: Project) -> int:
    """The highest offset of an imported or a live event, 0 when there is none."""
    with contextlib.closing(EventLog(project.home / "log.db")) as log:
        return log.last_offset


def snapshot(project: Project) -> str:
    """Identity of what was imported, and of the live events since. Raises DataError when nothing was imported."""
    report = _read_json(project.home / "import.json")
    if not report:
        raise DataError("nothing has been imported", where=str(project.home), hint="run `shortlist import`")
    imported = pl.scan_parquet(_files(project)).select(pl.col("offset").max()).collect().item()
    last = last_offset(project)
    if imported is not None and last <= imported:
        return str(report["snapshot"])
    return hashlib.sha256(f"{report['snapshot']} {last}".encode()).hexdigest()


def published(project: Project) -> pl.DataFrame | None:
    """The split a public log fixes, by key: `user`, `item` held out, `candidates` to rank, the held-out one first."""
    file = project.home / "published.parquet"
    return pl.read_parquet(file) if file.is_file() else None


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One import at a time; what a killed one left is cleared away. Raises DataError when another is running."""
    with (home / "import.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError("another import is running", where=str(home), hint="wait for it to end") from None
        for left in home.glob(".import-*"):
            shutil.rmtree(left)
        yield


@dataclass(frozen=True)
class _Done:
    rows: int
    duplicates: int
    known: int
    parts: list[dict[str, Any]]


def _mapping(schema: Schema) -> dict[str, Any]:
    names = ("user", "item", "time", "time_unit", "action", "value", "event_id", "request_id", "position", "context")
    return {name: plain(getattr(schema, name)) for name in names}


def _register(log: EventLog, entity: Literal["user", "item"], raw: Raw, frame: Frame, say: Say) -> Keys:
    """Keys for every id of the log, in order of first appearance, then of the catalogue."""
    seen = gather(first_seen(frame, entity, "row"))[entity]
    log.register(entity, seen)
    table = rows.entities(raw, entity)
    if table is not None:
        ids = raw.read(f"{entity}s", lambda: table.select("id").collect(engine="streaming"))["id"]
        log.register(entity, ids)
    known = log.keys(entity)
    say(f"{len(seen)} {entity}s in the log, {len(known)} keys")
    return known


def _entities(raw: Raw, entity: str, known: Keys) -> pl.DataFrame | None:
    table = rows.entities(raw, "user" if entity == "user" else "item")
    if table is None:
        return None
    name = f"{entity}s"
    frame = raw.read(name, lambda: table.collect(engine="streaming"))
    frame = frame.unique([c for c in frame.columns if c != "row"], keep="first", maintain_order=True)
    twice = frame.filter(~pl.col("id").is_first_distinct())
    if len(twice):
        what = f"{len(twice)} {entity}s are described twice, differently: {twice['id'][0]!r}"
        raise DataError(what, where=raw.place(name, twice["row"][0]), hint="keep one row for each id")
    keyed = frame.with_columns(key=pl.Series(known.encode(frame["id"])))
    return keyed.select("key", pl.exclude("key", "row")).sort("key")


def _encode(work: Path, known: dict[str, Keys], schema: Schema) -> None:
    """Replace ids by keys and say which hour a row belongs to: `rows.parquet` -> `keyed.parquet`, streaming."""
    bucket = pl.col("row") // ROWS_PER_PART if schema.time_unit == "none" else pl.col("time_ms") // HOUR_MS
    frame = pl.scan_parquet(work / "rows.parquet")
    for entity, table in known.items():
        pairs = pl.LazyFrame({entity: table.ids, "key": pl.arange(len(table), dtype=pl.Int64, eager=True)})
        frame = frame.join(pairs, on=entity, how="left").with_columns(pl.col("key").alias(entity)).drop("key")
    frame.with_columns(bucket=bucket).sink_parquet(work / "keyed.parquet")
    (work / "rows.parquet").unlink()


def _parts(project: Project, schema: Schema, work: Path, there: list[Path], start: int) -> _Done:
    """Write new events as parts in order of (time, row), offsets counting from `start`."""
    engine, staged = project.config.data.engine, work / "keyed.parquet"
    total = int(gather(span(open_frame(engine, [staged]), "row"))["rows"][0])
    found = repeats(staged, there, schema, engine, ROWS_PER_PART)
    drop = pl.concat([found.again, found.known]).to_frame()
    offset, parts = start, []
    for low, high in _ranges(gather(running(open_frame(engine, [staged]), "bucket"))):
        some = pl.scan_parquet(staged).filter(pl.col("bucket").is_between(low, high)).drop("bucket")
        chunk = some.collect(engine="streaming").join(drop, on="row", how="anti").sort("time_ms", "row")
        if not len(chunk):
            continue
        offsets = pl.arange(offset, offset + len(chunk), dtype=pl.Int64, eager=True)
        chunk = chunk.with_columns(offset=offsets).select(*COLUMNS, pl.exclude("row", *COLUMNS))
        file = work / "events" / f"part-{offset:015d}.parquet"
        chunk.write_parquet(file)
        parts.append(_described(file, chunk))
        offset += len(chunk)
    return _Done(total, len(found.again), len(found.known), parts)


def _described(file: Path, part: pl.DataFrame) -> dict[str, Any]:
    """What `import.json` keeps of a part."""
    low, high = int(part["time_ms"][0]), int(part["time_ms"][-1])
    return {"file": file.name, "rows": len(part), "digest": _digest(part), "low_ms": low, "high_ms": high}


def _recorded(project: Project, before: dict[str, Any], done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every part there is, described; one that an interrupted import left behind is read for it."""
    known = {part["file"]: part for part in (*before.get("parts", []), *done)}
    return [known.get(file.name) or _described(file, pl.read_parquet(file)) for file in _files(project)]


def _ranges(buckets: pl.DataFrame) -> Iterator[tuple[int, int]]:
    """Neighbouring buckets together until they hold a part's worth of rows."""
    groups = buckets.with_columns(part=((pl.col("below") - pl.col("n")) // ROWS_PER_PART).cast(pl.Int64))
    bounds = groups.group_by("part").agg(low=pl.col("bucket").min(), high=pl.col("bucket").max()).sort("part")
    yield from bounds.select("low", "high").iter_rows()


def _end(file: Path) -> int:
    """The offset behind the last event of a part."""
    return int(file.stem.removeprefix("part-")) + int(pl.scan_parquet(file).select(pl.len()).collect().item())


def _live(log: EventLog) -> Iterator[pl.DataFrame]:
    after = -1
    while len(frame := log.read(after, ROWS_PER_PART)):
        after = int(frame["offset"][-1])
        yield frame


def _files(project: Project) -> list[Path]:
    return sorted((project.home / "events").glob("part-*.parquet"))


def _publish(events: Path, made: Path, fresh: bool) -> None:
    """Move new parts in. A crash between two of them is healed by the next import, which adds the missing ones."""
    if fresh and events.is_dir():
        old = made.parent / "old"
        os.rename(events, old)
        os.rename(made, events)
        shutil.rmtree(old)
        return
    events.mkdir(exist_ok=True)
    for file in sorted(made.iterdir()):
        os.replace(file, events / file.name)


def _published(table: pl.DataFrame, known: dict[str, Keys]) -> pl.DataFrame:
    width = table["candidates"].list.len()
    flat = known["item"].encode(table["candidates"].explode().cast(pl.String))
    lists = pl.Series("candidates", flat.reshape(len(table), int(width[0])), dtype=pl.Array(pl.Int64, int(width[0])))
    users = known["user"].encode(table["user"].cast(pl.String))
    return pl.DataFrame({"user": users, "item": known["item"].encode(table["item"].cast(pl.String))}).with_columns(
        lists
    )


def _profiles(file: Path) -> Profiles:
    if not file.is_file():
        return Profiles(np.zeros(0, dtype=np.int64), {})
    return Profiles.from_frame(pl.read_parquet(file))


def _put(frame: pl.DataFrame | None, file: Path) -> None:
    """Write a table in one step, or take away the one of an earlier import."""
    if frame is None:
        file.unlink(missing_ok=True)
        return
    temporary = file.with_suffix(".tmp")
    frame.write_parquet(temporary)
    os.replace(temporary, file)


def _digest(frame: pl.DataFrame) -> str:
    """sha256 of a table's content: names, values, missing values; not of how a file happens to store them."""
    digest = hashlib.sha256()
    for name in frame.columns:
        digest.update(name.encode() + b"\0")
        _feed(digest, frame[name])
    return digest.hexdigest()


def _feed(digest: "hashlib._Hash", column: pl.Series) -> None:
    digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
    if isinstance(column.dtype, (pl.List, pl.Array)):
        lists = column.cast(pl.List(pl.String))
        digest.update(lists.list.len().fill_null(0).to_numpy().astype("<i8").tobytes())
        _feed(digest, lists.explode())
    elif column.dtype.is_numeric():
        digest.update(np.ascontiguousarray(column.fill_null(0).to_numpy()).tobytes())
    else:
        text = column.cast(pl.String).fill_null("")
        digest.update(text.str.len_bytes().to_numpy().astype("<i8").tobytes())
        digest.update(str(text.str.join("").item()).encode())


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=str(file), hint="run `shortlist import --fresh`") from None
    return table


def _write_json(file: Path, table: dict[str, Any]) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, file)
