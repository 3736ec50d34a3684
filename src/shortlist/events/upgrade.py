"""A log file of an earlier format becomes one of this format when it is opened, inside one transaction.

Format 1 kept live events as they are kept now, in fewer tables, and did not know of imported parts: they began at
offset 0, which is no offset any more. Live events, keys and slates are taken over as they are; the parts and what was
said of them are laid aside in `events-format-1/`, unchanged, and `shortlist import` imports the data anew.
"""

import logging
import os
import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from shortlist.events.event import digest

__all__ = ["steps"]

logger = logging.getLogger(__name__)

ASIDE = "events-format-1"
SOME = 10_000  # events whose ids are hashed at a time
FIRST = """
ALTER TABLE events RENAME TO events_1;
DROP INDEX events_of_user;
CREATE TABLE events (
    offset INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    user INTEGER NOT NULL,
    item INTEGER NOT NULL,
    action TEXT NOT NULL,
    value REAL,
    time_ms INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    request_id TEXT,
    position INTEGER,
    context TEXT
);
INSERT INTO events SELECT offset, event_id, user, item, action, value, time_ms, received_ms, request_id, position,
    context FROM events_1 ORDER BY offset;
CREATE INDEX events_of_user ON events (user, offset);
CREATE TABLE event_ids (hash BLOB PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    kind TEXT NOT NULL,
    file TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    low_ms INTEGER NOT NULL,
    high_ms INTEGER NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE erased (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    user INTEGER NOT NULL,
    hash BLOB NOT NULL,
    erased_ms INTEGER NOT NULL,
    id TEXT,
    events INTEGER NOT NULL,
    slates INTEGER NOT NULL,
    done_ms INTEGER
);
CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
INSERT INTO facts SELECT 'next', coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'events_1';
INSERT INTO facts VALUES ('sealed', 0), ('filed', 0), ('dropped', 0), ('salt', randomblob(16));
DROP TABLE events_1;
"""
SECOND = """
ALTER TABLE segments RENAME TO segments_2;
CREATE TABLE segments (
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    kind TEXT NOT NULL,
    file TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    low_ms INTEGER NOT NULL,
    high_ms INTEGER NOT NULL,
    digest TEXT NOT NULL,
    shift INTEGER NOT NULL
);
INSERT INTO segments SELECT *, 0 FROM segments_2;
DROP TABLE segments_2;
"""


def steps(home: Path) -> Mapping[int, Callable[[sqlite3.Connection], None]]:
    """By format: what makes a file of it, in the folder `home`, one of the next format."""
    return {1: partial(_first, home), 2: _second}


def _second(connection: sqlite3.Connection) -> None:
    """Imported parts may be moved behind what came while they were written."""
    for statement in SECOND.split(";"):
        connection.execute(statement)


def _first(home: Path, connection: sqlite3.Connection) -> None:
    for statement in FIRST.split(";"):
        connection.execute(statement)
    after = 0
    while rows := connection.execute(
        f"SELECT offset, event_id FROM events WHERE offset > ? ORDER BY offset LIMIT {SOME}", (after,)
    ).fetchall():
        after = rows[-1][0]
        marks = sorted((digest(event_id), offset) for offset, event_id in rows)
        connection.executemany("INSERT INTO event_ids VALUES (?, ?)", marks)
    imported, told = home / "events", home / "import.json"
    if imported.is_dir() and not (home / ASIDE).exists():
        os.rename(imported, home / ASIDE)
    if told.is_file() and (home / ASIDE).is_dir():
        os.replace(told, home / ASIDE / told.name)
        what = "what was imported lies in %s and counts no more: run `shortlist import`; live events are all there"
        logger.warning("%s was of format 1; " + what, home / "log.db", home / ASIDE)
