"""What runs a ranker answers as torch does, or is not used and says why. A graph is made once for each model."""

import importlib.util
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.examples import BARE, FULL, batch
from torch import Tensor, nn

from shortlist.artifact import Artifact, amend, load, save
from shortlist.batch import Batch, Layout
from shortlist.errors import ArtifactError
from shortlist.models import runtimes
from shortlist.models.coarse.three_tower import ThreeTower
from shortlist.models.learned import Learned
from shortlist.models.rank.deepfm import DeepFM
from shortlist.models.rank.din import DIN
from shortlist.models.rank.dnn import DNN
from shortlist.models.runtimes import Aot, Eager, NotOfferedError, Onnx, choose, difference, example, graph, opened

NEEDS = ("onnx", "onnxruntime", "onnxscript")
onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDS), reason="the extra onnx is not installed"
)
# requests, rows, steps of a sequence: one candidate, many, ragged, no history at all
SHAPES = [(1, 1, 6), (1, 500, 50), (3, 17, 9), (7, 30, 6), (1, 5, 0), (2, 1000, 1)]


HEADS = {
    "shared_bottom": {"use": "shared_bottom", "bottom": [8], "towers": [6]},
    "mmoe": {"use": "mmoe", "hidden": [32, 16], "towers": [16]},
}


