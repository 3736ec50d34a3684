"""Whose state a store holds: a log that was imported afresh, or made anew, is another one; a release knows its own."""

import json
import shutil
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.events.kafka_cluster import SETTINGS, cluster
from tests.store.servers import Server

from shortlist.artifact import Release, Releases
from shortlist.candidates import Ragged, Requests
from shortlist.cli import main
from shortlist.config import Project, load
from shortlist.errors import ArtifactError
from shortlist.evaluation.project import open_data, publish
from shortlist.events import compact
from shortlist.events.log import Event
from shortlist.events.opening import open_log
from shortlist.features.base import Rows
from shortlist.features.featureset import FeatureSet
from shortlist.features.state import Service
from shortlist.features.stored import Stored
from shortlist.feedback.backfill import backfill
from shortlist.feedback.live import Following, states
from shortlist.schema import Schema
from shortlist.store.memory import Memory
from shortlist.store.states import States

NOW = 1_767_225_600_000
DAY_MS = 86_400_000
USERS, ITEMS, ROWS = 20, 15, 400
FEATURE = """
[[feature]]
name = "spent"
use = "count"
by = "item"
actions = ["click"]
windows = ["7d", "30d"]
sum = true
"""


def write(folder: Path, seed: int = 1, rows: int = ROWS) -> None:
    """Clicks of the last twenty days with values in quarters, one in five without; the last of each user is at NOW."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 40, rows) / 4
    frame = pl.DataFrame({
        "user": [f"u{n}" for n in rng.integers(0, USERS, rows)],
        "item": [f"i{n}" for n in rng.integers(0, ITEMS, rows)],
        "time_ms": NOW - np.sort(rng.integers(0, 20 * DAY_MS, rows))[::-1],
        "value": [None if n % 5 == 0 else value for n, value in enumerate(values.tolist())],
    })  # fmt: skip
    frame.write_csv(folder / "events.csv")


def made(folder: Path, store: str) -> Path:
    write(folder)
    file = folder / "shortlist.toml"
    words = f"""
[data]
events = "events.csv"

[schema]
user = "user"
item = "item"
time = "time_ms"
time_unit = "ms"
value = "value"
actions.click = {{}}
{FEATURE}
[[recall]]
name = "hot"
use = "hot"

