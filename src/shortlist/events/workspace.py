"""A project's own copy of its log and catalogue, under `var/`: imported once, added to by importing again.

`var/events/part-*.parquet` in order of time, with log offsets that were free at that moment; `var/items.parquet`,
`var/users.parquet` by key; `var/published.parquet` where a public log fixes its own split; `var/import.json` what was
imported, and its snapshot. A part counts from the moment the log lists it.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import polars as pl

from shortlist.config import Project, plain
from shortlist.errors import DataError
from shortlist.events import context, filing, rows
from shortlist.events.base import Log
from shortlist.events.event import digest
from shortlist.events.opening import open_log
from shortlist.events.raw import Raw, Say, load, schema_of
from shortlist.events.repeats import repeats
from shortlist.events.segments import COLUMNS as EVENT_COLUMNS
from shortlist.events.segments import Segment, alone, clear, write
from shortlist.schema import MISSING, Catalogue, Field, Keys, Profiles, Schema
from shortlist.tables.engine import Frame, gather, open_frame
from shortlist.tables.log import first_seen, running, span

__all__ = [
    "Report", "import_log", "events", "catalogue", "keys", "schema", "snapshot", "last_offset", "identity", "published",
]  # fmt: skip

ROWS_PER_PART = 2_000_000
HOUR_MS = 3_600_000
COLUMNS = ("offset", "user", "item", "action", "value", "time_ms")


@dataclass(frozen=True)
class Report:
    """What an import did: `rows` read, `duplicates` dropped, `known` already there, `added` new, `events` there now.

    `erased` rows were left out because their users have been erased since. `low_ms`, `high_ms` bound the times of all
    events (0 for a log without times); `snapshot` is the sha256 of the content.
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
    erased: int = 0


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
        what = f"the log was imported under another [schema]: {_differences(before['mapping'], mapping)}"
        hint = "undo the change, or `shortlist import --fresh`"
        raise DataError(what, where=str(home / "import.json"), hint=hint)
    say("checking the log")
    for table in ("events", "items", "users"):
        for problem in rows.problems(raw, table):
            raise problem.error
    with contextlib.ExitStack() as closing:
        closing.enter_context(alone(home))
        work = Path(closing.enter_context(tempfile.TemporaryDirectory(dir=home, prefix=".import-")))
        rows.stage(raw, work / "rows.parquet")
        log = closing.enter_context(contextlib.closing(open_log(project)))
        clear(log.folder, filing.segments(log.database))
        barred, erased = _bar(log, raw, work, say)
        staged = open_frame(project.config.data.engine, [work / "rows.parquet"])
        known = {
            "user": _register(log, "user", raw, staged, say, barred),
            "item": _register(log, "item", raw, staged, say, {}),
        }
        sides = {entity: _entities(raw, entity, known[entity]) for entity in ("user", "item")}
        _encode(work, known, schema)
        say("writing events")
        done = _parts(project, schema, work, log, fresh, now)
        for entity, frame in sides.items():
            _put(frame, home / f"{entity}s.parquet")
        if raw.published is not None:
            _put(_published(raw.published, known), home / "published.parquet")
        parts = _imported(log)
    digests = [_digest(f) if f is not None else "" for f in sides.values()]
    report = Report(
        rows=done.rows + erased, duplicates=done.duplicates, known=done.known, added=done.added,
        events=sum(p.rows for p in parts), users=len(known["user"]), items=len(known["item"]),
        low_ms=min((p.low_ms for p in parts), default=0), high_ms=max((p.high_ms for p in parts), default=0),
        snapshot=_sealed(parts, digests), imported_at=now, erased=erased,
    )  # fmt: skip
    written = [
        {"file": p.file, "rows": p.rows, "digest": p.digest, "low_ms": p.low_ms, "high_ms": p.high_ms} for p in parts
    ]
    words = {"mapping": mapping, "schema": plain(schema), "parts": written, "sides": digests}
    _write_json(home / "import.json", {**asdict(report), **words})
    return report


