"""A project whose log lies on a topic: imported, written to, sealed and erased as one with a log of its own."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from tests.events.kafka_cluster import Cluster, cluster

from shortlist.config import Project, load
from shortlist.events import workspace
from shortlist.events.compact import compact
from shortlist.events.event import Event
from shortlist.events.opening import open_log

pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

DAY = 86_400_000
T = 19_676 * DAY  # 15 November 2023, in ms
SCHEMA = 'event_id = "id"\nactions.view = {}\nitems.title = "text"'


@pytest.fixture(scope="module")
def brokers() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def project(folder: Path, use: str, rows: range = range(50)) -> Project:
    """50 views of 7 users and 5 items, or some of them."""
    folder.mkdir(exist_ok=True)
    table = {
        "id": [f"e{n}" for n in rows],
        "user": [f"u{n % 7}" for n in rows],
        "item": [f"i{n % 5}" for n in rows],
        "time_ms": [T - 1000 + n for n in rows],
        "action": ["view"] * len(rows),
    }
    pl.DataFrame(table).write_parquet(folder / "events.parquet")
    pl.DataFrame({"item": ["i9", "i0"], "title": ["Nine", None]}).write_parquet(folder / "items.parquet")
    data = 'events = "events.parquet"\nitems = "items.parquet"'
    text = f'[data]\n{data}\n[schema]\n{SCHEMA}\n[log]\nuse = "{use}"\nseal_after_days = 1\n'
    (folder / "shortlist.toml").write_text(text, encoding="utf-8")
    return load(folder)


def live(opened: Project, now: int, *ids: str) -> list[str]:
    events = [Event(f"u{n}", "new", "view", now, event_id=text) for n, text in enumerate(ids)]
    with closing(open_log(opened)) as log:
        return [outcome.status for outcome in log.append(events, ["view"], now)]


def quiet(text: str) -> None:
    """Nobody listens."""


def steps(folder: Path, use: str) -> list[object]:
    """What a project goes through, and what it shows on the way."""
    opened = project(folder, use)
    shown: list[object] = []
    report = workspace.import_log(opened, quiet, T)
    shown.append((report.added, report.users, report.items, report.snapshot))
    shown.append(live(opened, T, "e3", "l1", "l2"))
    more = project(folder, use, range(45, 60))
    report = workspace.import_log(more, quiet, T)
    shown.append((report.known, report.added))
    shown.append(live(opened, T + 2 * DAY, "e59", "l2", "l3"))
    shown.append(workspace.events(opened).collect().rows())
    with closing(open_log(opened)) as log:
        log.erase("u1", T + 2 * DAY)
    made = compact(opened, T + 3 * DAY)
    shown.append((made.sealed, made.files, made.erased, made.waiting))
    shown.append(workspace.events(opened).collect().rows())
    shown.append(live(opened, T + 3 * DAY, "e1", "l1", "l4"))
    shown += [workspace.keys(opened, "user").ids.to_list(), workspace.keys(opened, "item").ids.to_list()]
    shown.append(workspace.last_offset(opened))
    return shown


def test_a_project_on_a_topic_is_as_one_with_a_file(brokers: Cluster, tmp_path: Path) -> None:
    brokers.topic("project")
    use = f"kafka://{brokers.servers}/project"
    shown = steps(tmp_path / "topic", use)
    assert shown[0][:3] == (50, 7, 6)  # type: ignore[index]  # i0 to i4, and i9 of the catalogue
    assert shown[1] == ["duplicate", "accepted", "accepted"]
    assert shown[2] == (5, 10)  # e45 to e49 are known
    assert shown == steps(tmp_path / "file", "sqlite:")

    # another machine gets what is under `var/`, and goes on from there
    shutil.copytree(tmp_path / "topic" / "var", tmp_path / "other" / "var")
    here, other = load(tmp_path / "topic"), project(tmp_path / "other", use)
    assert live(other, T + 4 * DAY, "l5", "l4") == ["accepted", "duplicate"]
    assert live(here, T + 4 * DAY, "l5", "l6") == ["duplicate", "accepted"]
    assert workspace.events(here).collect().equals(workspace.events(other).collect())
    # one that has lost its log has the keys and the events again, but for the imported files
    (tmp_path / "lost").mkdir()
    with closing(open_log(project(tmp_path / "lost", use))) as log:
        assert log.keys("user").ids.to_list() == workspace.keys(here, "user").ids.to_list()
        assert log.last_offset == workspace.last_offset(here)
