"""Features in training: fitted on training's rows, kept with what was learned, read by the parts that may read them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.special import expit

from shortlist.artifact import load
from shortlist.candidates import Candidates, Ragged, Requests
from shortlist.config import ChannelConfig, FeatureConfig, RankerConfig
from shortlist.dataset.interactions import Interactions
from shortlist.dataset.ranking import Outcomes
from shortlist.errors import DataError
from shortlist.features.base import Events
from shortlist.features.featureset import FeatureSet
from shortlist.features.replay import Replayed
from shortlist.forms import Vectors
from shortlist.models.learned import Learned, restore
from shortlist.models.runtimes import Eager
from shortlist.schema import Catalogue, Profiles, Schema
from shortlist.training.calibrate import Isotonic, corners, isotonic
from shortlist.training.plan import plan_of
from shortlist.training.rankers import RankerData, ranker
from shortlist.training.retrievers import retriever

DAY = 86_400_000
START = 1_700_000_000_000
USERS, ITEMS, EVENTS = 40, 30, 1500
SCHEMA = Schema.parse({
    "actions": {"impression": {"weight": 0}, "click": {}}, "action": "action",
    "users": {"city": "sparse"}, "items": {"category": "sparse", "published": "time"},
    "category": "category", "published": "published",
    "context": {"screen": "sparse"},
    "tasks": {"clicked": {"on": {"sample": "mixed", "per": 4}, "positive": "click"}},
})  # fmt: skip
CATALOGUE = Catalogue(
    Profiles(np.arange(USERS), {"city": np.array([f"t{n % 3}" for n in range(USERS)], dtype=object)}),
    Profiles(
        np.arange(ITEMS),
        {
            "category": np.array([f"c{n % 3}" for n in range(ITEMS)], dtype=object),
            "published": START - np.arange(ITEMS) * DAY / 4,
        },
    ),
)
FEATURES = FeatureSet.of(
    [
        FeatureConfig("clicks", "count", {"actions": "click", "by": "item", "windows": ["1d", "7d"]}),
        FeatureConfig("rate", "rate", {"hits": "click", "by": "item", "windows": ["7d"]}),
        FeatureConfig("visit", "session"),
        FeatureConfig("about", "interests", {"of": "category", "last": 30}),
        FeatureConfig("meets", "crossed", {"of": "category"}),
    ],
    SCHEMA,
)


def world() -> tuple[Events, Interactions]:
    """Users like one of three categories; what is clicked of late is clicked again."""
    rng = np.random.default_rng(1)
    users, items = rng.integers(0, USERS, EVENTS), rng.integers(0, ITEMS // 3, EVENTS) * 3
    items += np.where(rng.random(EVENTS) < 0.8, users % 3, rng.integers(0, 3, EVENTS))
    times = START + np.sort(rng.integers(0, 20 * DAY, EVENTS))
    actions = (rng.random(EVENTS) < 0.6).astype(np.int16)
    values = np.full(EVENTS, np.nan, dtype=np.float32)
    offsets = np.arange(1, EVENTS + 1)
    screens = rng.choice(np.array(["small", "large"], dtype=object), EVENTS)
    log = Interactions.of(users, items, times, actions, values, offsets, {"screen": screens})
    return Events(offsets, users, items, times, actions, values), log


TOLD, LOG = world()


def known() -> Replayed:
    return Replayed(TOLD, CATALOGUE, SCHEMA, FEATURES)


def examples() -> RankerData:
    """Every user at two moments of the last days, with all items as candidates."""
    cut = START + 14 * DAY
    later = LOG.where(LOG.times >= cut)
    users = np.repeat(np.arange(USERS), 2)
    now = cut + np.tile([0, 2 * DAY], USERS) + users * 1000
    history = LOG.liked(SCHEMA.weights).histories(users)
    history = history.where(history.times < now[history.owners])
    none = Ragged.empty(len(users))
    context: dict[str, Any] = {"screen": np.full(len(users), "small", dtype=object)}
    requests = Requests(users, now, 5, history, none, none, context, known=known())
    n = len(users) * ITEMS
    rank = np.tile(np.arange(1, ITEMS + 1), len(users)).astype(np.int32)[:, None]
    candidates = Candidates(
        np.arange(len(users) + 1) * ITEMS, np.tile(np.arange(ITEMS), len(users)), ("all",), rank,
        (1 / rank).astype(np.float32), {}, np.zeros(n, dtype=np.int16),
    )  # fmt: skip
    outcomes = Outcomes.of(later, requests, SCHEMA, window_ms=2 * DAY)
    return RankerData(requests, candidates, outcomes, users % 4 == 0, LOG)


def trained_channel(folder: Path, features: FeatureSet | None, **train: Any) -> Path:
    options = {"dim": 4, "hidden": [8], "out": 4}
    learn = {"epochs": 2, "batch_size": 64, "history": 8, "lr": 0.01, **train}
    plan = plan_of(ChannelConfig("towers", "dssm", train=learn, options=options), "towers", options)
    retriever(
        plan, LOG, CATALOGUE, SCHEMA, folder / "towers", run=folder / "run", snapshot="s", created_ms=START,
        features=features, known=None if features is None else known(),
    )  # fmt: skip
    return folder / "towers"


def trained_ranker(
    folder: Path, use: str, calibration: Literal["platt", "isotonic", "none"] = "platt", **options: Any
) -> Path:
    name = "coarse" if use == "three_tower" else "rank"
    learn = {"epochs": 2, "history": 8, "calibration": calibration}
    plan = plan_of(RankerConfig(use, train=learn, options=options), name, options)
    ranker(
        plan, examples(), CATALOGUE, SCHEMA, folder / name, run=folder / "run", snapshot="s", created_ms=START,
        features=FEATURES,
    )  # fmt: skip
    return folder / name


def opened(folder: Path) -> Learned:
    return restore(load(folder), SCHEMA, CATALOGUE)


def live(names: Any) -> set[str]:
    return {name for name in names if name.startswith("live.")}


# ---------------------------------------------------------------------------------------------- retrievers


@pytest.mark.parametrize("objective", ["softmax", "pairwise", "pointwise"])
def test_a_retriever_reads_the_features_of_requests_alone(tmp_path: Path, objective: str) -> None:
    place = trained_channel(tmp_path, FEATURES, objective=objective)
    manifest = load(place).manifest
    assert [feature["name"] for feature in manifest.config["features"]] == ["visit", "about"]
    assert json.loads(json.dumps(manifest.config["features"])) == manifest.config["features"]
    towers = opened(place)
    layout = towers.layout
    assert live([*layout.row.sparse, *layout.row.dense, *layout.row.groups]) == set()
    assert live(layout.request.groups) == {"live.about_category"}
    assert live(layout.request.dense) == {"live.visit_position", "live.visit_events", "live.visit_categories"}
    form = load(place).form()
    assert isinstance(form, Vectors)
    now = int(LOG.liked(SCHEMA.weights).times.max()) + 1
    np.testing.assert_allclose(towers.vectors(form.keys, now), form.matrix, atol=1e-6)
    asked = examples().requests.take(0, 6)
    assert not np.allclose(towers.query(asked), towers.query(replace(asked, known=None)))
    alone = np.concatenate([towers.query(asked.take(n, n + 1)) for n in range(6)])
    np.testing.assert_allclose(alone, towers.query(asked), atol=1e-6)


def test_without_features_nothing_has_changed(tmp_path: Path) -> None:
    place = trained_channel(tmp_path, None)
    assert load(place).manifest.config["features"] == []
    assert live(opened(place).layout.request.dense) == set()


def test_the_context_of_the_log_is_what_requests_are_encoded_by(tmp_path: Path) -> None:
    towers = opened(trained_channel(tmp_path, None))
    # two screens, the reserved ids beside them
    assert towers.layout.vocabularies["context.screen"] == 4


def test_features_that_nobody_answers_for_are_refused(tmp_path: Path) -> None:
    plan = plan_of(ChannelConfig("towers", "dssm"), "towers", {})
    with pytest.raises(DataError) as caught:
        retriever(
            plan, LOG, CATALOGUE, SCHEMA, tmp_path / "a", run=tmp_path / "run", snapshot="s", created_ms=START,
            features=FEATURES,
        )  # fmt: skip
    assert str(caught.value) == (
        "training: 2 features, and nobody answers for them (give the requests `known` (features.replay))"
    )


# ---------------------------------------------------------------------------------------------- rankers


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    options: dict[str, Any] = {"dim": 4, "user": [8, 6], "item": [8, 6], "cross": [6], "top": [8]}
    return opened(trained_ranker(tmp_path_factory.mktemp("coarse"), "three_tower", **options))


def test_a_cached_item_scores_as_a_fresh_one(coarse: Learned) -> None:
    data = examples()
    assert coarse.items is not None
    fresh = replace(coarse, items=None, runtime=Eager(coarse.model))
    some = data.candidates.only(np.arange(0, len(data.candidates), 7))
    cached, anew = coarse.logits(data.requests, some)["clicked"], fresh.logits(data.requests, some)["clicked"]
    # items that were encoded when the model was made are younger than at the request, which their ages say: live
    np.testing.assert_allclose(cached, anew, atol=1e-5)


def test_statistics_are_in_the_cross_tower_and_in_no_cache(coarse: Learned) -> None:
    live_names = live([*coarse.model.live.sparse, *coarse.model.live.dense, *coarse.model.live.groups])
    assert live_names == {
        "live.clicks_1d", "live.clicks_7d", "live.rate_7d", "live.rate_7d_trials", "live.meets_share",
        "live.meets_match",
    }  # fmt: skip
    assert live([*coarse.model.static.sparse, *coarse.model.static.dense, *coarse.model.static.groups]) == set()
    data = examples()
    some = data.candidates.only(np.arange(0, len(data.candidates), 11))
    later = replace(data.requests, known=None)  # statistics as if nothing had happened
    with torch.inference_mode():
        now, then = (coarse.assembler(asked, some) for asked in (data.requests, later))
        assert torch.equal(coarse.model.version(now.row), coarse.model.version(then.row))
        assert torch.equal(coarse.model.item(now.row), coarse.model.item(then.row))
        assert not torch.equal(coarse.model.cross(now.row)[0], coarse.model.cross(then.row)[0])
    assert not np.allclose(
        coarse.logits(data.requests, some)["clicked"], coarse.logits(later, some)["clicked"], atol=1e-4
    )


def test_with_a_silent_cross_tower_statistics_of_items_are_nothing(coarse: Learned) -> None:
    data = examples()
    made = coarse.assembler(data.requests, data.candidates)
    none = coarse.assembler(replace(data.requests, known=None), data.candidates)
    user = coarse.model.user(made.request)
    item = coarse.model.item(made.row)
    before = [parameter.clone() for parameter in coarse.model.cross_tower.parameters()]
    with torch.no_grad():
        for parameter in coarse.model.cross_tower.parameters():
            parameter.zero_()
        with_, without = (coarse.model.score(user, item, batch)["clicked"] for batch in (made, none))
        for parameter, old in zip(coarse.model.cross_tower.parameters(), before, strict=True):
            parameter.copy_(old)
    assert torch.equal(with_, without)


def test_what_was_fitted_comes_from_the_rows_of_training_alone(coarse: Learned) -> None:
    data = examples()
    rows = data.requests.take(0, 1)
    assert coarse.assembler.features.words() == FEATURES.words()
    # clicks of training's requests, not of the held ones: users 0, 4, 8, ... are held
    asked = np.flatnonzero(~data.held)
    assert len(asked) == 60
    scale = coarse.assembler.encoders.scales["live.visit_events"]
    told = [np.log1p(min(int(np.diff(data.requests.history.offsets)[n]), 100)) for n in asked]
    labelled = np.diff(data.outcomes.offsets)[asked] > 0
    assert scale.mean == pytest.approx(np.mean(np.array(told)[labelled]))
    assert len(rows) == 1


def test_a_ranker_alone_and_among_many_says_the_same(tmp_path: Path) -> None:
    rank = opened(trained_ranker(tmp_path, "deepfm", dim=4, hidden=[8]))
    data = examples()
    assert live(rank.layout.row.dense) >= {"live.clicks_1d", "live.rate_7d"}
    whole = rank.score(data.requests, data.candidates)["clicked"]
    for n in (0, 7, 31):
        low, high = data.candidates.offsets[n], data.candidates.offsets[n + 1]
        mine = data.candidates.only(np.arange(low, high))
        mine = replace(mine, offsets=np.array([0, high - low]))
        alone = rank.score(data.requests.take(n, n + 1), mine)["clicked"]
        np.testing.assert_allclose(alone, whole[low:high], atol=1e-6)


# ---------------------------------------------------------------------------------------------- calibration


def test_isotonic_maps_are_kept_and_keep_the_order(tmp_path: Path) -> None:
    rank = opened(trained_ranker(tmp_path, "deepfm", "isotonic", dim=4, hidden=[8]))
    data = examples()
    assert (rank.platt, set(rank.steps)) == ({}, {"clicked"})
    z, p = (found(data.requests, data.candidates)["clicked"] for found in (rank.logits, rank.score))
    level = np.interp(z, *rank.steps["clicked"])
    np.testing.assert_allclose(p, (1 - 1e-4) * level + 1e-4 * expit(z), atol=1e-6)
    order = np.argsort(z, kind="stable")
    assert (np.diff(p[order]) >= 0).all()
    held = data.held[data.candidates.owners]
    width = ITEMS
    owners = np.repeat(np.arange(len(data.requests)), np.diff(data.outcomes.offsets))
    hit = (data.outcomes.labels[:, 0] > 0) & data.outcomes.valid[:, 0]
    y = np.isin(data.candidates.owners * width + data.candidates.items, owners[hit] * width + data.outcomes.items[hit])
    # pools of an isotonic map have their own means: all that is said is all that was seen
    assert p[held].mean() == pytest.approx(y[held].mean(), abs=2e-4)


def test_no_calibration_leaves_what_was_learned(tmp_path: Path) -> None:
    rank = opened(trained_ranker(tmp_path, "deepfm", "none", dim=4, hidden=[8]))
    data = examples()
    assert (rank.platt, rank.steps) == ({}, {})
    z, p = (found(data.requests, data.candidates)["clicked"] for found in (rank.logits, rank.score))
    np.testing.assert_allclose(p, expit(z), atol=1e-6)


def test_corners_are_all_that_a_map_needs() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=500)
    found = isotonic(z, rng.random(500) < expit(z))
    kept = corners(found)
    assert kept.shape[1] < len(found.x) / 4
    asked = np.linspace(-5, 5, 2001)
    np.testing.assert_allclose(np.interp(asked, *kept), found(asked), atol=1e-12)
    one = corners(Isotonic(np.array([1.0]), np.array([0.5])))
    assert one.tolist() == [[1.0], [0.5]]
