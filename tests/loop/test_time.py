"""A world with features that count, texts that become vectors and a store on disk: from its log to a slate."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tests.waiting import until

from shortlist.artifact import Releases
from shortlist.candidates import Requests
from shortlist.cli import main
from shortlist.config import load as load_project
from shortlist.evaluation.project import held_out, open_data
from shortlist.events.opening import open_log
from shortlist.features.base import Rows
from shortlist.feedback.live import Following, open_engine
from shortlist.funnel import recipes
from shortlist.models.learned import restore
from shortlist.schema import Catalogue
from shortlist.serving.engine import Engine
from shortlist.serving.wire import Event

PROJECT = """
[data]
events = "log/events"
items = "log/items.parquet"
users = "log/users.parquet"

[schema]
action = "action"
request_id = "request_id"
position = "position"
value = "value"
actions.impression = { weight = 0.0 }
actions.click = {}
actions.like = {}
actions.favourite = {}
actions.share = {}
actions.follow = {}
context.device = "sparse"
items.title = { kind = "text", encode = { use = "ngrams", dim = 8 } }
items.category = "sparse"
items.creator = "sparse"
items.published = "time"
users.gender = "sparse"
title = "title"
category = "category"
published = "published"
tasks.click = { on = { sample = "mixed", per = 4 }, positive = "click" }

[serve]
store = "lmdb:"
deadline_ms = 60000.0

[[feature]]
name = "shown"
use = "rate"
hits = ["click"]
trials = ["impression"]
by = ["item"]

[[feature]]
name = "taste"
use = "count"
actions = ["click"]
by = ["user", "item.category"]
windows = ["7d", "30d"]

[[feature]]
name = "warm"
use = "decayed"
actions = ["click"]
by = ["item", "user.gender"]
half_life_days = 3.0

[[feature]]
name = "visit"
use = "session"

[[feature]]
name = "moment"
use = "moment"

[[recall]]
name = "hot"
use = "hot"
quota = 60

[[recall]]
name = "similar"
use = "item_cf"
quota = 60

[rank]
use = "deepfm"
dim = 4
hidden = [16]
train = { epochs = 1, history = 5 }

[ranking]
runtimes = ["torch"]
requests = 300

[scene.home]
page = 5
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained and published."""
    folder = tmp_path_factory.mktemp("time")
    words = ["--size", "tiny", "--users", "80", "--items", "100", "--days", "12"]
    assert main(["simulate", str(folder / "log"), *words]) == 0
    file = folder / "shortlist.toml"
    file.write_text(PROJECT, encoding="utf-8")
    for command in (["import"], ["train"], ["evaluate"], ["publish"]):
        assert main([*command, "--project", str(file)]) == 0
    return folder


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    with open_engine(load_project(folder), follow=True) as opened:
        yield opened


def test_a_model_reads_counts_and_texts_where_the_project_declares_them(project: Path) -> None:
    data = open_data(load_project(project))
    release = Releases(project / "var" / "releases").load()
    learned = restore(
        release.artifact("rank"), data.schema, read(project)
    )  # fmt: skip
    row, request = learned.layout.row, learned.layout.request
    assert row.vecs == {"item.title": 8}
    assert {"live.shown_1h", "live.taste_7d", "live.warm"} <= set(row.dense)
    assert any(name.startswith("live.visit") for name in (*request.dense, *request.sparse))
    assert any(name.startswith("live.moment") for name in (*request.dense, *request.sparse))


def test_what_a_server_knows_is_what_the_log_replays(project: Path) -> None:
    """The store that follows the log, and the log itself, asked at one moment: counts to the unit."""
    data = open_data(load_project(project))
    release = Releases(project / "var" / "releases").load()
    log_project = load_project(project)
    log = open_log(log_project)
    following = Following(release, log, log_project, follow=False)
    try:
        now = int(data.interactions.times.max()) + 60_000
        users = data.interactions.user_keys[:20]
        asked = held_out(data, "test", 5).requests
        items = np.tile(data.catalogue.items.keys[:50], len(users))
        owners = np.repeat(np.arange(len(users)), 50)
        told = data.requests(users, np.full(len(users), now), 5, asked.history.take(0, len(users)))
        rows = Rows(told, owners, items)
        online, offline = following.known(), data.known
        assert online is not None
        assert offline is not None
        here, there = online.columns(rows), offline.columns(rows)
        assert (
            set(here)
            == set(there)
            == set(data.features.side("row").columns)
            | {column.trials for column in data.features.columns.values() if column.trials}
        )
        assert sum(float(np.nansum(np.asarray(here[name], dtype=np.float64))) for name in here) > 1000
        for name in here:
            assert_allclose(
                np.asarray(here[name], np.float64), np.asarray(there[name], np.float64), rtol=1e-6, err_msg=name
            )
    finally:
        following.close()
        log.close()


def test_a_click_changes_the_next_slate_and_reaches_the_store(project: Path) -> None:
    with engine(project) as live:
        user = live.live.release.users.ids[0]
        first = live.recommend(user, 5)
        assert not first.degraded
        assert all(set(shown.tasks) == {"click"} for shown in first.items)
        item = first.items[0].item
        sent = live.events([Event(user=user, item=item, action="click", time_ms=live.clock(), event_id="one")])
        assert sent.accepted == 1
        assert item not in [shown.item for shown in live.recommend(user, 5).items]
        users = live.live.users
        assert isinstance(users, Following)
        assert until(lambda: users.store.offset >= live.log.last_offset)
        key = np.array([live.log.key("user", user)])
        held = users.store.read(key, np.array([live.clock()]))
        assert live.log.key("item", item) in held.history.items
    with engine(project) as again:  # a restart: the store goes on where it was, and the click still counts
        assert item not in [shown.item for shown in again.recommend(user, 5).items]
        twice = again.events([Event(user=user, item=item, action="click", time_ms=again.clock(), event_id="one")])
        assert (twice.accepted, twice.duplicates) == (0, 1)


def test_a_stranger_is_ranked_by_what_items_are_known_for(project: Path) -> None:
    with engine(project) as live:
        answer = live.recommend("nobody we know", 5)
        assert len(answer.items) == 5
        assert answer.degraded == ["unknown_user"]
        record = live._ring[answer.request_id]
        asked: Requests = record.slates.requests
        alive = np.flatnonzero(np.isfinite(record.slates.candidates.scores["rank"]))
        raw = asked.known.columns(Rows(asked, np.zeros(len(alive), np.int64), record.slates.candidates.items[alive]))
        assert_array_equal(raw["taste_7d"], 0)  # the user did nothing yet


def read(project: Path) -> Catalogue:
    """The catalogue as models see it."""
    data = open_data(load_project(project))
    release = Releases(project / "var" / "releases").load()
    return recipes.seen(data.schema, release.catalogue, release.artifact)
