"""What a user can get wrong about what is to be learned, and the exact words with which the commands say it.

A log of 40 users with 12 ratings each of 25 items. Of each user's 12 events the last two are the test part; of the ten
before, a ranker learns on the last two, asked before the first of them and before the second: 40 * (2 + 1) = 120 pairs.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shortlist.cli import main
from shortlist.config import catalogue, find, nearest
from shortlist.features.encoders import Encoders
from shortlist.training.plan import options_of

T = 1_700_000_000_000  # 14 November 2023, in ms
USERS, ITEMS, EACH = 40, 25, 12

HEAD = """
[data]
events = "events.parquet"
items = "items.parquet"
users = "users.parquet"

[schema]
value = "value"
items = { kind = "sparse", price = "dense" }
users.age = "dense"
context.device = "sparse"
tasks.liked = { on = "click", positive = "value >= 4" }

[[recall]]
name = "hot"
use = "hot"
"""
TOWERS = """
[[recall]]
name = "towers"
use = "dssm"
dim = 4
hidden = [8]
out = 4
train = { epochs = 1, batch_size = 64, history = 5 }
"""
GRU = """
[[recall]]
name = "gru"
use = "gru4rec"
dim = 4
train = { epochs = 1, batch_size = 64, history = 5 }
"""
RANK = """
[rank]
use = "deepfm"
dim = 4
hidden = [8]
train = { epochs = 1, history = 5 }
"""
SCENE = """
[scene.home]
page = 5
"""


def world(folder: Path, text: str, columns: Mapping[str, Any] | None = None, each: int = EACH) -> Path:
    """A project over a generated log, whose columns (`items.price`) may be replaced."""
    rng = np.random.default_rng(0)
    n = USERS * each
    tables: dict[str, dict[str, Any]] = {
        "events": {
            "user": [f"u{k // each}" for k in range(n)],
            "item": [f"i{k}" for _ in range(USERS) for k in rng.permutation(ITEMS)[:each]],
            "time_ms": [T + 60_000 * (k % each) + k for k in range(n)],
            "value": [1.0 + k % 5 for k in range(n)],
            "device": [("phone", "desk")[k % 2] for k in range(n)],
        },
        "items": {
            "item": [f"i{k}" for k in range(ITEMS)],
            "kind": [f"k{k % 4}" for k in range(ITEMS)],
            "price": [1.0 * k for k in range(ITEMS)],
        },
        "users": {"user": [f"u{k}" for k in range(USERS)], "age": [20.0 + k for k in range(USERS)]},
    }
    for name, column in (columns or {}).items():
        table, _, key = name.partition(".")
        tables[table][key] = column
    for name, table_ in tables.items():
        pl.DataFrame(table_).write_parquet(folder / f"{name}.parquet")
    (folder / "shortlist.toml").write_text(text, encoding="utf-8")
    return folder


def none(n: int) -> pl.Series:
    """A column of numbers, none of which is there."""
    return pl.Series([None] * n, dtype=pl.Float64)


def said(folder: Path, capsys: pytest.CaptureFixture[str], *argv: str, status: int = 2) -> Sequence[str]:
    """What a command says at its end: what, where, next; without the folder's own name."""
    capsys.readouterr()
    assert main([*argv, "--project", str(folder)]) == status
    lines = capsys.readouterr().err.replace(f"{folder}/", "").splitlines()
    assert not any("Traceback" in line for line in lines)
    return lines[-3:]


def ran(folder: Path, *commands: str) -> None:
    for command in commands:
        assert main([*command.split(), "--project", str(folder)]) == 0, command


def error(what: str, where: str, hint: str) -> list[str]:
    return [f"error: {what}", f"  where: {where}", f"  next: {hint}"]


# ------------------------------------------------------------------------------------------------------- labels


def test_labels_outside_the_range_of_a_task_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world(tmp_path, HEAD.replace('"value >= 4"', '"value"') + RANK + SCENE)
    ran(folder, "import")
    found = said(folder, capsys, "train")
    # values are 1 + k % 5 at place k in the log, here 12 u + 8 and 12 u + 9 of user u: each of the five as often as the
    # others, 120 / 5 = 24 are 1
    assert found == error(
        "96 of 120 labels are outside 0..1, the first is 4",
        "rank (deepfm), schema.tasks.liked",
        "make positive a condition (value >= 4), or name the task in loss.regression (a time in loss.watch)",
    )
    file = folder / "shortlist.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("[scene.home]", 'loss = { regression = ["liked"] }\n\n[scene.home]'), encoding="utf-8")
    ran(folder, "train")  # the cure


