"""Given users and items are scored from the release alone as the server's funnel scores them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.artifact import Releases
from shortlist.cli import main
from shortlist.config import load
from shortlist.errors import ArtifactError, DataError, RequestError
from shortlist.evaluation.project import open_data
from shortlist.evaluation.scores import score_file
from shortlist.events import slates, workspace
from shortlist.events.readers import scan
from shortlist.expressions import Expression
from shortlist.features.stored import Moment
from shortlist.feedback.live import open_engine
from shortlist.feedback.scores import opened
from shortlist.funnel.scoring import Scored, Scoring, of_artifact, of_release, open_scoring
from shortlist.serving.engine import Engine

MORE = """
[[feature]]
name = "clicks"
use = "count"
by = "item"
actions = ["click"]
windows = ["1d", "7d"]

[coarse]
use = "three_tower"
keep = 30
fuse = "clicked"
dim = 4
user = [16, 8]
item = [16, 8]
cross = [8]
top = [8]
train = { epochs = 1, history = 10 }

[rank]
use = "din"
dim = 4
attention = [8]
hidden = [16]
fuse = "clicked * (1 + merge) + 0.5 * liked"
train = { epochs = 2, history = 10 }

[ranking]
moments = 2
runtimes = ["torch"]

[serve]
deadline_ms = 60000.0

[scene.home]
page = 5
budget = 60
"""
TASKS = """tasks.clicked = { on = { sample = "mixed", per = 4 }, positive = "click" }
tasks.liked = { on = "click", positive = "like" }
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published project whose ranker reads channels, histories, a field of the context and counters."""
    folder = tmp_path_factory.mktemp("scoring")
    file = folder / "shortlist.toml"
    sizes = ["--users", "150", "--items", "80", "--days", "20", "--seed", "3"]
    assert main(["simulate", str(folder / "log"), *sizes]) == 0
    assert main(["init", str(folder / "log"), "--project", str(file)]) == 0
    lines = file.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("tasks.")) + "\n"
    file.write_text(text.replace("[split]", f"{TASKS}\n[split]") + MORE, encoding="utf-8")
    torch.set_num_threads(1)
    for command in ("import", "publish"):
        assert main([command, "--project", str(file)]) == 0, command
    return folder


def same(one: Scored, other: Scored, atol: float = 0.0) -> None:
    assert one.tasks.keys() == other.tasks.keys()
    for name, column in one.tasks.items():
        np.testing.assert_allclose(column, other.tasks[name], rtol=0, atol=atol)
    np.testing.assert_allclose(one.score, other.score, rtol=0, atol=atol)


def asked(engine: Engine, user: str, device: str) -> tuple[list[str], dict[str, Any]]:
    """What the funnel's rank stage saw of one request, by raw id, and what it gave."""
    answer = engine.recommend(user, context={"device": device}, preview=True)
    assert answer.degraded in ([], ["unknown_user"])
    record = engine.record(answer.request_id)
    assert record is not None
    among = record.slates.candidates
    # what the fallback filled is put behind the others, whatever the ranker says of it
    at = np.flatnonzero(np.isfinite(among.scores["rank"]) & (among.rank[:, -1] == 0))
    assert len(at) > 20
    return [engine.live.name(int(key)) for key in among.items[at]], {n: c[at] for n, c in among.scores.items()}


