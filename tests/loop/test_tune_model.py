"""Options chosen on the validation part: a study goes on where it stopped, and never looks at the test part."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shortlist.cli import main
from shortlist.config import RankerConfig, load, parse
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.split import TEST, TEST_INPUT, Split
from shortlist.errors import ConfigError, DataError
from shortlist.evaluation import study as studies
from shortlist.evaluation.project import Data, open_data
from shortlist.evaluation.space import Choices, Range, declared, derived
from shortlist.evaluation.study import as_table, said, space_of, study

MORE = """
[[recall]]
name = "towers"
use = "dssm"
quota = 20
dim = 4
hidden = [8]
out = 4
train = { epochs = 2, batch_size = 256, lr = 0.01, history = 5, held = 0.2 }
loss = { negatives = "full" }

[rank]
use = "deepfm"
dim = 4
hidden = [8]
train = { epochs = 3, history = 5, lr = 0.005 }

[ranking]
moments = 2
runtimes = ["torch"]

[scene.home]
page = 5
budget = 40

[tune.space.rank]
dim = [2, 4]
"train.lr" = { low = 0.001, high = 0.02, log = true }
"""
TASK = 'tasks.clicked = { on = { sample = "mixed", per = 4 }, positive = "click" }\n'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    file = folder / "shortlist.toml"
    sizes = ["--users", "150", "--items", "60", "--days", "15", "--seed", "3"]
    assert main(["simulate", str(folder / "log"), *sizes]) == 0
    assert main(["init", str(folder / "log"), "--project", str(file)]) == 0
    lines = file.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("tasks.")) + "\n"
    file.write_text(text.replace("[split]", f"{TASK}\n[split]") + MORE, encoding="utf-8")
    torch.set_num_threads(1)
    assert main(["import", "--project", str(file)]) == 0
    assert main(["train", "--for", "valid", "--project", str(file)]) == 0
    return folder


def copied(data: Data, home: Path) -> Data:
    """The same data, with a study of its own."""
    home.mkdir()
    (home / "shortlist.toml").write_text((data.project.folder / "shortlist.toml").read_text(encoding="utf-8"))
    (home / "log").symlink_to(data.project.folder / "log")
    (home / "var").mkdir()
    for name in data.project.home.iterdir():
        if name.name != "tune.db":
            (home / "var" / name.name).symlink_to(name)
    return open_data(load(home))


def values(found: studies.Study) -> list[tuple[str, Any, Any]]:
    return [(trial.state, trial.value, dict(trial.options)) for trial in found.trials]


def test_a_study_is_the_same_again_and_goes_on_where_it_stopped(project: Path, tmp_path: Path) -> None:
    data = open_data(load(project))
    whole = study(copied(data, tmp_path / "one"), trials=4, prune=False, created_ms=0)
    assert [trial.number for trial in whole.trials] == [0, 1, 2, 3]
    assert all(trial.state == "finished" for trial in whole.trials)
    assert all(trial.options["dim"] in (2, 4) for trial in whole.trials)
    assert all(0.001 <= trial.options["train.lr"] <= 0.02 for trial in whole.trials)
    assert all(len(trial.curve) == 3 for trial in whole.trials)  # an epoch, a validation
    other = copied(data, tmp_path / "other")
    first = study(other, trials=2, prune=False, created_ms=0)
    assert values(first) == values(whole)[:2]
    rest = study(other, trials=4, prune=False, created_ms=0)
    assert values(rest) == values(whole)
    assert rest.now == whole.now
    assert study(other, trials=3, prune=False, created_ms=0).trials == rest.trials[:3]  # nothing more is tried


def test_a_killed_trial_is_made_again(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(load(project))
    whole = study(copied(data, tmp_path / "one"), trials=2, prune=False, created_ms=0)
    other = copied(data, tmp_path / "other")
    usual = studies.changed
    calls = 0

    def interrupted(table: Any, options: Any) -> Any:
        nonlocal calls
        calls += len(options) == 2  # with one it is only looked at whether the model takes it
        if calls == 2:
            raise KeyboardInterrupt
        return usual(table, options)

    monkeypatch.setattr(studies, "changed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study(other, trials=2, prune=False, created_ms=0)
    monkeypatch.setattr(studies, "changed", usual)
    assert values(study(other, trials=2, prune=False, created_ms=0)) == values(whole)


class Guarded(Split):
    """A split whose test part nobody may look at, nor anything that is known from then on."""

    def part(self, *roles: int) -> Interactions:
        if {TEST, TEST_INPUT} & set(roles):
            raise AssertionError("the test part was asked for")
        return super().part(*roles)


def test_the_test_part_is_never_looked_at(project: Path, tmp_path: Path) -> None:
    data = copied(open_data(load(project)), tmp_path / "one")
    whole = data.split
    data.__dict__["split"] = guarded = Guarded(whole.events, whole.roles, whole.protocol, whole.order)
    with pytest.raises(AssertionError, match="the test part was asked for"):
        assert guarded.test
    found = study(data, trials=1, created_ms=0)
    assert found.trials[0].value is not None
    channel = study(data, "towers", trials=1, only=["dim"], created_ms=0)
    assert channel.trials[0].value is not None
    assert not (data.project.home / "models" / "test").exists()


def test_a_curve_below_the_median_is_cut_short(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are made up: the first two climb to 0.8, the third stays at 0.1."""
    data = copied(open_data(load(project)), tmp_path / "one")
    monkeypatch.setattr(studies, "WARM", 2)
    curves = [[0.6, 0.7, 0.8], [0.6, 0.7, 0.8], [0.1, 0.1, 0.1]]

    class Step:
        epoch, loss = 1, 0.5

        def __init__(self, value: float) -> None:
            self.metrics = {"click.gauc": value}

    def subject(data: Data, name: str, table: Any, plan: Any, metric: str, scene: Any) -> Any:
        def judge(words: Any, watch: Any, now: int) -> float:
            curve = curves.pop(0) if watch else [0.0]
            for value in curve if watch else ():
                watch(Step(value))
            return curve[-1]

        return studies.Subject(name, table, plan, "GAUC of clicked", judge)

    monkeypatch.setattr(studies, "_ranker", subject)
    found = study(data, trials=3, created_ms=0)
    assert [trial.state for trial in found.trials] == ["finished", "finished", "cut short"]
    assert found.trials[2].value is None
    assert found.trials[2].why == "its curve was below the median after 2 validations"
    assert found.trials[2].curve == (0.1, 0.1)
    assert said(found)[:2] == [
        "the project's own options reach GAUC of clicked 0.0000 on the validation part",
        "trial 0 reaches 0.8000 (+0.8000)",
    ]


