"""The whole way by commands, on generated data: simulate, init, import, check, train, evaluate, publish, recommend."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shortlist.artifact import Releases
from shortlist.cli import main


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published project."""
    folder = tmp_path_factory.mktemp("loop")
    log, file = folder / "log", str(folder / "shortlist.toml")
    sizes = ["--size", "tiny"]
    assert main(["simulate", str(log), *sizes, "--seed", "5"]) == 0
    assert main(["init", str(log), "--project", file]) == 0
    for command in (["import"], ["check"], ["train"], ["evaluate"], ["publish"]):
        assert main([*command, "--project", file]) == 0, command
    return folder


def say_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0, words
    return json.loads(capsys.readouterr().out)


def test_evaluation_finds_the_planted_tastes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = say_json(capsys, "evaluate", "--project", str(project))
    figures = found["figures"]
    assert set(figures) == {"hot", "item_cf", "ease", "merged", "page"}
    hot = figures["hot"]
    # tastes are of few categories: who learns them finds more than popularity does (1.8, 1.4 and 2.0 times for seeds
    # 0, 5 and 6 of the world)
    best = max(row["recall@10"][0] for name, row in figures.items() if name not in ("page", "merged"))
    assert best > 1.2 * hot["recall@10"][0]
    for row in figures.values():
        for value, low, high in row.values():
            assert low <= value <= high


def test_the_same_log_and_seed_give_the_same_figures(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = say_json(capsys, "evaluate", "--project", str(project))
    assert main(["train", "--project", str(project)]) == 0
    second = say_json(capsys, "evaluate", "--project", str(project))
    for told in (first, second):
        for channel in told["channels"]["channels"].values():
            del channel["p50_ms"], channel["p95_ms"]  # what it cost is the machine's
    assert first == second


def test_the_report_is_written_with_pictures(project: Path) -> None:
    page = (project / "var" / "reports" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 4
    assert "recall@200" in page.lower()


def test_the_release_carries_the_figures(project: Path) -> None:
    release = Releases(project / "var" / "releases").load()
    assert release.document["metrics"]["figures"]["page"]["ndcg@10"][0] > 0
    assert release.document["metrics"]["recipe"]["snapshot"] == release.document["snapshot"][:12]


def test_a_published_project_recommends_and_explains(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = say_json(capsys, "recommend", "3", "--project", str(project))
    assert len(answer["items"]) == 10
    item = answer["items"][0]["item"]
    why = say_json(capsys, "explain", "3", item, "--project", str(project))
    assert why["fate"] == "selected"
    assert why["position"] == 1


def test_publishing_again_and_rolling_back(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = say_json(capsys, "releases", "--project", str(project))
    new = say_json(capsys, "publish", "--project", str(project))["release"]
    after = say_json(capsys, "releases", "--project", str(project))
    assert [r["id"] for r in after if r["current"]] == [new]
    assert len(after) == len(before) + 1
    back = say_json(capsys, "rollback", "--project", str(project))["release"]
    assert back == before[-1]["id"]


def test_a_damaged_release_does_not_hide_the_others(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["publish", "--project", str(project)]) == 0
    *_, middle, last = say_json(capsys, "releases", "--project", str(project))
    manifest = project / "var" / "releases" / middle["id"] / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(b"{")
    try:
        found = {r["id"]: r["problem"] for r in say_json(capsys, "releases", "--project", str(project))}
        assert found == {id: "the manifest is damaged: not JSON" if id == middle["id"] else "" for id in found}
        assert main(["releases", "--project", str(project)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2:] == [f"  {middle['id']}  the manifest is damaged: not JSON", f"* {last['id']}"]
        back = say_json(capsys, "rollback", "--project", str(project))["release"]
        assert back < middle["id"]
    finally:
        manifest.write_bytes(content)


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9"])
def test_the_demo_ends_with_one_object(
    url: str | None, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(file: str, host: str | None, port: int | None, answers: Callable[[str], None]) -> None:
        answers(str(url))

    monkeypatch.setattr("shortlist.cli.serve.serve", serve)
    words = ["--folder", str(project), "--json", *([] if url else ["--no-serve"])]
    capsys.readouterr()
    assert main(["demo", *words]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    reports = project / "var" / "reports"
    figures = json.loads((reports / "metrics.json").read_text(encoding="utf-8"))["figures"]
    assert found == {
        "project": str(project / "shortlist.toml"),
        "release": Releases(project / "var" / "releases").current(),
        "report": str(reports / "report.html"),
        "figures": figures,
        "url": url,
    }
    assert f"{project / 'shortlist.toml'} has been edited: it is used as it stands" in said.err
    assert re.search(r"^(\d+) rows: 0 added, \1 known, 0 duplicates dropped$", said.err, re.MULTILINE)


def test_the_example_of_the_readme_runs(project: Path, tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    found = re.search(r"## In Python\n+```python\n(.*?)```", readme, re.DOTALL)
    assert found
    (tmp_path / "demo").symlink_to(project)
    (tmp_path / "example.py").write_text(found[1], encoding="utf-8")
    words = [sys.executable, "example.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "Estimate(value=" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Shown(item=")


def test_commands_before_their_time_say_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--project", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "error: no such project file",
        f"  where: {tmp_path / 'shortlist.toml'}",
        "  next: run `shortlist init DATA`",
    ]
