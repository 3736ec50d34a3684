"""From slates that were served to a ranker that learned from them: what people take depends on where they ask from.

On a phone they click short films, on a television long ones; the log that the project starts with does not say it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.artifact import load as load_artifact
from shortlist.config import load
from shortlist.dataset.logged import LoggedData
from shortlist.errors import DataError
from shortlist.evaluation import project as projects
from shortlist.events.workspace import import_log
from shortlist.features.base import Rows
from shortlist.feedback.live import open_engine
from shortlist.schema import MISSING
from shortlist.serving.engine import Engine
from shortlist.serving.wire import Event

T = 1_767_225_600_000
MINUTE, DAY = 60_000, 86_400_000
USERS, ITEMS, PAGE = 24, 20, 6
TOML = """
seed = 1

[data]
events = "events.csv"
items = "items.csv"

[serve]
deadline_ms = 60000.0

[schema]
action = "action"
actions.impression = { weight = 0.0 }
actions.click = {}
items.length = "sparse"
context.device = "sparse"
tasks.click = { positive = "click" }

[split]
use = "user_time"
test = 0.02
valid = 0.02

[[recall]]
name = "popular"
use = "hot"
half_life_days = inf
quota = 20

[scene.home]
page = 6
budget = 20
"""
RANK = """
[rank]
use = "deepfm"
dim = 8
hidden = [16]
train = { epochs = 12, batch_size = 16, lr = 0.01, history = 5, patience = 4 }

[ranking]
rows = "logged"
held = 0.2
"""
QUIET: Any = lambda text: None  # noqa: E731


def length(item: int) -> str:
    return "short" if item % 2 == 0 else "long"


def likes(device: str, item: int) -> bool:
    return length(item) == ("short" if device == "phone" else "long")


def write(folder: Path, more: str = "") -> Path:
    """A log of clicks on anything, a day before anybody is served."""
    rng = np.random.default_rng(0)
    n = 8000
    log = {
        "user": [f"u{u}" for u in rng.integers(0, USERS, n)],
        "item": [f"i{i}" for i in rng.integers(0, ITEMS, n)],
        "action": ["click"] * n,
        "time_ms": np.sort(T - DAY + rng.integers(0, DAY // 2, n)),
        "device": rng.choice(["phone", "tv"], n),
    }
    pl.DataFrame(log).write_csv(folder / "events.csv")
    pl.DataFrame({"item": [f"i{i}" for i in range(ITEMS)], "length": [length(i) for i in range(ITEMS)]}).write_csv(
        folder / "items.csv"
    )
    file = folder / "shortlist.toml"
    file.write_text(TOML + more, encoding="utf-8")
    return file


def live(engine: Engine, rounds: int) -> int:
    """Everybody asks, sees a page of what is at hand that day, and clicks what suits the device. Returns the last
    moment."""
    now, rng = T, np.random.default_rng(7)
    for turn in range(rounds):
        for user in range(USERS):
            device = "phone" if (user + turn) % 2 else "tv"
            now += MINUTE
            absent = [f"i{i}" for i in rng.permutation(ITEMS)[:12]]
            answer = engine.recommend(f"u{user}", context={"device": device}, exclude=absent, now=now)
            keys = [int(shown.item[1:]) for shown in answer.items]
            told = [("impression", k) for k in keys] + [("click", k) for k in keys if likes(device, k)]
            named: dict[str, Any] = {
                "request_id": answer.request_id,
                "context": {"device": device},
                "time_ms": now + 1000,
            }
            events = [
                Event(f"u{user}", f"i{k}", action, event_id=f"{turn}-{user}-{k}-{action}", **named)
                for action, k in told
            ]
            receipt = engine.events(events, now=now + 2000)
            assert receipt.accepted == len(events)
    return now


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has served slates from a hot list, seen filter off, for a while, and half an hour of quiet."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("logged")
    file = write(folder)
    file.write_text(file.read_text(encoding="utf-8").replace("seed = 1", "seed = 1\nfilters = []"), encoding="utf-8")
    project = load(file)
    import_log(project, QUIET, T)
    projects.publish(projects.open_data(project), created_ms=T)
    with open_engine(project) as engine:
        last = live(engine, 6)
        later = last + 31 * MINUTE
        engine.events([Event(user="u0", item="i0", action="click", time_ms=later)], now=later)
        engine.flush()
    return folder


def ranking(folder: Path, more: str = RANK) -> Any:
    file = folder / "shortlist.toml"
    text = file.read_text(encoding="utf-8").split("\n[rank]")[0]
    file.write_text(text + more, encoding="utf-8")
    return projects.open_data(load(file))


def test_every_slate_was_logged_and_joined(served: Path) -> None:
    data = ranking(served)
    made: LoggedData = projects.logged_data(data, data.interactions)
    assert len(made.requests) == 6 * USERS
    assert len(made.candidates) == 6 * USERS * PAGE  # of those not shown none has a label: the task is on impressions
    assert made.valid.all()
    devices = made.requests.context["device"]
    items = data.catalogue.items
    kinds = items.take("length", made.candidates.items)
    wanted = np.where(devices[made.candidates.owners] == "phone", "short", "long")
    assert (made.labels[:, 0] == (kinds == wanted)).all()
    # a request knows what the log knew, its own outcome not among it
    assert made.requests.as_of is not None
    steps = made.requests.history
    log = data.interactions
    for r in (0, len(made.requests) - 1):
        mine = log.where((log.users == made.requests.users[r]) & (log.actions == 1))
        before = mine.where((mine.times <= made.requests.now[r]) & (mine.log_offsets <= made.requests.as_of[r]))
        assert steps.items[steps.offsets[r] : steps.offsets[r + 1]].tolist() == before.items.tolist()


def test_a_ranker_learns_what_the_context_says_and_serves_by_it(served: Path) -> None:
    data = ranking(served)
    fitted = projects.train(data, "release", created_ms=T + DAY)
    metrics = fitted["rank"].manifest.metrics
    assert metrics["click.auc"] > 0.95  # a coin without the device
    assert load_artifact(fitted["rank"].folder).manifest.config["platt"] == {}  # nothing was drawn: nothing to correct
    projects.publish(data, created_ms=T + DAY)
    with open_engine(data.project) as engine:
        absent = [f"i{i}" for i in (0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 18, 19)]  # four of each length are left
        for device in ("phone", "tv"):
            page = engine.recommend("u3", context={"device": device}, exclude=absent, now=T + DAY, preview=True)
            assert page.degraded == []
            told = [likes(device, int(shown.item[1:])) for shown in page.items]
            assert told == [True] * 4 + [False] * 2


FEATURE = """
[[feature]]
name = "clicks"
use = "count"
by = "item"
actions = ["click"]
windows = ["1h", "1d"]