def shaken(model: nn.Module) -> nn.Module:
    """With weights that are felt, the reserved row of ids but zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        model.get_parameter("embed.table.weight")[0] = 0
    return model.eval()


def made(name: str) -> Learned:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layout: Layout = BARE if name == "bare" else FULL
    model: nn.Module
    if name in ("deepfm", "bare"):
        model = DeepFM(DeepFM.Config(dim=4, hidden=(16,)), layout)
    elif name.startswith("din"):
        model = DIN(DIN.Config(dim=4, attention=(8, 6), softmax="softmax" in name, hidden=(16,)), layout)
    elif name in HEADS:
        model = DNN(DNN.Config(dim=4, hidden=(16,), heads=HEADS[name]), layout)
    else:
        model = ThreeTower(ThreeTower.Config(dim=4, user=(16, 8), item=(16, 8), cross=(8,), top=(8,)), layout)
    assembler: Any = None  # the batches are made here
    learned = Learned(shaken(model), assembler, layout)
    return replace(learned, items=torch.zeros(2, 8)) if name == "three_tower kept" else learned


MODELS = ("deepfm", "bare", "din", "din softmax", *HEADS, "three_tower", "three_tower kept")


@pytest.fixture(scope="module")
def graphs() -> dict[str, bytes]:
    return {name: graph(made(name)) for name in MODELS}


def asked(learned: Learned, requests: int, rows: int, steps: int) -> tuple[Batch, Tensor | None]:
    rng = np.random.default_rng(rows)
    made = example(learned.layout, requests, rows, rng, steps)
    with torch.inference_mode():
        return made, learned.model.item(made.row) if learned.items is not None else None


@onnx
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_graph_answers_as_torch(name: str, shape: tuple[int, int, int], graphs: dict[str, bytes]) -> None:
    learned = made(name)
    rows, item = asked(learned, *shape)
    with torch.inference_mode():
        expected = Eager(learned.model)(rows, item)
        found = Onnx(graphs[name], learned.layout)(rows, item)
    assert list(found) == list(learned.layout.tasks)
    for task, logit in expected.items():
        torch.testing.assert_close(found[task], logit, atol=1e-5, rtol=0)
    assert shape[1] == 1 or max(float(logit.std()) for logit in expected.values()) > 0.01  # they are felt


@onnx
def test_columns_are_found_by_name(graphs: dict[str, bytes]) -> None:
    """More columns than the layout names, in another order, and a recall channel that was not asked."""
    learned = made("deepfm")
    rows = batch(FULL, 3, 20)
    row = rows.row
    turned = replace(
        row,
        sparse=torch.cat([row.sparse.flip(1), torch.ones(20, 1, dtype=torch.int64)], dim=1),
        sparse_names=(*row.sparse_names[::-1], "item.other"),
        dense=row.dense[:, [3, 4, 0]],
        dense_names=tuple(row.dense_names[n] for n in (3, 4, 0)),
    )
    other = replace(rows, row=turned)
    with torch.inference_mode():
        expected = learned.model(other)
        found = Onnx(graphs["deepfm"], FULL)(other)
    torch.testing.assert_close(found["click"], expected["click"], atol=1e-5, rtol=0)


@onnx
def test_a_graph_tells_nothing_of_where_it_was_made(graphs: dict[str, bytes]) -> None:
    for content in graphs.values():
        assert str(Path(__file__).parents[2]).encode() not in content
        assert b"site-packages" not in content


def saved(folder: Path, use: str, graphs: dict[str, bytes]) -> Artifact:
    save(folder, kind="rank.deepfm", name="rank", arrays={"weight.a": np.arange(3)}, config={"use": "x"}, created_ms=7)
    amend(folder, config={"runtime": {"use": use}}, graphs=graphs)
    return load(folder)


def test_amending_changes_nothing_else(tmp_path: Path) -> None:
    first = saved(tmp_path / "rank", "onnx", {"runtime": b"one"})
    assert first.graph("runtime") == b"one"
    amend(tmp_path / "rank", config={"runtime": {"use": "torch"}}, graphs={})
    second = load(tmp_path / "rank")
    assert sorted(second.manifest.files) == ["weight.a.npy"]
    assert second.manifest.config == {"use": "x", "runtime": {"use": "torch"}}
    assert second.manifest.created_ms == 7
    assert second.array("weight.a").tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["rank"]


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "rank", "onnx", {"runtime": b"one"})
    (tmp_path / "rank" / "runtime.onnx").write_bytes(b"two")
    with pytest.raises(ArtifactError) as error:
        load(tmp_path / "rank")
    assert error.value.what == "the content has changed since it was written"
    (tmp_path / "rank" / "runtime.onnx").unlink()
    with pytest.raises(ArtifactError, match="a file is missing"):
        load(tmp_path / "rank")


def test_without_the_package_torch_runs_it_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    learned = made("deepfm")
    with caplog.at_level(logging.WARNING, "shortlist.models"):
        runtime = opened(saved(tmp_path / "rank", "onnx", {"runtime": b"one"}), learned)
    assert isinstance(runtime, Eager)
    assert caplog.messages == [
        "rank runs on torch, not on onnx: onnxruntime is not installed (pip install 'shortlist[onnx]')"
    ]
    rows = batch(FULL, 2, 5)
    with torch.inference_mode():
        torch.testing.assert_close(runtime(rows)["click"], learned.model(rows)["click"])
    with pytest.raises(NotOfferedError, match=r"^onnx is not installed \(pip install 'shortlist\[onnx\]'\)$"):
        graph(learned)


@onnx
def test_a_graph_that_cannot_be_read_or_is_of_other_weights_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, graphs: dict[str, bytes]
) -> None:
    learned = made("deepfm")
    good = opened(saved(tmp_path / "rank", "onnx", {"runtime": graphs["deepfm"]}), learned)
    assert isinstance(good, Onnx)
    assert not caplog.messages
    for content, words in ((b"noise", "does not read the graph"), (graphs["deepfm"], "differ from torch's by")):
        shaken(learned.model)
        assert isinstance(opened(saved(tmp_path / "rank", "onnx", {"runtime": content}), learned), Eager)
        assert words in caplog.messages[-1]


def test_what_is_not_in_the_cache_or_not_known_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORTLIST_CACHE", str(tmp_path / "cache"))
    learned = made("deepfm")
    assert isinstance(opened(saved(tmp_path / "rank", "aot", {}), learned), Eager)
    assert isinstance(opened(saved(tmp_path / "rank", "abacus", {}), learned), Eager)
    assert caplog.messages == [
        "rank runs on torch, not on aot: nothing is compiled in this machine's cache (publish here)",
        "rank runs on torch, not on abacus: this version does not know it",
    ]


def test_a_cache_that_others_may_write_to_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "x.pt2").touch()
    with pytest.raises(NotOfferedError, match="others may write to"):
        Aot(folder / "x.pt2", FULL)


def test_a_library_is_of_what_an_artifact_holds_not_of_the_choice(tmp_path: Path) -> None:
    one = runtimes.cached(saved(tmp_path / "rank", "onnx", {"runtime": b"one"}).manifest)
    two = runtimes.cached(saved(tmp_path / "rank", "aot", {}).manifest)
    save(tmp_path / "rank", kind="rank.deepfm", name="rank", arrays={"weight.a": np.arange(4)}, created_ms=7)
    assert one == two != runtimes.cached(load(tmp_path / "rank").manifest)


@pytest.mark.slow
def test_a_compiled_library_answers_as_torch(tmp_path: Path) -> None:
    learned = made("din")
    place = tmp_path / "compiled" / "din.pt2"
    runtimes.library(learned, place)
    assert difference(learned, Aot(place, FULL), np.random.default_rng(1)) <= 1e-5
    rows, _ = asked(learned, 1, 500, 50)
    with torch.inference_mode():
        torch.testing.assert_close(Aot(place, FULL)(rows)["like"], learned.model(rows)["like"], atol=1e-5, rtol=0)


def test_the_fastest_is_chosen_but_the_plainer_where_little_is_won() -> None:
    assert choose({"torch": 2.0, "onnx": 1.0, "aot": 1.5}) == "onnx"
    assert choose({"torch": 2.0, "onnx": 1.0, "aot": 0.5}) == "aot"
    assert choose({"torch": 2.0, "onnx": 1.0, "aot": 0.95}) == "onnx"  # less than a tenth of 1.0 is won
    assert choose({"torch": 2.0, "onnx": 1.9}) == "torch"  # 0.95 of torch's time
    assert choose({"torch": 2.0, "onnx": 1.8}) == "onnx"
    assert choose({"torch": 2.0}) == "torch"
    assert choose({}) == "torch"