@pytest.mark.parametrize("user", ["3", "17", "nobody"])
def test_scores_are_those_of_the_funnels_rank_stage(project: Path, user: str) -> None:
    with open_engine(load(project)) as engine:
        now = engine.clock()
        engine.clock = lambda: now
        items, expected = asked(engine, user, "tv")
        users = engine.live.users
        with opened(load(project)) as scoring:
            found = replace(scoring, now=now).score(user, items, {"device": "tv"})
        np.testing.assert_allclose(found.tasks["clicked"], expected["rank.clicked"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.tasks["liked"], expected["rank.liked"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.score, expected["rank"], rtol=0, atol=1e-6)
        # clicked * (1 + merge) + liked / 2, by hand
        by_hand = expected["rank.clicked"] * (1 + expected["merge"]) + 0.5 * expected["rank.liked"]
        np.testing.assert_allclose(found.score, by_hand, rtol=0, atol=1e-6)
        assert users.known() is not None


def test_order_repeats_and_strangers_change_nothing(project: Path) -> None:
    scoring = open_scoring(project / "var" / "releases" / "current")
    items: list[str | int] = list(range(40))
    whole = scoring.score("3", items)
    rng = np.random.default_rng(0)
    order = rng.permutation(40)
    mixed = scoring.score("3", [items[n] for n in order])
    same(mixed, Scored({n: c[order] for n, c in whole.tasks.items()}, whole.score[order]))
    twice = scoring.score(3, ["7", 7, "nothing", 7, "also nothing"])  # 7 and "7" are one id
    assert len(set(twice.score[[0, 1, 3]].tolist())) == 1
    assert twice.score[2] == twice.score[4]
    assert abs(float(twice.score[0] - whole.score[7])) < 1e-6
    strangers = scoring.score("nobody", ["nothing"])
    assert np.isfinite(strangers.score).all()
    assert len(scoring.score("3", []).score) == 0


def test_a_history_that_is_told_stands_in_for_what_is_known(project: Path) -> None:
    scoring = open_scoring(project / "var" / "releases" / "current", recall=False)
    items = [str(n) for n in range(20)]
    known, none = scoring.score("3", items), scoring.score("3", items, history=[])
    assert np.abs(known.score - none.score).max() > 1e-4
    release = Releases(project / "var" / "releases").load()
    mine = release.table("histories").filter(pl.col("user") == release.users.key("3")).sort("time_ms", "offset")
    told = [
        {"item": release.items.ids[row["item"]], "action": row["action"], "time_ms": row["time_ms"]}
        for row in mine.iter_rows(named=True)
    ]
    same(scoring.score("3", items, history=told), known)
    same(scoring.score("3", items, history=[*told, {"item": "nothing"}]), known)  # of an unknown item nothing is known
    # nothing was done before the first event
    same(
        scoring.score("3", items, now=told[0]["time_ms"] - 1),
        scoring.score("3", items, history=[], now=told[0]["time_ms"] - 1),
    )


def test_context_is_read_and_what_is_wrong_with_a_call_is_said(project: Path) -> None:
    scoring = open_scoring(project / "var" / "releases" / "current")
    assert scoring.context == ("device", "region")
    phone, tv = (scoring.score("3", ["1", "2"], {"device": name}) for name in ("phone", "tv"))
    assert np.abs(phone.score - tv.score).max() > 0
    same(scoring.score("3", ["1"], {"device": "abacus"}), scoring.score("3", ["1"], {"device": "slate"}))
    calls: list[tuple[dict[str, Any], str, str, str]] = [
        ({"context": {"devise": "tv"}}, "unknown context 'devise'", "context", "did you mean device?"),
        (
            {"history": [{"item": 1, "action": "clik"}]}, "unknown action 'clik'", "history[0].action",
            "did you mean click?",
        ),
        ({"history": [{"action": "click"}]}, "an event without an item", "history[0]", "send item, action and time_ms"),
        ({"history": [{"item": 1, "time": 3}]}, "unknown key 'time'", "history[0]", "did you mean time_ms?"),
        (
            {"history": [{"item": 1, "time_ms": 9}], "now": 8}, "time_ms is 9", "history[0].time_ms",
            "send UTC milliseconds up to the moment asked about, 8",
        ),
    ]  # fmt: skip
    for given, what, where, hint in calls:
        with pytest.raises(RequestError) as caught:
            scoring.score("3", ["1"], **given)
        assert (caught.value.what, caught.value.where, caught.value.hint) == (what, where, hint)


def test_an_artifact_alone(project: Path) -> None:
    release = Releases(project / "var" / "releases").load()
    data = open_data(load(project))
    scoring = of_artifact(
        release.artifact("rank"), data.schema, data.catalogue, release.users, release.items, "clicked + liked"
    )
    assert scoring.tasks == ("clicked", "liked")
    found = scoring.score("3", ["1", "2"], now=release.manifest.created_ms)
    np.testing.assert_allclose(found.score, found.tasks["clicked"] + found.tasks["liked"], atol=1e-6)
    bare = of_release(release, recall=False).score("3", ["1", "2"], history=[])
    np.testing.assert_allclose(found.tasks["clicked"], bare.tasks["clicked"], atol=1e-6)
    assert scoring.silent == ("clicks_1d", "clicks_7d")


def test_a_scene_or_a_stage_that_is_not_there(project: Path) -> None:
    release = Releases(project / "var" / "releases").load()
    with pytest.raises(ArtifactError, match="no scene is called 'hom'") as caught:
        of_release(release, "hom")
    assert caught.value.hint == "did you mean home?"
    with pytest.raises(ArtifactError, match="scene 'home' has no stage 'ranc'") as caught:
        of_release(release, stage="ranc")
    assert caught.value.hint == "did you mean rank?"
    coarse = of_release(release, stage="coarse")
    assert np.isfinite(coarse.score("3", ["1", "nothing"]).score).all()


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("shortlist.training", "shortlist.dataset", "shortlist.tables")):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Blocker())
import shortlist

