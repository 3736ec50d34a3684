"""What a log needs from time to time: days that are over become Parquet, old ones go, erased users leave every file.

Each step is safe to be killed in: files count from the moment the log lists them, and what was listed twice or not at
all is put right by the next run.
"""

import contextlib
from dataclasses import dataclass, field

import polars as pl

from shortlist.config import Project
from shortlist.events import erase, filing, slates
from shortlist.events.base import Log
from shortlist.events.log import LAST
from shortlist.events.opening import open_log
from shortlist.events.segments import COLUMNS, Segment, alone, clear, write

__all__ = ["Report", "compact", "HOUR_MS"]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ROWS_PER_SEGMENT = 500_000
BLOCK = 50_000  # rows of the table that are held as Python objects


@dataclass(frozen=True)
class Report:
    """What a compaction did: events `sealed` into so many `files`, events `dropped` for their age, and files of served
    rows (`row_files`); users `erased`, and how many rows of theirs lay where (`gone`).

    `left` are places where an erasure could not be done, with the reason: those users stay `waiting`. `learned` are
    artifacts whose weights have a row for an erased user: it is named by nothing any more, and leaves when a model is
    trained and published anew and the old release is removed. `overdue` users have waited longer than
    `log.erase_within_hours`.
    """

    sealed: int
    files: int
    dropped: int
    erased: int
    gone: dict[str, int] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    learned: list[str] = field(default_factory=list)
    waiting: int = 0
    overdue: int = 0
    row_files: int = 0


def compact(project: Project, now: int) -> Report:
    """Seal, drop and erase as `[log]` says. Beside a server it is safe: writers wait for short transactions only,
    except while SQLite rewrites its file after an erasure.

    Raises DataError when the disk is full or an import is running; what was done until then stays done.
    """
    config = project.config.log
    with contextlib.ExitStack() as closing:
        closing.enter_context(alone(project.home))
        log = closing.enter_context(contextlib.closing(open_log(project)))
        clear(log.folder, filing.segments(log.database))
        keep = config.keep_days
        over = config.seal_after_days if keep is None else min(config.seal_after_days, keep)
        made = seal(log, (now // DAY_MS - over) * DAY_MS)
        dropped = aged = 0
        if keep is not None:
            dropped = drop(log, (now // DAY_MS - keep) * DAY_MS)
            aged = slates.drop(project.home / slates.FOLDER, (now // DAY_MS - keep) * DAY_MS)
        users = filing.waiting(log.database)
        gone, left = erase.erase(project.home, log, users) if users else ({}, {})
        done = bool(users) and not left and filing.scrub(log.database, users, now)
        late = filing.waiting(log.database)
        return Report(
            sealed=sum(segment.rows for segment in made),
            files=len(made),
            dropped=dropped,
            erased=len(users) if done else 0,
            gone=gone,
            left=left,
            learned=erase.learned(project.home, [user.user for user in users]) if users else [],
            waiting=len(late),
            overdue=sum(user.erased_ms < now - config.erase_within_hours * HOUR_MS for user in late),
            row_files=aged,
        )


def seal(log: Log, before: int) -> list[Segment]:
    """Move live events into Parquet up to the first that was received at `before` (ms) or later, a day a file."""
    made = []
    while (rows := _next(log, before)) is not None:
        first, last = int(rows["offset"][0]), int(rows["offset"][-1])
        name = f"live-{first:015d}.parquet"
        bounds = rows.select(pl.max("received_ms"), low=pl.min("time_ms"), high=pl.max("time_ms")).row(0)
        segment = Segment(first, last, len(rows), "sealed", name, *bounds)
        write(rows, log.folder / name)
        filing.seal(log.database, segment)
        made.append(segment)
    while filing.shed(log.database):
        pass
    return made


def _next(log: Log, before: int) -> pl.DataFrame | None:
    """The next events to be sealed: of one day, up to a part that was imported between them."""
    with log.database.view() as connection:
        at: int = connection.execute("SELECT value FROM facts WHERE name = 'sealed'").fetchone()[0]
        first = connection.execute("SELECT min(offset) FROM events WHERE offset > ?", (at,)).fetchone()[0]
        sql = "SELECT min(first) FROM segments WHERE kind = 'imported' AND first > ?"
        stop = connection.execute(sql, (first,)).fetchone()[0]
        sql = f"SELECT {', '.join(COLUMNS)} FROM events WHERE offset > ? AND offset < ? ORDER BY offset LIMIT {BLOCK}"
        frames: list[pl.DataFrame] = []
        while sum(map(len, frames)) < ROWS_PER_SEGMENT:
            found = connection.execute(sql, (at, LAST if stop is None else stop)).fetchall()
            if not found:
                break
            frame = pl.DataFrame(found, schema=COLUMNS, orient="row")
            at = found[-1][0]
            days = (frames[0] if frames else frame)["received_ms"][0] // DAY_MS
            part = frame.filter((pl.col("received_ms") // DAY_MS).cum_max() <= days)
            part = part.filter((pl.col("received_ms") >= before).cum_max().not_())
            frames.append(part)
            if len(part) < len(frame):
                break
    rows = pl.concat(frames) if frames else None
    return rows if rows is not None and len(rows) else None


def drop(log: Log, before: int) -> int:
    """Drop whole files of events, and slates, that the log knew before a moment (ms). Returns how many events."""
    old = [segment for segment in filing.segments(log.database) if segment.received_ms < before]
    for part in range(256) if old else ():
        log.forget_ids(old, part)
    filing.drop(log.database, old, before)
    for segment in old:
        (log.folder / segment.file).unlink(missing_ok=True)
    return sum(segment.rows for segment in old)
