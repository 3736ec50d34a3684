"""Symmetric InfoNCE by hand, and a model that finds planted pairs of images and texts."""

from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest import approx

from shortlist.artifact import Manifest, load
from shortlist.batch import Batch, Columns, Layout, Side
from shortlist.errors import ConfigError, DataError
from shortlist.features.content import Keyed
from shortlist.models.content.contrastive import Contrastive
from shortlist.training.joint import joint, restored
from shortlist.training.objectives.infonce import InfoNce, infonce


def test_the_loss_by_hand() -> None:
    a, b, c, d = 2.0, 1.0, -1.0, 0.5
    loss, found = infonce(torch.tensor([[a, b], [c, d]]))
    # rows: log(1 + e^(b-a)), log(1 + e^(c-d)); columns: log(1 + e^(c-a)), log(1 + e^(b-d)); a quarter of each
    parts = [log(1 + exp(x)) for x in (b - a, c - d, c - a, b - d)]
    assert loss.item() == approx(sum(parts) / 4)
    assert found.item() == 1.0  # a > b, d > c
    turned, _ = infonce(torch.tensor([[a, c], [b, d]]))
    assert turned.item() == approx(loss.item())  # images and texts change places
    level, _ = infonce(torch.zeros(5, 5))
    assert level.item() == approx(log(5))  # five that look alike


def batch(image: list[list[float]], text: list[list[float]]) -> Batch:
    vecs = {"image": np.array(image, dtype=np.float32), "text": np.array(text, dtype=np.float32)}
    return Batch(Columns.of(1), Columns.of(len(image), vecs=vecs), torch.zeros(len(image), dtype=torch.long))


def towers() -> Contrastive:
    """Both towers pass two numbers on."""
    model = Contrastive(Contrastive.Config(dim=2), Layout(Side(), Side(vecs={"image": 2, "text": 2}), {}))
    sides = ("image_tower.0", "text_tower.0")
    weights = {f"{side}.weight": torch.eye(2) for side in sides}
    model.load_state_dict(weights | {f"{side}.bias": torch.zeros(2) for side in sides})
    return model


def test_the_objective() -> None:
    objective = InfoNce(InfoNce.Config(temperature=0.5))
    # at right angles: S = diag(1, 1), divided by 0.5: log(1 + e^-2) for each; the third has no text and is left out
    loss = objective(towers(), batch([[3, 0], [0, 1], [1, 1]], [[1, 0], [0, 9], [0, 0]]))
    assert loss.loss.item() == approx(log(1 + exp(-2)), rel=1e-5)
    assert {name: part.item() for name, part in loss.parts.items()} == {"found": 1.0, "temperature": approx(0.5)}
    loss.loss.backward()
    # S / tau = e^s cos: with respect to s, -2 (1 - p) where p = 1 / (1 + e^-2)
    assert objective.temperature.log_scale.grad is not None
    assert objective.temperature.log_scale.grad.item() == approx(-2 * exp(-2) / (1 + exp(-2)), rel=1e-4)
    with pytest.raises(DataError) as error:
        objective(towers(), batch([[1, 0], [0, 0]], [[0, 0], [1, 0]]))
    assert str(error.value) == (
        "contrastive: no item has an image and a text (fill the two columns of the same items)"
    )  # fmt: skip


def planted(n: int = 300) -> tuple[Keyed, Keyed]:
    """What an item is about (4 numbers) shows in its image (of 12) and in its text (of 8), each in its own way. The
    last ten items have no text, the ten before these no image."""
    rng = np.random.default_rng(0)
    about = rng.normal(size=(n, 4))
    image = np.tanh(about @ rng.normal(size=(4, 12))) + 0.05 * rng.normal(size=(n, 12))
    text = about @ rng.normal(size=(4, 8)) + 0.05 * rng.normal(size=(n, 8))
    keys = np.arange(n) * 3
    seen, read = np.arange(n) < n, np.arange(n) < n - 10
    seen[n - 20 : n - 10] = False
    return (keys[seen], image[seen].astype(np.float32)), (keys[read], text[read].astype(np.float16))


TRAIN = {"epochs": 60, "batch_size": 64, "lr": 0.01, "device": "cpu"}


def fit(folder: Path, items: NDArray[np.int64], **options: Any) -> Manifest:
    image, text = planted()
    words: dict[str, Any] = {"model": {"dim": 8, "hidden": [32]}, "training": TRAIN, **options}
    return joint(image, text, items, folder, **words, snapshot="s", created_ms=1)


def retrieved(model: Contrastive, keys: NDArray[np.int64]) -> float:
    """Share of images, of these items, whose nearest text among theirs is their own."""
    image, text = planted()
    x, y = (side[1][np.isin(side[0], keys)].astype(np.float32) for side in (image, text))
    vecs = {"image": x, "text": y}
    row = Columns.of(len(x), vecs=vecs)
    with torch.inference_mode():
        scores = model.image(row) @ model.text(row).T
    return float((scores.argmax(dim=1) == torch.arange(len(x))).float().mean())


def test_planted_pairs_are_found(tmp_path: Path) -> None:
    learned_on, others = np.arange(200) * 3, np.arange(200, 280) * 3
    manifest = fit(tmp_path / "joint", learned_on)
    found, (keys, vectors) = restored(load(tmp_path / "joint"))
    assert manifest.metrics["items"] == 200
    assert retrieved(found.model, others) > 0.6  # of 80 it has never met; by chance 1/80
    assert keys.tolist() == (np.arange(300) * 3).tolist()  # all items that have either
    assert np.linalg.norm(vectors, axis=1) == approx(np.ones(300), abs=1e-5)
    again = found(*planted())
    assert again[0].tolist() == keys.tolist()
    assert again[1] == approx(vectors, abs=1e-6)
    # an item with a text alone, later: the vector it was given then
    image, text = planted()
    none = (image[0][:0], image[1][:0])
    alone = text[0] == 285 * 3
    assert found(none, (text[0][alone], text[1][alone]))[1] == approx(vectors[285:286], abs=1e-5)


def test_held_items_say_when_to_stop(tmp_path: Path) -> None:
    manifest = fit(tmp_path / "joint", np.arange(280) * 3, training={**TRAIN, "held": 0.2, "patience": 3})
    # of 56 held ones, both ways; chance is 1/56
    assert manifest.metrics["recall@1"] > 0.5
    assert manifest.metrics["items"] == 280


def test_the_same_twice(tmp_path: Path) -> None:
    short = {**TRAIN, "epochs": 2}
    files = [fit(tmp_path / name, np.arange(100) * 3, training=short).files for name in ("a", "b")]
    assert files[0] == files[1]


def test_what_it_refuses(tmp_path: Path) -> None:
    for items in (np.array([0]), np.arange(285, 300) * 3):
        with pytest.raises(DataError) as error:
            fit(tmp_path / "joint", items)
        assert error.value.where == "joint"
        assert error.value.what == f"{len(items) if len(items) == 1 else 0} items of training have an image and a text"
    with pytest.raises(ConfigError) as patience:
        fit(tmp_path / "joint", np.arange(100) * 3, training={"patience": 3})
    assert str(patience.value) == (
        "joint.train: patience without anything to look at (set held, the share of items that are looked at)"
    )
    with pytest.raises(ConfigError) as unknown:
        fit(tmp_path / "joint", np.arange(100) * 3, model={"dims": 3})
    assert str(unknown.value) == "joint.model: unknown key 'dims' (did you mean dim?)"
