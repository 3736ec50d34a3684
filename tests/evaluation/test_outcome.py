"""What `shortlist evaluate` writes, for a project with rankers and for one without, on generated data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shortlist.cli import main
from shortlist.config import load
from shortlist.evaluation.outcome import category_of, first_values, item_map_page, runs
from shortlist.evaluation.project import open_data
from shortlist.schema import Catalogue, Profiles, Schema

RECALL = """
[[recall]]
name = "hot"
use = "hot"
quota = 40

[scene.home]
page = 5
budget = 40
"""
LEARNED = """
[[recall]]
name = "towers"
use = "dssm"
quota = 40
dim = 4
hidden = [8]
out = 4
train = { epochs = 1, batch_size = 256, history = 10 }
loss = { negatives = "full" }

[coarse]
use = "three_tower"
keep = 20
dim = 4
user = [8, 4]
item = [8, 4]
cross = [4]
top = [4]
train = { epochs = 1, history = 10 }

[rank]
use = "deepfm"
dim = 4
hidden = [8]
train = { epochs = 1, history = 10 }
"""
TASK = 'tasks.clicked = { on = { sample = "mixed", per = 4 }, positive = "click" }\n'


def project(folder: Path, learned: bool) -> Path:
    file = folder / "shortlist.toml"
    sizes = ["--users", "60", "--items", "50", "--days", "20", "--seed", "3"]
    assert main(["simulate", str(folder / "log"), *sizes]) == 0
    assert main(["init", str(folder / "log"), "--project", str(file)]) == 0
    lines = file.read_text(encoding="utf-8").split("[[recall]]")[0].splitlines()
    head = "\n".join(line for line in lines if not line.startswith("tasks.")) + "\n"
    head = head.replace("[split]", f"{TASK}\n[split]")
    file.write_text(head + RECALL + (LEARNED if learned else ""), encoding="utf-8")
    torch.set_num_threads(1)
    assert main(["import", "--project", str(file)]) == 0
    return folder


def evaluated(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> Any:
    capsys.readouterr()
    assert main(["evaluate", "--project", str(folder), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_project_with_rankers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = evaluated(project(tmp_path, learned=True), capsys)
    scores = {(row["score"], row["label"]) for row in told["stages"]["scores"]}
    # every later event is a click: the task says the same as what is relevant but for items met before
    assert {("rank.clicked", "clicked"), ("coarse.clicked", "clicked"), ("merge", "clicked")} <= scores
    curves = told["stages"]["survival"]
    assert {(row["by"], row["best"]) for row in curves} == {("coarse", 30), ("coarse", 5), ("merge", 30)}
    assert all(row["kept"][-1] == 1 and row["kept"] == sorted(row["kept"]) for row in curves)
    assert curves[0]["keep"] == 20
    # at most 20 of the 30 best fit into a cut at 20
    assert 0 < curves[0]["kept_at_keep"][0] <= 1
    assert {"new users", "old users"} <= set(told["cohorts"])
    assert told["cohorts"]["new users"]["figures"]["page"]["ndcg@5"][0] >= 0

    reports = tmp_path / "var" / "reports"
    page = (reports / "report.html").read_text(encoding="utf-8")
    for heading in ("New and old", "Scoring stages", "Training"):
        assert f"<h2>{heading}</h2>" in page
    assert '<a href="map.html">' in page
    drawn = (reports / "map.html").read_text(encoding="utf-8")
    data = open_data(load(tmp_path))
    assert [run.name for run in runs(data, "test")] == ["towers", "coarse", "rank"]
    found = item_map_page(data, "test", 0, limit=20)
    assert found is not None
    assert found.words.startswith("20 of ")
    assert found.words.partition(" as the channel ")[2].startswith("towers sees them")
    assert drawn.count("<title>") > 20
    places = (reports / "item_map.csv").read_text(encoding="utf-8").splitlines()
    assert places[0] == "key,x,y,title,category"
    assert len(places) - 1 == drawn.count('r="3"')  # a dot an item
    assert (reports / "item_map.png").read_bytes().startswith(b"\x89PNG")
    # without the map the page does not point at an old one
    evaluated(tmp_path, capsys, "--no-map")
    assert sorted(file.name for file in reports.iterdir()) == ["metrics.json", "report.html"]
    assert "map.html" not in (reports / "report.html").read_text(encoding="utf-8")


def test_a_project_without_rankers_and_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = evaluated(project(tmp_path, learned=False), capsys)
    assert told["stages"] == {}
    reports = tmp_path / "var" / "reports"
    page = (reports / "report.html").read_text(encoding="utf-8")
    assert "<h2>Scoring stages</h2>" not in page
    assert "<h2>Training</h2>" not in page
    assert "<h2>New and old</h2>" in page
    assert not (reports / "map.html").exists()


def test_of_a_channel_that_brings_nothing_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # no two users share an item: there are no neighbours, and nothing that is held out was met by anybody else
    rows = [f"u{u},i{10 * u + k},{1_700_000_000_000 + 1000 * k + u}" for u in range(8) for k in range(10)]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,time_ms", *rows]), encoding="utf-8")
    channels = "".join(
        f'[[recall]]\nname = "{name}"\nuse = "{use}"\n' for name, use in (("hot", "hot"), ("u", "user_cf"))
    )
    text = f'[data]\nevents = "events.csv"\n[schema]\n{channels}[scene.home]\npage = 5\n'
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    assert main(["import", "--project", str(tmp_path)]) == 0
    told = evaluated(tmp_path, capsys)
    mine = told["channels"]["channels"]["u"]
    assert mine["figures"]["coverage@5"] == [0, 0, 0]
    assert "novelty@5" not in mine
    assert "gini@5" not in mine
    assert "novelty@5" in told["channels"]["channels"]["hot"]
    assert main(["evaluate", "--channels", "--no-map", "--project", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "nan" not in out
    assert main(["publish", "--project", str(tmp_path)]) == 0  # the figures go with the release


def test_the_field_that_colours_a_map() -> None:
    schema = Schema.parse({
        "items": {
            "title": "text", "year": "sparse", "genres": {"kind": "varlen", "split": "|"}, "tags": "varlen",
        },
        "title": "title",
    })  # fmt: skip
    keys = np.arange(60)
    objects: dict[str, Any] = {
        "title": [f"t{n}" for n in range(60)],
        "year": [str(1900 + n) for n in range(60)],  # sixty values: too many colours
        "genres": ["Drama|Crime", None, *["War"] * 58],
        "tags": [["a", "b"], [], *[["c"]] * 58],
    }
    columns = {name: np.fromiter(values, dtype=object, count=60) for name, values in objects.items()}
    catalogue = Catalogue(Profiles(keys[:0], {}), Profiles(keys, columns))
    assert category_of(schema, catalogue) == "genres"
    assert first_values(schema, catalogue, "genres", keys[:3]) == ["Drama", None, "War"]
    assert first_values(schema, catalogue, "tags", np.array([0, 1, 2, 99])) == ["a", None, "c", None]
