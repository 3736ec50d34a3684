"""A project with a trained channel, a coarse ranker and a ranker: log to release to slate, on generated data."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shortlist.artifact import Releases, load
from shortlist.candidates import Ragged
from shortlist.cli import main
from shortlist.config import load as load_project
from shortlist.errors import ArtifactError
from shortlist.evaluation.project import EARLY, before_rankers, evaluate, held_out, open_data, ranker_data
from shortlist.forms import Vectors
from shortlist.funnel import recipes
from shortlist.models.learned import restore
from shortlist.models.runtimes import Eager, sample

LEARNED = """
[[recall]]
name = "towers"
use = "dssm"
quota = 40
dim = 8
hidden = [16]
out = 8
train = { epochs = 2, batch_size = 256, lr = 0.01, history = 10 }
loss = { negatives = "full" }

[coarse]
use = "three_tower"
keep = 30
dim = 4
user = [16, 8]
item = [16, 8]
cross = [8]
top = [8]
train = { epochs = 1, history = 10 }

[rank]
use = "deepfm"
dim = 4
hidden = [16]
train = { epochs = 2, history = 10 }

[ranking]
moments = 2

[scene.home]
page = 5
budget = 60
"""
TASK = 'tasks.clicked = { on = { sample = "mixed", per = 4 }, positive = "click" }\n'


def one_task(file: Path) -> str:
    """A project file with `TASK` in place of those that were guessed."""
    lines = file.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("tasks.")) + "\n"
    return text.replace("[split]", f"{TASK}\n[split]")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    file = folder / "shortlist.toml"
    sizes = ["--users", "150", "--items", "80", "--days", "20", "--seed", "3"]
    assert main(["simulate", str(folder / "log"), *sizes]) == 0
    assert main(["init", str(folder / "log"), "--project", str(file)]) == 0
    text = one_task(file)
    file.write_text(text + LEARNED, encoding="utf-8")
    torch.set_num_threads(1)
    for command in (["import"], ["train"], ["evaluate"], ["publish"]):
        assert main([*command, "--project", str(file)]) == 0, command
    return folder


def test_the_page_is_ranked_and_every_stage_is_in_the_trace(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["recommend", "3", "--project", str(project), "--json"]) == 0
    answer: Any = json.loads(capsys.readouterr().out)
    assert len(answer["items"]) == 5
    assert answer["degraded"] == []
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)


def test_what_is_restored_gives_the_vectors_that_were_indexed(project: Path) -> None:
    data = open_data(load_project(project))
    artifact = load(project / "var" / "models" / "test" / "towers")
    form = artifact.form()
    assert isinstance(form, Vectors)
    learned = restore(artifact, data.schema, data.catalogue)
    now = int(data.part("test").times.max()) + 1
    np.testing.assert_allclose(learned.vectors(form.keys, now), form.matrix, atol=1e-6)


def test_an_item_side_that_was_cached_scores_as_a_fresh_one(project: Path) -> None:
    data = open_data(load_project(project))
    folder = project / "var" / "models" / "test"
    coarse = restore(load(folder / "coarse"), data.schema, data.catalogue)
    assert coarse.items is not None
    assert len(coarse.items) == len(data.catalogue.items) + 1
    asked = held_out(data, "test", 5).requests.take(0, 4)
    words = recipes.document(data.project.config, data.schema, _models(data))
    funnel = recipes.assemble(words, lambda name: load(folder / name), data.catalogue)["home"]
    slates = funnel.run(asked)
    reached = np.flatnonzero(np.isfinite(slates.candidates.scores["coarse"]))
    candidates = slates.candidates.only(reached)
    fresh = type(coarse)(coarse.model, coarse.assembler, coarse.layout, coarse.platt)
    np.testing.assert_allclose(
        coarse.score(asked, candidates)["clicked"], fresh.score(asked, candidates)["clicked"], atol=1e-5
    )
    # the ranker saw the 30 best of the coarse one, for each of four requests, and no more
    ranked = np.isfinite(slates.candidates.scores["rank"])
    assert np.bincount(slates.candidates.owners[ranked], minlength=4).max() <= 30
    assert "below_coarse" in slates.candidates.reasons


def test_a_release_says_what_runs_its_rankers_and_it_answers_as_torch(project: Path) -> None:
    data = open_data(load_project(project))
    release = Releases(project / "var" / "releases").load()
    asked = held_out(data, "test", 5).requests.take(0, 3)
    for name, per in (("coarse", 60), ("rank", 30)):  # the budget of the scene, what the coarse ranker keeps
        record = release.artifact(name).manifest.config["runtime"]
        assert record["candidates"] == per
        assert {*record["p50_ms"], *record["left_out"]} == {"torch", "onnx"}
        assert all(ms > 0 for ms in record["p50_ms"].values())
        assert release.artifact(name).names("onnx") == (["runtime.onnx"] if record["use"] == "onnx" else [])
        learned = restore(release.artifact(name), data.schema, data.catalogue)
        assert type(learned.runtime).__name__ == {"torch": "Eager", "onnx": "Onnx"}[record["use"]]
        channels = release.artifact(name).manifest.config["channels"]
        candidates = sample(learned, asked, channels, 20, np.random.default_rng(0))
        plain = replace(learned, runtime=Eager(learned.model))
        np.testing.assert_allclose(
            learned.score(asked, candidates)["clicked"], plain.score(asked, candidates)["clicked"], atol=1e-5
        )


def test_one_request_is_scored_as_among_many(project: Path) -> None:
    data = open_data(load_project(project))
    folder = project / "var" / "models" / "test"
    words = recipes.document(data.project.config, data.schema, _models(data))
    funnel = recipes.assemble(words, lambda name: load(folder / name), data.catalogue)["home"]
    asked = held_out(data, "test", 5).requests.take(0, 8)
    many = funnel.run(asked)
    for r in range(8):
        one = funnel.run(asked.take(r, r + 1))
        low, high = many.offsets[r], many.offsets[r + 1]
        np.testing.assert_array_equal(one.items, many.items[low:high])
        np.testing.assert_allclose(one.scores, many.scores[low:high], atol=1e-5)


def test_rankers_learn_on_what_recall_had_not_seen(project: Path) -> None:
    data = open_data(load_project(project))
    log = data.part("test")
    earlier, later = before_rankers(data, log)
    assert len(earlier) + len(later) == len(log)
    for user in later.user_keys[:20]:
        assert earlier.times[earlier.users == user].max(initial=0) <= later.times[later.users == user].min()
    early = load(project / "var" / "models" / "test" / EARLY / "ease")
    whole = load(project / "var" / "models" / "test" / "ease")
    # recall learns from interactions: an impression is none
    weights = data.schema.weights
    assert early.manifest.metrics["events"] == len(earlier.liked(weights)) < len(earlier)
    assert whole.manifest.metrics["events"] == len(log.liked(weights))


def test_a_user_without_history_is_answered_and_ranked(project: Path) -> None:
    data = open_data(load_project(project))
    release = Releases(project / "var" / "releases").load()
    funnel = recipes.assemble(release.document, release.artifact, release.catalogue)["home"]
    asked = held_out(data, "test", 5).requests.take(0, 1)
    stranger = type(asked)(np.array([-1]), asked.now, 5, Ragged.empty(1), Ragged.empty(1), Ragged.empty(1))
    slates = funnel.run(stranger)
    assert len(slates.picks) == 5
    assert np.isfinite(slates.scores).all()


def test_training_goes_again_with_another_loss_and_rankers_are_stale_with_other_candidates(
    project: Path, tmp_path: Path
) -> None:
    shutil.copytree(project, tmp_path / "copy")
    file = tmp_path / "copy" / "shortlist.toml"
    matrix = tmp_path / "copy" / "var" / "models" / "test" / "towers" / "form.matrix.npy"
    before = matrix.read_bytes()
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('negatives = "full"', 'negatives = "full", temperature = 1.0'), encoding="utf-8")
    assert main(["train", "--project", str(file)]) == 0
    assert matrix.read_bytes() != before
    assert len(list((matrix.parent.parent / ".runs" / "towers").iterdir())) == 1
    file.write_text(file.read_text(encoding="utf-8").replace("quota = 40", "quota = 20"), encoding="utf-8")
    with pytest.raises(ArtifactError):
        evaluate(open_data(load_project(file)))


def test_what_was_trained_already_says_the_same_again(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "copy")
    models = tmp_path / "copy" / "var" / "models" / "test"
    before = {name: load(models / name) for name in ("towers", "rank")}
    told = {name: dict(artifact.manifest.metrics) for name, artifact in before.items()}
    assert told["towers"]["loss"] > 0
    assert 0 < told["rank"]["clicked.gauc"] < 1
    assert main(["train", "--project", str(tmp_path / "copy")]) == 0  # every run is at its end: no step is left
    for name, metrics in told.items():
        again = dict(load(models / name).manifest.metrics)
        assert {k: v for k, v in again.items() if k != "index_seconds"} == {
            k: v for k, v in metrics.items() if k != "index_seconds"
        }


def test_a_retriever_stops_by_the_last_events_of_held_users(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(project, tmp_path / "copy")
    file = tmp_path / "copy" / "shortlist.toml"
    text = file.read_text(encoding="utf-8").partition("[coarse]")[0] + "\n[scene.home]\npage = 5\n"
    held = text.replace("epochs = 2, batch_size = 256", "epochs = 3, held = 0.3, patience = 1, batch_size = 256")
    file.write_text(held, encoding="utf-8")
    assert main(["train", "--project", str(file)]) == 0
    run = next((tmp_path / "copy" / "var" / "models" / "test" / ".runs" / "towers").glob("*/log.jsonl"))
    found = [json.loads(line).get("metrics", {}) for line in run.read_text(encoding="utf-8").splitlines()]
    recalls = [metrics["recall@20"] for metrics in found if metrics]
    assert 1 <= len(recalls) <= 3
    # 80 items: by chance 20 / 80 are among the first twenty
    assert max(recalls) > 0.25
    file.write_text(text.replace("epochs = 2", "epochs = 3, patience = 1"), encoding="utf-8")
    capsys.readouterr()
    assert main(["train", "--project", str(file)]) == 2
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "error: patience without anything to look at",
        "  where: recall.towers (dssm).train",
        "  next: set held, the share of users whose last event is looked at",
    ]


@pytest.mark.parametrize(
    "tables",
    [
        'train = { epochs = 1, objective = "pairwise", history = 10 }\nloss = { loss = "logistic" }',
        'train = { epochs = 1, frequency = "streaming", history = 10 }\nloss = { negatives = "batch" }',
        'train = { epochs = 1, history = 10 }\nloss = { negatives = "mixed", n = 20 }',
    ],
)
def test_other_objectives_are_a_matter_of_configuration(project: Path, tmp_path: Path, tables: str) -> None:
    shutil.copytree(project, tmp_path / "copy")
    file = tmp_path / "copy" / "shortlist.toml"
    lines = file.read_text(encoding="utf-8").partition("[coarse]")[0].splitlines()
    kept = [line for line in lines if not line.startswith(("train =", "loss ="))]
    file.write_text("\n".join([*kept, tables]), encoding="utf-8")
    assert main(["train", "--project", str(file)]) == 0
    form = load(tmp_path / "copy" / "var" / "models" / "test" / "towers").form()
    assert isinstance(form, Vectors)
    assert np.isfinite(form.matrix).all()
    assert form.matrix.std(axis=0).max() > 0.01


def test_no_example_of_a_ranker_is_an_item_its_user_has_met(project: Path) -> None:
    data = open_data(load_project(project))
    log = data.part("test")
    earlier, later = before_rankers(data, log)
    found = ranker_data(data, earlier, later, project / "var" / "models" / "test" / EARLY, log)
    owners = np.repeat(np.arange(len(found.requests)), np.diff(found.outcomes.offsets))
    met = found.requests.history.contains(owners, found.outcomes.items)
    assert met.any()
    assert not found.outcomes.valid[met].any()


def test_a_log_of_one_user_teaches_no_ranker(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"u1,i{n % 9},{1_700_000_000_000 + n}" for n in range(40)]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,time_ms", *rows]), encoding="utf-8")
    file = tmp_path / "shortlist.toml"
    assert main(["init", str(tmp_path / "events.csv"), "--project", str(file)]) == 0
    text = one_task(file)
    file.write_text(text + '\n[rank]\nuse = "deepfm"\n', encoding="utf-8")
    assert main(["import", "--project", str(file)]) == 0
    capsys.readouterr()
    assert main(["train", "--project", str(file)]) == 2
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "error: rankers learn on the later events of at least 2 users, this log has 1",
        "  where: ranking",
        "  next: raise ranking.share, or leave [coarse] and [rank] out",
    ]


def test_models_of_another_configuration_are_stale(project: Path, tmp_path: Path) -> None:
    text = (
        (project / "shortlist.toml")
        .read_text(encoding="utf-8")
        .replace("hidden = [16]\nout = 8", "hidden = [16]\nout = 4")
    )
    other = tmp_path / "shortlist.toml"
    other.write_text(text, encoding="utf-8")
    (tmp_path / "var").symlink_to(project / "var")
    with pytest.raises(ArtifactError) as caught:
        evaluate(open_data(load_project(other)))
    assert caught.value.what == "models are missing, or older than the data or the configuration"


def test_a_ranker_without_a_task_and_a_fuse_of_no_task_are_refused(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "shortlist.toml").read_text(encoding="utf-8")
    (tmp_path / "var").symlink_to(project / "var")
    file = tmp_path / "shortlist.toml"
    file.write_text(text.replace('use = "deepfm"', 'use = "deepfm"\nfuse = "cliked * 2"'), encoding="utf-8")
    capsys.readouterr()
    assert main(["train", "--project", str(file)]) == 2
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "error: no task is called 'cliked'",
        "  where: rank.fuse",
        "  next: did you mean clicked?",
    ]


def _models(data: Any) -> dict[str, Any]:
    from shortlist.training.fit import models_of

    return models_of(data.project.config.recall)


def test_a_log_without_times_has_towers_and_no_rankers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    pairs = dict.fromkeys(
        (int(u), int(i)) for u, i in zip(rng.integers(0, 40, 900), rng.integers(0, 50, 900), strict=True)
    )
    rows = [f"u{u},i{i}" for u, i in pairs]
    (tmp_path / "events.csv").write_text("\n".join(["user,item", *rows]), encoding="utf-8")
    file = tmp_path / "shortlist.toml"
    assert main(["init", str(tmp_path / "events.csv"), "--project", str(file)]) == 0
    text = one_task(file)
    towers = LEARNED.partition("[coarse]")[0]
    file.write_text(text + towers, encoding="utf-8")
    for command in (["import"], ["train"], ["evaluate"]):
        assert main([*command, "--project", str(file)]) == 0, command
    file.write_text(text + towers + '\n[rank]\nuse = "deepfm"\n', encoding="utf-8")
    capsys.readouterr()
    assert main(["train", "--project", str(file)]) == 2
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "error: rankers learn on later events, and this log has no times",
        "  where: ranking",
        "  next: give schema.time, or leave [coarse] and [rank] out",
    ]
