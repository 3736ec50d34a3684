"""A user is erased: hidden at once, then out of every file; what was told before does not come back."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shortlist.artifact import Releases
from shortlist.artifact import load as load_artifact
from shortlist.cli import main
from shortlist.config import Project, load
from shortlist.events import filing, slates
from shortlist.events.compact import compact
from shortlist.events.log import Erasure, Event, EventLog, Outcome, Served, erased_id
from shortlist.events.workspace import catalogue, events, import_log, published, snapshot
from shortlist.schema import MISSING, Keys

T = 1_767_225_600_000  # 2026-01-01 00:00 UTC
DAY = 86_400_000
GONE = "marla-4711"  # the id that is looked for in files
ACTIONS = ("click",)


def quiet(text: str) -> None:
    """Nobody listens."""


def rows(n: int = 300) -> pl.DataFrame:
    """30 events of `GONE`, the first user, and as many of each of nine others, before T."""
    users = [GONE, *(f"u{k}" for k in range(1, 10))]
    return pl.DataFrame(
        {
            "user": [users[k % 10] for k in range(n)],
            "item": [f"i{(k * k // 7) % 61}" for k in range(n)],
            "time_ms": [T - DAY + k * 1000 for k in range(n)],
        }
    )


def project(folder: Path) -> Project:
    rows().write_parquet(folder / "events.parquet")
    people = rows()["user"].unique(maintain_order=True)
    pl.DataFrame({"user": people, "region": ["n", "s"] * 5}).write_parquet(folder / "users.parquet")
    text = (
        '[data]\nevents = "events.parquet"\nusers = "users.parquet"\n[schema]\nusers.region = "sparse"\n'
        '[[recall]]\nname = "hot"\nuse = "hot"\n[[recall]]\nname = "similar"\nuse = "item_cf"\n'
    )
    (folder / "shortlist.toml").write_text(text, encoding="utf-8")
    return load(folder)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    made = EventLog(tmp_path / "var" / "log.db")
    yield made
    made.close()


def tell(log: EventLog, now: int, *users: str, at: int | None = None) -> list[Outcome]:
    told = [
        Event(user, f"j{now % 50}", "click", now if at is None else at, event_id=f"{user} {now} {n}")
        for n, user in enumerate(users)
    ]
    return log.append(told, ACTIONS, now)


def test_a_user_is_hidden_at_once(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    tell(log, T, GONE, "u1")
    compact(opened, T + 9 * DAY)
    tell(log, T + 9 * DAY, "u1", GONE, "new")
    log.append_served([Served("r1", GONE, T, "rel", "{}"), Served("r2", "u1", T, "rel", "{}")])
    same = snapshot(opened)
    key = log.key("user", GONE)
    assert log.keys("user").key(GONE) == key == 0
    other = EventLog(log.path)  # one that has read the keys already
    assert other.keys("user").key(GONE) == key

    assert log.erase(GONE, T + 9 * DAY + 1) == Erasure(1, key)
    # of GONE's are 30 imported events, one sealed, one live
    assert len(events(opened).collect()) == 270 + 1 + 2
    for one in (log, other):
        assert not (one.read(0, 1000)["user"] == key).any()
        assert len(one.read(0, 1000)) == 273
        assert one.tail([key], 0).is_empty()
        assert (one.key("user", GONE), one.keys("user").key(GONE), one.gone(key), one.gone(1)) == (MISSING,) * 2 + (
            True,
            False,
        )
        assert one.keys("user").ids[key] == erased_id(key)
        assert (one.served("r1"), one.served("r2") is None) == (None, False)
        number, keys = one.erased()
        assert (number, keys.tolist()) == (1, [key])
        assert one.erased(number)[1].tolist() == []
    assert snapshot(opened) != same
    assert log.erase(GONE, T + 9 * DAY + 2) == Erasure(0, MISSING)
    assert log.erase("nobody", T) == Erasure(0, MISSING)
    assert log.erase(erased_id(key), T) == Erasure(0, MISSING)
    other.close()


def test_no_id_can_be_the_mark_of_an_erased_user(log: EventLog) -> None:
    tell(log, T, GONE, "u1")
    log.erase(GONE, T + 1)
    mark = log.keys("user").ids[0]
    assert len(mark) == 257  # one byte longer than an id may be
    assert tell(log, T + 2, mark)[0].reason == "user id is longer than 256 bytes"


def test_what_was_told_before_does_not_come_back_and_who_comes_back_is_somebody_else(
    tmp_path: Path, log: EventLog
) -> None:
    opened = project(tmp_path)
    import_log(opened, quiet, T)
    first = tell(log, T, GONE)[0]
    log.erase(GONE, T + 100)
    # sent again, late, and new
    assert tell(log, T, GONE)[0] == Outcome("duplicate", first.event_id, first.offset)
    assert tell(log, T + 200, GONE, at=T + 99)[0].reason == "the user has been erased since"
    assert log.key("user", GONE) == MISSING
    assert log.append_served([Served("r1", GONE, T + 99, "rel", "{}"), Served("r2", GONE, T + 100, "rel", "{}")]) == 1
    assert tell(log, T + 200, GONE)[0].status == "accepted"
    assert log.key("user", GONE) == 10  # the ten of the import had 0..9
    # the raw file still has them
    again = import_log(opened, quiet, T + 300)
    assert (again.rows, again.erased, again.known, again.added) == (300, 30, 270, 0)
    assert len(catalogue(opened).users) == 10  # who came back is described again, under another key
    compact(opened, T + 400)
    assert import_log(opened, quiet, T + 500).added == 0
    assert set(events(opened).collect()["user"]) == {*range(1, 11)}


def test_an_import_registers_nobody_who_was_erased(tmp_path: Path, log: EventLog) -> None:
    opened = project(tmp_path)
    tell(log, T, GONE)
    log.erase(GONE, T + 1)
    assert import_log(opened, quiet, T + 2).erased == 30
    assert log.key("user", GONE) == MISSING
    assert GONE not in catalogue(opened).users.columns["id"].tolist()


def test_keys_of_a_running_writer_do_not_outlive_an_erasure_by_another(log: EventLog) -> None:
    tell(log, T, GONE, "u1")
    other = EventLog(log.path)
    tell(other, T + 1, GONE)  # it remembers the key now
    log.erase(GONE, T + 2)
    assert tell(other, T + 3, GONE)[0].status == "accepted"
    assert other.read(0, 9)["user"].to_list() == [1, 2]
    other.close()


def test_the_salt_and_the_hash_are_all_that_stays(log: EventLog) -> None:
    tell(log, T, GONE)
    log.erase(GONE, T + 1)
    assert filing.scrub(log.database, filing.waiting(log.database), T + 2)
    (row,) = log.database.select("SELECT id, done_ms, length(hash), user FROM erased")
    assert row == (None, T + 2, 16, 0)
    for file in (log.path, log.path.with_name("log.db-wal")):
        assert GONE.encode() not in file.read_bytes()
    assert tell(log, T + 9, GONE, at=T)[0].reason == "the user has been erased since"


def files_with(folder: Path, id: str, key: int) -> list[str]:
    """Files under a folder that hold the id as bytes or in a table, or rows of the key."""
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        tables: list[pl.DataFrame] = []
        if file.suffix == ".parquet":
            tables = [pl.read_parquet(file)]
        elif file.suffix == ".arrow":
            tables = [slates.read(file.parent).rows] if file.parent.name == "rows" else [pl.read_ipc(file.read_bytes())]
        held = id.encode() in file.read_bytes()
        for table in tables:
            for name, kind in table.schema.items():
                if kind == pl.String:
                    held |= bool((table[name] == id).any())
                if name == "user" or (name == "key" and "user" in file.name):
                    held |= bool((table[name] == key).any())
        if held:
            found.append(str(file.relative_to(folder)))
    return found


def test_every_file_is_free_of_an_erased_user(
    tmp_path: Path, log: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, file, home = project(tmp_path), str(tmp_path), tmp_path / "var"
    import_log(opened, quiet, T)
    lists = pl.Series([[2, 3], [3, 4]], dtype=pl.Array(pl.Int64, 2))
    fixed = pl.DataFrame({"user": [0, 1], "item": [2, 3], "candidates": lists})
    fixed.write_parquet(home / "published.parquet")
    for n in range(300):  # pages of the database are split, freed and moved into the file
        tell(log, T + n, GONE, f"u{n}")
    compact(opened, T + 9 * DAY)
    log.append_served([Served(f"r{n}", GONE if n % 2 else "u1", T + n, "rel", "{}") for n in range(200)])
    tell(log, T + 9 * DAY, GONE)
    writer = slates.Writer(home / "rows")
    writer.append(
        pl.DataFrame(
            {
                "request_id": ["r1", "r2"], "user_id": [GONE, "u1"], "item": [1, 2], "time_ms": [T, T],
                "position": [1, 1], "user": [0, 1],
            }
        ),
        T,
    )  # fmt: skip
    writer.close()
    for command in ("train", "evaluate", "publish", "publish"):
        assert main([command, "--project", file]) == 0, command
    capsys.readouterr()
    held = files_with(home, GONE, 0)
    kinds = {name.rpartition("/")[2].split("-")[0] for name in held}
    there = {"log.db", "part", "live", "users.parquet", "published.parquet", "users.arrow", "user_profiles.arrow"}
    assert there | {"table.histories.arrow"} <= kinds
    assert sum(name.startswith("rows/") for name in held) == 1

    assert main(["erase", GONE, "--project", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"number": 1, "key": 0, "erased_within_hours": 24.0}
    assert main(["compact", "--project", file, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["erased"], report["waiting"], report["overdue"], report["left"]) == (1, 0, 0, {})
    gone: dict[str, int] = report["gone"]
    releases = sorted(path.name for path in (home / "releases").iterdir() if path.name[0] == "2")
    assert set(gone) == {
        "log.db", "events/part-000000000000001.parquet", "events/live-000000000000301.parquet", "users.parquet",
        "published.parquet", "rows", *(f"releases/{name}" for name in releases),
    }  # fmt: skip
    assert gone["log.db"] == 1 + 100
    assert (gone["events/part-000000000000001.parquet"], gone["events/live-000000000000301.parquet"]) == (30, 300)
    assert (gone["users.parquet"], gone["published.parquet"], gone["rows"]) == (1, 1, 1)
    # one id, one profile, and 30 + 300 + 1 events
    assert gone[f"releases/{releases[0]}"] == 1 + 1 + 331

    assert files_with(home, GONE, 0) == []
    assert not list(home.rglob(".*-*"))  # nothing lies about
    release = Releases(home / "releases").load()
    assert (release.users.key("u1"), release.users.key(GONE), len(release.users)) == (1, MISSING, len(log.keys("user")))
    assert release.catalogue.users.keys.tolist() == [*range(1, 10)]
    assert len(release.table("histories")) == 270 + 300
    assert published(opened)["user"].to_list() == [1]  # type: ignore[index]
    for words in (["recommend", "u1"], ["recommend", GONE], ["train"], ["evaluate"], ["publish"]):
        assert main([*words, "--project", file]) == 0, words
    assert files_with(home / "releases", GONE, 0) == files_with(home / "models", GONE, 0) == []
    capsys.readouterr()
    assert main(["compact", "--project", file]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0 events sealed in 0 files, 0 dropped", "0 users erased, 0 waiting",
    ]  # fmt: skip


def test_an_erasure_that_cannot_be_finished_is_told_and_tried_again(
    tmp_path: Path, log: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, home = project(tmp_path), tmp_path / "var"
    import_log(opened, quiet, T)
    assert main(["publish", "--project", str(tmp_path)]) == 0
    (release,) = (path for path in (home / "releases").iterdir() if path.name[0] == "2")
    file = release / "table.histories.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    log.erase(GONE, T)
    late = compact(opened, T + DAY + 1)
    assert list(late.left) == [f"releases/{release.name}"]
    assert "the content has changed since it was written" in late.left[f"releases/{release.name}"]
    assert (late.erased, late.waiting, late.overdue) == (0, 1, 1)
    capsys.readouterr()
    assert main(["compact", "--project", str(tmp_path)]) == 1
    assert f"releases/{release.name} still holds erased users: " in capsys.readouterr().err
    assert not (log.read(0, 1000)["user"] == 0).any()  # hidden all the same
    file.write_bytes(whole)
    done = compact(opened, T + DAY + 2)
    assert (done.erased, done.waiting, done.left) == (1, 0, {})


def test_a_user_without_a_key_cannot_be_erased_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project(tmp_path)
    assert main(["erase", "nobody", "--project", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: no user is called 'nobody'\n  where: {tmp_path}/var/log.db\n"
        "  next: ids are as they were sent; one that was erased is known no more\n"
    )


def test_who_asked_and_did_nothing_is_erased_at_once(
    tmp_path: Path, log: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slates were served to an id that has no event, so no key: two in the log, three rows beside it."""
    project(tmp_path)
    log.append_served([Served(f"r{n}", "ghost" if n else "u1", T, "rel", "{}") for n in range(3)])
    writer = slates.Writer(tmp_path / "var" / "rows")
    made = {"request_id": ["r0", *["r1"] * 3], "user_id": ["u1", *["ghost"] * 3], "item": [0, 0, 1, 2]}
    writer.append(pl.DataFrame({**made, "time_ms": T, "position": 1, "user": -1}), T)
    writer.close()
    command = ["erase", "ghost", "--project", str(tmp_path)]
    assert main(command) == 0
    assert capsys.readouterr().out == "erased: 5 slates and rows of a user of whom the log has no event\n"
    assert (log.served("r1"), log.served("r2"), log.served("r0") is None) == (None, None, False)
    assert slates.read(tmp_path / "var" / "rows").rows["user_id"].to_list() == ["u1"]
    assert files_with(tmp_path / "var", "ghost", -2) == []
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("error: no user is called 'ghost'\n")


