"""What features are worth to a ranker, on a log whose truth is known: who has a phone clicks short films, others long
ones, and what they clicked before says it all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.cli import main
from shortlist.config import load
from shortlist.errors import ArtifactError, ConfigError, DataError
from shortlist.evaluation.importance import Importance, importance
from shortlist.evaluation.project import open_data, publish, train
from shortlist.events.workspace import import_log
from shortlist.feedback.live import open_engine

T = 1_767_225_600_000
USERS, ITEMS = 120, 40
TOML = """
seed = 1
filters = []

[data]
events = "events.csv"
items = "items.csv"

[schema]
action = "action"
actions.seen = { weight = 0.0 }
actions.click = {}
items.length = "sparse"
items.colour = "sparse"
context.device = "sparse"
tasks.click = { on = "seen", positive = "click" }
tasks.always = { on = "seen", positive = "seen" }

[split]
use = "user_time"
test = 0.3
valid = 0.1

[[recall]]
name = "popular"
use = "hot"
quota = 40

[rank]
use = "deepfm"
dim = 8
hidden = [16]
fuse = "click"
train = { epochs = 12, batch_size = 16, lr = 0.02, history = 5, patience = 0 }

[ranking]
share = 0.4
moments = 2
runtimes = ["torch"]

[serve]
deadline_ms = 60000.0

[scene.home]
page = 5
budget = 40
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On a phone short films are clicked, on a television long ones; the colour says nothing."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("importance")
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        device = "phone" if rng.random() < 0.5 else "tv"
        for visit in range(12):
            for item in rng.permutation(ITEMS)[:6].tolist():
                at = T + (user * 12 + visit) * 60_000
                rows.append((f"u{user}", f"i{item}", "seen", at, device))
                if (item % 2 == 0) == (device == "phone"):
                    rows.append((f"u{user}", f"i{item}", "click", at, device))
    names = ["user", "item", "action", "time_ms", "device"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(folder / "events.csv")
    items = {
        "item": [f"i{i}" for i in range(ITEMS)],
        "length": ["short" if i % 2 == 0 else "long" for i in range(ITEMS)],
        "colour": rng.choice(["red", "blue"], ITEMS).tolist(),
    }
    pl.DataFrame(items).write_csv(folder / "items.csv")
    (folder / "shortlist.toml").write_text(TOML, encoding="utf-8")
    found = load(folder)
    import_log(found, lambda text: None, T)
    data = open_data(found)
    train(data, "test", created_ms=T)
    publish(data, created_ms=T)
    return folder


def of(found: Importance) -> dict[str, float]:
    return {worth.feature: worth.gauc.value for worth in found.worth}


@pytest.mark.parametrize("on", ["test", "release"])
def test_what_decides_is_worth_most_and_what_says_nothing_is_worth_nothing(project: Path, on: Any) -> None:
    found = importance(open_data(load(project)), on, shuffles=3)
    assert (found.stage, found.task, found.on, found.shuffles) == ("rank", "click", on, 3)
    assert found.gauc > 0.9
    worth = of(found)
    assert next(iter(worth)) == "history"
    assert worth["history"] > 0.3  # what was clicked before is all short, or all long
    assert worth["item.length"] + worth["item.id"] > 0.03  # each says the length, so neither alone is missed
    assert abs(worth["item.colour"]) < 0.02
    assert {"recall.popular", "recall.merge", "context.device", "user.id"} <= worth.keys()
    history = next(w for w in found.worth if w.feature == "history")
    assert history.side == "request"
    assert history.gauc.low > 0.2
    assert history.auc.low <= history.auc.value <= history.auc.high
    assert found.told <= found.requests
    again = importance(open_data(load(project)), on, shuffles=3)
    assert again.words() == found.words()


def test_rows_are_bounded_and_whole_requests(project: Path) -> None:
    small = importance(open_data(load(project)), shuffles=1, rows=100)
    whole = importance(open_data(load(project)), shuffles=1)
    assert small.rows <= 100
    assert small.requests < whole.requests


def test_what_cannot_be_judged_is_said(project: Path, tmp_path: Path) -> None:
    data = open_data(load(project))
    with pytest.raises(ConfigError) as refused:
        importance(data, task="clik")
    assert str(refused.value) == "task: no task is called 'clik' (did you mean click?)"
    with pytest.raises(DataError) as wrong:
        importance(data, task="always", shuffles=1)
    assert str(wrong.value) == (
        "held rows of rank: task always has not rows of both classes"
        " (choose another task, or look at the labels (`shortlist evaluate`))"
    )
    with pytest.raises(ConfigError) as refused:
        importance(data, stage="rnk")
    assert str(refused.value) == "stage: scene 'home' has no stage 'rnk' (did you mean rank?)"
    with pytest.raises(ArtifactError) as stale:
        importance(data, "valid")
    assert stale.value.hint == "run `shortlist train --for valid`"
    file = tmp_path / "shortlist.toml"
    file.write_text((project / "shortlist.toml").read_text(encoding="utf-8").replace("dim = 8", "dim = 4"))
    (tmp_path / "var").symlink_to(project / "var")
    for name in ("events.csv", "items.csv"):
        (tmp_path / name).symlink_to(project / name)
    with pytest.raises(ArtifactError) as stale:
        importance(open_data(load(tmp_path)), "release")
    assert stale.value.what == "what the release learned from is not what this data and configuration say now"
    assert stale.value.hint == "publish again"


def test_the_command_writes_a_page(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["importance", "--project", str(project), "--shuffles", "1", "--rows", "400"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert " ".join(lines[0].split()) == "feature side GAUC lost 95 % interval AUC lost least to most"
    assert lines[-1] == "Features that say the same stand in for one another: each alone may lose little."
    page = (project / "var" / "reports" / "importance.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "context.device" in page
    capsys.readouterr()
    assert main(["importance", "--project", str(project), "--shuffles", "1", "--rows", "400", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {"stage", "task", "on", "shuffles", "rows", "requests", "told", "auc", "gauc", "features"} == told.keys()
    assert told == json.loads((project / "var" / "reports" / "importance.json").read_text(encoding="utf-8"))


def test_an_explanation_says_what_each_feature_adds(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_engine(load(project)) as engine:
        answer = engine.recommend("u3", context={"device": "phone"}, preview=True)
        first = answer.items[0]
        told = engine.explain("u3", first.item, request_id=answer.request_id)
        other = engine.explain("u3", f"i{int(first.item[1:]) ^ 1}", request_id=answer.request_id)
    by_name = {part["feature"]: part for part in told.features}
    assert {"context.device", "item.length", "item.colour", "history", "user.id", "recall.popular"} <= by_name.keys()
    sizes = [abs(part["change"]) for part in told.features]
    assert sizes == sorted(sizes, reverse=True)
    history = by_name["history"]
    assert history["score"] + history["change"] == pytest.approx(first.score, abs=1e-6)
    unlike = next(part for part in other.features if part["feature"] == "history")
    assert abs(unlike["change"]) > 0.05  # the first item's score is at its end, whatever is left out; this one's is not
    assert any(word.startswith("What adds most to its score, or takes most of it: ") for word in told.words)
    capsys.readouterr()
    assert main(["explain", "u3", first.item, "--project", str(project)]) == 0
    assert "What adds most to its score, or takes most of it: " in capsys.readouterr().out
