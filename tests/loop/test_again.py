"""What a second look at a project must not get wrong: no catalogue, another split, live events, another schema."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shortlist.artifact import Releases, load
from shortlist.cli import main
from shortlist.config import load as load_project
from shortlist.errors import ArtifactError
from shortlist.evaluation.project import evaluate, open_data, publish, train
from shortlist.events.log import Event, EventLog
from shortlist.feedback.live import open_engine
from shortlist.funnel import recipes

NOW = 1_800_000_000_000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A log and nothing else: 30 users, 40 items, imported."""
    rng = np.random.default_rng(2)
    frame = pl.DataFrame({
        "user": [f"u{n}" for n in rng.integers(0, 30, 1200)],
        "item": [f"i{n}" for n in rng.integers(0, 40, 1200)],
        "time_ms": np.sort(rng.integers(1_700_000_000_000, 1_702_000_000_000, 1200)),
    })  # fmt: skip
    frame.write_csv(tmp_path / "events.csv")
    file = str(tmp_path / "shortlist.toml")
    assert main(["init", str(tmp_path / "events.csv"), "--project", file]) == 0
    assert main(["import", "--project", file]) == 0
    return tmp_path


def test_a_log_alone_is_trained_measured_published_and_served(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("train", "evaluate", "publish"):
        assert main([command, "--project", str(project)]) == 0, command
    capsys.readouterr()
    assert main(["recommend", "u3", "--project", str(project), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 10


def test_another_split_makes_the_models_stale(project: Path) -> None:
    data = open_data(load_project(project))
    train(data, "test", created_ms=NOW)
    evaluate(data)
    file = project / "shortlist.toml"
    file.write_text(file.read_text().replace('use = "user_time"', 'use = "user_time"\ntest = 0.5'), encoding="utf-8")
    with pytest.raises(ArtifactError):  # they have learned from what is the test part now
        evaluate(open_data(load_project(project)))


def test_a_release_learns_from_live_events(project: Path) -> None:
    first = publish(open_data(load_project(project)), created_ms=NOW)
    with contextlib.closing(EventLog(project / "var" / "log.db")) as log:
        events = [Event("newcomer", f"i{n}", "click", NOW - n) for n in range(5)]
        assert all(o.status == "accepted" for o in log.append(events, ("click",), NOW))
    second = publish(open_data(load_project(project)), created_ms=NOW + 1)
    releases = Releases(project / "var" / "releases")
    learned = [releases.load(name).artifact("ease").manifest.metrics["events"] for name in (first, second)]
    assert learned[1] == learned[0] + 5
    history = releases.load(second).table("histories")
    assert releases.load(second).document["offset"] == history["offset"].max()


def test_figures_of_another_configuration_are_left_out_of_a_release(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--project", str(project)]) == 0
    assert main(["publish", "--project", str(project)]) == 0
    assert Releases(project / "var" / "releases").load().document["metrics"]["figures"]
    file = project / "shortlist.toml"
    file.write_text(file.read_text().replace("quota = 200", "quota = 20"), encoding="utf-8")
    capsys.readouterr()
    assert main(["publish", "--project", str(project)]) == 0
    assert "no evaluation of this data and configuration" in capsys.readouterr().err
    assert Releases(project / "var" / "releases").load().document["metrics"] == {}


def test_drawn_candidates_are_ranked_where_the_split_has_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project / "shortlist.toml"
    text = file.read_text().replace('use = "user_time"', 'use = "last_out"\nnegatives = 9')
    file.write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert main(["evaluate", "--project", str(project), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    for name in ("hot", "item_cf", "ease"):
        # ten candidates: the held-out one is always among the first ten
        assert figures[name]["sampled_hit_rate@10"] == [1.0, 1.0, 1.0]
        assert 0.3 < figures[name]["sampled_ndcg@10"][0] < 1


def test_an_unknown_scene_names_the_nearest(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", "--project", str(project), "--scene", "hom"]) == 2
    said = capsys.readouterr().err.splitlines()[-3:]
    assert said == ["error: no scene is called 'hom'", "  where: scene", "  next: did you mean home?"]


def test_an_unknown_scene_is_told_before_anything_is_trained(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shortlist.toml").write_text((project / "shortlist.toml").read_text(encoding="utf-8"), encoding="utf-8")
    capsys.readouterr()
    assert main(["evaluate", "--project", str(tmp_path), "--scene", "hom"]) == 2  # nothing was imported either
    assert capsys.readouterr().err.splitlines()[0] == "error: no scene is called 'hom'"


def test_a_release_of_another_schema_is_refused_and_the_old_one_answers(project: Path) -> None:
    data = open_data(load_project(project))
    publish(data, created_ms=NOW)
    with open_engine(load_project(project)) as engine:
        before = engine.live.id
        words: dict[str, Any] = recipes.document(data.project.config, data.schema, _models(data))
        words["schema"] = {**words["schema"], "actions": {"watch": {}}, "tasks": {}}
        releases = Releases(project / "var" / "releases")
        old = releases.load()
        folder = project / "var" / "models" / "release"
        made = {name: folder / name for name in ("hot", "item_cf", "ease")}
        tables = {"histories": old.table("histories")}
        releases.publish(
            None, made, words | {"offset": 0, "snapshot": "x", "metrics": {}, "events": 0}, old.users, old.items,
            old.catalogue, tables, created_ms=NOW + 5,
        )  # fmt: skip
        assert engine.reload() is False
        assert engine.live.id == before
        assert engine.refused is not None
        assert "was trained on another schema" in engine.refused.what
        assert len(engine.recommend("u3", n=4).items) == 4


def test_a_file_cut_short_under_a_running_server_harms_nobody(project: Path) -> None:
    publish(open_data(load_project(project)), created_ms=NOW)
    with open_engine(load_project(project)) as engine:
        for file in (project / "var" / "releases").rglob("*.npy"):
            file.chmod(0o644)
            with file.open("r+b") as handle:
                handle.truncate(100)
        assert len(engine.recommend("u3", n=4).items) == 4
        assert engine.reload(again=True) is False
        assert len(engine.recommend("u4", n=4).items) == 4


def test_arrays_that_are_read_are_read_only(project: Path) -> None:
    train(open_data(load_project(project)), "test", created_ms=NOW)
    array = load(project / "var" / "models" / "test" / "hot").array("form.items")
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    shutil.rmtree(project / "var" / "models")


def _models(data: Any) -> dict[str, Any]:
    from shortlist.training.fit import models_of

    return models_of(data.project.config.recall)


def test_a_release_that_is_refused_is_told_once(project: Path) -> None:
    """In a process of its own: what it logs goes to stderr, where the error goes too."""
    publish(open_data(load_project(project)), created_ms=NOW)
    folder = (project / "var" / "releases" / "current").resolve()
    file = next(file for file in sorted(folder.rglob("*.npy")))
    file.chmod(0o644)
    with file.open("r+b") as handle:
        handle.truncate(100)
    code = "import sys; from shortlist.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "recommend", "u3", "--project", str(project)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 2
    lines = ran.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert [line.split(":")[0] for line in lines] == ["error", "  where", "  next"]
    assert lines[1] == f"  where: {file}"
    assert lines[2] == "  next: publish again, or `shortlist rollback`"


def test_an_empty_page_says_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(open_data(load_project(project)), created_ms=NOW)
    capsys.readouterr()
    every = [word for n in range(40) for word in ("--exclude", f"i{n}")]
    assert main(["recommend", "u3", "--project", str(project), *every]) == 0
    out = capsys.readouterr()
    assert out.out == ""
    said = r"the page is empty: of \d+ candidates none is left \(excluded \d+\)"
    assert re.fullmatch(said, out.err.splitlines()[-1])
