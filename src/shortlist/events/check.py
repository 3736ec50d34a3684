"""What is wrong or odd about a project's data, before it is imported: findings with examples, as the rows lie.

FAIL keeps the data from being imported, or a model from learning; WARN is worth a look.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from shortlist.config import Project
from shortlist.errors import DataError
from shortlist.events import rows
from shortlist.events.raw import Raw, Say, load, schema_of
from shortlist.events.repeats import repeats
from shortlist.schema import Schema
from shortlist.tables.engine import Frame, gather, open_frame
from shortlist.tables.log import backwards, between, counts, span, unmatched

__all__ = ["Finding", "check"]

DAY_MS = 86_400_000
EXAMPLES = 3
CONCENTRATED = 0.5  # share of all events that one user or item may have before it is worth a look
ROWS_PER_SLICE = 2_000_000
TRAVEL = 0.1  # share of events before their item existed from which on its time cannot be right
ZONED = r"(Z|z|[+-]\d\d:?\d\d)\s*$"  # how a written moment ends that says its time zone
SPARSE = 0.5  # coverage of a declared field below which it is worth a look


@dataclass(frozen=True)
class Finding:
    """One check: `what` was found, in a sentence; `examples` are rows of the data."""

    name: str
    status: Literal["PASS", "WARN", "FAIL"]
    what: str
    examples: tuple[dict[str, object], ...] = ()


def check(project: Project, say: Say, now: int) -> list[Finding]:
    """Every finding, in a fixed order. `now` (ms) is what a time must not lie far beyond.

    Raises ConfigError for a project file that is wrong; data that cannot be read is a finding.
    """
    schema = schema_of(project)
    try:
        raw = load(project, schema, say)
        found = rows.problems(raw)
    except DataError as error:
        return [Finding("read", "FAIL", str(error))]
    failed = {problem.name: problem for problem in found}
    findings = [Finding("read", "PASS", "the log can be read, its columns are there")]
    for name, passed in _usable(schema).items():
        if name in failed:
            findings.append(Finding(name, "FAIL", str(failed[name].error), tuple(failed[name].examples)))
        else:
            findings.append(Finding(name, "PASS", passed))
    if found:
        return findings
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "rows.parquet"
        rows.stage(raw, staged)
        engine = project.config.data.engine
        frame = open_frame(engine, [staged])
        findings += _log(raw, schema, staged, engine, now)
        for entity in ("user", "item"):
            try:
                findings += _entity(raw, schema, frame, "user" if entity == "user" else "item", Path(folder), project)
            except DataError as error:
                findings.append(Finding(f"{entity}s", "FAIL", str(error)))
    return findings


def _usable(schema: Schema) -> dict[str, str]:
    """What `rows.problems` looks at for this schema, and what is true when it finds nothing."""
    usable = {"user ids": "every event has a user", "item ids": "every event has an item"}
    if schema.event_id:
        usable["event ids"] = "every event has an id"
    if schema.time_unit != "none":
        usable |= {"times": "every event has a time", "time range": "all times lie between 1990 and 2100"}
    if schema.action:
        usable["actions"] = "every action is declared"
    if schema.value:
        usable["values"] = "every value is a number or absent"
    if schema.propensity:
        usable["propensities"] = "every propensity is above 0 and at most 1, or absent"
    return usable


def _log(raw: Raw, schema: Schema, staged: Path, engine: str, now: int) -> Iterator[Finding]:
    frame = open_frame(engine, [staged])
    total = int(gather(span(frame, "row"))["rows"][0])
    if schema.time_unit == "none":
        yield Finding("order", "WARN", "the log has no times: protocols and features in time do not apply")
    else:
        late, first = _late(frame, total)
        if late:
            what = f"{late} of {total} rows are earlier than the row before; the import sorts them"
            yield Finding("order", "WARN", what, _examples(raw, first))
        else:
            yield Finding("order", "PASS", "rows are in order of time")
        low, high = gather(span(frame, "time_ms")).select("low", "high").row(0)
        days = (high - low) / DAY_MS
        if high > now + DAY_MS:
            yield Finding("span", "WARN", f"the last event lies {(high - now) / DAY_MS:.1f} days in the future")
        elif low == high:
            yield Finding("span", "WARN", "all events have the same time")
        else:
            yield Finding("span", "PASS", f"events span {days:.1f} days")
        yield from _zones(raw, schema, total)
    again = repeats(staged, (), schema, engine, ROWS_PER_SLICE).again
    if len(again):
        what = f"{len(again)} of {total} rows repeat an earlier one; the import drops them"
        yield Finding("duplicates", "WARN", what, _examples(raw, again.to_frame()))
    else:
        yield Finding("duplicates", "PASS", "no row repeats another")
    if schema.value:
        known_values = gather(span(frame, "value")).row(0, named=True)
        if known_values["low"] is None:
            yield Finding("value range", "WARN", "no event has a value")
        else:
            yield Finding("value range", "PASS", f"values lie from {known_values['low']:g} to {known_values['high']:g}")
    used = set(gather(counts(frame, "action"))["action"])
    idle = [name for name in schema.action_names if name not in used]
    if idle:
        yield Finding("unused actions", "WARN", f"no event has the declared action {', '.join(idle)}")


def _late(frame: Frame, total: int) -> tuple[int, pl.DataFrame]:
    """How many rows are earlier than the row before, and the first of them: a slice of rows at a time."""
    count, first = 0, []
    for low in range(0, total, ROWS_PER_SLICE):
        some = between(frame, "row", low - 1, low + ROWS_PER_SLICE - 1)
        found = gather(backwards(some, "time_ms", "row").select("row"))
        count += len(found)
        first.append(found.sort("row").head(EXAMPLES))
    return count, pl.concat(first)


def _zones(raw: Raw, schema: Schema, total: int) -> Iterator[Finding]:
    """Written times that do not say their zone, and naive timestamps: they are taken as UTC."""
    kind, column = raw.events.collect_schema()[schema.time], pl.col(schema.time)
    if kind == pl.String and schema.time_unit == "iso":
        naive = ~column.str.contains(ZONED)
    elif isinstance(kind, pl.Datetime):
        naive = pl.lit(kind.time_zone is None)
    else:
        return
    some = raw.events.with_row_index(rows.ROW).filter(naive).select(pl.col(rows.ROW).alias("row"))
    found = some.collect(engine="streaming")
    if not len(found):
        yield Finding("time zone", "PASS", "every time says its zone")
        return
    what = f"{len(found)} of {total} times say no time zone: they are taken as UTC"
    yield Finding("time zone", "WARN", what, _examples(raw, found))


def _travels(raw: Raw, schema: Schema, staged: Path, known: pl.DataFrame) -> Iterator[Finding]:
    """Events on items that did not exist yet, by the field that says since when they do."""
    name = schema.published
    if name is None or schema.time_unit == "none" or schema.items[name].kind != "time":
        return
    items = known.lazy().select(pl.col("id").alias("item"), born=pl.col(name))
    joined = pl.scan_parquet(staged).select("row", "item", "time_ms").join(items, on="item", how="inner")
    early = joined.filter(pl.col("born") > pl.col("time_ms")).collect(engine="streaming")
    total = int(pl.scan_parquet(staged).select(pl.len()).collect().item())
    if not len(early):
        yield Finding("time travel", "PASS", "no event lies before its item was published")
        return
    most = float((early["born"] - early["time_ms"]).max()) / DAY_MS  # type: ignore[arg-type]
    what = (
        f"{len(early)} of {total} events lie before their item was published ({name}), by up to {most:.1f} days: "
        "features of the item would know the future"
    )
    yield Finding("time travel", "FAIL" if len(early) > TRAVEL * total else "WARN", what, _examples(raw, early))


def _entity(
    raw: Raw, schema: Schema, frame: Frame, entity: Literal["user", "item"], folder: Path, project: Project
) -> Iterator[Finding]:
    tally = gather(counts(frame, entity))
    total = int(tally["n"].sum())
    top, share = tally[entity][0], float(tally["n"][0]) / total
    if len(tally) == 1:
        yield Finding(f"{entity}s", "FAIL", f"the log has one {entity}, {top!r}: there is nothing to learn")
    elif share > CONCENTRATED:
        yield Finding(f"{entity}s", "WARN", f"{entity} {top!r} has {share:.0%} of all events")
    else:
        yield Finding(f"{entity}s", "PASS", f"{len(tally)} {entity}s, {total / len(tally):.1f} events each")
    table = rows.entities(raw, entity)
    if table is None:
        return
    for problem in rows.problems(raw, "items" if entity == "item" else "users"):
        yield Finding(f"{entity}s: {problem.name}", "FAIL", str(problem.error), tuple(problem.examples))
    file = folder / f"{entity}s.parquet"
    raw.read(f"{entity}s", lambda: table.sink_parquet(file))
    known = pl.read_parquet(file)
    engine = project.config.data.engine
    keyed = folder / f"{entity}-ids.parquet"
    known.select(pl.col("id").alias(entity)).write_parquet(keyed)
    lost = gather(unmatched(frame, open_frame(engine, [keyed]), entity).select("row", entity))
    if len(lost):
        what = f"{len(lost)} of {total} events are on {lost[entity].n_unique()} {entity}s that are not described"
        yield Finding(f"{entity} join", "WARN", what, _examples(raw, lost))
    else:
        yield Finding(f"{entity} join", "PASS", f"every {entity} of the log is described")
    if entity == "item":
        yield from _travels(raw, schema, folder / "rows.parquet", known)
    for name in schema.fields(entity):
        column = known[name]
        missing = column.is_null() | (column.list.len() == 0) if column.dtype == pl.List else column.is_null()
        covered = 1 - float(missing.sum()) / max(len(column), 1)
        what = f"{name} is known of {covered:.1%} of {len(column)} {entity}s"
        yield Finding(f"{entity}s.{name}", "WARN" if covered < SPARSE else "PASS", what)


def _examples(raw: Raw, frame: pl.DataFrame) -> tuple[dict[str, object], ...]:
    """The first few of these rows, as they lie."""
    wanted = frame["row"].sort().head(EXAMPLES).to_list()
    picked = raw.events.with_row_index(rows.ROW).filter(pl.col(rows.ROW).is_in(wanted))
    return tuple(picked.collect(engine="streaming").to_dicts())
