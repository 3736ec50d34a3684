"""Tables from a project's words to an artifact and back: what is refused, what is kept, what bytes cost."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.test_features import CATALOGUE, LOG, SCHEMA, START, examples

from shortlist.artifact import Artifact, load
from shortlist.batch import Tables
from shortlist.config import ChannelConfig, RankerConfig, parse
from shortlist.errors import ConfigError
from shortlist.models.blocks.embed import Packed
from shortlist.models.learned import Learned, restore
from shortlist.models.runtimes import TOLERANCE, Onnx, difference, graph
from shortlist.training.learn import tables_of
from shortlist.training.plan import Plan, plan_of
from shortlist.training.rankers import ranker
from shortlist.training.retrievers import retriever

OPTIONS: dict[str, Any] = {"dim": 4, "hidden": [8]}
LEARN = {"epochs": 2, "history": 8}


def plan(**tables: Any) -> Plan:
    return plan_of(RankerConfig("deepfm", train=LEARN, tables=tables, options=OPTIONS), "rank", OPTIONS)


def trained(folder: Path, **tables: Any) -> Artifact:
    data = examples()
    ranker(
        plan(**tables), replace(data, requests=replace(data.requests, known=None)), CATALOGUE, SCHEMA, folder / "rank",
        run=folder / "run", snapshot="s", created_ms=START,
    )  # fmt: skip
    return load(folder / "rank")


def opened(artifact: Artifact) -> Learned:
    return restore(artifact, SCHEMA, CATALOGUE)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"hash_abov": 5}, "rank (deepfm).tables: unknown key 'hash_abov' (did you mean hash_above?)"),
        ({"admit": 0}, "rank (deepfm).tables.admit: should be at least 1, got 0 (correct the value)"),
        ({"hashes": 3}, "rank (deepfm).tables: hashes does nothing without hash_above (take hashes away)"),
        (
            {"power": 0.5},
            'rank (deepfm).tables: power does nothing without widths = "root" or "mixed" (take power away)',
        ),
        (
            {"least": 8},
            'rank (deepfm).tables: least does nothing without widths = "root" or "mixed" (take least away)',
        ),
    ],
)
def test_words_that_are_not_there_or_do_nothing(tables: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tables_of(plan(**tables))
    assert str(caught.value) == says


def test_a_solver_has_no_embeddings() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(ChannelConfig("a", "hot", tables={"admit": 2}), "a", {})
    assert str(caught.value) == "recall.a.tables: hot has no embeddings: tables does nothing (take tables away)"


def test_a_project_says_it_of_each_model() -> None:
    config = parse({
        "data": {"events": "x.csv"},
        "recall": [{"name": "towers", "use": "dssm", "tables": {"admit": 2}}],
        "rank": {"use": "deepfm", "tables": {"serve": "int8"}},
    })  # fmt: skip
    assert config.recall[0].tables == {"admit": 2}
    assert config.rank is not None
    assert config.rank.tables == {"serve": "int8"}
    assert tables_of(plan(**config.rank.tables)) == Tables(serve="int8")
    # a fit is another one when its tables are; one that says nothing of them is what it was
    assert "tables" not in plan().words()
    assert plan(admit=2).words()["tables"] == {"admit": 2}


def test_what_was_kept_otherwise_is_restored_so(tmp_path: Path) -> None:
    artifact = trained(tmp_path, hash_above=10, widths="mixed", least=2, admit=2)
    learned = opened(artifact)
    assert learned.layout.tables == Tables(hash_above=10, widths="mixed", least=2, admit=2)
    data = examples()
    first = learned.logits(data.requests, data.candidates)["clicked"]
    again = opened(artifact).logits(data.requests, data.candidates)["clicked"]
    assert np.array_equal(first, again)
    assert learned.model.state_dict()["embed.counts"].max() >= 2


def test_bytes_are_served_and_what_they_cost_is_told(tmp_path: Path) -> None:
    artifact = trained(tmp_path, serve="int8")
    learned, config, told = opened(artifact), artifact.manifest.config, artifact.manifest.metrics
    assert config["embeddings"]["serve"] == "int8"
    model = learned.model
    assert type(model.embed.table) is Packed
    assert "weight.embed.table.weight.npy" not in artifact.names("npy")
    state = model.state_dict()
    rows, scale = state["embed.table.bytes"], state["embed.table.scale"]
    assert rows.dtype == torch.int8
    # a row of 5 numbers (4 and the first order) was 20 bytes, and is 5 and 4 of the scale
    assert rows.shape[1] == 5
    assert told["float32.bytes"] - told["int8.bytes"] == len(rows) * (20 - 9)
    assert told["int8.bytes"] == sum(t.numel() * t.element_size() for t in state.values())
    # of the logits: some difference, and less than that of a table moved by half a scale in all places
    assert 0 < told["int8.mean"] <= told["int8.largest"] < 0.05
    assert abs(told["int8.clicked.gauc"]) < 0.05
    assert {"int8.clicked.auc", "int8.clicked.logloss"} <= told.keys()
    # against the same training kept in floats
    whole = opened(trained(tmp_path / "whole"))
    full = whole.model.state_dict()["embed.table.weight"]
    gap = (rows * scale.unsqueeze(1) - full).abs()
    assert (gap <= scale.unsqueeze(1) / 2 + 1e-7).all()
    data = examples()
    held = np.flatnonzero(data.held[data.candidates.owners])
    mine, other = (one.logits(data.requests, data.candidates)["clicked"][held] for one in (learned, whole))
    assert 0 < np.abs(mine - other).max() < 0.05


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra onnx is not installed",
)
@pytest.mark.parametrize(
    "tables", [{"serve": "int8"}, {"serve": "int8", "hash_above": 10, "widths": "mixed", "least": 2, "admit": 2}]
)
def test_a_graph_of_bytes_answers_as_torch_does(tmp_path: Path, tables: dict[str, Any]) -> None:
    learned = opened(trained(tmp_path, **tables))
    content = graph(learned)
    assert difference(learned, Onnx(content, learned.layout), np.random.default_rng(0)) < TOLERANCE


def test_a_channel_of_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dim": 4, "hidden": [8], "out": 4}
    train = {"epochs": 1, "batch_size": 64, "history": 8, "held": 0.2}
    tables = {"serve": "int8", "admit": 2}
    made = plan_of(ChannelConfig("towers", "dssm", train=train, tables=tables, options=options), "towers", options)
    retriever(made, LOG, CATALOGUE, SCHEMA, tmp_path / "towers", run=tmp_path / "run", snapshot="s", created_ms=START)
    artifact = load(tmp_path / "towers")
    learned = opened(artifact)
    assert type(learned.model.embed.table) is Packed
    told = artifact.manifest.metrics
    assert 0 < told["int8.mean"] <= told["int8.largest"]
    assert "int8.recall@20" in told
    data = examples()
    assert np.isfinite(learned.query(data.requests)).all()
