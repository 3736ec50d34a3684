"""Features in a release's words, and as a project is meant."""

import json
from pathlib import Path
from typing import Any

import pytest

from shortlist.config import parse
from shortlist.errors import ConfigError
from shortlist.features.featureset import FeatureSet
from shortlist.funnel import recipes
from shortlist.funnel.effective import effective
from shortlist.schema import Schema
from shortlist.training.fit import models_of

SCHEMA = Schema.parse({"items": {"category": "sparse"}, "category": "category"})
PROJECT: dict[str, Any] = {
    "recall": [{"name": "hot", "use": "hot"}],
    "feature": [
        {"name": "clicks", "use": "count", "actions": "click", "by": "item", "windows": ["1h"]},
        {"name": "days", "use": "moment", "holidays": "days.txt"},
    ],
}


def document(folder: Path | None) -> dict[str, Any]:
    config = parse(PROJECT)
    return recipes.document(config, SCHEMA, models_of(config.recall), folder)


def test_a_document_carries_the_words_of_its_features(tmp_path: Path) -> None:
    (tmp_path / "days.txt").write_text("2026-01-01\n", encoding="utf-8")
    words = json.loads(json.dumps(document(tmp_path)))["features"]
    assert words == [
        {
            "name": "clicks", "use": "count",
            "options": {"actions": "click", "by": "item", "windows": ["1h"], "sum": False, "cap": 64, "edges": {}},
        },
        {"name": "days", "use": "moment", "options": {"zone": "UTC", "holidays": ["2026-01-01"]}},
    ]  # fmt: skip
    assert list(FeatureSet.restored(words, SCHEMA).columns) == [
        "clicks_1h",
        "days_part",
        "days_weekday",
        "days_holiday",
    ]


def test_a_file_that_is_not_there_is_told_when_words_are_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        document(tmp_path)
    assert str(caught.value) == (
        "feature.days.holidays: days.txt cannot be read: No such file or directory "
        "(name a file beside the project file, or list the dates)"
    )


def test_defaults_of_features_are_in_place_and_files_stay_names() -> None:
    assert effective(parse(PROJECT), SCHEMA)["feature"] == [
        {
            "name": "clicks",
            "use": "count",
            "actions": "click",
            "by": "item",
            "windows": ["1h"],
            "sum": False,
            "cap": 64,
            "edges": {},
        },
        {"name": "days", "use": "moment", "zone": "UTC", "holidays": "days.txt"},
    ]


def test_a_word_that_no_feature_owns_is_refused_before_anything_is_computed() -> None:
    wrong = {**PROJECT, "feature": [{"name": "clicks", "use": "count", "actions": "click", "by": "itm"}]}
    with pytest.raises(ConfigError) as caught:
        effective(parse(wrong), SCHEMA)
    assert str(caught.value) == "feature.clicks.by: no key is called 'itm' (did you mean item?)"
