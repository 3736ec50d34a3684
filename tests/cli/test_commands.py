"""The command line: files are commands, user errors have their exact text, Ctrl-C is 130."""

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from shortlist import __version__, cli
from shortlist.cli import main
from shortlist.cli._talk import progress
from shortlist.cli.config import toml
from shortlist.config import Project, catalogue, load, parse
from shortlist.errors import ShortlistError
from shortlist.events.workspace import schema
from shortlist.funnel.effective import effective


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(list(argv))
    out = capsys.readouterr()
    return status, out.out, out.err


def test_files_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for name in catalogue("shortlist.cli"):
        assert f"  {name.removesuffix('_')} " in out
    assert "_talk" not in out


@pytest.mark.parametrize("name", [name.removesuffix("_") for name in catalogue("shortlist.cli")])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, name, "--help")
    assert status == 0
    assert out.startswith(f"Usage: shortlist {name}")
    assert len(out.splitlines()) > 3


def test_version_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"{__version__}\n", "")
    status, out, err = run(capsys, "trian")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == "Error: no command is called 'trian'; did you mean train?"
    status, _, err = run(capsys, "models", "--nope")
    assert status == 2
    assert "No such option" in err


def test_a_user_error_says_what_where_next(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "shortlist.toml"
    expected = f"error: no such project file\n  where: {file}\n  next: run `shortlist init DATA`\n"
    assert run(capsys, "config", "show", "--project", str(file)) == (2, "", expected)
    file.write_text("[scene.home]\npge = 3\n")
    expected = "error: unknown key 'pge'\n  where: shortlist.toml.scene.home\n  next: did you mean page?\n"
    assert run(capsys, "config", "show", "--project", str(file)) == (2, "", expected)


def test_lines_that_say_nothing_are_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ShortlistError("it did not work")

    monkeypatch.setattr(cli.commands, "main", refuse)
    assert run(capsys, "models") == (2, "", "error: it did not work\n")


def test_an_extra_that_is_not_installed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def miss(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'altair.vegalite'", name="altair")

    monkeypatch.setattr(cli.commands, "main", miss)
    expected = (
        "error: altair is not installed\n"
        "  next: pip install 'shortlist[serve]'; `shortlist doctor` lists what is absent\n"
    )
    assert run(capsys, "evaluate") == (2, "", expected)


@pytest.mark.parametrize("signal", [KeyboardInterrupt, click.Abort])
def test_ctrl_c(
    signal: type[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise signal

    monkeypatch.setattr(cli.commands, "main", stop)
    assert run(capsys, "models") == (130, "", "interrupted\n")


def test_models_lists_every_part_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "models", "--json")
    assert status == 0
    found = {(part["kind"], part["name"]): part["what"] for part in json.loads(out)}
    assert all(found.values())
    assert ("filter", "seen") in found
    assert {name for kind, name in found if kind == "recall"} == set(catalogue("shortlist.models.recall"))
    assert found["boost", "boost"] == (
        "Static boost of new items: score' = times * score + plus, then free competition."
    )
    status, table, _ = run(capsys, "models")
    assert len(table.splitlines()) == len(found)


def test_models_tells_the_options_of_each_part_without_running_it(capsys: pytest.CaptureFixture[str]) -> None:
    parts = json.loads(run(capsys, "models", "--json")[1])
    options = {(part["kind"], part["name"]): part["options"] for part in parts}
    assert options["head", "shared_bottom"] == {"bottom": "(128, 128)", "towers": "(64, 32)", "dropout": "0.0"}
    assert options["rank", "dnn"]["heads"] == "{}"
    _, table, _ = run(capsys, "models", "--options")
    lines = [line.strip() for line in table.splitlines()]
    at = next(n for n, line in enumerate(lines) if line.startswith("head") and "shared_bottom" in line)
    assert lines[at + 1 : at + 4] == ["bottom = (128, 128)", "towers = (64, 32)", "dropout = 0.0"]


def test_progress_off_a_terminal_is_a_line_at_the_start_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("count") as step:
        step(1, 2, "sheep")
    out = capsys.readouterr()
    assert out.out == ""
    assert re.fullmatch(r"count \.\.\.\ncount: done in \d+\.\d s\n", out.err)
    with pytest.raises(ShortlistError), progress("count"):
        raise ShortlistError("it did not work")
    assert capsys.readouterr().err == "count ...\n"  # the error says the rest


def test_doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTLIST_DATA", str(tmp_path / "none"))
    status, out, _ = run(capsys, "doctor", "--json", "--project", str(tmp_path / "shortlist.toml"))
    report = json.loads(out)
    assert (status, report["missing"]) == (0, [])
    assert report["shortlist"] == __version__
    assert report["packages"][""]["torch"]
    assert report["data"] == f"SHORTLIST_DATA={tmp_path / 'none'} is not a folder"
    assert report["project"] == f"no project at {tmp_path / 'shortlist.toml'}"
    status, out, _ = run(capsys, "doctor", "--project", str(tmp_path / "shortlist.toml"))
    assert out.splitlines()[-1] == "PASS"


PROJECT = """
[schema]
user = "u"
items.genres = { kind = "varlen", split = "|" }
items."odd name" = "sparse"

[[recall]]
name = "hot"
use = "hot"

[[recall]]
name = "near"
use = "item_cf"
quota = 30

[rerank]
use = "mmr"
window = 7

[scene.home]
page = 5
filters = [{ use = "seen", days = 3 }]

[[experiment]]
name = "one"
arms.a = { scene = "home", share = 0.5 }
"""


def test_config_show_prints_every_default_and_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "shortlist.toml").write_text(PROJECT)
    status, out, _ = run(capsys, "config", "show", "--project", str(tmp_path))
    assert status == 0
    shown = tomllib.loads(out)
    assert shown["serve"]["port"] == 8000
    assert shown["schema"]["time"] == "time_ms"
    assert shown["schema"]["items"]["odd name"]["kind"] == "sparse"
    assert (shown["recall"][1]["name"], shown["recall"][1]["quota"]) == ("near", 30)
    assert len(shown["recall"][1]) > 4  # options of the model and of its source, with their defaults
    assert shown["rerank"]["window"] == 7
    assert shown["scene"]["home"]["filters"][0]["shown_cap"] == 3
    whole = whole_of(load(tmp_path))
    assert whole_of(Project(tmp_path / "shortlist.toml", parse(shown))) == whole
    status, out, _ = run(capsys, "config", "show", "--json", "--project", str(tmp_path))
    assert json.loads(out) == whole


def whole_of(project: Project) -> dict[str, Any]:
    return effective(project.config, schema(project))


def test_config_show_of_the_demo_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Trained channels, rankers and a half-life that is switched off."""
    text = (Path(cli.__file__).parent / "demo.toml").read_text(encoding="utf-8")
    text = text.replace("half_life_days = 1000.0", "half_life_days = inf")
    (tmp_path / "shortlist.toml").write_text(text, encoding="utf-8")
    status, out, _ = run(capsys, "config", "show", "--project", str(tmp_path))
    assert status == 0
    shown = tomllib.loads(out)
    assert shown["recall"][0]["half_life_days"] == math.inf  # its default is 7: left out it would be that
    assert "metric" in shown["recall"][3]["train"]
    assert (shown["recall"][3]["train"]["epochs"], shown["recall"][3]["train"]["threads"]) == (4, 1)
    assert (shown["recall"][3]["loss"]["negatives"], shown["recall"][3]["loss"]["beta"]) == ("full", 0.0)
    assert (shown["rank"]["use"], shown["rank"]["fuse"], shown["rank"]["hidden"]) == ("din", "rated * merge", [64, 32])
    assert (shown["rank"]["loss"]["listwise"], shown["coarse"]["loss"]["listwise"]) == (1.0, 0.0)
    assert (shown["rank"]["train"]["lr"], shown["rank"]["train"]["patience"]) == (0.0015, 3)
    assert "options" not in {**shown["rank"], **shown["coarse"]}
    project = load(tmp_path)
    assert project.config.recall[0].options["half_life_days"] is None
    assert whole_of(Project(project.file, parse(shown))) == whole_of(project)
    status, out, _ = run(capsys, "config", "show", "--json", "--project", str(tmp_path))
    assert json.loads(out)["recall"][0]["half_life_days"] is None


WRONG = [
    ("[merge]\nuse = 'rrf'\nkapa = 3\n", "unknown key 'kapa'", "merge (rrf)", "did you mean kappa?"),
    ("[rerank]\nuse = 'mmr'\nthta = 1\n", "unknown key 'thta'", "rerank (mmr)", "did you mean theta?"),
    ("[split]\npositive = 'valu >= 4'\n", "unknown column 'valu'", "split.positive", "did you mean value?"),
]


@pytest.mark.parametrize("command", ["import", "check", "train", "evaluate", "publish"])
@pytest.mark.parametrize(("text", "what", "where", "hint"), WRONG)
def test_a_typo_is_refused_before_anything_is_done(
    text: str, what: str, where: str, hint: str, command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "shortlist.toml").write_text(f'data.events = "none.parquet"\n{text}')
    said = f"error: {what}\n  where: {where}\n  next: {hint}\n"
    assert run(capsys, command, "--project", str(tmp_path)) == (2, "", said)


def test_config_show_refuses_what_no_part_owns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "shortlist.toml").write_text('[[recall]]\nname = "hot"\nuse = "hot"\nquotta = 3\n')
    status, _, err = run(capsys, "config", "show", "--project", str(tmp_path))
    assert status == 2
    assert err.splitlines() == [
        "error: unknown key 'quotta'",
        "  where: recall.hot (hot)",
        "  next: did you mean quota?",
    ]


def test_toml_text() -> None:
    table = {
        "text": 'a "b" \\ \n ü \x7f', "none": None, "flag": True, "numbers": [1, 2.5], "empty": {},
        "deep": {"er": {"est": {"x": 1, "y": None}}}, "rows": [{"a": 1}, {"a": 2, "b": {"c": "d"}}],
    }  # fmt: skip
    again = tomllib.loads(toml(table))
    assert again == {
        "text": table["text"], "flag": True, "numbers": [1, 2.5], "empty": {},
        "deep": {"er": {"est": {"x": 1}}}, "rows": table["rows"],
    }  # fmt: skip
