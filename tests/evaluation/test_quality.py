"""Sets of projects: run once, told with their recipe, run again where the recipe changed."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shortlist.cli import main
from shortlist.config import load
from shortlist.errors import ConfigError
from shortlist.evaluation import quality
from shortlist.evaluation.quality import Run, Set, open_set, run_set

T = 1_700_000_000_000
PROJECT = """
seed = 7
[data]
events = "events.csv"
[schema]
[split]
use = "user_time"
[[recall]]
name = "hot"
use = "hot"
quota = 5
half_life_days = {days}
[scene.home]
page = 5
budget = 5
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two small projects beside their log, a set of both, and one of a project that cannot run."""
    rng = np.random.default_rng(0)
    n = 600
    log = {
        "user": [f"u{u}" for u in rng.integers(0, 30, n)],
        "item": [f"i{i}" for i in (rng.integers(0, 20, n) * rng.random(n)).astype(int)],
        "time_ms": np.sort(T + rng.integers(0, 10**9, n)),
    }
    projects = tmp_path / "configs" / "projects"
    projects.mkdir(parents=True)
    (tmp_path / "configs" / "sets").mkdir()
    pl.DataFrame(log).unique(["user", "item"], maintain_order=True).write_csv(projects / "events.csv")
    for name, days in (("slow", "1000.0"), ("quick", "1.0")):
        (projects / f"{name}.toml").write_text(PROJECT.format(days=days), encoding="utf-8")
    (tmp_path / "configs" / "sets" / "both.toml").write_text(
        'title = "Hot lists"\nconfigs = ["../projects/*.toml"]\nfigures = ["page.ndcg@5", "hot.recall@5"]\n'
    )
    return tmp_path


def ran(tree: Path, work: Path, name: str = "both", **more: Any) -> tuple[list[Run], list[str]]:
    said: list[str] = []
    found, file = open_set(name, tree)
    return run_set(found, file, work, created_ms=0, say=said.append, **more), [s for s in said if " of " in s]


def test_a_set_is_run_once_and_again_where_its_recipe_changed(tree: Path) -> None:
    work = tree / "work"
    first, said = ran(tree, work)
    assert [(run.config, run.seed) for run in first] == [("projects/quick", 7), ("projects/slow", 7)]
    assert said == ["1 of 2: projects/quick, seed 7", "2 of 2: projects/slow, seed 7"]
    assert all(run.why == "" and 0 < run.figures["page.ndcg@5"] <= 1 for run in first)
    assert not (tree / "configs" / "projects" / "var").exists()  # what a run writes lies in the folder of runs
    again, said = ran(tree, work)
    assert again == first
    assert said == ["1 of 2: projects/quick, seed 7: done already", "2 of 2: projects/slow, seed 7: done already"]
    file = tree / "configs" / "projects" / "slow.toml"
    file.write_text("# a word changes nothing\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert all(line.endswith("done already") for line in ran(tree, work)[1])
    file.write_text(file.read_text(encoding="utf-8").replace("1000.0", "0.05"), encoding="utf-8")
    changed, said = ran(tree, work)
    assert said[1] == "2 of 2: projects/slow, seed 7"
    assert changed[0] == first[0]
    assert changed[1].digest != first[1].digest
    _, said = ran(tree, work, again=True)
    assert not any(line.endswith("done already") for line in said)


def test_another_log_is_imported_anew(tree: Path) -> None:
    work, file = tree / "work", tree / "configs" / "projects" / "events.csv"
    first, _ = ran(tree, work)
    pl.read_csv(file).head(300).write_csv(file)
    other, said = ran(tree, work)
    assert not any(line.endswith("done already") for line in said)
    assert [run.snapshot for run in other] != [run.snapshot for run in first]
    assert len(pl.read_parquet(list((work / "projects-slow" / "events").glob("*.parquet")))) == 300


def test_seeds_are_runs_of_their_own_and_their_spread_is_told(tree: Path) -> None:
    work = tree / "work"
    runs, said = ran(tree, work, seeds=[1, 2])
    assert [(run.config, run.seed) for run in runs] == [
        ("projects/quick", 1), ("projects/quick", 2), ("projects/slow", 1), ("projects/slow", 2),
    ]  # fmt: skip
    assert len(said) == 4
    found, _ = open_set("both", tree)
    table = quality.rows(found, runs)
    assert table[0] == ["config", "page.ndcg@5", "hot.recall@5", "seeds", "wall s", "digest", "commit"]
    assert [row[3] for row in table[1:]] == ["1 2", "1 2"]
    values = [run.figures["page.ndcg@5"] for run in runs[:2]]
    # of two numbers the standard deviation is their distance over the square root of 2
    assert table[1][1] == f"{sum(values) / 2:.4f} ± {abs(values[0] - values[1]) / 2**0.5:.4f}"
    assert ran(tree, work, seeds=[1])[1][0] == "1 of 2: projects/quick, seed 1: done already"


def test_a_run_that_fails_is_told_and_tried_again(tree: Path) -> None:
    work = tree / "work"
    broken = tree / "configs" / "projects" / "broken.toml"
    broken.write_text(PROJECT.format(days="1.0").replace("events.csv", "nothing.csv"), encoding="utf-8")
    runs, _ = ran(tree, work)
    assert [bool(run.why) for run in runs] == [True, False, False]
    assert runs[0].why.endswith("nothing.csv: no such file or folder (did you mean events.csv?)")
    found, file = open_set("both", tree)
    text = quality.markdown(found, file, runs, "shortlist bench quality both")
    assert "| projects/broken | – | – | – | – |" in text
    assert "- projects/broken, seed 7, did not run: " in text
    broken.write_text(PROJECT.format(days="1.0"), encoding="utf-8")
    runs, said = ran(tree, work)
    assert runs[0].why == ""
    assert said[0] == "1 of 3: projects/broken, seed 7"


def test_the_command_writes_the_table_and_its_recipe(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], check=True)
    assert main(["bench", "quality", "both"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == [
        "config", "page.ndcg@5", "hot.recall@5", "seeds", "wall", "s", "digest", "commit",
    ]  # fmt: skip
    text = (tree / "bench-both" / "quality.md").read_text(encoding="utf-8")
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    lines = text.splitlines()
    assert lines[0] == "# Hot lists"
    assert lines[2] == "| config | page.ndcg@5 | hot.recall@5 | seeds | wall s | digest | commit |"
    assert lines[4].endswith(f"| {head.stdout.strip()} |")
    assert "`shortlist bench quality both`, test part." in text
    assert f"Machine: {quality.machine()}." in text
    assert str(tree) not in text
    capsys.readouterr()
    assert main(["bench", "quality", "both", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [run["config"] for run in told["runs"]] == ["projects/quick", "projects/slow"]
    assert str(tree) not in json.dumps(told)


def test_what_is_wrong_with_a_set_is_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tree / "configs" / "sets"
    with pytest.raises(ConfigError) as refused:
        open_set("bth", tree)
    assert str(refused.value) == f"{place / 'bth.toml'}: no such set (did you mean both?)"
    (place / "odd.toml").write_text('configs = ["../projects/*.toml"]\nseed = 3\n')
    with pytest.raises(ConfigError) as refused:
        open_set("odd", tree)
    assert str(refused.value) == "odd.toml: unknown key 'seed' (did you mean seeds?)"
    (place / "none.toml").write_text('configs = ["../rank/*.toml"]\n')
    with pytest.raises(ConfigError) as refused:
        ran(tree, tree / "work", "none")
    assert str(refused.value) == (
        "none.toml.configs[0]: no file is called '../rank/*.toml' (paths are from the set's own folder)"
    )
    runs = [Run("a", 1, "", "", figures={"page.ndcg@5": 0.5})]
    with pytest.raises(ConfigError) as refused:
        quality.rows(Set(configs=(), figures=("page.ndgc@5",)), runs)
    assert str(refused.value) == "figures[0]: no run has the figure 'page.ndgc@5' (did you mean page.ndcg@5?)"
    work = tree / "work"
    work.mkdir()
    (work / "quality.json").write_text("[]")
    with pytest.raises(ConfigError) as refused:
        ran(tree, work)
    assert str(refused.value) == f"{work / 'quality.json'}: these are no runs (remove it, or choose another --work)"
    monkeypatch.chdir(tree)
    assert main(["bench", "quality", "both", "--seeds", "1,two"]) == 2


def test_what_a_table_shows_where_nothing_is_named() -> None:
    figures = {
        "page.ndcg@10": 0.5,
        "page.map@10": 0.1,
        "rank.click.auc": 0.7,
        "hot.ndcg@10": 0.2,
        "rank.click.ece": 0.1,
    }
    table = quality.rows(Set(configs=()), [Run("a", 1, "", "abc", figures=figures)])
    assert table[0][:3] == ["config", "page.ndcg@10", "rank.click.auc"]
    assert table[1] == ["a", "0.5000", "0.7000", "1", "0.0", "abc", "–"]


def test_every_set_of_the_tree_names_projects_that_load() -> None:
    root = Path(__file__).resolve().parents[2]
    files = sorted((root / "configs" / "sets").glob("*.toml"))
    assert files
    for file in files:
        found, place = open_set(str(file), root)
        for path in quality.configs(found, place):
            assert load(path).config.recall