ASK = "look at what positive and on say, and at which actions and values the log has"


@pytest.mark.parametrize(
    ("task", "value", "what"),
    [
        ('{ on = "click", positive = "value >= 40" }', None, "liked: all 120 labels are 0"),
        ('{ on = "click", positive = "value >= 0" }', None, "liked: all 120 labels are 1"),
        ('{ on = { sample = "mixed", per = 2 }, positive = "value >= 40" }', None, "liked: all 120 labels are 0"),
        ('{ on = "click", positive = "value" }', none(USERS * EACH), "liked: no row carries a label"),
        (
            '{ on = "click", positive = "value >= 40" }\ntasks.loved = { on = "click", positive = "value < 0" }',
            None,
            "liked: all 120 labels are 0; loved: all 120 labels are 0",
        ),
    ],
)
def test_a_task_of_one_class(
    task: str, value: pl.Series | None, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HEAD.replace('{ on = "click", positive = "value >= 4" }', task) + RANK + 'fuse = "liked"\n' + SCENE
    folder = world(tmp_path, text, {} if value is None else {"events.value": value})
    ran(folder, "import")
    told = f"no task has anything to tell apart: {what}"
    assert said(folder, capsys, "train") == error(told, "rank (deepfm), schema.tasks", ASK)


def test_of_two_tasks_the_one_of_one_class_is_told_and_the_other_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = 'tasks.loved = { on = "click", positive = "value >= 40" }\ntasks.liked'
    folder = world(tmp_path, HEAD.replace("tasks.liked", more) + RANK + 'fuse = "liked"\n' + SCENE)
    ran(folder, "import", "train")
    # a tenth of the users, 4 of 40, says when to stop: 120 - 4 * 3 = 108 pairs are learned from
    assert caplog.messages == ["rank (deepfm): task loved: all 108 labels are 0"]


# ------------------------------------------------------------------------------------------------- fields, numbers

FILL = "fill the column, or take the field out of the schema"


@pytest.mark.parametrize(
    ("column", "values", "model", "what", "where"),
    [
        ("items.price", none(ITEMS), TOWERS, "none of 25 items of training has a number", "item.price"),
        ("items.kind", none(ITEMS).cast(pl.String), RANK, "none of 25 items of training has a value", "item.kind"),
        ("users.age", none(USERS), RANK, "none of 40 users of training has a number", "user.age"),
        # 40 users with 10 events each before the test part
        ("events.device", [None] * 480, TOWERS, "none of 400 requests of training has a value", "context.device"),
    ],
)
def test_a_field_that_is_missing_everywhere(
    column: str, values: Any, model: str, what: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world(tmp_path, HEAD + model + SCENE, {column: values})
    ran(folder, "import")
    assert said(folder, capsys, "train") == error(what, where, FILL)


def test_the_check_finds_a_field_that_is_missing_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world(tmp_path, HEAD + TOWERS + SCENE, {"items.price": none(ITEMS)})
    capsys.readouterr()
    assert main(["check", "--json", "--project", str(folder)]) == 0
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert (found["items.price"]["status"], found["items.price"]["what"]) == (
        "WARN",
        "price is known of 0.0% of 25 items",
    )


def test_a_column_without_a_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world(tmp_path, HEAD + SCENE, {"items.price": [None] * ITEMS})
    expected = error("column 'price' has no value in any row", "items.parquet", FILL)
    assert said(folder, capsys, "import") == expected
    capsys.readouterr()
    assert main(["check", "--json", "--project", str(folder)]) == 1
    failed = [f["what"] for f in json.loads(capsys.readouterr().out) if f["status"] == "FAIL"]
    assert [what.replace(f"{folder}/", "") for what in failed] == [
        f"items.parquet: column 'price' has no value in any row ({FILL})"
    ]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("column", "values", "what", "where"),
    [
        ("items.price", [1.0, NAN, NAN] + [1.0] * 22, "2 values of price are not numbers: nan", "items.parquet, row 1"),
        ("users.age", [1.0] * 39 + [INF], "1 values of age are not numbers: inf", "users.parquet, row 39"),
        ("events.value", [NAN] * 3 + [1.0] * 477, "3 values are not numbers: nan", "events.parquet, row 0"),
    ],
)
def test_a_dense_column_with_what_is_no_number(
    column: str, values: list[float], what: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world(tmp_path, HEAD + TOWERS + SCENE, {column: values})
    hint = "leave a value empty where there is none"
    assert said(folder, capsys, "import") == error(what, where, hint)
    assert not list((folder / "var").glob("events/*"))
    capsys.readouterr()
    assert main(["check", "--json", "--project", str(folder)]) == 1
    failed = [f["what"] for f in json.loads(capsys.readouterr().out) if f["status"] == "FAIL"]
    assert [text.replace(f"{folder}/", "") for text in failed] == [f"{where}: {what} ({hint})"]


def test_a_request_whose_context_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD.replace('context.device = "sparse"', 'context.hour = "dense"')
    hours = [NAN if k == 7 else k % 24.0 for k in range(USERS * EACH)]
    folder = world(tmp_path, text + TOWERS + SCENE, {"events.hour": hours})
    assert said(folder, capsys, "import") == error(
        "1 values of hour are not numbers: nan", "events.parquet, row 7", "leave a value empty where there is none"
    )


def test_a_vocabulary_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world(tmp_path, HEAD + TOWERS + SCENE)
    ran(folder, "import")
    fit = Encoders.fit  # ten million values are too many to write down here
    monkeypatch.setattr(Encoders, "fit", lambda *given, **named: fit(*given, **named, max_values=3))
    found = said(folder, capsys, "train")
    hint = "set min_count or hash on its fields"
    assert found == error("4 values, at most 3 fit", "vocabulary item.kind", hint)
    file = folder / "shortlist.toml"
    hashed = 'kind = { kind = "sparse", hash = 2 }'
    file.write_text(file.read_text(encoding="utf-8").replace('kind = "sparse"', hashed), encoding="utf-8")
    ran(folder, "train")  # the cure


@pytest.mark.parametrize(("model", "place"), [(TOWERS, "recall.towers (dssm)"), (RANK, "rank (deepfm)")])
def test_a_vocabulary_grown_since_the_checkpoint(
    model: str, place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped does not go on over items that it has no rows for: it begins again, and says so."""
    folder = world(tmp_path, HEAD + model.replace("epochs = 1", "epochs = 4") + SCENE)
    ran(folder, "import")

    def stop(*given: Any) -> None:
        if given[2].step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for module in ("rankers", "retrievers"):
            patch.setattr(f"shortlist.training.{module}.tell", stop)
        assert main(["train", "--project", str(folder)]) == 130
    items = pl.read_parquet(folder / "items.parquet")
    new = items.tail(1).with_columns(item=pl.lit("fresh"), kind=pl.lit("k9"))
    pl.concat([items, new]).write_parquet(folder / "items.parquet")
    ran(folder, "import")
    ran(folder, "train")
    what = "the run that stopped after step 2 was of other data or another configuration: this one starts afresh"
    assert f"{place}: {what}" in caplog.messages


@pytest.mark.parametrize(("model", "where"), [(TOWERS, "recall.towers (dssm)"), (RANK, "rank (deepfm)")])
def test_a_loss_that_is_no_number_says_whose_it_is_and_at_which_batch(
    model: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world(tmp_path, HEAD + model.replace("history = 5", "history = 5, lr = 1e30") + SCENE)
    ran(folder, "import")
    found = said(folder, capsys, "train")
    # the first step throws the weights out of all numbers, the second meets them
    assert found == error("the loss is nan", f"{where}, batch 2", "the columns are finite: lower lr, or set clip")


# ----------------------------------------------------------------------------------------- histories, sequences


@pytest.mark.parametrize(
    ("channel", "what", "where"),
    [
        (TOWERS, "none of 40 users has two events that show interest at different moments", "towers (dssm)"),
        (GRU, "none of 40 users has two events that show interest", "gru (gru4rec)"),
    ],
)
def test_a_log_without_histories_teaches_no_channel_that_reads_them(
    channel: str, what: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world(tmp_path, HEAD + channel + SCENE, each=1)
    ran(folder, "import")
    hint = "import a longer log, or leave this channel out: it learns what follows what"
    assert said(folder, capsys, "train", "--for", "release") == error(what, f"recall.{where}", hint)


def test_events_of_one_moment_are_no_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world(tmp_path, HEAD + TOWERS + SCENE, {"events.time_ms": [T] * USERS * EACH})
    ran(folder, "import")
    what = "none of 40 users has two events that show interest at different moments"
    hint = "import a longer log, or leave this channel out: it learns what follows what"
    assert said(folder, capsys, "train", "--for", "release") == error(what, "recall.towers (dssm)", hint)


@pytest.mark.parametrize(("model", "where"), [(GRU, "recall.gru (gru4rec)"), (RANK, "rank (deepfm)")])
def test_a_sequence_of_length_0(model: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world(tmp_path, HEAD + model.replace("history = 5", "history = 0") + SCENE)
    expected = error("should be at least 1, got 0", f"{where}.train.history", "correct the value")
    assert said(folder, capsys, "import") == expected


def test_a_stranger_has_no_history_and_is_answered_by_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world(tmp_path, HEAD + TOWERS + GRU + RANK + SCENE)
    ran(folder, "import", "train --for release", "publish")
    capsys.readouterr()
    assert main(["recommend", "nobody", "--json", "--project", str(folder)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["items"]) == 5
    assert answer["degraded"] == ["unknown_user"]
    scores = [item["score"] for item in answer["items"]]
    assert all(math.isfinite(score) for score in scores)


# ------------------------------------------------------------------------------- what was trained for something else


def test_a_checkpoint_of_another_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world(tmp_path, HEAD + TOWERS + SCENE)
    ran(folder, "import", "train")
    runs = folder / "var" / "models" / "test" / ".runs" / "towers"
    first = next(runs.iterdir())
    shutil.copytree(first, tmp_path / "kept")
    file = folder / "shortlist.toml"
    file.write_text(file.read_text(encoding="utf-8").replace(', price = "dense"', ""), encoding="utf-8")
    # what was learned under the old schema is not measured under the new one
    capsys.readouterr()
    assert said(folder, capsys, "evaluate", status=0)
    second = next(runs.iterdir())  # evaluate trained anew; the old run is gone
    assert second.name != first.name
    assert not first.exists()
    shutil.rmtree(second)
    (tmp_path / "kept").rename(second)
    place = f"var/models/test/.runs/towers/{second.name}"
    assert said(folder, capsys, "train") == error(
        "the checkpoint was made for another schema or another model",
        f"{place}/checkpoint.json",
        f"restore what it was made with, or remove {place} to start anew",
    )


RANKERS, OTHER = "shortlist.models.rank", "an option of {owners}: take it away, or choose another model (use)"


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize(
    ("tables", "what", "where", "hint"),
    [
        (f"{RANK}attention = [2]\n", "unknown key 'attention'", "rank (deepfm)", OTHER),
        (f"{TOWERS}iuf = false\n", "unknown key 'iuf'", "recall.towers (dssm)", OTHER),
        (f"{RANK}epochs = 2\n", "unknown key 'epochs'", "rank (deepfm)", "write it into train = { epochs = ... }"),
        (f"{TOWERS}lr = 0.1\n", "unknown key 'lr'", "recall.towers (dssm)", "write it into train = { lr = ... }"),
        (f"{RANK}hiden = [2]\n", "unknown key 'hiden'", "rank (deepfm)", "did you mean hidden?"),
        (
            RANK.replace("history = 5", 'history = 5, objective = "pairwise"'),
            "objective is for a retriever, here it does nothing", "rank (deepfm).train", "take objective away",
        ),
        (
            TOWERS.replace("history = 5", 'history = 5, calibration = "isotonic"'),
            "calibration is for a ranker, here it does nothing", "recall.towers (dssm).train", "take calibration away",
        ),
        (
            f"{RANK}loss = {{ negatives = 'full' }}\n",
            "unknown key 'negatives'", "rank (deepfm).loss",
            "known: balance, balance_lr, class_weights, kept, length, listwise, percentile, regression, watch, "
            "weights",
        ),
        (
            f"{TOWERS}loss = {{ known = 'bought' }}\n",
            "'bought' is no list of items that a request has", "recall.towers (dssm).loss.known",
            'write "history", or "" for none',
        ),
        (
            f"{TOWERS}loss = {{ task = 'liked' }}\n",
            "its rows are what was taken, without labels: task does nothing", "recall.towers (dssm).loss",
            "take task away",
        ),
        (f"{RANK}fuse = \"'a'\"\n", "\"'a'\" is no number", "rank.fuse", "write a score, e.g. liked * merge"),
        (
            f"{RANK}fuse = \"liked + 'a'\"\n",
            "these types do not compare", "rank.fuse", "compare text with text, numbers with numbers",
        ),
        (RANK.replace("deepfm", "dssm"), "nothing is called 'dssm'", "rank.use", nearest("dssm", catalogue(RANKERS))),
    ],
)  # fmt: skip
def test_words_of_another_model(
    tables: str, what: str, where: str, hint: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shortlist.toml").write_text(HEAD + tables + SCENE, encoding="utf-8")
    owners = []  # models that are added later may have the option too
    if hint == OTHER:
        key, package = what.split("'")[1], RANKERS if where.startswith("rank") else "shortlist.models.recall"
        owners = [use for use in catalogue(package) if key in options_of(find(use, [package], where))]
        assert owners
    assert said(tmp_path, capsys, command) == error(what, where, hint.replace("{owners}", ", ".join(owners)))
