"""Fitting channels into artifacts: what is learned from, what is written, what counts as still fitting."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.artifact import load
from shortlist.config import ChannelConfig
from shortlist.dataset.interactions import Interactions
from shortlist.errors import ConfigError, DataError
from shortlist.forms import Lists
from shortlist.models.recall.ease import Ease
from shortlist.models.recall.hot import Hot
from shortlist.schema import Catalogue, Schema
from shortlist.training.fit import fit, fitted, models_of
from shortlist.training.plan import Plan, plan_of

SCHEMA = Schema.parse({"action": "what", "actions": {"impression": {"weight": 0.0}, "click": {}}})


def plans(ease: float | str = 1.0) -> list[Plan]:
    return [Plan("hot", "hot", Hot, {}), Plan("ease", "ease", Ease, {"lam": ease})]


def log(actions: list[int]) -> Interactions:
    users, items = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 2])
    times = np.array([1, 2, 3, 4]) * 1000
    return Interactions.of(users, items, times, np.array(actions, dtype=np.int16))


def run(folder: Path, plan: list[Plan], actions: list[int] | None = None) -> Any:
    return fit(plan, log(actions or [1, 1, 1, 1]), Catalogue.empty(), SCHEMA, folder, snapshot="s1", created_ms=7)


def test_each_channel_becomes_an_artifact_of_its_own(tmp_path: Path) -> None:
    done = run(tmp_path, plans())
    assert sorted(done) == ["ease", "hot"]
    assert done["ease"].manifest.kind == "recall.ease"
    assert done["ease"].manifest.config["options"]["lam"] == 1.0
    assert isinstance(load(tmp_path / "hot").form(), Lists)


def test_what_a_solver_refuses_is_said_before_anything_is_fitted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, [*plans(), Plan("sold", "hot", Hot, {"actions": ["buy"]})])
    assert caught.value.what == "no action is called 'buy'"
    assert not list(tmp_path.iterdir())


def test_impressions_teach_nothing(tmp_path: Path) -> None:
    run(tmp_path, plans(), [1, 1, 0, 0])
    hot = load(tmp_path / "hot").form()
    assert isinstance(hot, Lists)
    assert sorted(hot.of(0)[0].tolist()) == [0, 1]  # item 2 was only shown


def test_only_impressions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path, plans(), [0, 0, 0, 0])
    assert str(caught.value) == (
        "training: no event shows interest: nothing to learn from "
        "(check schema.actions: an interest has a weight above 0)"
    )


def test_fitted_finds_what_still_fits_and_nothing_else(tmp_path: Path) -> None:
    assert fitted(plans(), SCHEMA, tmp_path, "s1") is None
    run(tmp_path, plans())
    found = fitted(plans(), SCHEMA, tmp_path, "s1")
    assert found is not None
    assert sorted(found) == ["ease", "hot"]
    assert fitted(plans(), SCHEMA, tmp_path, "s2") is None  # other data
    assert fitted(plans(2.0), SCHEMA, tmp_path, "s1") is None  # other configuration
    other = Schema.parse({"action": "what", "actions": {"impression": {"weight": 0.0}, "click": {"weight": 2.0}}})
    assert fitted(plans(), other, tmp_path, "s1") is None  # other schema


def test_an_unknown_model_names_its_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        models_of((ChannelConfig("x", "item_fc"),))
    assert str(caught.value) == "recall.x.use: nothing is called 'item_fc' (did you mean item_cf?)"


@pytest.mark.parametrize("key", ["train", "loss"])
def test_a_solver_is_not_trained(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(ChannelConfig("x", "ease", **{key: {"lr": 0.1}}), "x", {})  # type: ignore[arg-type]
    assert str(caught.value) == f"recall.x.{key}: ease has no gradients: {key} does nothing (take {key} away)"


def test_an_option_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, plans("big")[1:])
    assert str(caught.value) == "recall.ease (ease).lam: should be a number, got 'big' (correct the value)"
