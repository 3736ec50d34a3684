"""`shortlist follow`, `backfill` and `store` as a person runs them, and the store that a server opens."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.serving import world as serving
from tests.store.servers import Server
from tests.waiting import until

from shortlist import artifact, now
from shortlist.artifact import Release
from shortlist.candidates import Ragged, Requests
from shortlist.cli import main
from shortlist.config import FeatureConfig, Project, load
from shortlist.events.log import Event, EventLog
from shortlist.features.base import Rows
from shortlist.features.featureset import FeatureSet
from shortlist.feedback.live import Following, states
from shortlist.schema import Schema

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
TOML = """
[schema]
action = "action"
actions.seen = { weight = 0.0 }
actions.click = {}
items.genre = "sparse"

[[feature]]
name = "clicks"
use = "count"
by = "item"
actions = ["click"]
windows = ["1h", "1d"]

[[feature]]
name = "taste"
use = "count"
by = ["user", "item.genre"]
actions = ["click"]
windows = ["1d"]

[[feature]]
name = "wave"
use = "count"
by = "item.genre"
actions = ["click"]
windows = ["1d"]

[serve]
store = "lmdb:"
"""


def log_of(folder: Path, moment: int) -> EventLog:
    """ann clicked a (war) two hours ago and b (love) ten minutes ago, bob a ten minutes ago, and saw b."""
    log = EventLog(folder / "var" / "log.db")
    told = [("ann", "a", "click", 120), ("ann", "b", "click", 10), ("bob", "a", "click", 10), ("bob", "b", "seen", 9)]
    events = [Event(user, item, action, moment - ago * MINUTE_MS) for user, item, action, ago in told]
    assert {outcome.status for outcome in log.append(events, ("seen", "click"), moment)} == {"accepted"}
    return log


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shortlist.toml").write_text(TOML, encoding="utf-8")
    log_of(tmp_path, now()).close()
    items = pl.DataFrame({"key": [0, 1], "id": ["a", "b"], "genre": ["war", "love"]})
    items.write_parquet(tmp_path / "var" / "items.parquet")
    return tmp_path


def say(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0, words
    return json.loads(capsys.readouterr().out)


def test_backfill_then_look(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = say(capsys, "backfill", "--project", str(project), "--chunk", "2")
    assert made["offset"] == 4
    assert {name: part["keys"] for name, part in made["namespaces"].items()} == {
        "about": 2, "item": 2, "user": 2, "value": 2,
    }  # fmt: skip
    ann = say(capsys, "store", "get", "user", "ann", "--project", str(project))
    assert (ann["entity"], ann["id"], ann["key"], ann["offset"], ann["shown"]) == ("user", "ann", 0, 4, [])
    assert [(event["item"], event["action"]) for event in ann["history"]] == [("a", "click"), ("b", "click")]
    assert ann["history"][1]["time_ms"] - ann["history"][0]["time_ms"] == 110 * MINUTE_MS
    (taste,) = ann["counters"]
    assert (taste["by"], taste["actions"]) == (["user", "item.genre"], ["click"])
    assert set(taste["counts"]) == {"war", "love"}
    a = say(capsys, "store", "get", "item", "a", "--project", str(project))
    (clicks,) = a["counters"]
    assert clicks["counts"]["1h"] == 1.0  # bob's, ten minutes ago
    # a day's window begins a day before the last full hour: both of its clicks are in it
    assert clicks["counts"]["1d"] == 2.0
    love = say(capsys, "store", "get", "value", "item.genre=love", "--project", str(project))
    assert [counter["counts"]["1d"] for counter in love["counters"]] == [1.0]
    found = say(capsys, "store", "sizes", "--project", str(project))
    assert found["offset"] == 4
    assert found["namespaces"]["user"]["bytes"] == ann["bytes"] + say(
        capsys, "store", "get", "user", "bob", "--project", str(project)
    )["bytes"]  # fmt: skip
    assert main(["store", "sizes", "--project", str(project)]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].split() == ["namespace", "keys", "bytes", "bytes", "each", "at", "most"]
    # 1,000 interactions and 1,000 exposures of 30 bytes, and the rings of 64 genres
    assert found["namespaces"]["about"]["most"] is None
    assert found["namespaces"]["user"]["most"] > 60_000
    assert all(part["each"] <= part["most"] for part in found["namespaces"].values() if part["most"])
    assert told.err == "at offset 4\n"


def test_follow_once_goes_on_from_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = say(capsys, "follow", "--once", "--project", str(project))
    assert (done["applied"], done["offset"], done["lag"]) == (4, 4, 0)
    with closing(EventLog(project / "var" / "log.db")) as log:
        log.append([Event("ann", "a", "click", now() - 2 * MINUTE_MS)], ("seen", "click"), now())
    done = say(capsys, "follow", "--once", "--project", str(project))
    assert (done["applied"], done["offset"], done["lag"]) == (1, 5, 0)
    assert say(capsys, "follow", "--once", "--project", str(project))["applied"] == 0
    ann = say(capsys, "store", "get", "user", "ann", "--project", str(project))
    assert [event["item"] for event in ann["history"]] == ["a", "b", "a"]


def test_a_store_that_was_never_filled_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["get", "user", "ann"], ["sizes"]):
        assert main(["store", *words, "--project", str(project)]) == 0
        assert capsys.readouterr().err == "nothing is kept yet: import the log, then `shortlist backfill`\n"


def test_what_can_go_wrong_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "get", "user", "nobody", "--project", str(project)]) == 2
    want = "error: no user has the id 'nobody'\n  where: user id\n  next: ids are as the log has them\n"
    assert capsys.readouterr().err == want
    with closing(states(load(project), None, write=True).blobs):
        for words in (["follow", "--once"], ["backfill"]):
            assert main([*words, "--project", str(project)]) == 2
            err = capsys.readouterr().err
            assert f"error: another process writes this store (process {os.getpid()})" in err
    (project / "shortlist.toml").write_text(TOML.replace("lmdb:", "memory:"), encoding="utf-8")
    for words in (["follow", "--once"], ["backfill"], ["store", "sizes"]):
        assert main([*words, "--project", str(project)]) == 2
        want = "error: the state lives in the server itself\n  where: serve.store\n"
        assert capsys.readouterr().err == want + '  next: write store = "lmdb:" under [serve]\n'


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("item.gender=f", "nothing is counted by 'item.gender'"),
        ("war", "'war' is no value of a field"),
    ],
)
def test_a_value_that_nothing_is_counted_by(
    project: Path, capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    assert main(["backfill", "--project", str(project)]) == 0
    capsys.readouterr()
    assert main(["store", "get", "value", word, "--project", str(project)]) == 2
    assert capsys.readouterr().err == f"error: {said}\n  where: value\n  next: write item.genre=VALUE\n"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_follow_runs_until_it_is_told_to_end(project: Path, sign: signal.Signals) -> None:
    code = "import sys; from shortlist.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "follow", "--project", str(project), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        store = states(load(project), None, write=False)
        with closing(store.blobs), closing(EventLog(project / "var" / "log.db")) as log:
            for n in range(3):
                log.append([Event("cid", f"c{n}", "click", now() - MINUTE_MS)], ("seen", "click"), now())
                assert until(lambda: store.offset >= 5 + n)  # noqa: B023
                assert store.offset == 5 + n
            assert store.read(np.array([2]), now()).history.items.tolist() == [2, 3, 4]
        process.send_signal(sign)
        out, talk = process.communicate(timeout=120)
    finally:
        process.kill()
    done = json.loads(out)
    assert (process.returncode, done["applied"], done["offset"], done["lag"]) == (0, 7, 7, 0)
    assert talk.splitlines()[0] == "following; Ctrl-C ends it"


# ---------------------------------------------------------------------------------------------- the server's store


def released(folder: Path, store: str) -> tuple[serving.World, Project, Release]:
    """The world of the serving tests with a counting feature, and a project that names a store."""
    made = serving.World(folder / "var")
    schema = Schema.parse(serving.SCHEMA)
    words = FeatureConfig("clicks", "count", {"actions": ["click"], "by": "item", "windows": ["1h"]})
    for label, form in {"similar": serving.neighbours(), "popular": serving.hot()}.items():
        place = folder / "parts" / label
        artifact.save(place, kind="recall", name=label, form=form, fingerprint=schema.fingerprint(), created_ms=1)
    name = made.releases.publish(
        None, {label: folder / "parts" / label for label in ("similar", "popular")},
        {**serving.document(), "features": FeatureSet.of([words], schema).words()},
        made.log.keys("user"), made.log.keys("item"), serving.catalogue(), {"histories": serving.histories()},
        created_ms=serving.NOW,
    )  # fmt: skip
    (folder / "shortlist.toml").write_text(f'[serve]\nstore = "{store}"\n', encoding="utf-8")
    return made, load(folder), made.releases.load(name)


def asked(users: int, moment: int) -> Requests:
    none = Ragged.empty(users)
    return Requests(np.arange(users), np.full(users, moment), 5, none, none, none)


@pytest.mark.parametrize("words", ["memory:", "lmdb:", "redis"])
def test_a_server_opens_the_configured_store_and_fills_it(words: str, tmp_path: Path, server: Server) -> None:
    import redis

    with closing(redis.Redis.from_url(server.url)) as client:
        client.flushall()
    made, project, release = released(tmp_path, server.url if words == "redis" else words)
    users, moment = np.array([0, 3, 6]), np.full(3, serving.NOW)
    with closing(made.log):
        first = Following(release, made.log, project, follow=True)
        state = first(users, moment)
        # the log has none of these: they are the release's histories, 21 offsets reserved for them
        assert state.history.items.tolist() == [0, 1, 2, 10, 11, 12]
        assert first.store.offset == 21
        made.log.append([Event("ann", "war5", "click", serving.NOW - MINUTE_MS)], ("impression", "click"), serving.NOW)
        assert first(users[:1], moment[:1]).history.items.tolist() == [0, 1, 2, 5]
        follower = first.follower
        assert follower is not None
        assert until(lambda: not follower.lag)
        known = first.known()
        assert known is not None
        requests = asked(1, serving.NOW)
        counts = known.columns(Rows(requests, np.zeros(3, dtype=np.int64), np.array([5, 0, 12])))
        # war5 was clicked a minute ago; the histories are of hours ago
        assert {name: column.tolist() for name, column in counts.items()} == {"clicks_1h": [1.0, 0.0, 0.0]}
        assert known.offset == 22
        # a second release opens before the first is closed, as in a swap; one of the two writes
        second = Following(release, made.log, project, follow=True)
        assert second(users[:1], moment[:1]).history.items.tolist() == [0, 1, 2, 5]
        first.close()
        assert first(users[:1], moment[:1]).history.items.tolist() == [0, 1, 2, 5]  # a request still under way
        made.log.append([Event("ann", "war6", "click", serving.NOW)], ("impression", "click"), serving.NOW)
        assert second.follower is not None
        assert until(lambda: second.store.offset == 23)  # it has taken over
        assert second(users[:1], moment[:1]).history.items.tolist() == [0, 1, 2, 5, 6]
        second.close()