def events(project: Project) -> pl.LazyFrame:
    """Imported and live events in order of offset: columns `COLUMNS`, `event_id` and `request_id` (null where there is
    none), the declared context, and `propensity` (f64) where that is declared: of live events, what their context says.
    Raises DataError when nothing was imported."""
    _report(project)
    declared = schema(project)
    fields = {**declared.context, **({"propensity": Field("dense")} if declared.propensity else {})}
    names = (*COLUMNS, "event_id", "request_id")
    with contextlib.closing(open_log(project)) as log:
        found = log.frames((*names, "context") if fields else names, tuple(fields))
    if not found:
        empty = {**EVENT_COLUMNS, **{name: context.dtype(field) for name, field in fields.items()}}
        return pl.LazyFrame(schema={name: empty[name] for name in (*names, *fields)})
    return pl.concat([_declared(frame, names, fields) for frame in found])


def _declared(frame: pl.LazyFrame, names: Sequence[str], fields: Mapping[str, Field]) -> pl.LazyFrame:
    """Events with the declared context as columns: those of an import, or those that the JSON of live events tells."""
    there = frame.collect_schema().names()
    kinds = {name: context.dtype(field) for name, field in fields.items()}
    if not fields or any(name in there for name in fields):
        more = [pl.col(n).cast(k) if n in there else pl.lit(None, k).alias(n) for n, k in kinds.items()]
        return frame.select(*names, *more)

    def decode(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(names).hstack(context.from_json(rows["context"], fields))

    return frame.map_batches(decode, schema={**{name: EVENT_COLUMNS[name] for name in names}, **kinds})


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
    with contextlib.closing(open_log(project)) as log:
        return log.keys(entity)


def schema(project: Project) -> Schema:
    """The project's schema, an adapter's included."""
    return schema_of(project)


def last_offset(project: Project) -> int:
    """The highest offset of an imported or a live event, 0 when there is none."""
    with contextlib.closing(open_log(project)) as log:
        return log.last_offset


def snapshot(project: Project) -> str:
    """Identity of what was imported, of the live events since, and of what was erased. Raises DataError when nothing
    was imported."""
    report = _report(project)
    with contextlib.closing(open_log(project)) as log:
        imported, last, changes = _sealed(_imported(log), report["sides"]), filing.last_live(log.database), log.changes
    return imported if (last, changes) == (0, "0 0") else _hashed(f"{imported} {last} {changes}")


def identity(project: Project) -> str:
    """Which log it is: what was kept of another one is void."""
    with contextlib.closing(open_log(project)) as log:
        return log.identity


def published(project: Project) -> pl.DataFrame | None:
    """The split a public log fixes, by key: `user`, `item` held out, and either `candidates` to rank, the held-out one
    first, or the `part` they are held out for."""
    file = project.home / "published.parquet"
    return pl.read_parquet(file) if file.is_file() else None


@dataclass(frozen=True)
class _Done:
    rows: int
    duplicates: int
    known: int
    added: int


def _mapping(schema: Schema) -> dict[str, Any]:
    names = ("user", "item", "time", "time_unit", "action", "value", "event_id", "request_id", "position", "context")
    mapping = {name: plain(getattr(schema, name)) for name in names}
    return mapping | ({"propensity": schema.propensity} if schema.propensity else {})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What two mappings say differently, key by key; of tables what their keys say."""
    told = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = dict.fromkeys((*old, *new))
            told += [
                f"{name}.{_change(key, old.get(key), new.get(key))}" for key in inner if old.get(key) != new.get(key)
            ]
        elif old != new:
            told.append(_change(name, old, new))
    return "; ".join(told)


def _change(name: str, old: Any, new: Any) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return ", ".join(
            _change(f"{name}.{key}", old.get(key), new.get(key)) for key in old if old[key] != new.get(key)
        )
    before, now = ("nothing" if value is None else json.dumps(value) for value in (old, new))
    return f"{name} was {before}, now {now}"


def _bar(log: Log, raw: Raw, work: Path, say: Say) -> tuple[dict[str, int], int]:
    """Leave out what users did before they were erased: their ids and moments, and how many rows that were."""
    frame = pl.scan_parquet(work / "rows.parquet")
    barred = filing.barred(log.database, lambda: _user_ids(frame, raw))
    if not barred:
        return {}, 0
    moments = pl.LazyFrame({"user": list(barred), "moment": list(barred.values())})
    early = (pl.col("time_ms") < pl.col("moment")).fill_null(False)
    frame.join(moments, on="user", how="left").filter(~early).drop("moment").sink_parquet(work / "kept.parquet")
    total, left = (
        int(pl.scan_parquet(work / f).select(pl.len()).collect().item()) for f in ("rows.parquet", "kept.parquet")
    )
    os.replace(work / "kept.parquet", work / "rows.parquet")
    if total > left:
        say(f"{total - left} rows of users who have been erased are left out")
    return barred, total - left


def _user_ids(frame: pl.LazyFrame, raw: Raw) -> pl.Series:
    """Raw ids of users in the log and in the table of users."""
    ids = [frame.select("user").unique().collect(engine="streaming")["user"]]
    table = rows.entities(raw, "user")
    if table is not None:
        ids.append(raw.read("users", lambda: table.select("id").collect(engine="streaming"))["id"].alias("user"))
    return pl.concat(ids)


def _register(
    log: Log, entity: Literal["user", "item"], raw: Raw, frame: Frame, say: Say, barred: Mapping[str, int]
) -> Keys:
    """Keys for every id of the log, in order of first appearance, then of the catalogue: for those not barred."""
    seen = gather(first_seen(frame, entity, "row"))[entity]
    log.register(entity, seen)
    table = rows.entities(raw, entity)
    if table is not None:
        ids = raw.read(f"{entity}s", lambda: table.select("id").collect(engine="streaming"))["id"]
        log.register(entity, ids.filter(~ids.is_in(list(barred))) if barred else ids)
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
    keyed = frame.with_columns(key=pl.Series(known.encode(frame["id"]))).filter(pl.col("key") != MISSING)
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


def _parts(project: Project, schema: Schema, work: Path, log: Log, fresh: bool, now: int) -> _Done:
    """Write new events as parts in order of (time, row), under offsets that the log gives for them, and list them."""
    engine, staged = project.config.data.engine, work / "keyed.parquet"
    total = int(gather(span(open_frame(engine, [staged]), "row"))["rows"][0])
    before = _imported(log)
    there = [] if fresh else [log.folder / segment.file for segment in before]
    named = bool(schema.event_id) and filing.names_any(log.database)
    told = _told(log, before if fresh else []) if named else None
    found = repeats(staged, there, schema, engine, ROWS_PER_PART, told)
    drop = pl.concat([found.again, found.known]).to_frame()
    added = total - len(drop)
    offset = log.take(added) if added else 0
    end = offset + added
    made: list[Segment] = []
    for low, high in _ranges(gather(running(open_frame(engine, [staged]), "bucket"))):
        some = pl.scan_parquet(staged).filter(pl.col("bucket").is_between(low, high)).drop("bucket")
        chunk = some.collect(engine="streaming").join(drop, on="row", how="anti").sort("time_ms", "row")
        if not len(chunk):
            continue
        offsets = pl.arange(offset, offset + len(chunk), dtype=pl.Int64, eager=True)
        chunk = chunk.with_columns(offset=offsets).select(*COLUMNS, pl.exclude("row", *COLUMNS))
        made.append(_part(log.folder, f"part-{offset:015d}.parquet", chunk, now))
        offset += len(chunk)
        if not fresh:
            added -= _publish(log, made, bool(schema.event_id), end, fresh=False)
            made.clear()
    if fresh:
        added -= _publish(log, made, bool(schema.event_id), end, fresh=True)
    clear(log.folder, filing.segments(log.database))
    return _Done(total, len(found.again), total - len(found.again) - added, added)


def _part(folder: Path, name: str, chunk: pl.DataFrame, now: int) -> Segment:
    """Write one part and describe it."""
    write(chunk, folder / name)
    first, last, low, high = (int(chunk[column][at]) for column in ("offset", "time_ms") for at in (0, -1))
    return Segment(first, last, len(chunk), "imported", name, now, low, high, _digest(chunk.drop("offset")))


def _publish(log: Log, made: Sequence[Segment], named: bool, end: int, *, fresh: bool) -> int:
    """List parts. Returns how many of their events live ones have forestalled since: those are taken out again."""
    lost = 0
    parts = list(made)
    while taken := log.publish(
        parts, [_ids(log.folder / part.file) for part in parts] if named else [], fresh=fresh, end=end
    ):
        lost += len(taken)
        parts = [_part_without(log.folder, part, taken) for part in parts]
        parts = [part for part in parts if part.rows]
    return lost


def _part_without(folder: Path, part: Segment, taken: set[int]) -> Segment:
    if not any(part.first <= offset <= part.last for offset in taken):
        return part
    left = pl.read_parquet(folder / part.file).filter(~pl.col("offset").is_in(list(taken)))
    return _part(folder, part.renamed(), left, part.received_ms) if len(left) else replace(part, rows=0)


def _ids(file: Path) -> Iterator[tuple[bytes, int]]:
    """What stands for the id of each event of a part, and its offset."""
    frame = pl.read_parquet(file, columns=["event_id", "offset"])
    for event_id, offset in frame.select("event_id", "offset").iter_rows():
        yield digest(event_id), offset


def _told(log: Log, going: Sequence[Segment]) -> Callable[[pl.Series], pl.Series]:
    """Which event ids the log knows, whatever those of parts that are `going` say."""

    def told(ids: pl.Series) -> pl.Series:
        marks = [digest(text) for text in ids]
        known = filing.known(log.database, marks)
        offsets = {mark for mark, offset in known.items() if not any(s.first <= offset <= s.last for s in going)}
        return pl.Series([mark in offsets for mark in marks], dtype=pl.Boolean)

    return told


def _imported(log: Log) -> list[Segment]:
    return [segment for segment in filing.segments(log.database) if segment.kind == "imported"]


def _sealed(parts: Sequence[Segment], sides: Sequence[str]) -> str:
    """Identity of what was imported: parts as they were when they came, and the tables of users and items."""
    return _hashed("\n".join([*(part.digest for part in parts), *sides]))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _report(project: Project) -> dict[str, Any]:
    """What the last import said. Raises DataError when there was none."""
    report = _read_json(project.home / "import.json")
    if not report:
        raise DataError("nothing has been imported", where=str(project.home), hint="run `shortlist import`")
    return report


def _ranges(buckets: pl.DataFrame) -> Iterator[tuple[int, int]]:
    """Neighbouring buckets together until they hold a part's worth of rows."""
    groups = buckets.with_columns(part=((pl.col("below") - pl.col("n")) // ROWS_PER_PART).cast(pl.Int64))
    bounds = groups.group_by("part").agg(low=pl.col("bucket").min(), high=pl.col("bucket").max()).sort("part")
    yield from bounds.select("low", "high").iter_rows()


def _published(table: pl.DataFrame, known: dict[str, Keys]) -> pl.DataFrame:
    if "part" in table.columns:
        user, item = (known[entity].encode(table[entity].cast(pl.String)) for entity in ("user", "item"))
        pairs = pl.DataFrame({"user": user, "item": item, "part": table["part"]})
        return pairs.filter((pl.col("user") != MISSING) & (pl.col("item") != MISSING))
    width = table["candidates"].list.len()
    flat = known["item"].encode(table["candidates"].explode().cast(pl.String))
    lists = pl.Series("candidates", flat.reshape(len(table), int(width[0])), dtype=pl.Array(pl.Int64, int(width[0])))
    users = known["user"].encode(table["user"].cast(pl.String))
    items = known["item"].encode(table["item"].cast(pl.String))
    return pl.DataFrame({"user": users, "item": items}).with_columns(lists).filter(pl.col("user") != MISSING)


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