def test_options_that_fail_are_told_and_the_study_goes_on(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = copied(open_data(load(project)), tmp_path / "one")

    def subject(data: Data, name: str, table: Any, plan: Any, metric: str, scene: Any) -> Any:
        def judge(words: Any, watch: Any, now: int) -> float:
            if watch and words.options["dim"] == 2:
                raise DataError("the loss is nan", where="batch 3", hint="lower lr")
            return 0.5

        return studies.Subject(name, table, plan, "GAUC of clicked", judge)

    monkeypatch.setattr(studies, "_ranker", subject)
    found = study(data, trials=6, created_ms=0)
    assert {(t.state, t.options["dim"]) for t in found.trials} == {("failed", 2), ("finished", 4)}
    assert {t.why for t in found.trials} == {"", "batch 3: the loss is nan (lower lr)"}
    assert as_table(found, channel=False) == {}  # 0.5 is what the project has
    assert said(found)[1].endswith("trials failed, the first of them: batch 3: the loss is nan (lower lr)")
    assert said(found)[2].endswith("(+0.0000): keep what the project has")


def test_the_command_prints_what_to_write(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    arguments = ["tune", "model", "--project", str(project), "--trials", "2"]
    assert main([*arguments, "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["space"] == {"dim": "2 or 4", "train.lr": "0.001 to 0.02, log"}
    assert told["present"] == {"dim": 4, "train.lr": 0.005}
    assert len(told["trials"]) == 2
    reports = project / "var" / "reports"
    assert json.loads((reports / "tune-rank.json").read_text(encoding="utf-8")) == told
    page = (reports / "tune-rank.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "Trials, the best first" in page
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["trial", "state", "GAUC", "of", "clicked", "took", "dim", "train.lr"]
    assert out.splitlines()[-1], "nothing to write is no line"
    if told["toml"]:
        assert out.endswith(told["toml"])
        assert parse({"schema": {}, **__import__("tomllib").loads(told["toml"])}).rank is not None


def test_a_channel_is_tuned_by_its_own_recall(project: Path, tmp_path: Path) -> None:
    data = copied(open_data(load(project)), tmp_path / "one")
    found = study(data, "item_cf", trials=2, metric="ndcg", created_ms=0)
    assert found.metric == "ndcg@200"
    assert all(0 < (trial.value or 0) <= 1 for trial in found.trials)
    assert all(not trial.curve for trial in found.trials)
    towers = study(data, "towers", trials=1, metric="ndcg", only=["dim", "train.lr"], created_ms=0)
    assert towers.metric == "ndcg@20"
    assert list(towers.space) == ["dim", "train.lr"]
    assert len(towers.trials[0].curve) > 0  # a share of users is held
    best = replace(towers, now=0.0)
    assert as_table(best, channel=True)["recall"][0]["name"] == "towers"


# ------------------------------------------------------------------------------------------ spaces


def test_a_space_is_what_the_types_say(project: Path) -> None:
    data = open_data(load(project))
    space = space_of(data, "towers")
    assert space["dim"] == Range(1, 16, log=True, whole=True)  # a quarter of 4 to four times it
    assert space["hidden"] == Choices(([8], [4], [16]))
    assert space["train.lr"] == Range(0.001, 0.1, log=True)
    assert list(space_of(data, "rank")) == ["dim", "train.lr"]  # as the project declares it


def test_a_ranker_without_gradients_has_no_rate_of_learning(project: Path) -> None:
    data = under(open_data(load(project)), {})
    config = replace(data.project.config, rank=RankerConfig("lambdamart", train={"history": 5}))
    space = space_of(replace(data, project=replace(data.project, config=config)), "rank")
    assert space["leaves"] == Range(7, 124, log=True, whole=True)
    assert not any(key.startswith("train.") for key in space)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (bool, True, Choices((False, True))),
        (int, 8, Range(2, 32, log=True, whole=True)),
        (int, 0, None),  # off
        (float, 0.1, Range(0.01, 1.0, log=True)),
        (float, 0.0, None),
        (tuple[int, ...], (8, 4), Choices(([8, 4], [4, 2], [16, 8], [4]))),
        (tuple[int, ...], (), None),
        (str, "x", None),
        (int | None, None, None),
        (int | None, 4, Range(1, 16, log=True, whole=True)),
    ],
)
def test_what_a_type_says(kind: Any, value: Any, expected: Any) -> None:
    assert derived(kind, value) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"dm": [1, 2]}, "t: unknown key 'dm' (did you mean dim?)"),
        ({"dim": 8}, "t.dim: should be a list of values or a range, got 8 (write [8, 16] or { low = 8, high = 16 })"),
        (
            {"dim": [8]},
            "t.dim: should be a list of values or a range, got [8] (write [8, 16] or { low = 8, high = 16 })",
        ),
        ({"dim": {"low": 8, "high": 4}}, "t.dim: it goes from 8 to 4 (low is below high)"),
        ({"dim": {"low": 1.5, "high": 4}}, "t.dim: should be whole numbers (correct low and high)"),
        ({"dim": {"lo": 1, "high": 4}}, "t.dim: unknown key 'lo' (did you mean low?)"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "t.lr: a logarithm of 0 (begin above 0, or take log away)"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(words: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        declared(words, {"dim": int, "lr": float}, "t")
    assert str(refused.value) == message


def under(data: Data, text: dict[str, Any]) -> Data:
    config = replace(data.project.config, tune=replace(data.project.config.tune, space=text))
    return replace(data, project=replace(data.project, config=config))


def test_names_that_are_not_there(project: Path) -> None:
    data = open_data(load(project))
    cases: list[tuple[Data, str, dict[str, Any], str]] = [
        (data, "coarse", {}, "tune: there is no [coarse] (add [coarse], or name a channel)"),
        (data, "tower", {}, "tune: no channel is called 'tower' (did you mean towers?)"),
        (data, "rank", {"metric": "guac"}, "tune: no metric is called 'guac' (did you mean gauc?)"),
        (data, "rank", {"only": ["dmi"]}, "tune: 'dmi' is not varied (did you mean dim?)"),
        (
            data, "rank", {"only": ["hidden"]},
            "tune: 'hidden' is not varied (say how far it may go in [tune.space.rank])",
        ),
        (
            under(data, {"rnk": {}}), "rank", {},
            "tune.space: nothing of the project is called 'rnk' (did you mean rank?)",
        ),
        (
            under(data, {"rank": {"dim": [4, 0]}}), "rank", {},
            "tune.space.rank.dim: should be at least 1, got 0 (correct the value)",
        ),
    ]  # fmt: skip
    for given, name, more, message in cases:
        with pytest.raises(ConfigError) as refused:
            study(given, name, trials=1, created_ms=0, **more)
        assert str(refused.value) == message


def test_without_optuna_the_extra_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "optuna" else usual(name, *a))
    with pytest.raises(ConfigError) as refused:
        study(open_data(load(project)), trials=1, created_ms=0)
    assert str(refused.value) == "tune: optuna is not installed (pip install 'shortlist[tune]')"
