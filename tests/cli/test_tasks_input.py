"""Tasks of a funnel of actions: what contradicts it, what the log never says, and values that are no probabilities.

A log of 40 users, each shown 12 of 25 items, a minute apart. Of each user's events the last are the test part.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.cli.test_learning_input import ITEMS, SCENE, USERS, T, error, ran, said

from shortlist.artifact import load
from shortlist.cli import main

EACH = 12
HEAD = """
[data]
events = "events.parquet"
items = "items.parquet"

[schema]
action = "what"
value = "value"
actions = { impression = { weight = 0 }, click = {}, buy = {}, watch = { weight = 0 } }
items = { kind = "sparse", length = "dense" }
tasks.click = { positive = "click" }
tasks.buy = { on = "click", positive = "buy" }

[split]
use = "global_time"

[[recall]]
name = "hot"
use = "hot"

[ranking]
share = 0.5
held = 0.2
"""
RANK = """
[rank]
use = "deepfm"
dim = 4
hidden = [8]
fuse = "click"
train = { epochs = 2, history = 5 }
"""


def world(folder: Path, text: str, acts: Mapping[int, list[tuple[str, float | None]]]) -> Path:
    """Each user is shown items in an order of its own; place k brings `acts[k % 4]` a second later each."""
    rng = np.random.default_rng(0)
    rows: list[tuple[str, str, int, str, float | None]] = []
    for user in range(USERS):
        for k, item in enumerate(rng.permutation(ITEMS)[:EACH].tolist()):
            time = T + 60_000 * k + user
            events = [("impression", None), *acts.get((k + user) % 4, [])]
            if events[1:] and events[1][0] == "alone":
                events = events[2:]
            rows += [(f"u{user}", f"i{item}", time + 1000 * n, what, value) for n, (what, value) in enumerate(events)]
    names = ("user", "item", "time_ms", "what", "value")
    columns = {name: [row[n] for row in rows] for n, name in enumerate(names)}
    pl.DataFrame(columns, schema_overrides={"value": pl.Float64}).sort("time_ms").write_parquet(
        folder / "events.parquet"
    )
    items = {"item": [f"i{k}" for k in range(ITEMS)], "kind": [f"k{k % 4}" for k in range(ITEMS)],
             "length": [10.0 * (k + 1) for k in range(ITEMS)]}  # fmt: skip
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    (folder / "shortlist.toml").write_text(text, encoding="utf-8")
    return folder


def metrics(folder: Path, name: str = "rank") -> dict[str, Any]:
    return dict(load(folder / "var" / "models" / "test" / name).manifest.metrics)


def test_a_purchase_without_a_click_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    acts: dict[int, list[tuple[str, float | None]]] = {
        0: [("click", None), ("buy", None)], 1: [("click", None)], 2: [("buy", None)],
    }  # fmt: skip
    folder = world(tmp_path, HEAD + RANK + SCENE, acts)
    ran(folder, "import", "train")
    found = metrics(folder)
    lost = found["left out: buy without click"]
    assert lost > 10
    assert caplog.messages == [f"rank (deepfm): {lost} rows are left out: buy without click"]
    # without those purchases nothing else changes: the rows were in neither task
    other = tmp_path / "other"
    other.mkdir()
    ran(world(other, HEAD + RANK + SCENE, {k: acts[k] for k in (0, 1)}), "import", "train")
    assert "left out: buy without click" not in metrics(other)


def test_a_task_whose_action_the_log_never_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world(tmp_path, HEAD + RANK + SCENE, {0: [("click", None)], 1: [("click", None)]})
    ran(folder, "import", "train")
    assert caplog.messages[0] == "rank (deepfm): task buy: no event of the log is buy"
    assert "task buy: all " in caplog.messages[1]
    assert "buy.auc" not in metrics(folder)
    assert "click.auc" in metrics(folder)
    alone = HEAD.replace('tasks.click = { positive = "click" }\n', "") + RANK.replace('"click"', '"buy"') + SCENE
    (folder / "shortlist.toml").write_text(alone, encoding="utf-8")
    what, where, _ = said(folder, capsys, "train")
    assert what.startswith("error: no task has anything to tell apart: buy: all ")
    assert what.endswith(" labels are 0 (no event of the log is buy)")
    assert where == "  where: rank (deepfm), schema.tasks"


WATCHED: dict[int, list[tuple[str, float | None]]] = {
    0: [("click", None), ("watch", 30.0)], 1: [("click", None), ("watch", 300.0)], 2: [("click", None)],
}  # fmt: skip
SECONDS = 'tasks.seconds = { positive = "coalesce(watch.value, 0)" }\n'


@pytest.mark.parametrize("how", ["weighted", "expected"])
def test_seconds_reach_fuse_under_the_tasks_name(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rank = RANK.replace('fuse = "click"', 'fuse = "click * log1p(seconds)"') + (
        f'loss = {{ watch = {{ seconds = "{how}" }}, percentile = 40.0, balance = "uncertainty" }}\n'
    )
    text = HEAD.replace('tasks.buy = { on = "click", positive = "buy" }\n', SECONDS)
    folder = world(tmp_path, text + rank + SCENE, WATCHED)
    ran(folder, "import", "train", "train --for release", "publish")
    found = metrics(folder)
    assert found["seconds.longest"] == 30.0  # half of those who watched did so for 30 s, half for 300 s
    assert found["seconds.minus_mse"] < 0
    assert found["seconds.calibration"] > 0
    assert {"seconds.weight", "click.weight"} <= set(found)
    log = next((folder / "var" / "models" / "test" / ".runs" / "rank").glob("*/log.jsonl"))
    steps = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert {"click", "seconds", "click.weight", "seconds.weight"} == set(steps[0]["parts"])
    ran(folder, "evaluate")
    capsys.readouterr()
    assert main(["recommend", "u1", "--json", "--debug", "--project", str(folder)]) == 0
    answer = json.loads(capsys.readouterr().out)
    scores = answer["trace"]["candidates"]["scores"]
    columns = (scores[name] for name in ("rank.click", "rank.seconds", "rank"))
    told = [row for row in zip(*columns, strict=True) if None not in row]
    assert len(told) > 3
    for click, seconds, fused in told:
        assert seconds > 0
        assert fused == pytest.approx(click * np.log1p(seconds), rel=1e-5)


def test_times_below_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rank = RANK + 'loss = { watch = { seconds = "expected" } }\n'
    text = HEAD.replace('tasks.buy = { on = "click", positive = "buy" }\n', SECONDS)
    folder = world(tmp_path, text + rank + SCENE, {0: [("click", None), ("watch", -5.0)], 1: [("click", None)]})
    ran(folder, "import")
    what, where, hint = said(folder, capsys, "train")
    assert what.endswith(" times are below 0, the first is -5")
    assert (where, hint) == (
        "  where: rank (deepfm), schema.tasks.seconds", "  next: correct the values, or the task's positive"
    )  # fmt: skip


def test_completion_is_served_over_the_usual_one_of_the_items_length(tmp_path: Path) -> None:
    finished = 'tasks.finished = { on = "click", positive = "watch.value > 100" }\n'
    rank = RANK.replace('fuse = "click"', 'fuse = "click * finished"') + (
        'loss = { length = { finished = "length" }, kept = { click = 0.1 }, class_weights = { finished = 3.0 } }\n'
    )
    text = HEAD.replace('tasks.buy = { on = "click", positive = "buy" }\n', finished)
    folder = world(tmp_path, text + rank + SCENE, WATCHED)
    ran(folder, "import", "train", "evaluate")
    artifact = load(folder / "var" / "models" / "test" / "rank")
    config = artifact.manifest.config
    # a third of the clicks is watched for 300 s
    assert config["lengths"]["finished"]["field"] == "length"
    assert config["lengths"]["finished"]["mean"] == pytest.approx(1 / 3, abs=0.1)
    usual = np.array(artifact.array("length.finished"))
    assert (np.diff(usual[0]) > 0).all()
    assert (np.diff(usual[1]) <= 0).all()
    # a tenth of the negatives was kept: ln 0.1; positives that count 3 times: -ln 3
    assert config["platt"]["click"] == [1.0, pytest.approx(np.log(0.1))]
    assert config["platt"]["finished"] == [1.0, pytest.approx(-np.log(3))]


def test_a_length_that_no_item_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rank = RANK + 'loss = { length = { buy = "length" } }\n'
    folder = world(tmp_path, HEAD + rank + SCENE, {0: [("click", None), ("buy", None)], 1: [("click", None)]})
    items = pl.read_parquet(folder / "items.parquet").with_columns(length=pl.lit(0.0))
    items.write_parquet(folder / "items.parquet")
    ran(folder, "import")
    what, where, hint = said(folder, capsys, "train")
    assert what.endswith(" rows of training has a length above 0")
    assert where == "  where: rank (deepfm), task buy"
    assert hint == "  next: fill the column, or take it out of loss.length"


@pytest.mark.parametrize(
    ("loss", "what", "where", "hint"),
    [
        ('{ watch = { buys = "expected" } }', "no task is called 'buys'", "rank (deepfm).loss", "did you mean buy?"),
        (
            '{ length = { buy = "kind" } }', "no dense item field is called 'kind'", "rank (deepfm).loss.length",
            "known: length",
        ),
        (
            '{ kept = { buy = 0.0 } }', "should be more than 0.0, got 0.0", "rank (deepfm).loss.kept.buy",
            "correct the value",
        ),
    ],
)  # fmt: skip
def test_words_of_a_loss_are_checked_before_anything_is_read(
    loss: str, what: str, where: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shortlist.toml").write_text(HEAD + RANK + f"loss = {loss}\n" + SCENE, encoding="utf-8")
    assert said(tmp_path, capsys, "check") == error(what, where, hint)
