"""Tables split over two processes by TorchRec: the weights that one process learns. `make test-sharded` runs it in the
environment that TorchRec needs."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.ranked import PLAN, Learner, layout_of, ranking
from tests.training.test_distributed import alone, changed

from shortlist.errors import ConfigError
from shortlist.models.rank.deepfm import DeepFM
from shortlist.schema import Schema
from shortlist.training.learn import settings
from shortlist.training.plan import Plan

installed = importlib.util.find_spec("torchrec") is not None
needs_torchrec = pytest.mark.skipif(not installed, reason="TorchRec is not installed: `make test-sharded`")


@needs_torchrec
@pytest.mark.parametrize("how", ["table_wise", "row_wise"])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_split_tables_learn_what_whole_ones_learn(how: str, optimizer: str, tmp_path: Path) -> None:
    """Batches of two processes against one with batches of double size, whose table has sparse gradients: row-wise
    Adagrad is one rule in both."""
    config = changed(optimizer=optimizer, sharded=how)
    together = Learner(ranking(41), config, tmp_path / "two", sparse=True).on()
    expected, _ = alone(ranking(41), changed(optimizer=optimizer), tmp_path / "one", sparse=True)
    found = together.weights()
    assert list(found) == list(expected)  # an artifact has the names it always had
    for name, weight in found.items():
        assert torch.allclose(weight, expected[name], atol=1e-5 if optimizer == "sgd" else 1e-3), name
    torch.manual_seed(config.seed)
    first = DeepFM(PLAN.config(), layout_of(ranking(41), sparse=True)).state_dict()
    moved = (found["embed.table.weight"] != first["embed.table.weight"]).any(dim=1)
    assert 10 < moved.sum() < len(moved)  # rows that appear in no batch stay as they were, row 0 too
    assert not moved[0]
    loaded = DeepFM(PLAN.config(), layout_of(ranking(41)))
    loaded.load_state_dict(found)


@needs_torchrec
@pytest.mark.parametrize("how", ["table_wise", "row_wise"])
def test_a_split_run_that_was_left_goes_on_from_its_last_checkpoint(how: str, tmp_path: Path) -> None:
    config = changed(optimizer="adagrad", sharded=how, lr=0.05)
    unbroken = Learner(ranking(), config, tmp_path / "a").on()
    Learner(ranking(), config, tmp_path / "b").on(10)  # 7 steps are an epoch, then it was saved and validated
    resumed = Learner(ranking(), config, tmp_path / "b").on()
    assert next(r.step for r in resumed.records if not r.metrics) == 8
    for name, weight in resumed.weights().items():
        assert torch.equal(weight, unbroken.weights()[name]), name


@needs_torchrec
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"optimizer": "adam"}, 'TorchRec has no lazy adam on the CPU (write optimizer = "adagrad" or "sgd")'),
        ({"clip": 1.0}, "split tables are updated before clip is known (take clip away)"),
    ],
)
def test_rules_that_split_tables_have_not(words: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Learner(ranking(), changed(sharded="row_wise", **words), tmp_path).on()
    assert str(caught.value) == f"training.sharded: {message}"


@pytest.mark.skipif(installed, reason="TorchRec is installed")
def test_without_torchrec_it_says_where_that_lives(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Learner(ranking(), changed(sharded="row_wise"), tmp_path).on()
    assert str(caught.value) == (
        "training.sharded: torchrec is not installed: TorchRec lives in an environment of its own "
        "(`make test-sharded` builds one, docs/decisions/scale.md)"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {},
            "rank (deepfm).train.sharded: one process has nothing to split its tables over "
            "(write processes = 2, or more)",
        ),
        (
            {"processes": 2, "read": "stream", "compile": True},
            "rank (deepfm).train.compile: the look-ups of a compiled model cannot be listed first "
            "(take compile away, or sharded)",
        ),
    ],
)
def test_words_that_do_not_go_together(words: dict[str, Any], message: str) -> None:
    schema = Schema.parse({"tasks": {"click": {"on": {"sample": "mixed", "per": 1}, "positive": "value >= 4"}}})
    with pytest.raises(ConfigError) as caught:
        settings(Plan("rank", "deepfm", DeepFM, {}, {"sharded": "row_wise", **words}), schema)
    assert str(caught.value) == message
