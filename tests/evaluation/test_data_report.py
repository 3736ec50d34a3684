"""What went into models then and now: by hand values, as JSON, and as a section of the report."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.features.world import HOUR, NOW, candidates, features, requests

from shortlist.evaluation.data_report import WEEK_MS, DataReport, Sample, compared, plain, sampled, section
from shortlist.evaluation.report import Report, render
from shortlist.features.drift import psi

MONDAY = 1_704_067_200_000  # 2024-01-01, a Monday


def sample(rng: np.random.Generator, weeks: list[int], shift: float, word: str) -> Sample:
    """A hundred rows a week: `still` stays, `off` is shifted, `kind` is a word."""
    times = np.concatenate([MONDAY + week * WEEK_MS + np.arange(100) * HOUR for week in weeks])
    n = len(times)
    kinds = np.array(["a", word], dtype=object)[rng.integers(0, 2, n)]
    return Sample({"still": rng.normal(size=n), "off": rng.normal(size=n) + shift, "kind": kinds}, times)


def made() -> DataReport:
    rng = np.random.default_rng(0)
    before, after = sample(rng, [0, 1, 2], 0.0, "b"), sample(rng, [3, 4], 1.0, "c")
    return compared({"requests": before}, {"requests": after, "candidates": after}, ("training", "test"))


def test_each_side_of_one_set_is_compared_with_the_other() -> None:
    report = made()
    assert [side.name for side in report.sides] == ["requests"]  # what only one set has is left out
    (side,) = report.sides
    assert side.rows == (300, 200)
    assert [drift.name for drift in side.drifts] == ["kind", "off", "still"]
    assert [drift.verdict for drift in side.drifts] == ["moved", "moved", "steady"]


def test_weeks_begin_on_mondays_and_are_held_against_the_first_set() -> None:
    (side,) = made().sides
    assert side.weeks == ("2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22", "2024-01-29")
    off = [drift.name for drift in side.drifts].index("off")
    assert (side.by_week[:3, off] < 0.2).all()
    assert (side.by_week[3:, off] > 0.5).all()


def test_the_index_of_a_week_by_hand() -> None:
    # before: zeros and ones in halves; of the second week 90 of 100 are ones
    times = MONDAY + np.repeat([0, 1], 100) * WEEK_MS
    before = Sample({"x": np.tile([0.0, 1.0], 50)}, times[:100])
    after = Sample({"x": np.repeat([0.0, 1.0], [10, 90])}, times[100:])
    (side,) = compared({"requests": before}, {"requests": after}).sides
    assert side.by_week[:, 0].tolist() == pytest.approx([0.0, psi(np.array([50.0, 50]), np.array([10.0, 90]))])
    few = compared({"requests": before}, {"requests": after.where(np.arange(100) < 29)}).sides[0]
    assert np.isnan(few.by_week[1, 0])


def test_columns_are_read_where_requests_are() -> None:
    chosen = features(
        {"name": "clicks", "use": "count", "actions": "click", "by": "item", "windows": ["1d"]},
        {"name": "visit", "use": "session"},
    )
    asked, among = requests([0, 1], chosen, [NOW, NOW - HOUR]), candidates([[0, 1], [2]])
    found = sampled(asked, among)
    assert set(found["requests"].columns) == {"visit_position", "visit_events", "visit_minutes", "visit_categories"}
    assert found["candidates"].columns["clicks_1d"].tolist() == [2, 1, 1]
    assert found["candidates"].times.tolist() == [NOW, NOW, NOW - HOUR]
    assert set(sampled(asked)) == {"requests"}
    ctr = features({"name": "ctr", "use": "rate", "hits": "click", "by": "item", "windows": ["1d"]})
    told = sampled(requests([0], ctr), candidates([[0, 1, 2]]), ctr.columns)["candidates"].columns
    # two clicks of two impressions, one of two, and one without any
    assert told["ctr_1d"].tolist() == pytest.approx([1.0, 0.5, float("nan")], nan_ok=True)
    assert told["ctr_1d_trials"].tolist() == [2, 2, 0]
    assert sampled(replace(asked, known=None), among) == {}


def test_it_is_json_without_what_is_no_number() -> None:
    found: Any = json.loads(json.dumps(plain(made()), allow_nan=False))
    assert (found["before"], found["after"]) == ("training", "test")
    columns = found["sides"]["requests"]["columns"]
    assert "ks" not in columns["kind"]
    assert columns["off"]["verdict"] == "moved"
    assert set(columns["off"]["weeks"]) == {"2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22", "2024-01-29"}
    assert sum(columns["kind"]["before"]) == pytest.approx(1)


def test_the_section_has_pictures_and_every_column() -> None:
    page = section(made())
    assert page.count("<svg") == 2 + 3  # what moved, its weeks, and three columns value by value
    for name in ("still", "off", "kind"):
        assert f'<th scope="row">{name}</th>' in page
    assert "training rows against test rows" in page
    assert section(DataReport("a", "b", ())).strip() == ""


def test_the_report_holds_the_section() -> None:
    report = Report("t", "s", {}, (), (10,))
    assert "Features then and now" not in render(report)
    page = render(replace(report, data=made()))
    assert "Features then and now" in page
    assert page.count("<svg") == 5


def test_words_of_users_are_text_on_the_page() -> None:
    times = MONDAY + np.arange(60) * HOUR
    word = "<script>alert(1)</script>"
    before = Sample({"x": np.array([word, "b"] * 30, dtype=object)}, times)
    page = section(compared({"requests": before}, {"requests": before}))
    assert "<script" not in page