def test_lists_of_users_leave_fitted_models_too(tmp_path: Path, log: EventLog) -> None:
    """UserCF keeps lists by user: the fitted model under var/models holds rows of them as a release does."""
    project(tmp_path)
    with (tmp_path / "shortlist.toml").open("a", encoding="utf-8") as file:
        file.write('[[recall]]\nname = "people"\nuse = "user_cf"\n')
    opened, home = load(tmp_path), tmp_path / "var"
    import_log(opened, quiet, T)
    assert main(["train", "--project", str(tmp_path)]) == 0
    (fitted,) = (path for path in (home / "models").glob("*/people") if path.is_dir())

    def rows() -> int:
        tables = [pl.read_ipc(file.read_bytes()) for file in fitted.glob("*.arrow")]
        return sum(int((t[name] == 0).sum()) for t in tables for name in ("user", "other_user") if name in t.columns)

    assert rows() > 0
    log.erase(GONE, T)
    report = compact(opened, T + 1)
    place = f"models/{fitted.parent.name}/people"
    assert (report.erased, report.left) == (1, {})
    assert report.gone[place] > 0
    assert rows() == 0
    load_artifact(fitted).form()
    assert not list((home / "models").rglob(".people-*"))


def test_a_reader_that_holds_the_wal_delays_the_end_of_an_erasure(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shortlist.events import database

    tell(log, T, GONE, "u1")
    log.erase(GONE, T + 1)
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    other = EventLog(log.path)
    with other.database.view() as connection:
        connection.execute("SELECT count(*) FROM events").fetchone()
        waiting = filing.waiting(log.database)
        log.database.writer.execute("PRAGMA busy_timeout = 100")
        assert not filing.scrub(log.database, waiting, T + 2)
    assert len(filing.waiting(log.database)) == 1
    assert filing.scrub(log.database, filing.waiting(log.database), T + 3)
    assert not filing.waiting(log.database)
    other.close()


def test_marks_fit_where_keys_are_kept() -> None:
    known = Keys(["a", erased_id(1), "c"])
    assert known.encode(pl.Series(["c", "b"])).tolist() == [2, MISSING]
    assert known.decode(np.array([1])) == [erased_id(1)]
