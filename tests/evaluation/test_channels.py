"""What channels find, add and cost, as the commands tell it; and quotas by command."""

import json
from pathlib import Path

import pytest
from tests.evaluation.test_outcome import project as made

from shortlist.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two channels and no ranker."""
    folder = made(tmp_path_factory.mktemp("channels"), learned=False)
    file = folder / "shortlist.toml"
    text = file.read_text(encoding="utf-8")
    similar = '[[recall]]\nname = "similar"\nuse = "item_cf"\nquota = 20\n\n[scene.home]'
    file.write_text(text.replace("[scene.home]", similar), encoding="utf-8")
    return folder


def test_the_channel_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--project", str(folder / "shortlist.toml"), "--no-map", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["channels"]
    assert list(told["channels"]) == ["hot", "similar"]
    for name, row in told["channels"].items():
        files = (folder / "var" / "models" / "test" / name).iterdir()
        assert row["bytes"] == sum(file.stat().st_size for file in files if file.name != "manifest.json")
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert 0 <= row["alone"] <= 1
        assert told["overlap"][name][name] == 1.0
        assert row["figures"][f"recall@{told['deepest']}"][0] > 0
    # with two channels: the share of its items that a channel brings alone is what the other does not bring too
    assert told["channels"]["hot"]["alone"] == pytest.approx(1 - told["overlap"]["hot"]["similar"])

    assert main(["evaluate", "--project", str(folder / "shortlist.toml"), "--no-map", "--channels"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["channel", f"recall@{told['deepest']}", "adds", "alone"]
    assert [line.split()[0] for line in lines[2:4]] == ["hot", "similar"]
    assert any(line.startswith("overlap, %") for line in lines)
    page = (folder / "var" / "reports" / "report.html").read_text(encoding="utf-8")
    assert "ms a request, alone" in page
    assert "kB" in page


def test_quotas_are_tuned_by_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "shortlist.toml")
    assert main(["tune", "quotas", "--project", file, "--budget", "20", "--step", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["budget"] == 20
    assert [row["now"] for row in told["quotas"].values()] == [40, 20]
    assert len({row["equal"] for row in told["quotas"].values()}) == 1
    assert set(told["test"]) == {"now", "equal", "tuned", "rrf"}
    assert told["test"]["rrf"]["candidates"] <= told["test"]["tuned"]["candidates"] <= 25  # 20 on validation
    gap = told["test"]["tuned"]["recall"][0] - told["test"]["equal"]["recall"][0]
    assert told["tuned_minus"]["equal"][0] == pytest.approx(gap)

    assert main(["tune", "quotas", "--project", file, "--budget", "20", "--step", "2"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["channel", "now", "equal", "tuned"]
    quotas = ", ".join(f"{name} = {row['tuned']}" for name, row in told["quotas"].items())
    assert out.splitlines()[-1].startswith(f"quota of each [[recall]]: {quotas}")


def test_a_budget_of_more_than_there_is_looks_no_deeper_and_few_requests_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(folder / "shortlist.toml")
    assert main(["tune", "quotas", "--project", file, "--budget", "1000000", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chosen_on"] == told["requests"] > 1
    monkeypatch.setattr("shortlist.evaluation.quotas.SEEN", 1)  # room for the rows of one request
    assert main(["tune", "quotas", "--project", file, "--budget", "20"]) == 0
    said = f"chosen on 1 of the {told['requests']} requests of the validation part"
    assert said in capsys.readouterr().out.splitlines()


def test_bad_words_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "shortlist.toml")
    assert main(["tune", "quotas", "--project", file, "--budget", "1"]) == 2
    want = "error: a budget of 1 for 2 channels\n  where: budget\n  next: give room for an item of each\n"
    assert capsys.readouterr().err.endswith(want)
    assert main(["tune", "quotas", "--project", file, "--scene", "hom"]) == 2
    assert "no scene is called 'hom'" in capsys.readouterr().err
