"""Promise 1 where files are involved: kill -9 while days are sealed, users erased, rows imported and events written.

Three processes work on one project until they are killed: one writes events, one compacts and erases, one imports a
file that grows, with some of the ids that the writer uses too. After each kill every acknowledged event must be there
once, and nothing of an erased user.
"""

import os
import time
from collections import Counter
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.waiting import until

from shortlist.config import load
from shortlist.events import compact as compacting
from shortlist.events import filing, workspace
from shortlist.events.compact import compact
from shortlist.events.log import Event, EventLog
from shortlist.events.workspace import import_log

DAY, HOUR = 86_400_000, 3_600_000
D0 = 1_767_225_600_000
ACTIONS = ("click",)
USERS = 40
ROUNDS = 12


def event(writer: str, n: int, k: int) -> Event:
    return Event(f"{writer} {(n * 3 + k) % USERS}", f"item {k}", "click", D0, event_id=f"{writer}-{n}-{k}")


def write(folder: str, writer: str, told: Connection) -> None:
    """Three events a batch, six hours apart: a day is over after four batches."""
    log = EventLog(Path(folder) / "var" / "log.db")
    for n in range(1_000_000):
        batch = [event(writer, n, k) for k in range(3)]
        outcomes = log.append(batch, ACTIONS, D0 + n * 6 * HOUR)
        # a duplicate was imported, of another user; what is refused is of a user who was erased
        told.send(
            [
                (one.event_id, one.offset, each.user if one.status == "accepted" else "")
                for one, each in zip(outcomes, batch, strict=True)
                if one.offset is not None
            ]
        )


def tidy(folder: str, writer: str, told: Connection) -> None:
    """Seals all but the day under way, in small files and steps, and erases a user now and then."""
    project, log = load(folder), EventLog(Path(folder) / "var" / "log.db")
    compacting.ROWS_PER_SEGMENT, compacting.BLOCK = 5, 2
    for n in range(1_000_000):
        latest = log.database.select("SELECT max(received_ms) FROM events")[0][0] or D0
        if n % 3 == 0:
            user = f"{writer} {n % USERS}"
            told.send(user)  # from here on nobody can tell whether it has happened
            log.erase(user, D0 + 1 + n)
        compact(project, latest + 2 * DAY)
        told.send("")


def bring(folder: str, writer: str, told: Connection) -> None:
    """Imports a file that grows by rows of its own, and by rows that the writer tells as well."""
    project, file = load(folder), Path(folder) / "events.parquet"
    workspace.ROWS_PER_PART = 7
    for n in range(1_000_000):
        theirs = [f"{writer}-{m}-0" for m in range(n * 2)]
        own = [f"import {writer} {m}" for m in range(n * 5)]
        ids = [*pl.read_parquet(file)["id"], *theirs, *own] if file.exists() else [*theirs, *own, "first"]
        rows = pl.DataFrame({"id": ids}).unique(maintain_order=True)
        times = pl.int_range(pl.len(), dtype=pl.Int64) * HOUR + D0
        rows = rows.with_columns(user="imported " + pl.col("id").str.slice(-1), item=pl.lit("i"), time_ms=times)
        rows.write_parquet(file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)
        import_log(project, lambda text: None, D0 + n)
        told.send("")


def heard(pipe: Connection) -> list[object]:
    found: list[object] = []
    while True:
        try:
            if not pipe.poll(0):
                return found
            found.append(pipe.recv())
        except (EOFError, OSError):
            return found


def check(folder: Path, acknowledged: dict[str, int], users: dict[str, str], doomed: set[str]) -> None:
    """What must hold of the log at any moment, however it was left."""
    log = EventLog(folder / "var" / "log.db")
    rows = log.read(0, 10_000_000)
    assert rows["offset"].is_sorted()
    assert rows["offset"].n_unique() == len(rows)
    assert rows["event_id"].n_unique() == len(rows)
    there = dict(zip(rows["event_id"], rows["offset"], strict=True))
    names = log.keys("user")
    gone = {user for user in doomed if log.key("user", user) == -1}
    lost = [i for i, at in acknowledged.items() if users[i] not in gone and there.get(i) != at]
    assert not lost
    # nobody who was erased is seen, by whatever way
    assert not {name for name in names.decode(rows["user"].to_numpy()) if name.startswith("erased")}
    assert not [i for i in there if users.get(i) in gone]
    frames = pl.concat(log.frames(("offset", "event_id"))).collect()
    assert frames.equals(rows.select("offset", "event_id"))
    some = rows["user"].unique().to_list()[:7]
    assert log.tail(some, 0)["offset"].equals(rows.filter(pl.col("user").is_in(some))["offset"])
    assert log.database.writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    log.close()