[[feature]]
name = "hour"
use = "moment"
"""


def test_features_that_nobody_logged_are_those_of_the_log_as_of_then(served: Path) -> None:
    """By hand: clicks of whole minutes before the request's, inside the window, that the log knew by its offset."""
    data = ranking(served, RANK + FEATURE)
    made: LoggedData = projects.logged_data(data, data.interactions)
    rows = Rows(made.requests, made.candidates.owners, made.candidates.items)
    found = made.requests.known.columns(rows)
    log = data.interactions
    assert made.requests.as_of is not None
    for n in (0, 100, len(made.candidates) - 1):
        r = made.candidates.owners[n]
        now = made.requests.now[r] // MINUTE * MINUTE
        mine = (log.items == made.candidates.items[n]) & (log.actions == 1) & (log.times < now)
        mine &= (log.times >= now - 60 * MINUTE) & (log.log_offsets <= made.requests.as_of[r])
        assert found["clicks_1h"][n] == mine.sum()
    assert found["clicks_1h"].max() > 0
    fitted = projects.train(data, "release", created_ms=T + DAY)
    assert [word["name"] for word in fitted["rank"].manifest.config["features"]] == ["clicks", "hour"]
    assert fitted["rank"].manifest.metrics["click.auc"] > 0.95


def test_features_of_sampled_rows_are_replayed_too(served: Path) -> None:
    """The other way to learn, and the evaluation, ask the same replay."""
    rank = RANK.replace('rows = "logged"', 'rows = "sampled"').replace("epochs = 12", "epochs = 1")
    data = ranking(served, rank + FEATURE)
    assert data.fed("valid") != ranking(served, rank).fed("valid")
    projects.train(data, "valid", created_ms=T + DAY)
    asked = projects.held_out(data, "valid", 5).requests
    assert asked.known is data.known is not None
    assert len(asked.known.columns(Rows(asked, np.arange(len(asked)), None))) > 0
    found = projects.trained(data, "valid")
    assert found is not None
    page = projects.funnels(data, found.__getitem__)["home"].run(replace(asked, n=3))
    assert np.isfinite(page.candidates.scores["rank.click"][page.picks]).all()


def test_more_slates_make_a_fit_stale_and_the_same_ones_do_not(served: Path) -> None:
    data = ranking(served)
    before = data.fed("release")
    assert ranking(served).fed("release") == before
    assert ranking(served, RANK.replace("held", "position = true\nheld")).fed("release") != before
    with open_engine(data.project) as engine:
        engine.recommend("u1", now=T + DAY)
        engine.flush()
    assert ranking(served).fed("release") != before


def test_nothing_of_held_out_time_is_learned(served: Path) -> None:
    """Slates whose window reaches into a user's held-out events are left out of the fits that are judged on these."""
    data = ranking(served)
    log = data.part("valid")
    made: LoggedData = projects.logged_data(data, log)
    assert 0 < len(made.requests) < 6 * USERS
    held = data.interactions.where(~np.isin(data.interactions.log_offsets, log.log_offsets))
    for user in np.unique(made.requests.users):
        first = held.times[held.users == user].min()
        assert (made.requests.now[made.requests.users == user] + 30 * MINUTE < first).all()
    assert (made.requests.users != MISSING).all()


def test_slates_of_held_out_time_alone_teach_nothing(served: Path) -> None:
    data = ranking(served)
    early = data.interactions.where(data.interactions.times < T)
    with pytest.raises(DataError) as error:
        projects.logged_data(data, early)
    hint = "hold out less (see [split]), or serve for longer"
    assert str(error.value).startswith("ranking.rows: all logged slates are of held-out time: ")
    assert str(error.value).endswith(f"({hint})")


def test_logged_rows_need_a_server(tmp_path: Path) -> None:
    file = write(tmp_path, RANK)
    project = load(file)
    import_log(project, QUIET, T)
    with pytest.raises(DataError) as error:
        projects.train(projects.open_data(project), "release", created_ms=T)
    hint = 'serve for a while, or set ranking.rows = "sampled"'
    assert str(error.value) == f"ranking.rows: no served slate is logged yet ({hint})"