print(len(shortlist.open_scoring(sys.argv[1]).score("3", ["1", "nothing"]).score))
"""


def test_a_release_is_enough_without_training_dataset_and_tables(project: Path, tmp_path: Path) -> None:
    release = Releases(project / "var" / "releases").load()
    copy = tmp_path / release.id
    shutil.copytree(release.folder, copy)
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(copy)], capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


# ------------------------------------------------------------------------------------------ files


def pairs() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    users = np.sort(rng.integers(0, 20, 300)).astype(str)
    return pl.DataFrame({
        "user": users, "item": rng.integers(0, 90, 300).astype(str), "note": ["x"] * 300,
        "device": np.where(np.arange(300) < 150, "tv", "phone"),
    })  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_file_gives_the_scores_of_its_rows_whatever_its_kind_and_blocks(
    project: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table, file = pairs(), tmp_path / f"pairs.{kind}"
    writers: dict[str, Any] = {"csv": table.write_csv, "parquet": table.write_parquet, "jsonl": table.write_ndjson}
    writers[kind](file)
    out = tmp_path / "scores.parquet"
    release = str(project / "var" / "releases" / "current")
    capsys.readouterr()
    assert main(["score", str(file), "--out", str(out), "--release", release, "--block", "128"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "features with their defaults, as nobody answers for them: clicks_1d, clicks_7d" in said.err
    found = pl.read_parquet(out)
    assert found.columns == ["user", "item", "score.clicked", "score.liked", "score"]
    assert found["user"].to_list() == table["user"].to_list()
    assert found["item"].to_list() == table["item"].to_list()
    scoring = open_scoring(release)
    for row in (0, 149, 150, 299):
        user, item, _, device = table.row(row)
        one = scoring.score(user, [item], {"device": device})
        assert found["score"][row] == pytest.approx(float(one.score[0]), abs=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"pairs.{kind}", "scores.parquet"]


def test_no_more_rows_are_in_memory_than_a_block(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = open_scoring(project / "var" / "releases" / "current", recall=False)
    sizes, usual = [], Scoring.frame

    def counted(self: Scoring, table: pl.DataFrame) -> pl.DataFrame:
        sizes.append(len(table))
        return usual(self, table)

    monkeypatch.setattr(Scoring, "frame", counted)
    pairs().write_parquet(tmp_path / "pairs.parquet")
    told: list[tuple[int, int]] = []
    rows = score_file(
        scoring, scan(tmp_path / "pairs.parquet"), tmp_path / "scores.parquet", block=128,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert (rows, sizes) == (300, [128, 128, 44])
    assert told == [(128, 300), (256, 300), (300, 300)]


def test_moments_of_the_past_are_replayed_from_the_log(project: Path, tmp_path: Path) -> None:
    data = open_data(load(project))
    log = data.interactions
    moment = int(np.quantile(log.times, 0.7))
    table = pl.DataFrame({"user": ["3"] * 10, "item": [str(n) for n in range(10)], "time_ms": [moment] * 10})
    table.write_parquet(tmp_path / "pairs.parquet")
    out = tmp_path / "scores.parquet"
    assert main(["score", str(tmp_path / "pairs.parquet"), "--out", str(out), "--project", str(project)]) == 0
    found = pl.read_parquet(out)
    assert found["time_ms"].to_list() == [moment] * 10
    user = np.array([workspace.keys(data.project, "user").key("3")])
    at = np.array([moment])
    past = log.histories(user)
    requests = data.requests(user, at, 5, past.where(past.times <= moment))
    with opened(load(project), known="then") as scoring:
        items = scoring.items.encode(table["item"])
        expected = scoring.rows(requests, np.zeros(10, dtype=np.int64), items)
    np.testing.assert_allclose(found["score"].to_numpy(), expected.score, atol=1e-6)


def fails(file: Path, out: Path, project: Path, *more: str) -> Sequence[str]:
    """What `shortlist score` says of a file it refuses, its place made short."""
    scoring, table = open_scoring(project / "var" / "releases" / "current", recall=False), scan(file)
    with pytest.raises((DataError, RequestError, ArtifactError)) as caught:
        score_file(scoring, table, out, *more)
    error = caught.value
    return error.what, error.where.replace(str(file.parent), "."), error.hint


def test_what_is_wrong_with_a_file_is_said_and_what_was_there_stays(project: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "pairs.csv", tmp_path / "scores.parquet"
    out.write_text("before")
    file.write_text("usr,item\n1,2\n")
    expected = ("no column is called 'user'", "./pairs.csv", "did you mean usr? (name it with --user)")
    assert fails(file, out, project) == expected
    file.write_text("user,item,time_ms\n1,2,3\n1,2,soon\n")
    expected = ("'soon' is no number", "./pairs.csv, row 1, column time_ms", "write UTC milliseconds")
    assert fails(file, out, project) == expected
    file.write_text("user,item,channel_rank.hotter\n1,2,3\n")
    what, where, _ = fails(file, out, project)
    assert (what, where) == ("the ranker has no channel 'hotter'", "./pairs.csv, channel_rank.hotter")
    file.write_text("user,item,feature.clicks_1h\n1,2,3\n")
    expected = (
        "the release has no feature 'clicks_1h'", "./pairs.csv, feature.clicks_1h", "did you mean clicks_1d?",
    )  # fmt: skip
    assert fails(file, out, project) == expected
    file.write_text("user,item\n1,2\n")
    assert fails(file, file, project) == (
        "the answers would take the place of the questions", "./pairs.csv", "write elsewhere",
    )  # fmt: skip
    assert fails(file, tmp_path / "no" / "scores.parquet", project) == (
        "no such folder", "./no", "make it, or write elsewhere",
    )  # fmt: skip
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.csv", "scores.parquet"]


def test_a_release_without_a_ranker_is_told(project: Path) -> None:
    release = Releases(project / "var" / "releases").load()
    release.document["scenes"]["home"]["stages"] = []
    with pytest.raises(ArtifactError) as caught:
        of_release(release)
    assert caught.value.what == "scene 'home' has no ranker"
    assert caught.value.hint == "add [rank] to the project, train and publish"


# ------------------------------------------------------------------------------------------ what was logged


def test_logged_features_reproduce_the_logged_scores(project: Path) -> None:
    """A served row has all that its score was made of: channels' ranks and scores, counters, the context."""
    with open_engine(load(project)) as engine:
        for user in ("3", "9", "nobody"):
            engine.recommend(user, context={"device": "phone"})
        engine.flush()
        assert isinstance(engine.live.users.known(), Moment)
    rows = slates.read(load(project).home / slates.FOLDER).rows
    release = Releases(project / "var" / "releases").load()
    ids = release.items.ids
    table = rows.with_columns(
        user=pl.col("user_id"), item=pl.Series([ids[key] for key in rows["item"].to_list()], dtype=pl.String)
    )
    # nothing but the rows and the release: histories are those it was published with, as nobody did anything since
    scoring = of_release(release, recall=False)
    found = scoring.frame(table)
    assert len(table) > 15
    np.testing.assert_allclose(found["score.clicked"], rows["score.rank.clicked"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["score.liked"], rows["score.rank.liked"], rtol=0, atol=1e-5)
    brought = (
        (rows["channel_rank.backfill"] == 0).to_numpy() if "channel_rank.backfill" in rows.columns else slice(None)
    )
    np.testing.assert_allclose(found["score"].to_numpy()[brought], rows["score.rank"].to_numpy()[brought], atol=1e-5)


def test_the_answer_is_json_where_it_is_asked_for(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "pairs.csv", tmp_path / "scores.parquet"
    file.write_text("who,what\n1,2\n")
    capsys.readouterr()
    arguments = ["score", str(file), "--out", str(out), "--project", str(project), "--user", "who", "--item", "what"]
    assert main([*arguments, "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told == {"rows": 1, "out": str(out), "stage": "rank", "tasks": ["clicked", "liked"], "without": 0}
    scoring: Scoring = open_scoring(project / "var" / "releases" / "current")
    assert scoring.n == 5


def test_rows_whose_score_is_no_number_are_counted(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage of the release fuses to what is infinite: 1 / 0 wherever a task has a score."""
    file, out = tmp_path / "pairs.csv", tmp_path / "scores.parquet"
    file.write_text("user,item\n1,2\n1,3\n")
    scoring = open_scoring(project / "var" / "releases" / "current")
    stage = replace(scoring.stage, fuse=Expression.parse("clicked / 0"))
    monkeypatch.setattr("shortlist.funnel.scoring.open_scoring", lambda *given, **named: replace(scoring, stage=stage))
    capsys.readouterr()
    assert main(["score", str(file), "--out", str(out), "--release", "anywhere"]) == 0
    said = "2 of 2 rows have no finite score: 'clicked / 0' reads a field that their items have not, or divides by 0"
    assert said in capsys.readouterr().err.splitlines()
    assert not np.isfinite(pl.read_parquet(out)["score"].to_numpy()).any()
