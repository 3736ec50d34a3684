"""A project's features together: names, order, words and back, what is counted once."""

import json
from typing import Any

import numpy as np
import pytest
from tests.features.world import SCHEMA, features, requests

from shortlist.config import FeatureConfig, frozen
from shortlist.errors import ConfigError
from shortlist.features.base import Column, Counter, Rows
from shortlist.features.featureset import FeatureSet
from shortlist.schema import Field, Schema

CTR: dict[str, Any] = {"name": "ctr", "use": "rate", "hits": "click", "by": "item", "windows": ["1d"]}
CLICKS: dict[str, Any] = {"name": "clicks", "use": "count", "actions": "click", "by": "item", "windows": ["1d"]}
SESSION: dict[str, Any] = {"name": "visit", "use": "session", "last": 7}
INTERESTS: dict[str, Any] = {"name": "likes", "use": "interests", "of": "tags"}


def refused(*entries: FeatureConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        FeatureSet.of(entries, SCHEMA)
    return str(caught.value)


def test_columns_come_in_the_order_of_the_features() -> None:
    chosen = features(CTR, SESSION, CLICKS)
    assert list(chosen.columns) == [
        "ctr_1d", "ctr_1d_trials", "visit_position", "visit_events", "visit_minutes", "visit_categories", "clicks_1d",
    ]  # fmt: skip
    assert len(chosen) == 3
    assert not FeatureSet()


def test_what_two_features_count_is_counted_once() -> None:
    clicks, shown = (Counter(("item",), (action,), ("1d",)) for action in ("click", "impression"))
    assert features(CTR, CLICKS).counters == (clicks, shown)


def test_a_side_has_its_features_alone() -> None:
    chosen = features(CTR, SESSION, INTERESTS)
    assert [part.name for part in chosen.side("request").parts] == ["visit", "likes"]
    assert chosen.side("request").counters == ()
    assert [part.name for part in chosen.side("row").parts] == ["ctr"]
    assert chosen.last == 100  # the interests' own; the session looks at 7
    assert chosen.side("row").last == 0


def test_words_are_json_and_give_the_same_features_back() -> None:
    chosen = features(CTR, SESSION, INTERESTS)
    words = json.loads(json.dumps(chosen.words()))
    again = FeatureSet.restored(words, SCHEMA)
    assert again.words() == chosen.words()
    assert again.fingerprint == chosen.fingerprint
    assert again.columns == chosen.columns
    asked = requests([0, 1], chosen)
    rows = Rows(asked, np.arange(2), None)
    before, after = chosen.read("request", rows, asked.known), again.read("request", rows, asked.known)
    assert {name: values.tolist() for name, values in after.items()} == {
        name: values.tolist() for name, values in before.items()
    }


def test_another_option_is_another_fingerprint() -> None:
    assert features(CTR).fingerprint != features({**CTR, "strength": 3.0}).fingerprint
    assert features(CTR, SESSION).fingerprint != features(SESSION, CTR).fingerprint


def test_names_that_do_not_go_together() -> None:
    count = {"actions": "click", "by": "item", "windows": ["1d"]}
    assert refused(FeatureConfig("a", "session"), FeatureConfig("a", "moment")) == (
        "feature: two features are called 'a' (rename one)"
    )
    assert refused(FeatureConfig("a b", "session")) == (
        "feature: 'a b' is no name (begin with a letter, and use letters, digits and _)"
    )
    assert refused(FeatureConfig("price", "count", count)) == (
        "feature.price: price is what item.price is called (rename the feature)"
    )
    assert refused(FeatureConfig("position", "session")) == (
        "feature.position: position is what the place on a page is called (rename the feature)"
    )
    assert refused(FeatureConfig("a", "count", count), FeatureConfig("a_1d", "session")) == (
        "feature.a_1d: has the column a_1d, as the feature a has (rename one of them)"
    )


def test_kinds_and_options_that_are_not_there() -> None:
    assert refused(FeatureConfig("a", "sesion")) == (
        "feature.a.use: nothing is called 'sesion' (did you mean session?)"
    )
    assert refused(FeatureConfig("a", "session", {"gap": 3})) == (
        "feature.a (session): unknown key 'gap' (known: buckets, category, gap_minutes, last, name, use)"
    )
    assert refused(FeatureConfig("a", "count", {"by": "item"})) == (
        "feature.a (count).actions: this key is required (add actions = ...)"
    )


class Mixed:
    """A kind of somebody else's, with columns of both sides."""

    @frozen
    class Config:
        pass

    counters: tuple[Counter, ...] = ()

    def __init__(self, config: Config, name: str, schema: Schema) -> None:
        self.name = name

    def columns(self) -> dict[str, Column]:
        return {f"{self.name}_x": Column("row", Field("dense")), f"{self.name}_y": Column("request", Field("dense"))}


def test_a_feature_is_of_one_side() -> None:
    assert refused(FeatureConfig("a", "tests.features.test_featureset:Mixed")) == (
        "feature.a: has columns of requests and of candidates (a feature is of one side: make two of it)"
    )
