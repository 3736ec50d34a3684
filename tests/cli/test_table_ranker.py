"""A project whose ranker are trees: evaluated, published, served and explained by the commands as any other."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shortlist.artifact import Releases, amend, load
from shortlist.cli import main
from shortlist.config import load as load_project
from shortlist.errors import ArtifactError
from shortlist.evaluation.project import held_out, open_data
from shortlist.models import runtimes
from shortlist.models.learned import restore

TASKS = """tasks.clicked = { on = { sample = "mixed", per = 4 }, positive = "click" }
tasks.liked = { on = "click", positive = "like" }
"""
RANK = """
[rank]
use = "lambdamart"
fuse = "clicked * (1 + liked)"
trees = 20
leaves = 7
weights = { clicked = 1.0, liked = 2.0 }
train = { history = 10 }

[ranking]
moments = 2

[scene.home]
page = 5
budget = 60
"""
OTHERS = {
    "lr": 'use = "lr"\nfuse = "clicked * (1 + liked)"\ncrosses = [["history.item.category", "item.category"]]\n'
    "buckets = 4096\ntrain = { history = 10 }\n",
    "gbdt_lr": 'use = "gbdt_lr"\nfuse = "clicked * (1 + liked)"\ntrees = 10\nstart = "leaves"\n'
    "train = { history = 10, threads = 1 }\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    file = folder / "shortlist.toml"
    sizes = ["--users", "120", "--items", "70", "--days", "15", "--seed", "3"]
    assert main(["simulate", str(folder / "log"), *sizes]) == 0
    assert main(["init", str(folder / "log"), "--project", str(file)]) == 0
    lines = file.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("tasks.")) + "\n"
    file.write_text(text.replace("[split]", f"{TASKS}\n[split]") + RANK, encoding="utf-8")
    torch.set_num_threads(1)
    for command in (["import"], ["train"], ["evaluate"], ["publish"]):
        assert main([*command, "--project", str(file)]) == 0, command
    return folder


def answer(project: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--project", str(project), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    for name, paper in (("lr", "McMahan"), ("gbdt_lr", "ADKDD 2014"), ("lambdamart", "Burges")):
        assert listed[name]["kind"] == "rank"
        assert paper in listed[name]["what"]


def test_the_page_is_ranked_by_calibrated_margins(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = answer(project, capsys, "recommend", "3")
    assert len(page["items"]) == 5
    assert page["degraded"] == []
    scores = [item["score"] for item in page["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 2 for score in scores)  # clicked * (1 + liked)


def test_the_stage_was_evaluated_and_what_it_learned_is_told(project: Path) -> None:
    figures = json.loads((project / "var" / "reports" / "metrics.json").read_text(encoding="utf-8"))
    assert "rank" in json.dumps(figures["stages"])
    told = load(project / "var" / "models" / "test" / "rank").manifest.metrics
    assert 0 < told["trees"] <= 20
    assert 0.5 < told["clicked.gauc"] < 1
    assert not [name for name in told if name.endswith("logloss")], "a margin has none"


def test_trees_lie_in_the_artifact_as_text_and_every_task_is_calibrated(project: Path) -> None:
    artifact = load(project / "var" / "models" / "test" / "rank")
    assert artifact.names("txt") == ["kept.forest.txt"]
    assert artifact.text("kept.forest").startswith("tree\nversion=")
    assert set(artifact.manifest.config["platt"]) == {"clicked", "liked"}


def test_the_release_runs_it_as_it_is(project: Path) -> None:
    release = Releases(project / "var" / "releases").load()
    record = release.artifact("rank").manifest.config[runtimes.RECORD]
    assert record["use"] == "itself"
    assert set(record["p50_ms"]) == {"itself"}
    assert record["left_out"] == {}
    assert release.artifact("rank").names("onnx") == []


def test_an_item_is_explained(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = answer(project, capsys, "recommend", "3")
    told = answer(project, capsys, "explain", "3", page["items"][0]["item"])
    assert "rank" in json.dumps(told)


@pytest.mark.parametrize("use", sorted(OTHERS))
def test_the_others_are_published_and_answer(
    use: str, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "shortlist.toml").read_text(encoding="utf-8")
    start, stop = text.index('use = "lambdamart"'), text.index("[ranking]")
    file = tmp_path / "shortlist.toml"
    file.write_text(f"{text[:start]}{OTHERS[use]}\n{text[stop:]}", encoding="utf-8")
    shutil.copytree(project / "var", tmp_path / "var", symlinks=True)
    assert main(["publish", "--project", str(file)]) == 0
    page = answer(tmp_path, capsys, "recommend", "3")
    assert len(page["items"]) == 5
    assert page["degraded"] == []
    artifact = Releases(tmp_path / "var" / "releases").load().artifact("rank")
    assert artifact.manifest.kind == f"rank.{use}"
    trees = [f"kept.{task}.txt" for task in ("clicked", "liked")] if use == "gbdt_lr" else []
    assert artifact.names("txt") == trees


def test_a_release_answers_as_what_was_trained(project: Path) -> None:
    """Restored, amended and restored again: the same scores to the bit."""
    data = open_data(load_project(project))
    artifact = load(project / "var" / "models" / "test" / "rank")
    learned = restore(artifact, data.schema, data.catalogue)
    asked = held_out(data, "test", 5).requests.take(0, 4)
    channels = artifact.manifest.config["channels"]
    candidates = runtimes.sample(learned, asked, channels, 20, np.random.default_rng(0))
    before = learned.score(asked, candidates)
    copy = project / "copy"
    shutil.copytree(artifact.folder, copy)
    amend(copy, config={"more": 1}, graphs={})
    again = restore(load(copy), data.schema, data.catalogue).score(asked, candidates)
    for task, score in before.items():
        assert (score == again[task]).all()
        assert len(set(score.tolist())) > 10


def test_trees_of_another_schema_are_refused(project: Path) -> None:
    """The same artifact over a layout that has no longer one of its channels."""
    data = open_data(load_project(project))
    source = load(project / "var" / "models" / "test" / "rank")
    copy = project / "fewer"
    shutil.copytree(source.folder, copy)
    channels = source.manifest.config["channels"]
    amend(copy, config={"channels": channels[1:]}, graphs={})
    with pytest.raises(ArtifactError) as error:
        restore(load(copy), data.schema, data.catalogue)
    names = source.text("kept.forest").partition("feature_names=")[2].partition("\n")[0].split(" ")
    gone = f"recall.{channels[0]}, recall_score.{channels[0]}"
    told = f"{len(names)} columns, here are {len(names) - 2}; it reads {gone}"
    what = f"{copy}: a LightGBM file of another schema: {told} (train and publish again)"
    assert str(error.value) == what


def test_words_that_do_nothing_are_refused_before_anything_is_trained(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "shortlist.toml").read_text(encoding="utf-8")
    (tmp_path / "var").symlink_to(project / "var")
    file = tmp_path / "shortlist.toml"
    for old, new, told in (
        (
            "train = { history = 10 }",
            "train = { history = 10, epochs = 3 }",
            ["error: epochs does nothing for lambdamart", "  where: rank.train",
             "  next: take epochs away; it has history, seed, calibration, threads"],
        ),
        (
            "train = { history = 10 }",
            "loss = { listwise = 1.0 }",
            ["error: lambdamart has no gradients: loss does nothing", "  where: rank.loss", "  next: take loss away"],
        ),
    ):  # fmt: skip
        file.write_text(text.replace(old, new), encoding="utf-8")
        capsys.readouterr()
        assert main(["train", "--project", str(file)]) == 2
        assert capsys.readouterr().err.splitlines()[-3:] == told


def test_what_the_configuration_means_reads_back(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["config", "show", "--project", str(project)]) == 0
    shown = capsys.readouterr().out
    (tmp_path / "shortlist.toml").write_text(shown, encoding="utf-8")
    (tmp_path / "var").symlink_to(project / "var")
    assert main(["config", "show", "--project", str(tmp_path)]) == 0
    assert capsys.readouterr().out == shown
    assert "trees = 20" in shown
