"""From words to a funnel: documents, inheritance of scenes, whose option is whose."""

import json
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tests.funnel.world import ask, pages, profiles

from shortlist.artifact import Artifact
from shortlist.config import ChannelConfig, frozen, parse
from shortlist.errors import ConfigError
from shortlist.forms import Lists
from shortlist.funnel.pipeline import Funnel
from shortlist.funnel.recipes import assemble, document, split_options
from shortlist.funnel.selectors.mmr import Mmr
from shortlist.funnel.selectors.top import Top
from shortlist.schema import Catalogue, Schema

NEAR = Lists(np.array([0]), np.array([0, 3]), np.array([1, 2, 3]), np.array([3, 2, 1], dtype=np.float32))
HOT = Lists(np.array([0]), np.array([0, 2]), np.array([3, 0]), np.array([2, 1], dtype=np.float32), ("global",))
FORMS = {"similar": NEAR, "popular": HOT}
ARTIFACTS = {name: cast(Artifact, SimpleNamespace(form=partial(FORMS.get, name), beside=dict)) for name in FORMS}
CATALOGUE = Catalogue(profiles(), profiles(["a"], ["a"], ["b"], ["b"]))


class Near:
    """A model with an option of its own, queried by `neighbours`."""

    @frozen
    class Config:
        k: int = 50

    source = "neighbours"


class Hot:
    """A model without options, queried by `popular`."""

    @frozen
    class Config:
        pass

    source = "popular"


MODELS: dict[str, Any] = {"similar": Near, "popular": Hot}


def project(**changes: Any) -> dict[str, Any]:
    table = {
        "schema": {"items": {"genre": "varlen"}, "category": "genre"},
        "recall": [{"name": "similar", "use": "near", "quota": 5, "last": 7}, {"name": "popular", "use": "hot"}],
        "rerank": {"use": "mmr", "theta": 1.0, "rules": [{"at_most": 1, "of": "genre", "per": 2}]},
        "scene": {"home": {"page": 3}, "plain": {"channels": ["popular"], "rerank": "top", "filters": [], "budget": 2}},
    }
    return {**table, **changes}


def words(**changes: Any) -> dict[str, Any]:
    config = parse(project(**changes))
    made = document(config, Schema.parse(config.schema), MODELS)
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def scenes(**changes: Any) -> dict[str, Funnel]:
    return assemble(words(**changes), ARTIFACTS.__getitem__, CATALOGUE)


def test_a_document_is_plain_and_has_defaults_in_place() -> None:
    made = words()
    assert made["channels"] == [
        {"name": "similar", "model": "near", "source": "neighbours", "quota": 5, "options": {"last": 7}},
        {"name": "popular", "model": "hot", "source": "popular", "quota": 100, "options": {}},
    ]
    assert made["fallback"] == "popular"
    assert made["scenes"]["home"]["channels"] == ["similar", "popular"]
    assert made["scenes"]["home"]["rerank"]["options"]["theta"] == 1.0
    assert made["scenes"]["home"]["filters"] == [{"use": "seen", "options": {}}, {"use": "available", "options": {}}]
    assert made["scenes"]["plain"]["filters"] == []
    assert Schema.parse(made["schema"]).category == "genre"


def test_scenes_become_funnels_that_share_sources() -> None:
    made = scenes()
    home, plain = made["home"], made["plain"]
    assert list(home.filters) == ["excluded", "seen", "available"]
    assert list(plain.filters) == ["excluded"]
    assert isinstance(home.selector, Mmr)
    assert isinstance(plain.selector, Top)
    assert plain.budget == 2
    assert home.channels[1].source is plain.channels[0].source is home.fallback
    # history 0: 1 (a), 2 and 3 (b) recalled; one of a genre in two places
    assert pages(home.run(ask([0], n=3))) == [[3, 1, 2]]
    assert pages(plain.run(ask([0], n=3))) == [[3, 0]]


def test_what_a_source_refuses_names_the_channel() -> None:
    with pytest.raises(ConfigError) as caught:
        scenes(recall=[{"name": "similar", "use": "near", "max_age_hours": 2.0}], scene={"home": {}})
    assert str(caught.value) == (
        "recall.similar.max_age_hours: ages need a time of publication "
        "(set schema.published to a time field of [schema.items])"
    )


def test_a_filter_used_twice_is_told_apart() -> None:
    made = scenes(filters=["seen", {"use": "seen", "shown_hours": 1}])
    assert list(made["home"].filters) == ["excluded", "seen", "seen 2"]


def test_no_popular_channel_no_fallback() -> None:
    made = words(recall=[{"name": "similar", "use": "near"}], scene={"home": {}})
    assert made["fallback"] is None
    assert assemble(made, ARTIFACTS.__getitem__, CATALOGUE)["home"].fallback is None


def test_options_go_to_whom_they_belong() -> None:
    channel = ChannelConfig("similar", "near", options={"last": 7, "k": 3})
    assert split_options(channel, Near) == ({"k": 3}, {"last": 7})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"recall": [{"name": "similar", "use": "near", "lsat": 7}], "scene": {"home": {}}},
            "recall.similar (near): unknown key 'lsat' (did you mean last?)",
        ),
        (
            {"rerank": {"use": "mmr", "thteta": 1.0}},
            "scene.home.rerank (mmr): unknown key 'thteta' (did you mean theta?)",
        ),
        (
            {"rerank": {"use": "mmr", "rules": [{"at_most": 1, "of": "gener", "per": 2}]}},
            "rerank.rules[0].of: no item field is called 'gener' (did you mean genre?)",
        ),
        ({"filters": ["sene"]}, "scene.home.filters[sene]: nothing is called 'sene' (did you mean seen?)"),
        ({"merge": "snaek"}, "scene.home.merge: nothing is called 'snaek' (did you mean snake?)"),
        (
            {"merge": {"use": "rrf", "weights": {"simlar": 2.0}}},
            "merge.weights: no channel is called 'simlar' (did you mean similar?)",
        ),
        (
            {"recall": [{"name": "similar", "use": "near", "last": 0}], "scene": {"home": {}}},
            "recall.similar.last: should be at least 1, got 0 (correct the value)",
        ),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scenes(**changes)
    assert str(caught.value) == message