def any_sealed(folder: Path) -> bool:
    with closing(EventLog(folder / "var" / "log.db")) as log:
        return any(segment.kind == "sealed" for segment in filing.segments(log.database))


def run(folder: Path, forks: ForkServerContext, rounds: int, seed: int) -> Counter[str]:
    """Rounds of work and kills. Returns how often each thing had been begun and not ended when the kill came."""
    (folder / "shortlist.toml").write_text(
        '[data]\nevents = "events.parquet"\n[schema]\nevent_id = "id"\n', encoding="utf-8"
    )
    EventLog(folder / "var" / "log.db").close()
    rng = np.random.default_rng(seed)
    acknowledged: dict[str, int] = {}
    users: dict[str, str] = {}
    doomed: set[str] = set()
    met: Counter[str] = Counter()
    for n in range(rounds):
        pipes, workers = [], []
        for work in (write, tidy, bring):
            mine, theirs = forks.Pipe(duplex=False)
            worker = forks.Process(target=work, args=(str(folder), f"w{n}", theirs))
            worker.start()
            theirs.close()
            pipes.append(mine)
            workers.append(worker)
        assert pipes[0].poll(120)
        if not n:  # in the first round until a day is sealed, in the others for as long as it happens to be
            assert until(lambda: any_sealed(folder))
        time.sleep(float(rng.uniform(0.02, 0.4)))
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
            assert worker.exitcode == -9, "a worker failed by itself"
        for batch in heard(pipes[0]):
            assert isinstance(batch, list)
            acknowledged |= {event_id: offset for event_id, offset, _ in batch}
            users |= {event_id: user for event_id, _, user in batch}
        doomed |= {str(user) for user in heard(pipes[1]) if user}
        home = folder / "var"
        met["import"] += bool(list(home.glob(".import-*")))
        log = EventLog(home / "log.db")
        listed = {segment.file for segment in filing.segments(log.database)}
        met["file not listed"] += bool({f.name for f in (home / "events").glob("*")} - listed)
        sealed = log.database.select("SELECT value FROM facts WHERE name = 'sealed'")[0][0]
        met["rows not shed"] += (
            log.database.select("SELECT count(*) FROM events WHERE offset <= ?", (sealed,))[0][0] > 0
        )
        met["erasure waiting"] += bool(filing.waiting(log.database))
        met["sealed"] += sum(segment.kind == "sealed" for segment in filing.segments(log.database))
        log.close()
        check(folder, acknowledged, users, doomed)
    # What was left is put right by the next run, and by an import of the same file again.
    project = load(folder)
    if (folder / "events.parquet").exists():
        import_log(project, lambda text: None, D0)
        assert import_log(project, lambda text: None, D0).added == 0
        ids = pl.read_parquet(folder / "events.parquet")["id"]
        log = EventLog(folder / "var" / "log.db")
        known = set(log.read(0, 10_000_000)["event_id"])
        erased = {i for i in ids if users.get(i) in doomed}
        assert set(ids) - known <= erased
        log.close()
    report = compact(project, D0 + 10_000 * DAY)
    assert (report.waiting, report.left) == (0, {})
    check(folder, acknowledged, users, doomed)
    log = EventLog(folder / "var" / "log.db")
    assert {f.name for f in log.folder.iterdir()} == {s.file for s in filing.segments(log.database)}
    # Replay: what was acknowledged is known, whether it lies in a file, was imported, or was erased.
    for name in list(acknowledged)[:: max(1, len(acknowledged) // 200)]:
        writer, number, k = name.rsplit("-", 2)
        assert log.append([event(writer, int(number), int(k))], ACTIONS, D0)[0].status == "duplicate"
    log.close()
    return met


def test_killed_while_sealing_erasing_and_importing(tmp_path: Path, forks: ForkServerContext) -> None:
    met = run(tmp_path, forks, ROUNDS, 7)
    assert met["sealed"] > 0


@pytest.mark.slow
def test_killed_hundreds_of_times_while_sealing_erasing_and_importing(tmp_path: Path, forks: ForkServerContext) -> None:
    met: Counter[str] = Counter()
    for seed in range(10):
        (tmp_path / str(seed)).mkdir()
        met += run(tmp_path / str(seed), forks, 30, seed)
    # kills came in the middle of everything
    assert min(met[name] for name in ("import", "file not listed", "erasure waiting", "sealed")) > 0