[serve]
store = "{store}"
"""
    file.write_text(words, encoding="utf-8")
    assert main(["import", "--project", str(folder)]) == 0
    return folder


@pytest.fixture(params=["lmdb", "redis"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "lmdb":
        return made(tmp_path, "lmdb:state")  # a folder that others may have too
    import redis

    server: Server = request.getfixturevalue("server")
    with closing(redis.Redis.from_url(server.url)) as client:
        client.flushall()
    return made(tmp_path, server.url)


def identity(folder: Path) -> str:
    with closing(open_log(load(folder))) as log:
        return log.identity


def refused(before: str, after: str) -> str:
    told = [f"{name[:12]}{name[name.index('.') :]}" for name in (before, after)]
    what = f"error: a store of another log: {told[0]}, not {told[1]}"
    return f"{what}\n  where: store\n  next: run `shortlist backfill`, or name another store\n"


def test_a_store_of_a_log_that_was_imported_afresh_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--project", str(folder)]
    assert main(["follow", "--once", *here]) == 0
    before = identity(folder)
    assert main(["import", *here]) == 0  # nothing new: the same log
    assert identity(folder) == before
    assert main(["follow", "--once", *here]) == 0
    assert main(["import", "--fresh", *here]) == 0
    after = identity(folder)
    assert after != before
    for words in (["follow", "--once"], ["store", "get", "user", "u1"]):
        capsys.readouterr()
        assert main([*words, *here]) == 2, words
        assert capsys.readouterr().err.endswith(refused(before, after))
    assert main(["backfill", *here]) == 0
    capsys.readouterr()
    assert main(["follow", "--once", "--json", *here]) == 0
    assert json.loads(capsys.readouterr().out)["applied"] == 0
    # each event once: the histories of all users hold what was imported
    with closing(states(load(folder), None, write=False).blobs) as blobs:
        read = States(blobs, Service((), Schema.parse({"actions": {"click": {}}})), states_catalogue())
        assert read.log == after
    capsys.readouterr()
    assert main(["store", "get", "user", "u1", "--json", *here]) == 0
    events = pl.read_csv(folder / "events.csv").filter(pl.col("user") == "u1")
    assert len(json.loads(capsys.readouterr().out)["history"]) == len(events)


def states_catalogue() -> Any:
    from shortlist.schema import Catalogue

    return Catalogue.empty()


def test_a_store_of_a_log_that_was_made_anew_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--project", str(folder)]
    assert main(["backfill", *here]) == 0
    before = identity(folder)
    for name in ("log.db", "log.db-wal", "log.db-shm", "import.json"):
        (folder / "var" / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "var" / "events")
    write(folder, seed=2, rows=ROWS + 50)
    assert main(["import", *here]) == 0
    capsys.readouterr()
    assert main(["follow", "--once", *here]) == 2
    assert capsys.readouterr().err.endswith(refused(before, identity(folder)))
    assert main(["backfill", *here]) == 0
    assert main(["follow", "--once", *here]) == 0


def test_a_store_that_does_not_say_its_log_is_taken(folder: Path) -> None:
    project = load(folder)
    store = states(project, None, write=True)
    with closing(store.blobs), closing(open_log(project)) as log:
        store.apply(log.read(0, 100), 100)  # as before stores knew
        assert store.log == ""
    assert main(["follow", "--once", "--project", str(folder)]) == 0
    store = states(project, None, write=False)
    with closing(store.blobs):
        assert (store.offset, store.log) == (ROWS, identity(folder))


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def published(folder: Path) -> tuple[Project, Release]:
    project = load(folder)
    publish(open_data(project), created_ms=NOW)
    return project, Releases(project.home / "releases").load()


def test_a_server_says_so_and_goes_on_when_the_store_was_filled(folder: Path) -> None:
    project, release = published(folder)
    users, moment = np.arange(USERS), np.full(USERS, NOW)
    with closing(open_log(project)) as log, closing(Following(release, log, project, follow=True)) as following:
        before = following(users, moment).history.items.tolist()
        assert len(before) == ROWS
        assert main(["import", "--fresh", "--project", str(folder)]) == 0
        with pytest.raises(ArtifactError, match="a store of another log"):
            following(users, moment)
        follower = following.follower
        assert follower is not None
        until(lambda: follower.error is not None and not follower.writes)  # it has left the writer's place
        with pytest.raises(ArtifactError, match="run `shortlist backfill`"):
            Following(release, log, project, follow=False)
        assert main(["backfill", "--project", str(folder)]) == 0
        assert following(users, moment).history.items.tolist() == before
        until(lambda: follower.error is None and follower.writes)
        log.append([Event("u1", "i1", "click", NOW)], ("click",), NOW)
        until(lambda: not follower.lag)
        assert len(following(users, moment).history.items) == ROWS + 1


@pytest.mark.parametrize("store", ["memory:", "lmdb:"])
def test_a_server_whose_state_is_its_own_fills_it_anew(store: str, tmp_path: Path) -> None:
    project, release = published(made(tmp_path, store))
    users, moment = np.arange(USERS), np.full(USERS, NOW)
    with closing(open_log(project)) as log, closing(Following(release, log, project, follow=True)) as following:
        before = following(users, moment).history.items.tolist()
        assert main(["import", "--fresh", "--project", str(tmp_path)]) == 0
        until(lambda: following.store.log == log.identity)
        assert following(users, moment).history.items.tolist() == before
    # one that starts now takes the log, not the release's histories and the log behind them
    with closing(open_log(project)) as log, closing(Following(release, log, project, follow=True)) as following:
        assert following(users, moment).history.items.tolist() == before


def test_every_fold_of_a_topic_is_the_same_log(tmp_path: Path) -> None:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    from shortlist.events.kafka_log import KafkaLog

    with cluster() as brokers, ExitStack() as stack:
        for topic in ("one", "two"):
            brokers.topic(topic)

        def opened(topic: str, name: str) -> KafkaLog:
            log = KafkaLog(brokers.servers, topic, tmp_path / name / "log.db", settings=SETTINGS)
            stack.callback(log.close)
            return log

        first = opened("one", "a")
        assert first.identity == ""
        first.append([Event("u", "i", "click", NOW)], ("click",), NOW)
        again, other = opened("one", "b"), opened("two", "c")
        other.append([Event("u", "i", "click", NOW)], ("click",), NOW)
        until(lambda: again.last_offset == 1)
        name = first.identity
        assert name.endswith(".0")
        assert again.identity == name != other.identity
        first.publish([], fresh=True)
        until(lambda: again.identity == first.identity)
        assert first.identity == name.replace(".0", ".1")


# ---------------------------------------------------------------------------------------------- values


def sums(states: States, features: FeatureSet) -> dict[str, list[float]]:
    stored = Stored(states.blobs, states.service, states.catalogue, features, slots=0)
    none = Ragged.empty(1)
    asked = Requests(np.array([0]), np.array([NOW]), 5, none, none, none)
    found = stored.columns(Rows(asked, np.zeros(ITEMS, dtype=np.int64), np.arange(ITEMS)))
    return {name: column.tolist() for name, column in found.items()}


def test_sums_of_values_from_a_release_are_those_from_the_log(tmp_path: Path) -> None:
    project, release = published(made(tmp_path, "memory:"))
    table = release.table("histories")
    assert table.schema["value"] == pl.Float32
    assert table["value"].null_count() == ROWS // 5
    schema = Schema.parse(release.document["schema"])
    features = FeatureSet.restored(release.document["features"], schema)

    def state() -> States:
        return States(Memory(), Service(features.counters, schema), release.catalogue)

    log_filled, release_filled, older = state(), state(), state()
    with closing(open_log(project)) as log:
        backfill(log, log_filled)
    release_filled.load(table, release.document["offset"])
    older.load(table.drop("value"), release.document["offset"])
    found = sums(log_filled, features)
    assert sums(release_filled, features) == found
    # by hand: quarters are exact in float32; both windows end at the minute of NOW, the longer one holds all
    events = pl.read_csv(tmp_path / "events.csv").filter(pl.col("time_ms") < NOW)
    names = workspace_items(project)
    by_item = dict(events.group_by("item").agg(pl.col("value").sum()).iter_rows())
    assert found["spent_30d"] == [by_item[name] for name in names]
    assert 0 < sum(found["spent_7d"]) < sum(found["spent_30d"])
    assert sums(older, features)["spent_30d"] == [0.0] * ITEMS


def workspace_items(project: Project) -> list[str]:
    with closing(open_log(project)) as log:
        return log.keys("item").ids.to_list()


def test_a_server_whose_log_begins_behind_the_release_has_the_sums(tmp_path: Path) -> None:
    project, release = published(made(tmp_path, "memory:"))
    asked = Requests(np.array([0]), np.array([NOW]), 5, *(Ragged.empty(1),) * 3)
    rows = Rows(asked, np.zeros(ITEMS, dtype=np.int64), np.arange(ITEMS))
    with closing(open_log(project)) as log:
        answers = []
        for dropped in (False, True):
            if dropped:  # as `log.keep_days` has it
                log.append([Event("u1", "i1", "click", NOW + 1)], ("click",), NOW + 1)
                assert compact.drop(log, NOW * 2) == ROWS
                assert log.read(0, 1)["offset"].to_list() == [ROWS + 1]
            with closing(Following(release, log, project, follow=False)) as following:
                known = following.known()
                assert known is not None
                answers.append({name: column.tolist() for name, column in known.columns(rows).items()})
    assert answers[0] == answers[1]
    assert sum(answers[0]["spent_7d"]) > 0
